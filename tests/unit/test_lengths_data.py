"""Score and choice beside length: whether a choice goes by length is seen, and charts of it have all their groups."""

import re

import numpy as np

from alpagasus_ray.reporting import charts, length_charts
from alpagasus_ray.reporting.interval_file import estimates_file
from alpagasus_ray.reporting.lengths_data import BANDS, Lengths, lengths
from alpagasus_ray.reporting.selection_data import ScoreBin


def of(length: np.ndarray, score: np.ndarray, kept: np.ndarray, category: list[str | None] | None = None) -> Lengths:
    made = lengths(length, score, kept, category or [None] * len(length))
    assert made is not None
    return made


def test_a_choice_by_length_and_one_that_is_not_are_told_apart() -> None:
    random = np.random.default_rng(0)
    length = random.integers(1, 2000, 5000)
    score = np.clip(np.round(length / 400 + random.normal(0, 0.5, 5000)), 0, 5)
    by_length, by_chance = of(length, score, score >= 4), of(length, random.permutation(score), random.random(5000) < 0.3)
    assert (by_length.spearman.value or 0) > 0.9
    assert abs(by_chance.spearman.value or 1) < 0.05
    assert [band.share for band in by_length.bands] == sorted(band.share for band in by_length.bands)
    assert all(0.2 < band.share < 0.4 for band in by_chance.bands)
    assert len(by_length.bands) == BANDS
    for made in (by_length, by_chance):
        assert sum(band.rows for band in made.bands) == 5000
        assert sum(one.kept + one.dropped for one in made.bins) == 5000
    assert [one.median for one in by_length.by_score] == [np.median(length[score == value]) for value in np.unique(score)]


def test_lengths_of_one_value_without_scores_or_with_one_score_are_no_error() -> None:
    same, no_score = np.full(40, 7), np.full(40, np.nan)
    made = of(same, no_score, np.arange(40) < 10)
    assert made.spearman.value is None
    assert made.by_score == []
    assert [(band.low, band.high, band.kept) for band in made.bands] == [(7, 7, 10)]
    assert of(np.zeros(3, dtype=np.int64), np.ones(3), np.ones(3, dtype=bool)).dropped is None
    for one in (made, of(same, np.ones(40), np.arange(40) < 10)):
        length_charts.length_bands(one.bands, 0.25, one.unit)
        length_charts.length_histogram(one.bins, one.unit)
    length_charts.score_lengths(of(same, np.ones(40), np.arange(40) < 10).by_score, "characters")
    assert lengths(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=bool), []) is None


def test_categories_are_the_largest_first_with_their_scores() -> None:
    category: list[str | None] = ["a", "b", "b", None]
    made = of(np.array([1, 2, 4, 9]), np.array([5, 1, np.nan, 2.0]), np.array([True, False, True, False]), category)
    found = [(one.category, one.rows, one.kept, one.mean_score, one.median_length) for one in made.categories]
    assert found == [("b", 2, 1, 1.0, 3.0), (None, 1, 0, 2.0, 9.0), ("a", 1, 1, 5.0, 1.0)]


def test_of_very_many_scores_several_share_a_column_and_none_is_lost() -> None:
    bins = [ScoreBin(score / 997, 3, score % 2) for score in range(998)]
    shown = charts.columns(bins)
    assert len(shown) == charts.MOST_BINS
    assert sum(column.rows for column in shown) == 3 * 998
    assert sum(column.kept for column in shown) == sum(entry.kept for entry in bins)
    links = re.findall(r'href="#examples\?score=([^"]*)"', charts.histogram(bins))
    assert len(links) == charts.MOST_BINS
    made = of(np.arange(998), np.arange(998) / 997, np.arange(998) > 900)
    assert sum(one.rows for one in made.by_score) == 998


def test_a_chart_shows_text_as_it_is() -> None:
    hostile = '</svg><img src=x onerror="alert(1)">'
    drawn = charts.outcome_bars([charts.Bar(hostile, 1, 2, 3)]) + charts.estimates(
        [charts.Estimate(hostile, 1, 0, 2)], 1, hostile
    )
    assert "<img" not in drawn
    assert "&lt;img" in drawn
    assert "<img" not in charts.histogram_file({"1": 2}, {}, hostile)
    drawn = estimates_file(
        [charts.Estimate(hostile, -0.5, -1.0, 0.1), charts.Estimate("b", 0.2, None, None)], 0.0, hostile, "x"
    )
    assert "<img" not in drawn
    assert drawn.count('class="dot"') == 2
    assert drawn.count('class="interval"') == 1, "one seed has none"
