"""What of a judge's ratings makes it unfit, or doubtful, in words. Pure: from the details of their manifest."""

from collections.abc import Iterator, Mapping
from typing import Any

REFUSED, TOLD = 0.5, 0.2
"""Bounds of the mean of `outside`, where the recipe gives no others (`score.judge.max_outside`, `score.judge.warn_outside`)."""


def doubts(details: Mapping[str, Any], refused: float = REFUSED, told: float = TOLD) -> Iterator[str]:
    """A sentence for each: nearly all rows have one score; no score stands where the judge was asked for one."""
    if one := details.get("one_score"):
        yield f"{one['share']:.1%} of the scored rows have one score, {one['score']:g}: this judge hardly tells them apart"
    outside = details.get("outside")
    if outside is None or outside["mean"] <= told:
        return
    how = (
        f"the probability that no score of the scale stands where it should is {outside['mean']:.2f} in the mean, "
        f"{outside['p95']:.2f} at the 95th percentile"
    )
    if outside["mean"] > refused:
        yield f"this judge is unfit for expected scores: {how}; {outside['expected']:,} of {outside['rows']:,} rows have one"
    else:
        yield f"expected scores are doubtful: {how}"
