"""Stages that are read again, and rows that are asked again: files of earlier versions, statuses, longer replies. No Ray."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from alpagasus_ray.commands import summaries
from alpagasus_ray.config import Answerer, Compare, Generate, PairJudge, Score, TestSet
from alpagasus_ray.data.schema import ANSWERS, RATINGS, VERDICTS
from alpagasus_ray.engines.base import LENGTH, STOP, Rate, Reply, Request
from alpagasus_ray.engines.longer import noting
from alpagasus_ray.errors import SettingsChanged, StageFailed, UsageError
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.shards import rows_of, take_back
from alpagasus_ray.inference.spec import Task, longer_reply, retried
from alpagasus_ray.inference.stage import Target, reopen
from alpagasus_ray.inference.tasks.answer import AnswerTask, resolved
from alpagasus_ray.inference.tasks.pair import PairTask
from alpagasus_ray.inference.tasks.rating import RatingTask, prepare
from alpagasus_ray.judging import pair_rubric, parse_rating, rubric
from alpagasus_ray.judging.pairs import Bout, both_orders, pair_up
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.reporting.answers_data import mean_answer_length
from alpagasus_ray.reporting.selection_data import judge_doubts
from alpagasus_ray.stages.compare import compare
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Begun, Run, describe, shard_name
from report_runs import answer, prompt
from toy_runs import api_judge, ratings, toy_run

NOWHERE = "http://127.0.0.1:9/v1"
PART = shard_name(0)
OLD = {"reasoning", "max_tokens", "raw"}
"""Columns that files of earlier versions lack."""


def _older(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    kept = [name for name in schema.names if name not in OLD]
    return pa.Table.from_pylist(rows, schema=schema).select(kept)


def _rated(folder: Path, replies: list[tuple[str, str]], **changes: Any) -> tuple[Run, Score]:
    """Ratings as an earlier version left them, that had read a 5 in each of these replies."""
    run, config = toy_run(folder, len(replies)), Score(judge=api_judge(NOWHERE, **changes))
    asked = rubric.load("accuracy")
    work = RatingTask(config.judge, asked)
    examples = run.examples().finished()
    rows = []
    for row, (text, finish) in zip(run.examples().storage.read_table(PART).to_pylist(), replies, strict=True):
        outcome = Outcome(Reply(text, finish, 10, 5), None, 1, 1.0)
        made = work.result(row, work.request(row), outcome)
        rows.append(made | ({"status": "scored", "score": 5.0, "error": None} if finish == STOP else {}))
    stage = run.ratings("judge")
    target = Target.of(stage, run.examples(), examples, work.inputs)
    begun = Begun(settings=work.settings, inputs=target.inputs, asked_scale=work.settings["rubric"]["scale"])
    written = stage.storage.write_table(PART, _older(rows, RATINGS))
    stage.finish(work.manifest(target, [describe(PART, written, rows)], begun))
    return run, config


REPLIES = [
    ("<think>\nScore: 5\n</think>\n\n2\nWrong.", STOP),
    ("5\nRight.", STOP),
    ("<think>\nScore: 5\nBut", LENGTH),
    ("Maximum score: 5\nIt misses half.", STOP),
]


def test_ratings_made_before_are_repaired_by_reading_again_without_a_request(tmp_path: Path) -> None:
    run, config = _rated(tmp_path, REPLIES)
    found = score(config, run, "rescore")
    assert ratings(run)["score"].to_pylist() == [2.0, 5.0, None, None]
    assert ratings(run)["reply"].to_pylist() == [text for text, _ in REPLIES], "the raw text stays as it came"
    assert found.counts == {"scored": 2, "unparsed": 1, "truncated": 1}
    assert found.usage["tokens_out"] == 20
    with pytest.raises(SettingsChanged, match="model"):
        score(config.model_copy(update={"judge": api_judge(NOWHERE, model="other")}), run, "rescore")


def test_a_rubrics_own_pattern_is_a_way_to_read_and_comes_by_reading_again(tmp_path: Path) -> None:
    run, config = _rated(tmp_path, REPLIES)
    file = tmp_path / "own.yaml"
    shipped = Path(rubric.__file__).parent / "rubrics/accuracy.yaml"
    file.write_text(shipped.read_text() + "reply: 'Maximum score: ([0-9]+)'\n")
    score(config.model_copy(update={"judge": api_judge(NOWHERE, rubric=str(file))}), run, "rescore")
    assert ratings(run)["score"].to_pylist() == [None, None, None, 5.0]
    score(config, run, "rescore")
    assert ratings(run)["score"].to_pylist() == [2.0, 5.0, None, None], "and goes again"


def test_only_rows_of_the_statuses_that_were_asked_for_are_asked_again(tmp_path: Path) -> None:
    run, config = _rated(tmp_path, REPLIES)
    done = score(config, run, "rescore")
    for again, left in ((("truncated",), [2]), (parse_rating.UNSCORED, [2, 3])):
        stage, work, target = prepare(config, run, again)
        job = stage.job(target)
        reopen(target.home, done, again)
        take_back(job, set(again))
        rows, replies = rows_of(Task(PART).read(job.source)), job.backlog.known(PART).replies
        assert [n for n, row in enumerate(rows) if work.request(row).key not in replies] == left


def test_a_longer_reply_is_for_rows_that_were_cut_and_each_says_so(tmp_path: Path) -> None:
    run, config = _rated(tmp_path, REPLIES, retry_max_tokens=1024)
    with pytest.raises(UsageError, match="say --retry-failed truncated"):
        score(config, run, "retry-failed")
    judge = config.judge
    assert retried(judge, ("truncated",)) == ("truncated",), "what the message says is taken"
    assert longer_reply(judge, ("truncated",)) == 1024
    assert longer_reply(judge, ()) is None, "an ordinary call asks as ever"
    for wrong in ({"retry_max_tokens": 200}, {"retry_max_tokens": 999, "mode": "batch"}):
        with pytest.raises(UsageError, match="retry_max_tokens"):
            longer_reply(judge.model_copy(update=wrong), ("truncated",))
    row = run.examples().storage.read_table(PART).to_pylist()[2]
    usual, longer = RatingTask(judge, rubric.load("accuracy")), RatingTask(judge, rubric.load("accuracy"), longest=1024)
    assert usual.request(row).key == longer.request(row).key, "a reply stays known by how the stage asks"
    assert (usual.allowed.max_tokens, longer.allowed.max_tokens) == (256, 1024)
    [engine] = noting([_Says("4\nGood.")], 1024)
    reply = asyncio.run(engine.complete(longer.request(row)))
    assert longer.result(row, longer.request(row), Outcome(reply, None, 1, 1.0))["max_tokens"] == 1024
    assert longer.settings == RatingTask(api_judge(NOWHERE), rubric.load("accuracy")).settings


class _Says:
    address, stated = "toy", Rate()

    def __init__(self, text: str) -> None:
        self._text = text

    async def complete(self, request: Request) -> Reply:
        return Reply(self._text)


def test_statuses_after_the_switch_are_those_of_the_stage_or_refused() -> None:
    for not_given in (None, False, "all"):
        assert summaries.again(not_given, parse_rating.UNSCORED) == parse_rating.UNSCORED
    assert summaries.again("truncated, failed", parse_rating.UNSCORED) == ("truncated", "failed")
    for wrong in ("scored", "truncatd", ""):
        with pytest.raises(UsageError, match="there are unparsed, refused, truncated, failed"):
            summaries.again(wrong, parse_rating.UNSCORED)


# games


def _compared(folder: Path, replies: list[str]) -> tuple[Run, Compare]:
    """One game a reply, as an earlier version left them, that had taken each for a win of the first."""
    run = toy_run(folder, 1)
    for model in ("one", "two"):
        answer(run, model, "toys", [(f"{model} says {n}", None) for n in range(len(replies) // 2)])
    config = Compare(pairs=(("one", "two"),), judge=PairJudge(model="toy", base_url=NOWHERE))
    bout = Bout("one", "two", "toys")
    listed = pair_up(run, bout)
    work = PairTask(config.judge, pair_rubric.load("pairwise"))
    rows = [
        work.result(game, work.request(game), Outcome(Reply(text), None, 1, 1.0)) | {"status": "judged", "winner": "a"}
        for game, text in zip(run.pairs(*bout).storage.read_table(PART).to_pylist(), replies, strict=True)
    ]
    stage = run.verdicts(None, bout.pair, "toys")
    target = Target.of(stage, run.pairs(*bout), listed)
    begun = Begun(settings=work.settings, inputs=target.inputs)
    entry = describe(PART, stage.storage.write_table(PART, _older(rows, VERDICTS)), rows)
    stage.finish(work.manifest(target, [entry], begun))
    return run, config


def test_games_made_before_are_repaired_by_reading_again_without_a_request(tmp_path: Path) -> None:
    run, config = _compared(tmp_path, ["<think>9 1</think>\n4 7", "<think>9 1</think>\n7 4", "[[A]]", "8,5"])
    [manifest] = compare(config, run, "rescore").values()
    assert manifest.counts == {"judged": 2, "unparsed": 2}
    rows = run.verdicts(None, "one-vs-two", "toys").storage.read_table(PART).to_pylist()
    assert [(row["winner"], row["score_a"], row["score_b"]) for row in rows] == [
        ("b", 4.0, 7.0),
        ("b", 4.0, 7.0),
        (None, None, None),
        (None, None, None),
    ]
    assert list(compare(config, run).values()) == [manifest], "what was read stays, and is finished"


def test_an_empty_answer_enters_no_game_unless_asked() -> None:
    asked = pair_rubric.load("pairwise")
    one = {"prompt_id": "p", "test_set": "toys", **prompt("toys", 0)}
    game = both_orders(one, "  \n", "An answer.")[0]
    for plays, status in ((False, "unanswered"), (True, "judged")):
        work = PairTask(PairJudge(model="toy"), asked, plays)
        assert bool(work.request(game).messages) == plays
        assert work.result(game, work.request(game), Outcome(Reply("3 8"), None, 1, 1.0))["status"] == status
    usual = PairTask(PairJudge(model="toy"), asked)
    assert usual.settings == PairTask(PairJudge(model="toy"), asked, plays_empty=False).settings
    assert "empty_answers" not in usual.settings


# answers


@pytest.mark.parametrize(
    ("reply", "status", "text", "error"),
    [
        (Reply("An answer."), "answered", "An answer.", None),
        (Reply("<think>hm</think>\n\nAn answer."), "answered", "An answer.", None),
        (Reply("An answ", LENGTH), "truncated", "An answ", None),
        (Reply("  \n"), "empty", "", "empty reply: there is no text"),
        (Reply("", reasoning="It is 4."), "empty", "", "empty reply: the text is in reasoning"),
        (Reply("<think>hm</think>"), "empty", "", "empty reply: there is no text"),
        (Reply("<think>hm", LENGTH), "truncated", "", "length: the reply was cut while it was still thinking"),
        (Reply("<think>hm"), "empty", "", "open thoughts"),
        (Reply("No.", "content_filter"), "refused", "No.", "content filter"),
        (Reply("An answer.", "tool_calls"), "failed", None, "finish reason 'tool_calls'"),
    ],
)
def test_an_answer_is_what_a_reader_sees_and_the_raw_reply_is_kept(
    reply: Reply, status: str, text: str | None, error: str | None
) -> None:
    work = AnswerTask(Answerer(name="model", api="toy"), ("toys",))
    row = {**dict.fromkeys(ANSWERS.names), **prompt("toys", 0), "source": "toy#1"}
    made = work.result(row, work.request(row), Outcome(reply, None, 1, 1.0))
    assert (made["status"], made["reply"]) == (status, text)
    assert (made["error"] or "").startswith(error or "") if error else made["error"] is None
    assert made["raw"] in (None, reply.text)
    assert made["raw"] == reply.text or made["reply"] == reply.text.strip(), "nothing of it is lost"
    assert made["reasoning"] == reply.reasoning


def test_thoughts_stay_in_an_answer_where_the_recipe_keeps_them() -> None:
    work = AnswerTask(Answerer(name="model", api="toy"), ("toys",), keeps_thoughts=True)
    found = work.reading(Reply("<think>hm</think>\n\nAn answer."), None)
    assert (found["reply"], found["raw"], found["status"]) == ("<think>hm</think>\n\nAn answer.", None, "answered")


def test_answers_made_before_are_repaired_by_reading_again_without_a_request(tmp_path: Path) -> None:
    run, path = Run.open(str(tmp_path / "run")), tmp_path / "toy.jsonl"
    path.write_text('{"id": "a", "instruction": "Say a."}\n{"id": "b", "instruction": "Say b."}\n')
    config = Generate(
        models=(Answerer(name="model", api="toy", base_url=NOWHERE),), test_sets=(TestSet(name="toys", path=str(path)),)
    )
    with pytest.raises(UsageError, match="not finished in this run"):
        generate(config, run, "rescore")
    work = AnswerTask(resolved(config.models[0], config, run), ("toys",))
    listed = run.prompts("toys").finished()
    said = ("<think>hm</think>\n\nAn answer.", "  ")
    rows = [
        work.result(row, work.request(row), Outcome(Reply(text), None, 1, 1.0)) | {"reply": text.strip(), "status": "answered"}
        for row, text in zip(run.prompts("toys").storage.read_table(PART).to_pylist(), said, strict=True)
    ]
    stage = run.answers("model", "toys")
    target = Target.of(stage, run.prompts("toys"), listed)
    begun = Begun(settings=work.settings, inputs=target.inputs)
    entry = describe(PART, stage.storage.write_table(PART, _older(rows, ANSWERS)), rows)
    stage.finish(work.manifest(target, [entry], begun))
    [manifest] = generate(config, run, "rescore")
    assert manifest.counts == {"answered": 1, "empty": 1}
    assert manifest.details["mean_answer_length"] == {"value": len("An answer."), "unit": "characters"}
    exported = json.loads(stage.storage.read("answers.json"))
    assert [one["output"] for one in exported] == ["An answer.", ""]
    [manifest] = generate(config.model_copy(update={"thoughts": "keep"}), run, "rescore")
    assert json.loads(stage.storage.read("answers.json"))[0]["output"] == said[0], "nothing was lost"


# probabilities


def _told(text: str, places: dict[str, dict[str, float]], **changes: Any) -> dict[str, Any]:
    tree = {place: {token: math.log(p) for token, p in told.items()} for place, told in places.items()}
    judge = api_judge(NOWHERE, expected=True, rubric="accuracy-integer", **changes)
    asked = rubric.load("accuracy-integer")
    return RatingTask(judge, asked, reply_form(judge, asked)).reading(Reply(text, logprobs=tree))


def test_the_expected_score_is_read_at_the_place_of_the_score_that_was_read() -> None:
    places = {"": {"It": 1.0}, "It names ": {"3": 0.9, "4": 0.1}, "It names 3 of 5.\nScore: ": {"4": 0.75, "5": 0.25}}
    found = _told("It names 3 of 5.\nScore: 4", places)
    assert (found["score"], found["expected_score"]) == (4.0, pytest.approx(4.25))
    assert found["outside"] == pytest.approx(0.0)
    thought = "<think>\nScore: 2\n</think>\n4"
    found = _told(
        thought, {"": {"<": 1.0}, "<think>\nScore: ": {"2": 1.0}, "<think>\nScore: 2\n</think>\n": {"4": 0.5, "3": 0.5}}
    )
    assert found["expected_score"] == pytest.approx(3.5)
    first_only = _told("Score: 4", {"": {"Score": 0.9, "4": 0.1}})
    assert first_only["expected_score"] is None, "nobody has looked at its place"


def test_a_judge_whose_probability_lies_outside_of_the_scale_has_no_expected_score_and_is_told_unfit(tmp_path: Path) -> None:
    far = {"": {"4": 0.01, "The": 0.99}}
    assert _told("4", far)["expected_score"] is None
    assert _told("4", far)["outside"] == pytest.approx(0.99)
    assert _told("4", far, max_outside=1.0)["expected_score"] == pytest.approx(4.0)
    outside = {"rows": 100, "mean": 0.99, "p95": 1.0, "expected": 0}
    [unfit] = judge_doubts({"outside": outside})
    assert unfit.startswith("this judge is unfit for expected scores")
    [doubtful] = judge_doubts({"outside": outside | {"mean": 0.3}})
    assert doubtful.startswith("expected scores are doubtful")
    assert list(judge_doubts({"outside": outside | {"mean": 0.1}})) == []


def test_ratings_that_are_nearly_all_alike_are_told(tmp_path: Path) -> None:
    run, config = _rated(tmp_path, [("4\nGood.", STOP)] * 55 + [("2\nBad.", STOP)] * 5)
    manifest = score(config, run, "rescore")
    assert manifest.details["one_score"] == {"score": 4.0, "share": pytest.approx(55 / 60)}
    assert "91.7% of the scored rows have one score, 4" in next(judge_doubts(manifest.details))


def test_an_answer_changed_on_disk_is_found_before_any_is_read_again(tmp_path: Path) -> None:
    run, path = Run.open(str(tmp_path / "run")), tmp_path / "toy.jsonl"
    path.write_text('{"id": "a", "instruction": "Say a."}\n')
    config = Generate(
        models=(Answerer(name="model", api="toy", base_url=NOWHERE),), test_sets=(TestSet(name="toys", path=str(path)),)
    )
    with pytest.raises(UsageError, match="not finished in this run"):
        generate(config, run, "rescore")
    work = AnswerTask(resolved(config.models[0], config, run), ("toys",))
    stage, listed = run.answers("model", "toys"), run.prompts("toys").finished()
    row = run.prompts("toys").storage.read_table(PART).to_pylist()[0]
    made = work.result(row, work.request(row), Outcome(Reply("An answer."), None, 1, 1.0))
    entry = describe(PART, stage.storage.write_table(PART, pa.Table.from_pylist([made], schema=ANSWERS)), [made])
    target = Target.of(stage, run.prompts("toys"), listed)
    begun = Begun(settings=work.settings, inputs=target.inputs)
    done = work.manifest(target, [entry], begun)
    stage.finish(done)
    stage.storage.write_table(PART, pa.Table.from_pylist([made | {"reply": "Another one."}], schema=ANSWERS))
    with pytest.raises(StageFailed, match="is not the file its manifest lists"):
        generate(config, run, "rescore")
    assert stage.manifest() == done, "nothing was written"


def test_answers_without_blanks_are_measured_by_their_characters_and_older_runs_say_words(tmp_path: Path) -> None:
    stage = Run.open(str(tmp_path / "run")).answers("model", "toys")
    texts = ("春天来了，花都开了。", "水在零度结冰。", "")
    empty = dict.fromkeys(ANSWERS.names)
    rows = [empty | {"prompt_id": str(n), "status": "answered", "reply": text} for n, text in enumerate(texts)]
    schema = pa.schema([field.with_nullable(True) for field in ANSWERS])
    entry = describe(PART, stage.storage.write_table(PART, pa.Table.from_pylist(rows, schema=schema)), rows)
    work = AnswerTask(Answerer(name="model", api="toy"), ("toys",))
    begun = Begun(settings=work.settings, inputs={})
    made = work.manifest(Target(stage, stage, stage.build(begun, []), {}), [entry], begun)
    assert mean_answer_length(made.details) == {"value": (10 + 7) / 2, "unit": "characters"}
    assert mean_answer_length({"mean_answer_words": 3.0}) == {"value": 3.0, "unit": "words"}
