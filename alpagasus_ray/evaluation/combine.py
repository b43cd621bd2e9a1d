"""One rating of several judges. Pure: columns of scores in, a column of scores out, rows in the same order.

The median is the default: one broken judge out of three moves it no further than to the other two's next value, while it
moves a mean without bound and decides the worst alone. A row counts with the ratings it has; without any it stays without.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.dawid_skene import codes_of, dawid_skene
from alpagasus_ray.evaluation.estimates import Floats, coded, columns, rank_correlation

By = Literal["median", "mean", "dawid-skene", "worst"]
BY: tuple[By, ...] = ("median", "mean", "dawid-skene", "worst")


class Combined(NamedTuple):
    """`score` (rows,), NaN where no judge rated; `expected`, the mean of the true value's distribution, under Dawid-Skene
    alone; `parts`, the judges' names; `judges`, what was learned about each under Dawid-Skene."""

    score: Floats
    expected: Floats | None
    parts: tuple[str, ...]
    judges: Mapping[str, Any]


def combine(ratings: Mapping[str, ArrayLike], by: By = "median") -> Combined:
    """The combined rating of judges (name: scores of all rows). Raises UsageError for fewer than two judges, for columns of
    unequal lengths and for an unknown `by`."""
    if len(ratings) < 2:
        raise UsageError(f"combine.ratings: {list(ratings)}; name two judges or more, one needs no combining")
    table = columns(list(ratings.values()))
    parts = tuple(ratings)
    if by == "dawid-skene":
        return _by_model(table, parts)
    if by not in BY:
        raise UsageError(f"combine.by: {by!r}; write one of {', '.join(BY)}")
    rated = ~np.isnan(table).all(axis=1)
    score = np.full(len(table), np.nan)
    reduce: Mapping[str, Callable[..., Any]] = {"median": np.nanmedian, "mean": np.nanmean, "worst": np.nanmin}
    score[rated] = reduce[by](table[rated], axis=1)
    return Combined(score, None, parts, {})


def _by_model(table: Floats, parts: Sequence[str]) -> Combined:
    scale, _ = coded(table)
    rated = ~np.isnan(table).all(axis=1)
    fit = dawid_skene(codes_of(table[rated], scale), len(scale))
    score, expected = np.full(len(table), np.nan), np.full(len(table), np.nan)
    score[rated], expected[rated] = scale[fit.medians()], fit.posterior @ scale
    judges = {
        name: {
            "confusion": np.round(confusion, 4).tolist(),
            "right": round(float(fit.prior @ np.diag(confusion)), 4),
            "mean_error": round(float(fit.prior @ (confusion @ scale - scale)), 4),
        }
        for name, confusion in zip(parts, fit.confusion, strict=True)
    }
    known = {"scale": scale.tolist(), "prior": np.round(fit.prior, 4).tolist(), "rounds": fit.rounds, "judges": judges}
    return Combined(score, expected, tuple(parts), known)


def moved(before: Floats, after: Floats, cut: float) -> float:
    """How far two ratings choose different rows: of those that either has at or above the cut, the share that one has not."""
    first, second = before >= cut, after >= cut
    either = int((first | second).sum())
    return int((first ^ second).sum()) / either if either else 0.0


def beside_held(raw: Floats, smoothed: Floats, held: Floats, words: Floats) -> dict[str, Any]:
    """How far a raw and a smoothed rating agree with a judge that had no part in either, always told together.

    Smoothing over neighbours makes a rating follow length, and most judges like length: the `given_length` correlations,
    with the words of the answer taken out, say what is left of the gain.
    """
    return {
        "raw": rank_correlation(raw, held),
        "smoothed": rank_correlation(smoothed, held),
        "raw_given_length": rank_correlation(raw, held, words),
        "smoothed_given_length": rank_correlation(smoothed, held, words),
        "length": rank_correlation(words, held),
    }
