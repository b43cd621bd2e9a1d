"""Which examples the page holds: what tells most first, joined by id, as much as fits."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.config import Arm, Pick
from alpagasus_ray.reporting import examples_table
from alpagasus_ray.reporting.examples_table import TableArm
from alpagasus_ray.reporting.examples_table import examples_table as table_of
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.reporting.training_data import CURVE_POINTS, CurvePoint, thinned
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from report_runs import rate
from toy_runs import toy_run

SCORES = st.lists(st.sampled_from([0.0, 1.0, 2.5, 4.0, 5.0, float("nan")]), min_size=1, max_size=80)
SELECTED = TableArm("selected", "judge", by_score=True, by_expected=False)


def _ranks(scores: list[float]) -> tuple[examples_table.Ranks, np.ndarray]:
    score = np.array(scores)
    kept = score >= 2.5
    return examples_table.ranks(score, np.full(len(score), np.nan), kept, by_score=True, by_expected=False), kept


@given(SCORES)
def test_every_row_has_one_place_and_those_without_a_score_come_last(scores: list[float]) -> None:
    ranked, _ = _ranks(scores)
    order = examples_table.priority(ranked)
    assert sorted(order) == list(range(len(scores)))
    tail = order[len(order) - len(ranked.unscored) :]
    assert all(np.isnan(scores[row]) for row in tail)


@given(SCORES)
def test_the_cut_lies_between_the_kept_and_the_others(scores: list[float]) -> None:
    ranked, kept = _ranks(scores)
    if ranked.cut is not None:
        assert kept[ranked.order[: ranked.cut]].all()
        assert not kept[ranked.order[ranked.cut :]].any()


@given(SCORES, st.integers(0, 4000))
def test_what_is_shown_fits_and_the_first_that_does_not_would_not(scores: list[float], limit: int) -> None:
    order = examples_table.priority(_ranks(scores)[0])
    sizes = np.arange(len(scores)) * 10 + 5
    shown = examples_table.fitting(order, sizes, limit)
    assert sizes[shown].sum() <= limit
    assert set(shown) == set(order[: len(shown)])
    if len(shown) < len(scores):
        assert sizes[shown].sum() + sizes[order[len(shown)]] > limit


def _picked(folder: Path, scores: list[float | None]) -> Run:
    run = toy_run(folder, len(scores), rows_per_shard=16)
    rate(run, scores)
    pick_subset(Pick(arms=(Arm(name="selected", policy="threshold", threshold=4.0),), max_unscored=0.5), run)
    return run


def test_of_a_large_dataset_the_best_the_worst_and_those_around_the_cut_are_shown(tmp_path: Path) -> None:
    run = _picked(tmp_path, [row / 20 for row in range(101)])
    table = table_of(finished_stages(run), SELECTED, 900)
    assert table is not None
    assert (table.of, table.shown) == (101, len(table.id))
    assert 9 < table.shown < 30
    scores = table.score
    assert scores is not None
    assert {0.0, 0.05, 3.95, 4.0, 4.95, 5.0} <= set(scores)
    assert not [score for score in scores if 1 < score < 3]


def test_ratings_are_joined_by_id_whatever_their_order(tmp_path: Path) -> None:
    scores: list[float | None] = [None if row == 7 else float(row % 6) for row in range(50)]
    run = _picked(tmp_path, scores)
    stage = run.ratings("judge")
    rows = stage.storage.read_table("part-00000.parquet")
    order = list(range(50))
    random.Random(0).shuffle(order)
    written = stage.storage.write_table("part-00000.parquet", rows.take(order))
    manifest = stage.finished("score")
    files = [entry.model_copy(update=written._asdict()) for entry in manifest.files]
    stage.finish(manifest.model_copy(update={"files": files}))
    table = table_of(finished_stages(run), SELECTED, 1 << 20)
    assert table is not None
    assert table.score == scores
    assert table.reply == [None if score is None else f"{score:g}\nToy." for score in scores]
    assert table.kept == [int(score is not None and score >= 4) for score in scores]
    assert table.reason is not None
    reasons = [table.reason.names[code] if code is not None else None for code in table.reason.rows]
    assert reasons == ["no score: failed" if s is None else None if s >= 4 else "score below 4" for s in scores]


def test_other_ratings_stand_beside_the_arms_own(tmp_path: Path) -> None:
    run = _picked(tmp_path, [float(row % 6) for row in range(24)])
    rate(run, [1.5] * 24, name="another")
    table = table_of(finished_stages(run), SELECTED, 1 << 20)
    assert table is not None
    assert table.other == {"another": [1.5] * 24}


@pytest.mark.parametrize("steps", [1, 240, 241, 5000])
def test_a_curve_in_few_points_keeps_its_end_and_its_mean(steps: int) -> None:
    curve = [CurvePoint(step=step, epoch=step / steps, loss=1.0, learning_rate=0.1) for step in range(1, steps + 1)]
    points = thinned(curve)
    assert len(points) <= CURVE_POINTS
    assert points[-1].step == steps
    assert {point.loss for point in points} == {1.0}
