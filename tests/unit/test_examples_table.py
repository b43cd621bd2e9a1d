"""Which examples the page holds: what tells most first, joined by id, as much as fits."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.config import Arm, Pick
from alpagasus_ray.reporting import examples_table
from alpagasus_ray.reporting.examples_table import ExamplesTable
from alpagasus_ray.reporting.joined_rows import TableArm, joined_rows
from alpagasus_ray.reporting.packing import packed_within
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


def _order(ranked: examples_table.Ranks, kept: np.ndarray) -> np.ndarray:
    drawn = np.random.default_rng(0).permutation(len(kept))
    return examples_table.priority(ranked, examples_table.groups(ranked, len(kept)), kept, drawn)


@given(SCORES)
def test_every_row_has_one_place_and_those_of_no_group_and_not_kept_come_last(scores: list[float]) -> None:
    ranked, kept = _ranks(scores)
    order = _order(ranked, kept)
    assert sorted(order) == list(range(len(scores)))
    shown_last = [row for row in order if not kept[row] and not examples_table.groups(ranked, len(kept))[row]]
    assert list(order[len(order) - len(shown_last) :]) == shown_last


@given(SCORES)
def test_the_cut_lies_between_the_kept_and_the_others(scores: list[float]) -> None:
    ranked, kept = _ranks(scores)
    if ranked.cut is not None:
        assert kept[ranked.order[: ranked.cut]].all()
        assert not kept[ranked.order[ranked.cut :]].any()


@given(SCORES, st.integers(0, 4000))
def test_what_is_shown_fits_and_the_first_that_does_not_would_not(scores: list[float], limit: int) -> None:
    order = _order(*_ranks(scores))
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


def _table(run: Run, limit: int = 1 << 20, seed: int = 0) -> ExamplesTable:
    stages = finished_stages(run)
    joined = joined_rows(stages, SELECTED)
    assert joined is not None
    return examples_table.examples_table(stages, SELECTED, joined, limit, seed)


def test_a_page_without_room_has_the_best_the_worst_those_around_the_cut_then_the_arm_then_a_seeded_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples_table, "GROUP_ROWS", 2)
    run = _picked(tmp_path, [row / 20 for row in range(101)])
    few, more = _table(run, 1200), _table(run, 6000)
    assert few.of == more.of == 101
    assert few.score is not None
    assert {0.0, 0.05, 3.95, 4.0, 4.95, 5.0} <= set(few.score)
    assert few.kept_shown < few.kept_of == 21
    assert more.kept_shown == more.kept_of, "all that the arm holds come before the sample"
    rest = [score for score in more.score or () if score is not None and 0.05 < score < 3.9]
    assert 10 < len(rest) < 60
    assert max(rest) - min(rest) > 2, "the sample is of all scores"
    assert _table(run, 6000) == more
    assert _table(run, 6000, seed=1).id != more.id


def test_what_is_packed_stays_below_its_bound_however_badly_it_is_compressed() -> None:
    noise = random.Random(0)
    texts = ["".join(chr(noise.randrange(0x4E00, 0x9FFF)) for _ in range(200)) for _ in range(500)]
    held, text = packed_within(lambda limit: texts[: limit // 600], 500 * 600, 100_000)
    assert 80_000 < len(text) <= 100_000
    assert len(held) < 500


def test_ratings_are_joined_by_id_whatever_their_order(tmp_path: Path) -> None:
    scores: list[float | None] = [None if row == 7 else float(row % 6) for row in range(50)]
    run = _picked(tmp_path, scores)
    stage = run.ratings("judge")
    rows = stage.storage.read_table("part-00000.parquet")
    order = list(range(50))
    random.Random(0).shuffle(order)
    written = stage.storage.write_table("part-00000.parquet", rows.take(order))
    manifest = stage.finished()
    files = [entry.model_copy(update=written._asdict()) for entry in manifest.files]
    stage.finish(manifest.model_copy(update={"files": files}))
    table = _table(run)
    assert table.score == scores
    assert table.reply == [None if score is None else f"{score:g}\nToy." for score in scores]
    assert table.kept == [int(score is not None and score >= 4) for score in scores]
    assert table.reason is not None
    reasons = [table.reason.names[code] if code is not None else None for code in table.reason.rows]
    assert reasons == ["no score: failed" if s is None else None if s >= 4 else "score below 4" for s in scores]


def test_other_ratings_stand_beside_the_arms_own(tmp_path: Path) -> None:
    run = _picked(tmp_path, [float(row % 6) for row in range(24)])
    rate(run, [1.5] * 24, name="another")
    table = _table(run)
    assert table.other == {"another": [1.5] * 24}


@pytest.mark.parametrize("steps", [1, 240, 241, 5000])
def test_a_curve_in_few_points_keeps_its_end_and_its_mean(steps: int) -> None:
    curve = [CurvePoint(step=step, epoch=step / steps, loss=1.0, learning_rate=0.1) for step in range(1, steps + 1)]
    points = thinned(curve)
    assert len(points) <= CURVE_POINTS
    assert points[-1].step == steps
    assert {point.loss for point in points} == {1.0}
