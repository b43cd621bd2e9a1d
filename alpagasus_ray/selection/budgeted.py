"""Arms whose size is more than a number of rows, or that are to be spread: tokens, shares, a cut for each category, clusters.

Pure functions over columns. How an arm without any of these chooses is in `policies.py`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.config import Arm
from alpagasus_ray.errors import UsageError
from alpagasus_ray.selection import spread
from alpagasus_ray.selection.budgets import Budget, above_thresholds, by_shares, rows_of_share, within
from alpagasus_ray.selection.policies import DEFAULT_THRESHOLD, ORDERS, Choice, Columns, Flags, choose
from alpagasus_ray.selection.spread import Vectors

Indices = NDArray[np.int64]


class Beside(NamedTuple):
    """What such arms go by besides the columns; one entry a row."""

    tokens: Indices
    source: NDArray[np.object_] | None = None
    cluster: Indices | None = None
    vectors: Vectors | None = None

    def only(self, flags: Flags) -> "Beside":
        """The flagged rows."""
        columns: list[Any] = [None if column is None else column[flags] for column in self]
        return self if flags.all() else Beside(*columns)


def chosen(arm: Arm, columns: Columns, beside: Beside, same: Budget | None) -> Choice:
    """The rows of an arm. `same` is what a control takes that has no size of its own. `UsageError` where it asks for what the
    rows cannot give."""
    if arm.by == "expected" or (not arm.is_budgeted and (same is None or same.tokens is None or not arm.traits.copies_size)):
        return choose(arm, columns, None if same is None else same.rows)
    if arm.thresholds:
        default = DEFAULT_THRESHOLD if arm.threshold is None else arm.threshold
        kept = above_thresholds(columns.score, list(columns.category), arm.thresholds, default)
        return Choice(kept, "score below the threshold of its category")
    if arm.per:
        rows = best_of_each(ORDERS[arm.policy](columns, arm.seed), list(_groups(arm.per, columns, beside)), arm)
        return Choice(_flags(rows, len(columns.ids)), f"not among the best of its {arm.per}")
    budget = _budget(arm, columns, same)
    if arm.spread == "clusters":
        assert beside.cluster is not None, "the caller has found clusters"
        return spread.top_of_clusters(columns, beside.cluster, beside.tokens, budget, arm.seed)
    if arm.spread == "apart":
        assert beside.vectors is not None, "the caller has made vectors"
        return spread.apart(columns, beside.vectors, arm.apart, beside.tokens, budget)
    order = ORDERS[arm.policy](columns, arm.seed)
    if arm.shares:
        rows = by_shares(order, list(_groups(arm.shares_of, columns, beside)), arm.shares, beside.tokens, budget)
    else:
        rows = within(order, beside.tokens, budget)
    return Choice(_flags(rows, len(columns.ids)), f"not among the {_WHICH[arm.policy]} within {budget}")


def _groups(by: str, columns: Columns, beside: Beside) -> Iterable[Any]:
    """Each row's category, or the file that it came from."""
    if by == "category":
        return columns.category
    assert beside.source is not None, "the caller has read sources"
    return beside.source


def best_of_each(order: Indices, group: Sequence[str], arm: Arm) -> Indices:
    """The first rows of each group in an order, best first: `arm.k` of them, or `arm.share` of all its rows. `UsageError`
    where no row has a group, or one has too few rows."""
    names = np.asarray(group, dtype=object)
    if not any(group):
        raise UsageError(f"pick.arms: arm {arm.name!r} goes by `per: {arm.per}`, which no example has")
    kept = []
    for name in sorted(set(group)):
        own = order[names[order] == name]
        size = rows_of_share(arm.share, int((names == name).sum())) if arm.share is not None else arm.k or 0
        if size > len(own):
            raise UsageError(
                f"pick.arms: arm {arm.name!r} asks for {size:,} rows of each {arm.per}, and {name!r} has {len(own):,} to "
                "choose from; take fewer, or a `share`"
            )
        kept.append(own[:size])
    return np.concatenate(kept)


_WHICH = {"top": "best", "random": "first drawn", "longest": "longest", "lowest": "lowest rated"}


def _budget(arm: Arm, columns: Columns, same: Budget | None) -> Budget:
    rows = arm.k if arm.share is None else rows_of_share(arm.share, len(columns.ids))
    budget = Budget(rows, arm.tokens)
    if budget == Budget():
        if same is None:
            raise UsageError(f"pick.arms: arm {arm.name!r} has no size: give `k`, `share` or `tokens`")
        budget = same
    pool = int((~np.isnan(columns.score)).sum()) if arm.traits.by_score else len(columns.ids)
    if budget.rows is not None and budget.rows > pool:
        raise UsageError(
            f"pick.arms: arm {arm.name!r} asks for {budget.rows:,} rows of only {pool:,} that it could choose from"
        )
    return budget


def _flags(rows: Indices, count: int) -> Flags:
    flags = np.zeros(count, dtype=bool)
    flags[rows] = True
    return flags
