"""Comparisons of two models' answers: real Ray, a real server on loopback, the command line."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import drivers
from alpagasus_ray.config import Answerer, Compare, Generate, PairJudge, TestSet
from alpagasus_ray.errors import BudgetReached, SettingsChanged, UsageError
from alpagasus_ray.evaluation.match_rules import decide
from alpagasus_ray.judging.pairs import Bout
from alpagasus_ray.reporting.verdicts import comparisons, games, matches
from alpagasus_ray.stages.compare import compare
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.store.run import Run
from loopback import JudgeStarter, LoopbackJudge
from toy_runs import job, summary

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen".split()
BOUT = Bout("long", "short", "toy")


def answered(folder: Path, prompts: int = 6, **models: Mapping[int, str | None] | None) -> Run:
    """A run in which each model has answered a toy test set: by its number of prompts, or with these answers."""
    run = Run.open(str(folder / "run"))
    path = folder / "toy.jsonl"
    path.write_text("".join(json.dumps({"id": f"toy-{n}", "instruction": f"Say {n}."}) + "\n" for n in range(prompts)))
    made = []
    for name, own in models.items():
        file = folder / f"{name}.jsonl"
        texts = {n: (own or {}).get(n, f"{n} " + " ".join(WORDS * (2 if name == "long" else 1))) for n in range(prompts)}
        lines = (json.dumps({"id": f"toy-{n}", "output": text}) + "\n" for n, text in texts.items() if text is not None)
        file.write_text("".join(lines))
        made.append(Answerer.model_validate({"name": name, "answers": str(file)}))
    generate(Generate(models=tuple(made), test_sets=(TestSet(name="toy", path=str(path)),)), run)
    return run


def judge_at(server: LoopbackJudge, **changes: Any) -> PairJudge:
    return PairJudge(**{"model": "toy", "base_url": server.base_url, **changes})


def config(server: LoopbackJudge, **changes: Any) -> Compare:
    return Compare(**{"pairs": (("long", "short"),), "judge": judge_at(server), **changes})


def rows(run: Run, bout: Bout = BOUT) -> list[dict[str, Any]]:
    stage = run.verdicts(None, bout.pair, bout.test_set)
    return pa.concat_tables(stage.tables(stage.finished())).to_pylist()  # type: ignore[no-any-return]


def test_every_pair_is_asked_once_in_each_order_and_scores_are_told_by_model(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge("--pairs"), answered(tmp_path, long=None, short=None)
    manifest = compare(config(server), run)[BOUT]
    assert (manifest.rows, manifest.counts) == (12, {"judged": 12})
    found = rows(run)
    assert [(row["prompt_id"], row["order"]) for row in found] == [(f"toy-{n}", o) for n in range(6) for o in ("ab", "ba")]
    assert {(row["winner"], row["score_a"], row["score_b"]) for row in found} == {("a", 3.9, 2.5)}
    assert {row["reply"].split("\n")[0] for row in found} == {"3.9 2.5", "2.5 3.9"}, "the raw reply is kept, in the order shown"
    assert {(row["words_a"], row["words_b"]) for row in found} == {(29, 15)}
    assert len(server.billed()) == len(set(server.billed())) == 12
    assert compare(config(server), run)[BOUT] == manifest
    assert len(server.taken()) == 12, "a finished stage asks nothing"


def test_a_judge_that_prefers_the_first_slot_makes_ties_and_is_found_out(judge: JudgeStarter, tmp_path: Path) -> None:
    run = answered(tmp_path, long=None, short=None)
    server = judge()  # which says 3 and no second score
    assert compare(config(server), run)[BOUT].counts == {"unparsed": 12}
    [comparison] = comparisons(run)
    assert all(decide("alpagasus", match) is None for match in matches(run, comparison)), "never a draw"
    assert {match.ab for match in matches(run, comparison)} == {None}


def test_only_games_without_a_verdict_are_asked_again_and_their_first_replies_stay_on_the_bill(
    judge: JudgeStarter, tmp_path: Path
) -> None:
    scores = tmp_path / "scores.json"
    run = answered(tmp_path, long=None, short=None)
    server = judge("--pairs")
    compare(config(server, name="probe"), run)
    said = dict.fromkeys(server.billed()[:3], "I would rather not say.")
    scores.write_text(json.dumps(said))
    grumpy = judge("--pairs", "--scores", str(scores))
    asked = config(grumpy, judge=judge_at(grumpy, price={"input": 1, "output": 1}))
    before = compare(asked, run)[BOUT]
    assert before.counts == {"judged": 9, "unparsed": 3}
    scores.write_text("{}")
    grumpy.restart("--pairs")
    assert compare(asked, run)[BOUT] == before, "the plain command asks nothing again"
    after = compare(asked, run, "retry-failed")[BOUT]
    assert after.counts == {"judged": 12}
    assert sorted(grumpy.billed()[12:]) == sorted(said)
    assert after.usage["cost_usd"] == pytest.approx(15 / 12 * before.usage["cost_usd"])
    assert after.usage["attempts"] == 15
    assert compare(asked, run, "retry-failed")[BOUT] == after


def test_a_retry_that_was_killed_keeps_what_it_bought(judge: JudgeStarter, tmp_path: Path) -> None:
    run = answered(tmp_path, 40, long=None, short=None)
    server = judge()
    assert compare(config(server, max_unusable=1.0), run)[BOUT].counts == {"unparsed": 80}
    server.restart("--pairs", "--latency", "0.2")
    arguments = ["--set", "compare.pairs=[[long, short]]", "--set", "compare.judge.model=toy", "--set", "compare.concurrency=4"]
    arguments += ["--set", f"compare.judge.base_url={server.base_url}"]
    command = ["--run", run.storage.root, *arguments, "--retry-failed"]
    driver = drivers.start("compare", command, tmp_path / "driver", drivers.ray_here())
    while len(server.billed()) < 100 and driver.is_alive:
        time.sleep(0.05)
    driver.kill()
    done = summary(job("compare", run.storage.root, *arguments, "--retry-failed", "--json"))
    assert done["comparisons"][0]["counts"] == {"judged": 80}
    # replies are on storage a second after their arrival, and a reply takes 0.2 s here
    assert len(server.billed()) - 160 <= 4 + 2 * 4 / 0.2, "what was in flight and two seconds of replies are paid twice"


def test_a_cap_holds_over_all_pairs_and_the_same_command_goes_on(judge: JudgeStarter, tmp_path: Path) -> None:
    run = answered(tmp_path, 30, long=None, short=None, other={n: f"{n} is what I say." for n in range(30)})
    server = judge("--pairs", "--latency", "0.02", "--tokens", "1000,20")
    asked = config(
        server,
        pairs=(("long", "short"), ("long", "other")),
        judge=judge_at(server, price={"input": 100, "output": 100}, max_tokens=20),
        concurrency=2,
        max_cost_usd=5.0,
    )
    with pytest.raises(BudgetReached, match=r"compare\.max_cost_usd"):
        compare(asked, run)
    made = compare(asked.model_copy(update={"max_cost_usd": 100.0}), run)
    assert [manifest.counts for manifest in made.values()] == [{"judged": 60}] * 2
    assert len(server.billed()) == len(set(server.billed()))


def test_an_answer_that_is_missing_is_told_and_asks_nothing(judge: JudgeStarter, tmp_path: Path) -> None:
    server = judge("--pairs")
    run = answered(tmp_path, 3, long=None, short={1: None})
    assert compare(config(server), run)[BOUT].counts == {"judged": 4, "unanswered": 2}
    assert {row["error"] for row in rows(run)} == {None, "no answer: b has none"}
    assert len(server.taken()) == 4


def test_a_model_may_be_compared_with_itself_and_costs_one_request_for_both_orders(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge("--pairs"), answered(tmp_path, 3, long=None)
    bout = Bout("long", "long", "toy")
    assert compare(config(server, pairs=(("long", "long"),)), run)[bout].counts == {"judged": 6}
    assert len(server.billed()) == 3
    knobs = ("compare.pairs=[[long, long]]", "compare.judge.kind=rules", "compare.name=rules")
    done = job("compare", run.storage.root, *(part for knob in knobs for part in ("--set", knob)), "--json")
    told = summary(done)
    assert (told["comparisons"][0]["win"], told["comparisons"][0]["tie"], told["comparisons"][0]["lose"]) == (0, 3, 0)
    assert any("compared with itself" in note for note in told["notes"])


def test_the_offline_judge_needs_no_key_and_its_verdicts_stand_beside_another_judges(
    judge: JudgeStarter, tmp_path: Path
) -> None:
    server, run = judge("--pairs"), answered(tmp_path, long=None, short=None)
    compare(config(server), run)
    compare(Compare(name="rules", pairs=(("long", "short"),), judge=PairJudge(kind="rules")), run)
    found = comparisons(run)
    assert [(one.judge, one.label) for one in found] == [(None, "toy"), ("rules", "rules")]
    for one in found:
        assert {decide("alpagasus", match) for match in matches(run, one)} <= {"win", "tie"}
    beside = games(run, found[0])[0]
    assert (beside["ab"]["winner"], beside["ba"]["winner"]) == ("a", "a")
    assert beside["answer_a"].startswith("0 one two")


def test_answers_to_different_prompts_are_refused_by_name(judge: JudgeStarter, tmp_path: Path) -> None:
    run = answered(tmp_path, 3, long=None)
    file = tmp_path / "more.jsonl"
    file.write_text("".join(json.dumps({"id": f"toy-{n}", "output": "x"}) + "\n" for n in range(4)))
    other = Run.open(str(tmp_path / "other"))
    path = tmp_path / "four.jsonl"
    path.write_text("".join(json.dumps({"id": f"toy-{n}", "instruction": f"Say {n}."}) + "\n" for n in range(4)))
    model = Answerer.model_validate({"name": "short", "answers": str(file)})
    generate(Generate(models=(model,), test_sets=(TestSet(name="toy", path=str(path)),)), other)
    for name in other.answers("short", "toy").storage.all_names():
        run.answers("short", "toy").storage.write(name, other.answers("short", "toy").storage.read(name))
    with pytest.raises(UsageError, match=r"of toy only 'short' has answered 'toy-3'"):
        compare(config(judge()), run)


def test_what_is_missing_is_told_before_anything_is_asked(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge("--pairs"), answered(tmp_path, 3, long=None)
    with pytest.raises(UsageError, match="'short' has no finished answers"):
        compare(config(server), run)
    with pytest.raises(UsageError, match="'long' has no answers to koala"):
        compare(config(server, pairs=(("long", "long"),), test_sets=("koala",)), run)
    with pytest.raises(UsageError, match=r"`compare\.pairs` is empty"):
        compare(Compare(judge=PairJudge(kind="rules")), run)
    with pytest.raises(UsageError, match=r"`compare.judge.model` is not set"):
        compare(Compare(pairs=(("long", "long"),)), run)
    assert not server.taken()


def test_another_judge_or_rubric_is_another_result_and_a_rule_is_not(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge("--pairs"), answered(tmp_path, 2, long=None, short=None)
    made = compare(config(server), run)
    assert compare(config(server, rule="mean"), run) == made
    with pytest.raises(SettingsChanged, match="rubric"):
        compare(config(server, judge=judge_at(server, rubric="pairwise-verdict")), run)
