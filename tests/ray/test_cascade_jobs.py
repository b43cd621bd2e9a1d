"""A distilled judge and a cascade through the real jobs: the same rows after a stop, none twice, and mistakes told before."""

import json
from pathlib import Path

import pytest

from alpagasus_ray.config import Cascade, Judge, Score
from alpagasus_ray.errors import UsageError
from alpagasus_ray.stages.score import score
from loopback import JudgeStarter
from toy_runs import api_judge, job, ratings, summary, toy_run


def test_labels_a_distilled_judge_and_ratings_by_it_come_from_three_jobs(tmp_path: Path) -> None:
    toy = toy_run(tmp_path, 300)
    file = tmp_path / "known.csv"
    file.write_text("index,score\n" + "".join(f"{n},{len(str(n)) + n % 2}\n" for n in range(300)))
    known = ["--set", "score.judge.kind=recorded", "--set", f"score.judge.ratings={file}"]
    made = summary(job("distill", tmp_path / "run", *known, "--set", "distill.labels=120", "--json"))
    assert made["counts"] == {"labels": 120}
    assert made["fit"]["labels"] == 120
    student = ["--set", "score.judge.kind=distilled", "--set", "score.judge.model=student", "--set", "score.name=student"]
    assert summary(job("score", tmp_path / "run", *student, "--json"))["counts"] == {"scored": 300}
    table = ratings(toy, "student")
    assert table["expected_score"].null_count == 0
    cascade = ["--set", "score.name=cascade", "--set", "score.cascade={first: student, calls: 0.3}"]
    told = summary(job("score", tmp_path / "run", *known, *cascade, "--json"))
    assert told["counts"] == {"scored": 90, "not_asked": 210}
    assert any("estimated to have found" in note for note in told["notes"])


def test_a_cascade_that_was_stopped_asks_about_the_same_rows_and_none_twice(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 600), judge()
    options = [f"score.judge.base_url={server.base_url}", "score.judge.model=toy", "score.judge.price={input: 1, output: 1}"]
    options += ["score.cascade={calls: 0.4, refit: 0.2, labels: 100}", "score.name=cascade"]
    settings = [part for option in options for part in ("--set", option)]
    stopped = job("score", tmp_path / "run", *settings, "--set", "score.max_cost_usd=0.03")
    assert stopped.returncode == 3, stopped.stderr
    rounds = json.loads(toy.ratings("cascade").storage.read("rounds.json"))
    told = summary(job("score", tmp_path / "run", *settings, "--json"))
    assert told["cascade"]["asked"] == 240
    assert told["cascade"]["rounds"][: len(rounds)] == [turn["rows"] for turn in rounds]
    assert len(server.taken()) == len(set(server.taken())) == 240


def test_what_a_recipe_cannot_have_of_these_is_told_before_anything_is_asked(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    toy, server = toy_run(tmp_path, 200), judge()
    asked = api_judge(server.base_url)
    with pytest.raises(UsageError, match="fitted on 16 rows, and needs 50"):
        score(Score(judge=asked, cascade=Cascade(calls=0.5)), toy)
    with pytest.raises(UsageError, match="neither ratings nor a distilled judge of the name 'nobody'"):
        score(Score(judge=asked, cascade=Cascade(first="nobody")), toy)
    with pytest.raises(UsageError, match="no distilled judge 'nobody'; fit it"):
        score(Score(judge=Judge(kind="distilled", model="nobody")), toy)
    with pytest.raises(UsageError, match="tries the judge alone"):
        score(Score(judge=asked, cascade=Cascade(), limit=5), toy)
    assert server.taken() == []
