"""How much an arm takes, and of what: rows, tokens, a share of all, shares of a mixture, a cut for each category.

Pure functions over columns of one length, in source order; an order holds row numbers, best first.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.errors import UsageError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

OTHERS = ""
"""Name of the rows whose group has no share of its own."""


class Budget(NamedTuple):
    """The most that an arm takes; None is no limit. With both, whichever is reached first."""

    rows: int | None = None
    tokens: int | None = None

    def __str__(self) -> str:
        parts = [f"{value:,} {name}" for name, value in zip(self._fields, self, strict=True) if value is not None]
        return " and ".join(parts) or "all rows"


def rows_of_share(share: float, rows: int) -> int:
    """How many rows a share of all is; a half counts as one, and a share that is not nothing takes at least one row."""
    return min(rows, max(1, math.floor(share * rows + 0.5))) if rows and share > 0 else 0


def within(order: Indices, tokens: Indices, budget: Budget) -> Indices:
    """The first rows of an order that a budget holds.

    It ends before the first row that would pass the budget, and does not go on to shorter ones: these would be chosen for being
    short.
    """
    fits = len(order)
    if budget.tokens is not None:
        fits = int(np.searchsorted(np.cumsum(tokens[order]), budget.tokens, side="right"))
    return order[: fits if budget.rows is None else min(fits, budget.rows)]


def portions(total: int, weights: Sequence[float]) -> list[int]:
    """A whole number divided in proportion to weights, without a remainder (largest remainders first, then the earlier)."""
    whole = math.fsum(weights)
    if whole <= 0:
        return [0] * len(weights)
    exact = [total * weight / whole for weight in weights]
    parts = [math.floor(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(weights)), key=lambda place: (parts[place] - exact[place], place))
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


def by_shares(order: Indices, group: Sequence[str], shares: Mapping[str, float], tokens: Indices, budget: Budget) -> Indices:
    """The best rows of each group, as many rows and tokens as its share of the budget; of two limits the one reached first.

    `group` is each row's category or source. Where the shares leave something over, it goes to the rows of all other groups.
    Raises `UsageError` for a group that no row has, shares of more than 1, and a group that has too little for its share.
    """
    names = np.asarray([name if name in shares else OTHERS for name in group], dtype=object)
    weights = _weights(group, shares)
    if budget == Budget():
        raise UsageError("pick.arms: `shares` divide a budget, and the arm has neither `k`, `share` nor `tokens`; give one")
    parts = [None if total is None else portions(total, list(weights.values())) for total in budget]
    kept = []
    for place, (name, weight) in enumerate(weights.items()):
        own = order[names[order] == name]
        part = Budget(*(None if each is None else each[place] for each in parts))
        there = (len(own), int(tokens[own].sum()))
        short = [most is None or least < most for most, least in zip(part, there, strict=True)]
        if all(short):
            what, limit = ("rows", 0) if budget.tokens is None else ("tokens", 1)
            who = f"{name or 'all other groups'!r}"
            raise UsageError(
                f"pick.arms: `shares` gives {who} {weight:g} of {budget[limit]:,} {what}, which is {part[limit]:,}, and there "
                f"are {there[limit]:,}; take at most {math.floor(there[limit] / weight):,} {what} in all, or a smaller "
                "share"
            )
        kept.append(within(own, tokens, part))
    return np.concatenate(kept)


def _weights(group: Sequence[str], shares: Mapping[str, float]) -> dict[str, float]:
    """The shares, and what they leave over for all other groups."""
    groups = Counter(group)
    unknown = sorted(set(shares) - set(groups))
    if unknown:
        known = ", ".join(sorted(set(groups) - {""})) or "none"
        raise UsageError(f"pick.arms: `shares` names {unknown[0]!r}, which no row has; there are: {known}")
    total = math.fsum(shares.values())
    if total > 1 + 1e-9 or min(shares.values()) < 0:
        raise UsageError(
            f"pick.arms: `shares` must be at least 0 and add up to 1 at most, and add up to {total:g}: {dict(shares)}"
        )
    left = 1 - total
    return dict(shares) | ({OTHERS: left} if left > 1e-9 else {})


def above_thresholds(score: Floats, category: Sequence[str], cuts: Mapping[str, float], default: float) -> Flags:
    """Rows that reach the cut of their category, or the default where it has none. A score of NaN reaches nothing.

    Raises `UsageError` for a category that no row has.
    """
    unknown = sorted(set(cuts) - set(category))
    if unknown:
        known = ", ".join(sorted(set(category) - {""})) or "none: the examples have no categories"
        raise UsageError(f"pick.arms: `thresholds` names category {unknown[0]!r}, which no example has; there are: {known}")
    own = np.fromiter((cuts.get(name, default) for name in category), dtype=np.float64, count=len(category))
    return np.asarray(score >= own)
