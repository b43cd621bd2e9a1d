"""A cascade over HTTP, without Ray: the same rows after a stop, none asked twice, and mistakes told before that."""

import json
from pathlib import Path

import pytest

from alpagasus_ray.config import Cascade, Distill, Judge, Price, Score
from alpagasus_ray.errors import BudgetReached, UsageError
from alpagasus_ray.inference.pointers import Pointer
from alpagasus_ray.stages.distill import distill
from alpagasus_ray.stages.plan_score import plan
from alpagasus_ray.stages.score import score
from alpagasus_ray.stages.status import status
from loopback import JudgeStarter
from toy_runs import api_judge, toy_run


def test_a_cascade_that_was_stopped_asks_about_the_same_rows_and_none_twice(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 600), judge()
    asked = api_judge(server.base_url, price=Price(input=1, output=1))
    config = Score(name="cascade", judge=asked, cascade=Cascade(calls=0.4, refit=0.2, labels=100))
    with pytest.raises(BudgetReached, match="are spent"):
        score(config.model_copy(update={"max_cost_usd": 0.05}), toy, in_process=True)
    storage = toy.ratings("cascade").storage
    rounds = json.loads(storage.read("rounds.json"))
    first = len(server.taken())
    assert 0 < first < 240
    [stage] = [one for one in status(toy)["stages"] if one["stage"] == "ratings/cascade"]
    assert (stage["rows"] + stage["replies"], stage["of"], stage["rounds"]) == (first, 240, len(rounds))
    planned = plan(config.model_copy(update={"max_cost_usd": 0.06}), toy)
    assert (planned["requests"], planned["cascade"]["held"]) == (240 - first, first)
    assert planned["dollars"]["spent"] == pytest.approx(stage["dollars"])
    assert 0 < planned["dollars"]["cap_reached_after"]["low"] < 240 - first
    assert f"hold {first} replies, which are not asked for again" in planned["notes"][-1]
    manifest = score(config, toy, in_process=True)
    assert manifest.details["cascade"]["asked"] == 240
    assert manifest.details["cascade"]["rounds"][: len(rounds)] == [turn["rows"] for turn in rounds]
    assert len(server.taken()) == len(set(server.taken())) == 240
    assert json.loads(storage.read("rounds.json"))[: len(rounds)] == rounds


def test_a_cascade_that_was_stopped_between_its_two_random_rounds_draws_the_second_before_it_asks(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 600), judge()
    asked = api_judge(server.base_url, price=Price(input=1, output=1))
    config = Score(name="cascade", judge=asked, cascade=Cascade(calls=0.4, refit=0.2, labels=100))
    with pytest.raises(BudgetReached):
        score(config.model_copy(update={"max_cost_usd": 0.001}), toy, in_process=True)
    storage = toy.ratings("cascade").storage
    rounds = json.loads(storage.read("rounds.json"))
    storage.write("rounds.json", json.dumps(rounds[:1]).encode())
    storage.at("rounds", "01").delete_tree()
    manifest = score(config, toy, in_process=True)
    assert manifest.details["cascade"]["rounds"][:2] == [turn["rows"] for turn in rounds]
    assert len(server.taken()) == 240


def test_what_a_recipe_cannot_have_of_these_is_told_before_anything_is_asked(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 200), judge()
    asked = api_judge(server.base_url)
    with pytest.raises(UsageError, match="fitted on 16 rows, and needs 50"):
        score(Score(judge=asked, cascade=Cascade(calls=0.5)), toy, in_process=True)
    for cascade in (Cascade(calls=0.8, audit=0.4, labels=0), Cascade(calls=0.8, audit=0.4, refit=0.3)):
        with pytest.raises(UsageError, match="fitted on 0 rows, and needs 50"):
            score(Score(judge=asked, cascade=cascade), toy, in_process=True)
    with pytest.raises(UsageError, match="neither ratings nor a distilled judge of the name 'nobody'"):
        score(Score(judge=asked, cascade=Cascade(first="nobody")), toy, in_process=True)
    with pytest.raises(UsageError, match="no distilled judge 'nobody'; make it by"):
        score(Score(judge=Judge(kind="distilled", model="nobody")), toy, in_process=True)
    with pytest.raises(UsageError, match="tries the judge alone"):
        score(Score(judge=asked, cascade=Cascade(), limit=5), toy, in_process=True)
    assert server.taken() == []


def test_scores_that_cannot_stand_beside_the_judges_are_refused_before_anything_is_asked(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 200), judge()
    (tmp_path / "known.csv").write_text("index,score\n" + "".join(f"{n},{n % 11}\n" for n in range(200)))
    known = {"kind": "recorded", "ratings": str(tmp_path / "known.csv"), "scale": {"min": 0, "max": 10}}
    of_ten = Judge.model_validate(known)
    score(Score(name="ten", judge=of_ten), toy, in_process=True)
    config = Score(name="cascade", judge=api_judge(server.base_url), cascade=Cascade(first="ten", calls=0.2))
    with pytest.raises(
        UsageError, match=r"score\.cascade\.first: the scores of 'ten' are on a scale of 0 to 10, and the judge's"
    ):
        score(config, toy, in_process=True)
    score(Score(name="rules", judge=Judge(kind="rules")), toy, in_process=True)
    toy.examples().storage.delete_tree()
    toy_run(tmp_path, 201)
    with pytest.raises(UsageError, match="'rules' rates other examples than this run now holds"):
        score(config.model_copy(update={"cascade": Cascade(first="rules", calls=0.2)}), toy, in_process=True)
    assert server.taken() == []


def test_a_finished_cascade_returns_without_its_first_judge_looking_at_a_row(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 60), judge()
    score(Score(name="rules", judge=Judge(kind="rules")), toy, in_process=True)
    config = Score(name="cascade", judge=api_judge(server.base_url), cascade=Cascade(first="rules", calls=0.2))
    manifest = score(config, toy, in_process=True)
    assert manifest.counts["not_asked"] == 48
    monkeypatch.delattr(Pointer, "fixed")
    assert score(config, toy, in_process=True) == manifest


def test_a_row_that_was_asked_about_for_a_distilled_judge_is_not_bought_again_by_a_cascade_of_the_same_judge(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 200), judge()
    asked = Score(name="cascade", judge=api_judge(server.base_url, price=Price(input=1, output=1)))
    labels = distill(Distill(labels=120), asked, toy, in_process=True)
    assert labels.rows == len(server.taken()) == 120
    config = asked.model_copy(update={"cascade": Cascade(first="student", calls=0.8)})
    labels_usd = toy.judge("student", "labels").finished().usage["cost_usd"]
    capped = config.model_copy(update={"max_cost_usd": labels_usd + 0.0001})
    assert plan(capped, toy)["dollars"]["spent"] == pytest.approx(labels_usd)
    with pytest.raises(BudgetReached, match="are spent"):  # the cap holds for labels and cascade together
        score(capped, toy, in_process=True)
    assert len(server.taken()) == 120
    manifest = score(config, toy, in_process=True)
    assert manifest.details["cascade"]["asked"] == 160
    assert len(server.taken()) == len(set(server.taken())) <= 200
    bought = len(server.taken()) - 120
    assert bought < 100
    assert manifest.usage["attempts"] == bought
