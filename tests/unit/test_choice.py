"""Choice: draws that know nothing of each other, lengths that hold in any script, cuts on their scale, arms made again."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import hypergeom

from alpagasus_ray.config import Arm, Ingest, Judge, Pick
from alpagasus_ray.errors import SettingsChanged, UsageError
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.judging import rubric
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.selection import existing_arms
from alpagasus_ray.selection.cuts import cut_problems
from alpagasus_ray.selection.policies import Columns, choose
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import STATE, Begun, Run
from report_runs import rate, train
from toy_runs import toy_run

JUDGES = ("gpt-4o-mini", "llama-3.1-8b-instruct", "mistral-7b-v0.3-instruct")
KEPT = 9_229


def scored(shared: Path, judge: str) -> Columns:
    with (shared / "ratings/alpaca52k_three_llm_scores.csv").open() as stream:
        scores = np.array([float(row[judge]) for row in csv.DictReader(stream)])
    nothing = np.full(len(scores), np.nan)
    ids = [f"alpaca:{row:05d}" for row in range(len(scores))]
    return Columns(ids, scores, nothing, np.full(len(scores), 7), [""] * len(scores))


@pytest.mark.parametrize("judge", JUDGES)
def test_arms_of_one_seed_overlap_as_often_as_chance_has_it(shared: Path, judge: str) -> None:
    """Two arms of which one at least is a draw share a hypergeometric number of rows, also where most of the other are ties."""
    columns = scored(shared, judge)
    flat = columns._replace(score=np.full(len(columns.ids), 3.0))  # every choice by the score is decided by ties alone
    kept = {
        name: choose(Arm(name=name, policy=policy, k=KEPT), by, None).kept
        for name, policy, by in (
            ("top", "top", columns),
            ("ties", "top", flat),
            ("random", "random", columns),
            ("longest", "longest", columns),
            ("lowest", "lowest", flat),
        )
    }
    pairs = [pair for pair in itertools.combinations(kept, 2) if pair != ("top", "ties")]  # the same ties, by intent
    for one, other in pairs:
        shared_rows = int((kept[one] & kept[other]).sum())
        low, high = hypergeom(len(columns.ids), KEPT, KEPT).interval(1 - 1e-5)
        assert low <= shared_rows <= high, f"{one} and {other}"


def test_another_seed_draws_independently_of_the_first() -> None:
    ids = [f"x:{row:05d}" for row in range(20_000)]
    blank = np.full(len(ids), np.nan)
    columns = Columns(ids, blank, blank, np.zeros(len(ids)), [""] * len(ids))
    drawn = [choose(Arm(name="r", policy="random", k=4_000, seed=seed), columns, None).kept for seed in (1, 11, 111)]
    low, high = hypergeom(20_000, 4_000, 4_000).interval(1 - 1e-5)
    for one, other in itertools.combinations(drawn, 2):
        assert low <= int((one & other).sum()) <= high


# lengths


def chinese(folder: Path, shared: Path) -> Run:
    run = Run.open(str(folder / "zh"))
    ingest(Ingest(source=str(shared / "sources/alpaca_zh.json"), format="alpaca"), run)
    return run


def outputs(run: Run, stage: Any, manifest: Any) -> list[str]:
    return [text for table in stage.tables(manifest, ["output"]) for text in table["output"].to_pylist()]


def test_the_longest_of_texts_without_blanks_are_the_longest(tmp_path: Path, shared: Path) -> None:
    run = chinese(tmp_path, shared)
    every = outputs(run, run.examples(), run.examples().finished())
    count = max(1, len(every) // 4)
    (manifest,) = pick_subset(Pick(arms=(Arm(name="longest", policy="longest", k=count),)), run)
    kept = outputs(run, run.subset("longest"), manifest)
    assert sorted(map(len, map(str.strip, kept))) == sorted(map(len, map(str.strip, every)))[-count:]
    told = manifest.details["mean_output_length"]
    assert told["unit"] == "characters"
    assert told["kept"] == pytest.approx(np.mean([len(text.strip()) for text in kept]), abs=0.01)


# cuts and scales


@pytest.mark.parametrize(
    ("arm", "scale", "told"),
    [
        ({"threshold": 4.5}, Scale(min=1, max=10, step=1), "out_of: 10"),
        ({"threshold": 4.5}, Scale(min=1, max=10, step=0.5), "out_of: 10"),
        ({}, Scale(min=1, max=10, step=None), "out_of: 10"),
        ({"threshold": 4.5}, Scale(min=0, max=5, step=1), "Give 4, or 5"),
        ({"threshold": 4.7}, Scale(), "Give 4.5, or 5"),
        ({"threshold": 6}, Scale(), "would be empty"),
        ({"threshold": 0.5}, Scale(min=1, max=6, step=None), "policy `full`"),
        ({"threshold": 8, "out_of": 10}, Scale(), "out of 10"),
        ({"thresholds": {"math": 45}}, Scale(), "'a', category 'math', would be empty"),
        ({"thresholds": {"math": 4, "code": 4.2}}, Scale(), "category 'code', cuts at 4.2"),
        ({"threshold": 8, "out_of": 10}, Scale(min=1, max=100, step=1), "out of 10"),
    ],
)
def test_a_threshold_that_means_nothing_on_the_scale_is_refused(arm: dict[str, Any], scale: Scale, told: str) -> None:
    (problem,) = cut_problems([Arm(name="a", policy="threshold", **arm)], scale)
    assert "'a'" in problem
    assert told in problem


@pytest.mark.parametrize(
    ("arm", "scale"),
    [
        ({}, Scale()),
        ({"threshold": 8}, Scale(min=1, max=10, step=1)),
        ({"threshold": 4.5, "out_of": 10}, Scale(min=1, max=10, step=0.5)),
        ({"threshold": 4, "thresholds": {"math": 3.5}}, Scale()),
        ({"threshold": 4.37, "by": "expected"}, Scale(min=0, max=5, step=1)),
    ],
)
def test_a_threshold_that_stands_on_the_scale_is_taken(arm: dict[str, Any], scale: Scale) -> None:
    assert cut_problems([Arm(name="a", policy="threshold", **arm)], scale) == []


def test_a_cut_off_the_scale_of_the_ratings_stops_pick_before_anything_is_written(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 4)
    rate(run, [5.0, 4.5, 3.0, 2.0])
    stage = run.ratings("judge")
    made = stage.finished()
    settings = {**made.settings, "rubric": {"scale": {"min": 1.0, "max": 10.0, "step": 1.0}}, "judge": {"kind": "api"}}
    stage.finish(made.model_copy(update={"settings": settings}))
    with pytest.raises(UsageError, match="1 to 10 in steps of 1"):
        pick_subset(Pick(), run)
    assert run.subset("selected").manifest() is None


def recorded(file: Path, **changes: Any) -> Judge:
    return Judge(kind="recorded", ratings=str(file), **changes)


def opened(judge: Judge) -> list[Any]:
    return RatingTask(judge, rubric.load("accuracy")).open_engines()


def test_recorded_scores_beyond_the_scale_are_refused_with_their_ends_and_the_advice_works(shared: Path) -> None:
    file = shared / "cases/sources/recorded/deita_scores.jsonl"
    scores = [json.loads(line)["score"] for line in file.read_text().splitlines()]
    with pytest.raises(UsageError) as refusal:
        opened(recorded(file))
    assert f"from {min(scores):g} to {max(scores):g}" in str(refusal.value)
    assert "'score.judge.scale={min: 1, max: 6}'" in str(refusal.value)
    named = recorded(file, scale={"min": 1, "max": 6})
    (engine,) = opened(named)
    assert set(engine.scores) == set(scores)
    work = RatingTask(named, rubric.load("accuracy"))
    assert all(work.scale.holds(score) for score in scores), "no row is lost for being above"
    assert work.settings["rubric"]["scale"] == {"min": 1.0, "max": 6.0, "step": None}


def test_a_release_whose_score_stands_in_the_review_alone_is_looked_at_as_well(tmp_path: Path) -> None:
    file = tmp_path / "release.json"
    file.write_text(json.dumps([{"triplet": "a", "review": "9\nGood."}, {"triplet": "b", "review": "no number"}]))
    with pytest.raises(UsageError, match="from 9 to 9"):
        opened(recorded(file))


def test_a_scale_is_for_recorded_ratings_alone() -> None:
    with pytest.raises(ValueError, match="its rubric's"):
        Judge(kind="rules", scale={"min": 1, "max": 6})
    plain = RatingTask(recorded(Path("x.csv")), rubric.load("accuracy")).settings
    assert plain["rubric"]["scale"] == {"min": 0.0, "max": 5.0, "step": 0.5}


# another cut


def rated_run(folder: Path) -> Run:
    run = toy_run(folder, 8)
    rate(run, [5.0, 4.5, 4.5, 4.0, 4.0, 3.0, 2.0, 1.0])
    return run


def cut(at: float) -> Pick:
    return Pick(arms=(Arm(name="selected", policy="threshold", threshold=at), Arm(name="random", policy="random")))


def test_another_cut_is_free_as_long_as_nothing_was_trained_on_it(tmp_path: Path) -> None:
    run = rated_run(tmp_path)
    assert [manifest.rows for manifest in pick_subset(cut(4.5), run)] == [3, 3]
    selected, random = pick_subset(cut(4.0), run)
    assert (selected.rows, random.rows) == (5, 5)
    assert any("threshold: 4.5 there, 4.0 now" in line for line in selected.details["replaced"])
    assert "in place of another" in existing_arms.notes(selected)[0]
    assert pick_subset(cut(4.0), run) == [selected, random], "and a second call leaves them"


def test_an_arm_that_a_model_was_trained_on_is_kept_and_the_way_on_is_named(tmp_path: Path) -> None:
    run = rated_run(tmp_path)
    before = pick_subset(cut(4.5), run)
    train(run, "random", dollars=1.0)
    with pytest.raises(SettingsChanged) as refusal:
        pick_subset(cut(4.0), run)
    assert "models/random was trained on subsets/random" in str(refusal.value)
    assert "`name: random-2`" in str(refusal.value)
    assert run.subset("selected").manifest() == before[0], "nothing is made anew where one arm is refused"
    second = cut(4.0).arms[1].model_copy(update={"name": "random-2"})
    made = pick_subset(Pick(arms=(cut(4.0).arms[0], second)), run)
    assert [manifest.rows for manifest in made] == [5, 5]


def test_an_arm_is_held_by_a_training_that_has_begun(tmp_path: Path) -> None:
    run = rated_run(tmp_path)
    pick_subset(cut(4.5), run)
    run.model("selected").begin(Begun(settings={}, inputs={}))
    pick_subset(cut(4.0), run)  # begun, and not a step of it was kept
    run.model("selected").storage.at(STATE, "step-1").write("x", b"x")
    with pytest.raises(SettingsChanged, match=r"its training has begun"):
        pick_subset(cut(4.5), run)


def test_an_arm_of_an_earlier_version_is_read_as_it_is_and_not_drawn_anew(tmp_path: Path) -> None:
    run = rated_run(tmp_path)
    pick_subset(cut(4.5), run)
    stage = run.subset("random")
    made = stage.finished()
    older = {key: value for key, value in made.settings.items() if key != existing_arms.VERSION}
    written = made.model_copy(update={"settings": older, "details": {"tokens": made.details["tokens"]}})
    stage.finish(written)
    assert pick_subset(cut(4.5), run)[1] == written
    assert "earlier version" in existing_arms.notes(written)[0]
