"""A distilled judge and a cascade through the real jobs."""

from pathlib import Path

from toy_runs import job, ratings, summary, toy_run


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
