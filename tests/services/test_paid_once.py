"""What was paid for is not bought again, also with data that has grown, and what came to nothing binds nobody."""

import json
from pathlib import Path

import pytest

from alpagasus_ray import __main__ as command
from alpagasus_ray.config import Ingest, Price, Score
from alpagasus_ray.errors import BudgetReached, SettingsChanged, StageFailed, UsageError
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.plan_score import plan
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from loopback import JudgeStarter
from toy_runs import api_judge, toy_run

PRICE = Price(input=1, output=1)
NO_SUCH_MODEL = json.dumps({"error": {"message": "The model `toyy` does not exist", "code": "model_not_found"}})


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")


def test_a_misspelt_model_under_a_cap_is_told_with_the_servers_models_and_binds_nobody(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    run, server = toy_run(tmp_path, 30), judge()
    server.control(faults=[{"kind": "404", "body": NO_SUCH_MODEL, "fate": "refused"}])
    misspelt = Score(judge=api_judge(server.base_url, model="toyy", price=PRICE), max_cost_usd=5)
    with pytest.raises(StageFailed, match=r"What may help: score\.judge\.model=toy: http://.* lists toy"):
        score(misspelt, run, in_process=True)
    server.control(faults=[])
    run.examples().storage.delete_tree()  # nor by the examples of that call
    run = toy_run(tmp_path, 30, rows_per_shard=10)
    right = Score(judge=api_judge(server.base_url, model="toy", price=PRICE), max_cost_usd=5)
    assert score(right, run, in_process=True).counts == {"scored": 30}


def test_of_a_dataset_that_has_grown_only_the_new_rows_are_paid_for(tmp_path: Path, judge: JudgeStarter) -> None:
    old, server = toy_run(tmp_path, 40), judge()
    config = Score(judge=api_judge(server.base_url, price=PRICE))
    before = score(config, old, in_process=True)
    source = tmp_path / "toy.json"
    records = json.loads(source.read_text())
    source.write_text(json.dumps([{"instruction": "Say hello.", "input": "", "output": "Hello."}, *records]))
    place = old.ratings("judge").storage.root
    with pytest.raises(SettingsChanged, match=r"score\.reuse=\[") as refused:
        ingest(Ingest(source=str(source), rows_per_shard=100), old)
    assert place in str(refused.value)
    grown = Run.open(str(tmp_path / "grown"))
    ingest(Ingest(source=str(source), rows_per_shard=100), grown)
    reusing = config.model_copy(update={"reuse": [place]})
    assert plan(reusing, grown)["requests"] == 1
    made = score(reusing, grown, in_process=True)
    assert made.rows == 41
    assert len(server.taken()) == 41
    assert made.usage["cost_usd"] == pytest.approx(before.usage["cost_usd"] / 40, rel=0.5)
    other = Score(judge=api_judge(server.base_url, price=PRICE, temperature=1), name="other", reuse=[place])
    with pytest.raises(UsageError, match="temperature"):
        score(other, grown, in_process=True)
    with pytest.raises(UsageError, match="holds no ratings"):
        score(other.model_copy(update={"reuse": [str(tmp_path)]}), grown, in_process=True)
    assert len(server.taken()) == 41


def test_ratings_of_examples_that_the_run_no_longer_holds_are_taken_over_under_another_name(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    run, server = toy_run(tmp_path, 40), judge()
    asked = ["-s", "score.judge.model=toy", "-s", f"score.judge.base_url={server.base_url}"]
    score(Score(judge=api_judge(server.base_url)), run, in_process=True)
    run.examples().storage.delete_tree()
    run = toy_run(tmp_path, 41)
    with pytest.raises(SettingsChanged, match=r"score\.name=NAME") as refused:
        score(Score(judge=api_judge(server.base_url)), run, in_process=True)
    advised = str(refused.value).partition("-s 'score.reuse=")[2].partition("'")[0]
    assert (
        command.main(["score", run.storage.root, *asked, "--plan", "-s", "score.name=again", "-s", f"score.reuse={advised}"])
        == 0
    )
    score(Score(name="again", judge=api_judge(server.base_url), reuse=[advised.strip("[]")]), run, in_process=True)
    assert len(server.taken()) == 41


def test_what_a_stage_took_is_what_all_its_calls_took_and_a_finished_one_says_that_nothing_was_asked(
    tmp_path: Path, judge: JudgeStarter, capsys: pytest.CaptureFixture[str]
) -> None:
    run, server = toy_run(tmp_path, 40), judge("--latency", "0.05")
    asked = api_judge(server.base_url, price=PRICE)
    with pytest.raises(BudgetReached):
        score(Score(judge=asked, max_cost_usd=0.01, concurrency=2), run, in_process=True)
    begun = run.ratings("judge").begun()
    assert begun is not None
    assert begun.seconds > 0.05
    answered = len(server.taken())
    assert command.main(["status", run.storage.root]) == 0
    assert f"unfinished, 0 of 40 rows, {answered} more have their reply ({answered / 40:.0%})" in capsys.readouterr().out
    assert score(Score(judge=asked), run, in_process=True).seconds > begun.seconds
    price = ["-s", "score.judge.price={input: 1, output: 1}"]
    again = ["-s", "score.judge.model=toy", "-s", f"score.judge.base_url={server.base_url}", *price]
    assert command.main(["score", run.storage.root, *again]) == 0
    assert "these ratings were finished before: nothing was asked" in capsys.readouterr().err
