"""Score, choice and category beside the length of the output: whether what was chosen is good, or merely long. Pure.

Lengths are characters of the output, of all examples of the run. The rank correlation is over those with a score.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.evaluation.estimates import rank_correlation
from alpagasus_ray.reporting.measures import Entry, Interval

UNIT = "characters"
QUANTILES = {"p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9}
BANDS = 10
"""Of equal numbers of examples, where lengths allow it."""
FEWEST_BINS, MOST_BINS = 6, 36
MOST_SCORES = 24
"""Scores that have a row of their own; of more, neighbours share one."""
MOST_CATEGORIES = 200

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Spread(Entry):
    """Quantiles of the lengths of some outputs."""

    rows: int
    p10: float
    p25: float
    median: float
    p75: float
    p90: float


@dataclass(frozen=True)
class ScoreLengths(Spread):
    """Lengths of the outputs of one score, or of those from `low` up to `high`."""

    low: float
    high: float | None

    @property
    def name(self) -> str:
        """As a link of the page names it."""
        return f"{self.low:g}" if self.high is None else f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class LengthBand(Entry):
    """Examples whose outputs are about as long as each other."""

    low: int
    high: int
    rows: int
    kept: int
    share: float
    mean_score: float | None


@dataclass(frozen=True)
class LengthBin(Entry):
    """Examples by length, in steps of equal ratio: from `low` on; the first holds all shorter ones too, the last all longer."""

    low: int
    kept: int
    dropped: int


@dataclass(frozen=True)
class CategoryLengths(Entry):
    """One category: how it was rated, and how long its outputs are."""

    category: str | None
    rows: int
    kept: int
    share: float
    mean_score: float | None
    median_length: float


@dataclass(frozen=True)
class Lengths(Entry):
    """Score, choice and category beside length."""

    unit: str
    scored: int
    spearman: Interval
    """Rank correlation of score and length over the scored examples."""
    by_score: Sequence[ScoreLengths]
    """Lowest score first."""
    bands: Sequence[LengthBand]
    """Shortest first."""
    kept: Spread | None
    dropped: Spread | None
    bins: Sequence[LengthBin]
    categories: Sequence[CategoryLengths]
    """Largest first; empty where there are none."""


def lengths(length: Indices, score: Floats, kept: Flags, category: Sequence[str | None]) -> Lengths | None:
    """All of them are of one length, in one order; a score of NaN is none. None where there are no examples."""
    if not len(length):
        return None
    scored = ~np.isnan(score)
    correlation = rank_correlation(score[scored], length[scored]) if scored.any() else {"value": None}
    return Lengths(
        unit=UNIT,
        scored=int(scored.sum()),
        spearman=Interval(correlation["value"], correlation.get("low"), correlation.get("high")),
        by_score=_by_score(length[scored], score[scored]),
        bands=_bands(length, score, kept),
        kept=_spread(length[kept]),
        dropped=_spread(length[~kept]),
        bins=_bins(length, kept),
        categories=_categories(length, score, kept, category),
    )


def _spread(values: Indices) -> Spread | None:
    return Spread(rows=len(values), **_quantiles(values)) if len(values) else None


def _quantiles(values: Indices) -> dict[str, float]:
    found = np.quantile(values, tuple(QUANTILES.values()))
    return {name: round(float(value), 1) for name, value in zip(QUANTILES, found, strict=True)}


def _by_score(length: Indices, score: Floats) -> list[ScoreLengths]:
    distinct = np.unique(score)
    if len(distinct) <= MOST_SCORES:
        return [_of_score(length[score == value], float(value), None) for value in distinct]
    edges = np.round(np.linspace(distinct[0], distinct[-1], MOST_SCORES // 2 + 1), 6)
    place = np.clip(np.searchsorted(edges, score, side="right") - 1, 0, len(edges) - 2)
    return [
        _of_score(length[place == number], float(low), float(high))
        for number, (low, high) in enumerate(itertools.pairwise(edges))
        if (place == number).any()
    ]


def _of_score(length: Indices, low: float, high: float | None) -> ScoreLengths:
    return ScoreLengths(rows=len(length), **_quantiles(length), low=low, high=high)


def _bands(length: Indices, score: Floats, kept: Flags) -> list[LengthBand]:
    """Where many outputs have one length, they stay in one band."""
    edges = np.unique(np.quantile(length, np.linspace(0, 1, BANDS + 1)[1:], method="higher"))
    place = np.searchsorted(edges, length)
    return [_band(length[place == number], score[place == number], kept[place == number]) for number in range(len(edges))]


def _band(length: Indices, score: Floats, kept: Flags) -> LengthBand:
    low, high, chosen = int(length.min()), int(length.max()), int(kept.sum())
    return LengthBand(low, high, len(length), chosen, round(chosen / len(length), 6), _mean(score))


def _mean(score: Floats) -> float | None:
    known = score[~np.isnan(score)]
    return round(float(known.mean()), 4) if len(known) else None


def _bins(length: Indices, kept: Flags) -> list[LengthBin]:
    steps = int(np.clip(2 * len(length) ** (1 / 3), FEWEST_BINS, MOST_BINS))
    low, high = np.quantile(length, (0.001, 0.999))
    edges = np.unique(np.round(np.geomspace(low + 1, max(high, low + 10) + 1, steps + 1) - 1).astype(np.int64))[:-1]
    place = np.clip(np.searchsorted(edges, length, side="right") - 1, 0, None)
    in_arm, left = (np.bincount(place[chosen], minlength=len(edges)) for chosen in (kept, ~kept))
    return [LengthBin(int(low), int(one), int(other)) for low, one, other in zip(edges, in_arm, left, strict=True)]


def _categories(length: Indices, score: Floats, kept: Flags, category: Sequence[str | None]) -> list[CategoryLengths]:
    names, place, counts = np.unique([name or "" for name in category], return_inverse=True, return_counts=True)
    if set(names) <= {""}:
        return []
    largest = np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]
    return [_category(str(names[number]) or None, place == number, length, score, kept) for number in largest]


def _category(name: str | None, is_in: Flags, length: Indices, score: Floats, kept: Flags) -> CategoryLengths:
    rows, chosen = int(is_in.sum()), int(kept[is_in].sum())
    share = round(chosen / rows, 6)
    return CategoryLengths(name, rows, chosen, share, _mean(score[is_in]), round(float(np.median(length[is_in])), 1))
