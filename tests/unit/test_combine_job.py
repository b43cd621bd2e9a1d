"""`score.combine` by the real job: a rating stage like any other, free, with the parts beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import alpagasus_ray as ag
import made_judges as made
from alpagasus_ray import __main__ as command
from alpagasus_ray.config import Arm, Distill, Pick, Score
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.stages.combine import combine_ratings
from alpagasus_ray.stages.distill import distill
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from report_runs import rate
from toy_runs import ids, ratings, toy_run

ROWS = 600
PARTS = ("a", "b", "c")
OF_ALL = ["-s", "score.name=all", "-s", "score.combine={ratings: [a, b, c]}"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three judges that slip on a few rows each; one row has no rating by anybody."""
    run, random = toy_run(tmp_path, ROWS), made.rng(0)
    true = made.quality(random, ROWS)
    for name in PARTS:
        off = random.choice([-1, 0, 1], ROWS, p=[0.015, 0.97, 0.015])
        scores: list[float | None] = np.clip(true + off, 0, 5).tolist()
        rate(run, [None, *scores[1:]], name=name)
    rate(run, random.choice(made.SCALE, ROWS).tolist(), name="noise")
    return run


def _combined(run: Run, name: str, *parts: str, **more: Any) -> Any:
    return combine_ratings(Score.model_validate({"name": name, "combine": {"ratings": parts, **more}}), run)


def test_it_is_a_rating_stage_like_any_other_and_costs_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["score", run.storage.root, *OF_ALL, "--plan"]) == 0
    assert "nothing is asked, and it costs nothing" in capsys.readouterr().out
    assert command.main(["score", run.storage.root, *OF_ALL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"scored": ROWS - 1, "failed": 1}
    assert report["usage"]["attempts"] == 0
    table = ratings(run, "all")
    assert table["example_id"].to_pylist() == ids(run)
    own = np.array([table[f"score_{name}"].to_pylist()[1:] for name in PARTS])
    assert table["score"].to_pylist()[1:] == np.median(own, axis=0).tolist()
    assert table["error"].to_pylist()[0] == "no part has a score"
    inputs = run.ratings("all").finished().inputs
    assert inputs == {f"ratings/{name}": run.ratings(name).finished().content_hash() for name in PARTS} | {
        "examples": run.examples().finished().content_hash()
    }
    run.ratings("all").verify(run.ratings("all").finished())
    assert command.main(["score", run.storage.root, *OF_ALL]) == 0
    assert command.main(["score", run.storage.root, *OF_ALL, "--retry-failed"]) == 2
    assert (
        command.main(["pick", run.storage.root, "-s", "pick.ratings=all", "-s", "pick.arms=[{name: x, policy: top, k: 9}]"])
        == 0
    )
    assert [card["name"] for card in ag.Run(run.storage.root).card().table()] == ["a", "all", "b", "c", "noise"]
    assert json.loads(run.judges().storage.read("together.json"))["judges"] == ["a", "b", "c", "noise"]
    assert json.loads(run.judges().storage.read("all/card.json"))["judge"]["kind"] == "the median of a, b, c"


def _chosen(run: Run, ratings_name: str) -> set[str]:
    arm = Arm(name=f"from-{ratings_name}", policy="threshold", threshold=3)
    (manifest,) = pick_subset(Pick(ratings=ratings_name, arms=(arm,), max_unscored=0.1), run)
    stage = run.subset(arm.name)
    return {row for table in stage.tables(manifest, ["example_id"]) for row in table["example_id"].to_pylist()}


@pytest.mark.parametrize(("by", "most"), [("median", 0.05), ("dawid-skene", 0.1)])
def test_one_of_three_judges_as_noise_moves_the_selection_by_less_than_5_percent(run: Run, by: str, most: float) -> None:
    _combined(run, "all", *PARTS, by=by)
    _combined(run, "noisy", "a", "b", "noise", by=by)
    sound, noisy = _chosen(run, "all"), _chosen(run, "noisy")
    assert len(sound ^ noisy) / len(sound | noisy) < most


def test_smoothing_is_told_beside_a_judge_that_had_no_part_in_it(run: Run) -> None:
    told = _combined(run, "smooth", "a", "b", correct="smooth", held="c").details["smoothed"]
    assert {"raw", "smoothed", "raw_given_length", "smoothed_given_length", "length"} <= told.keys()
    assert told["raw"]["n"] == ROWS - 1
    alone = _combined(run, "alone", "a", correct="smooth").details["smoothed"]
    assert "score.combine.held" in alone["why_not"]


def test_what_cannot_be_combined_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for given, why in (
        ("{ratings: [a]}", "one alone only with"),
        ("{ratings: [a, a]}", "two ratings have the name 'a'"),
        ("{ratings: [a, b], held: c}", "is for `correct: smooth`"),
        ("{ratings: [a, x]}", "ratings/x/ is not finished in this run"),
        ("{ratings: [a, all]}", "score.name itself"),
    ):
        assert command.main(["score", run.storage.root, "-s", "score.name=all", "-s", f"score.combine={given}"]) == 2
        assert why in capsys.readouterr().err
    judge = ["-s", "score.judge.kind=api", "-s", "score.judge.model=m"]
    assert command.main(["score", run.storage.root, *OF_ALL, *judge]) == 2
    assert "exclude each other" in capsys.readouterr().err
    stage = run.ratings("b")
    manifest = stage.finished().model_copy(update={"inputs": {"examples": "x"}})
    stage.storage.write("manifest.json", manifest.model_dump_json().encode())
    with pytest.raises(UsageError, match="rates other examples"):
        _combined(run, "all", "a", "b")


def test_a_judge_is_distilled_from_combined_ratings_and_a_retry_of_them_is_not_advised(run: Run) -> None:
    _combined(run, "all", *PARTS)
    assert distill(Distill(ratings="all"), Score(), run, in_process=True).details["judge"] is None
    with pytest.raises(StageFailed, match="have no score: 1 failed") as refused:
        pick_subset(Pick(ratings="all", max_unscored=0.001), run)
    assert "retry-failed" not in str(refused.value)
