"""What a chart shows is so at each place of it: between two scores, at scores that nobody has, and where rows are left out."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from alpagasus_ray.reporting import charts
from alpagasus_ray.reporting.chart_list import slider_cuts
from alpagasus_ray.reporting.measures import read
from alpagasus_ray.reporting.score_steps import score_steps
from alpagasus_ray.reporting.selection_data import Cut, ScoreBin
from alpagasus_ray.reporting.svg import Axis
from alpagasus_ray.selection.policies import Choice, Columns
from alpagasus_ray.selection.report import CountedBy, selection_report, threshold_curve

SCALE = {"min": 0.0, "max": 5.0, "step": 0.5}
SCORES = [0.0] * 8 + [1.0] * 5 + [2.5] * 14 + [3.5] * 88 + [4.0] * 24 + [4.5] * 11 + [5.0] * 50


def columns(scores: list[float]) -> Columns:
    score = np.array(scores)
    return Columns([f"t:{row}" for row in range(len(score))], score, score, np.ones(len(score), dtype=int), [""] * len(score))


def curve(scores: list[float], pool: list[bool] | None = None) -> list[Cut]:
    flags = None if pool is None else np.array(pool)
    return [read(Cut, entry) for entry in threshold_curve(columns(scores), np.ones(len(scores), dtype=np.int64), flags)]


def bins(scores: list[float]) -> list[ScoreBin]:
    return [ScoreBin(score, rows, 0) for score, rows in sorted(Counter(scores).items())]


def height(stairs: list[tuple[float, int]], cut: float) -> list[int]:
    """What the line reads at a cut: more than one number where it goes straight down."""
    pairs = itertools.pairwise(stairs)
    return [rows for (left, rows), (right, after) in pairs if left < right and left <= cut <= right and rows == after]


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_of_cuts_reads_at_every_cut_what_that_cut_keeps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for scores in (SCORES, list(rng.choice(np.arange(0, 5.5, 0.5), 60)), [3.0], list(rng.uniform(0, 5, 40))):
        points = curve([float(score) for score in scores])
        stairs = charts.cut_stairs(points, charts.cut_axis(points, SCALE))
        assert (stairs[0][0], stairs[-1][0]) == (0.0, 5.0)
        for cut in (0.03 + number / 10 for number in range(50)):
            assert height(stairs, cut) == [sum(score >= cut for score in scores)], cut
            assert charts.rows_kept(points, cut) == sum(score >= cut for score in scores)
    assert height(charts.cut_stairs(curve(SCORES), Axis(0, 5)), 5.0) == [50], "and at the edge itself"


def test_the_drawn_line_goes_through_what_a_cut_between_two_scores_keeps() -> None:
    drawn = str(charts.threshold_curve(curve(SCORES), 4.5, SCALE))
    [path] = re.findall(r'<path d="([^"]+)"', drawn)
    places = [tuple(map(float, place.split())) for place in re.findall(r"[ML]([\d.]+ [\d.]+)", path)]
    top = len(SCORES) * 1.05
    at_three = [240 * (1 - 173 / top)] * 2
    flat = [(left[1], right[1]) for left, right in itertools.pairwise(places) if left[0] < 600 < right[0]]
    assert flat == [pytest.approx(at_three, abs=0.01)]


def test_a_cut_keeps_no_row_that_is_left_out_whatever_its_score() -> None:
    scores, pool = [5.0, 5.0, 4.0, 4.0, 3.0], [True, False, True, False, True]
    points = curve(scores, pool)
    assert [(point.threshold, point.rows) for point in points] == [(3.0, 3), (4.0, 2), (5.0, 1)]
    kept = Choice(np.array([True, False, False, False, False]), "score below 5")
    told = selection_report(columns(scores), kept, np.ones(5, dtype=np.int64), CountedBy("toy", "tokens"), np.array(pool))
    assert [entry["rows"] for entry in told["threshold_curve"]] == [3, 2, 1]
    assert [(entry["rows"], entry["kept"]) for entry in told["histogram"]] == [(1, 0), (2, 0), (2, 1)]
    assert [column.pool for column in charts.columns(bins(scores), None, points)] == [1, 1, 1]


def test_a_histogram_has_a_column_for_each_step_of_the_scale_also_where_nobody_has_that_score() -> None:
    shown = charts.columns(bins([0.0, 1.0, 2.5, 3.5]), SCALE)
    assert [column.low for column in shown] == [number / 2 for number in range(11)]
    assert [column.low for column in shown if column.rows] == [0.0, 1.0, 2.5, 3.5]
    assert sum(column.rows for column in shown) == 4
    assert [column.low for column in charts.columns(bins([1.0, 4.0]))] == [1.0, 2.0, 3.0, 4.0], "where no scale is known"


def test_scores_on_no_step_stand_as_far_apart_as_they_are() -> None:
    shown = charts.columns(bins([0.0, 0.123, 4.0]), SCALE)
    assert len(shown) == charts.MOST_BINS
    assert len({round((column.high or 0) - column.low, 6) for column in shown}) == 1
    assert shown[0].words == "0 to under 0.1"
    assert shown[-1].words == "3.9 to 4", "the highest score is in the last column"


@pytest.mark.parametrize(
    ("scores", "scale", "steps"),
    [
        ([3.0], {"min": 1, "max": 5, "step": 1}, [1.0, 2.0, 3.0, 4.0, 5.0]),
        ([0.3, 0.7], None, [0.3, 0.4, 0.5, 0.6, 0.7]),
        ([0.2], {"min": 0, "max": 1, "step": 0.1}, [number / 10 for number in range(11)]),
        ([3.3], {"min": 0, "max": 5, "step": 0.5}, []),
        ([0, 100], {"min": 0, "max": 100, "step": 1}, []),
        ([], {"min": 0, "max": 1, "step": None}, [0.0, 1.0]),
        ([], None, []),
    ],
)
def test_steps_are_those_of_the_scale_or_the_largest_that_the_scores_stand_on(
    scores: list[float], scale: dict[str, float | None] | None, steps: list[float]
) -> None:
    assert score_steps(scores, scale) == steps


def test_the_slider_stands_on_every_step_up_to_the_highest_score() -> None:
    points = slider_cuts(curve([1.0, 1.0, 2.5, 4.0]), SCALE)
    assert [(point.threshold, point.rows) for point in points[:4]] == [(0.0, 4), (0.5, 4), (1.0, 4), (1.5, 2)]
    assert points[-1].threshold == 4.0, "a cut above it would keep nothing, which `pick` refuses"
    many = slider_cuts(curve([float(score) for score in np.random.default_rng(0).uniform(0, 5, 900)]), SCALE)
    assert 100 < len(many) <= 201


def test_a_picture_in_a_notebook_takes_the_room_there_is_and_leaves_other_pages_names_alone() -> None:
    drawn = charts.histogram_html({4.5: 2, 5.0: 1}, "3 <records>", SCALE)
    assert "3 &lt;records&gt;" in drawn
    assert 'width="700"' not in drawn
    rules = drawn.partition("<style>")[2].partition("</style>")[0].splitlines()
    assert len(rules) > 10
    assert all(charts.NOTEBOOK in rule for rule in rules if rule.strip())
