"""How far counts of wins and losses can be trusted: intervals and exact tests. Pure; None where there is nothing to count."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
"""P values below this are told as a difference."""
DECIMALS = 6

Interval = dict[str, float | None]
"""`value` with the `low` and `high` end of its 95 percent interval."""


class Counts(NamedTuple):
    """Outcomes of the judged prompts, from a's side."""

    win: int
    tie: int
    lose: int


def scores(counts: Counts, resamples: int, seed: int) -> tuple[Interval, Interval]:
    """Winning score (W - L) / N + 1 (AlpaGasus, section 4.2; 1 is parity) and win rate (W + T / 2) / N, which is half of it.

    The intervals are those of a percentile bootstrap that draws N prompts anew, `resamples` times. Where all prompts went the
    same way no draw can differ, and there is no interval: its width of nothing would look like certainty.
    """
    total = sum(counts)
    if not total:
        return interval(None), interval(None)
    is_mixed = max(counts) < total
    ends = _ahead(counts, resamples, seed) if is_mixed else ()
    winning = [ahead / total + 1 for ahead in (counts.win - counts.lose, *ends)]
    return interval(*winning), interval(*(score / 2 for score in winning))


def _ahead(counts: Counts, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of W - L. Drawing from the counts is the same as drawing prompts, which differ in nothing else."""
    # from the better side, so that the other model's report is the mirror image of this one to the last digit
    sign = 1 if counts.win >= counts.lose else -1
    pool = np.array(counts[::sign])
    # N prompts drawn with replacement have counts of a multinomial: one draw of three numbers in place of one of N rows
    drawn = np.random.default_rng(seed).multinomial(pool.sum(), pool / pool.sum(), size=resamples)
    ends = sign * np.quantile(drawn[:, 0] - drawn[:, 2], tails())
    return float(ends.min()), float(ends.max())


def tails() -> tuple[float, float]:
    """The quantiles between which the confidence lies."""
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def sign_test(first: int, second: int) -> float | None:
    """Two-sided exact p value of a split that uneven between equals; None without counts."""
    from scipy.stats import binomtest

    # ties say nothing of which is better, and are no trials
    return float(binomtest(first, first + second).pvalue) if first + second else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P values that count how many there are of them (S. Holm, 1979); None stays None and counts for none."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for through, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - through)))
        corrected[place] = highest
    return corrected


def interval(value: float | None, low: float | None = None, high: float | None = None) -> Interval:
    """A value with the ends of its interval, each rounded to `DECIMALS`; None where it is not known."""
    return {"value": rounded(value), "low": rounded(low), "high": rounded(high)}


def share(part: int, whole: int) -> float | None:
    """None, not 0, where there is nothing to take a share of."""
    return rounded(part / whole) if whole else None


def rounded(value: float | None) -> float | None:
    """The value to `DECIMALS` places, None as None."""
    return None if value is None else round(float(value), DECIMALS)
