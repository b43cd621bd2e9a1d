"""Which examples an arm keeps: pure functions from columns to a choice. They know nothing of files or shards.

All take arrays of one length n, in source order, and return a `Choice`. A score of NaN is no score: such a row can be drawn
at random or for its length, but never chosen by a score. Ties are broken by the expected score where there is one, then by
a seeded hash of the example's id, so that the same rows are chosen on every machine and in every order of reading. The
hash's key holds what it is for besides the seed: a draw knows nothing of how ties were broken under the same seed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.config import Arm
from alpagasus_ray.errors import UsageError
from alpagasus_ray.selection.draws import seeded_hashes

DEFAULT_THRESHOLD = 4.5
"""AlpaGasus, section 2.3: accuracy of at least 4.5 out of 5."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


class Columns(NamedTuple):
    """What policies choose by; all of one length, in source order."""

    ids: Collection[str]
    score: Floats
    expected: Floats
    """Expected score under the judge's own probabilities; NaN where it was not asked for."""
    length: NDArray[np.integer[Any]]
    """Length of the output, in tokens or characters: in a measure that holds for texts without blanks too."""
    category: Sequence[str] | NDArray[np.object_]
    """Empty where there is none."""


class Choice(NamedTuple):
    """Which rows are kept, and in words why others are not."""

    kept: Flags
    reason: str
    """Why a row with a score was dropped."""


Chooser = Callable[[Arm, Columns, int], Choice]
"""From an arm, the columns and the number to keep (0 where the policy takes no `k`) to the rows that are kept."""


def choose(arm: Arm, columns: Columns, same_size: int | None) -> Choice:
    """The rows of an arm. `same_size` is what a control takes that has no `k` of its own."""
    if arm.by == "expected":
        choice = choose(arm.model_copy(update={"by": "score"}), _by_expected(arm, columns), same_size)
        return choice._replace(reason=choice.reason.replace("score", "expected score", 1))
    return CHOOSERS[arm.policy](arm, columns, _size(arm, columns, same_size) if arm.traits.k else 0)


def _size(arm: Arm, columns: Columns, same_size: int | None) -> int:
    """How many rows an arm of a fixed size takes; a `UsageError` where there are not so many that it could take."""
    k = arm.k if arm.k is not None else same_size
    if k is None:
        raise UsageError(
            f"pick.arms: arm {arm.name!r} has no `k`, and there is no `threshold` or `top` arm to take the size of"
        )
    pool = int((~np.isnan(columns.score)).sum()) if arm.traits.by_score else len(columns.ids)
    if k > pool:
        raise UsageError(f"pick.arms: arm {arm.name!r} asks for k = {k:,} of only {pool:,} rows that it could choose from")
    return k


def _by_expected(arm: Arm, columns: Columns) -> Columns:
    """The columns with the expected score in the place of the score, which breaks ties."""
    if np.isnan(columns.expected).all():
        raise UsageError(
            f"pick.arms: arm {arm.name!r} goes by the expected score, and these ratings have none; rate with "
            "score.judge.expected=true, or leave `by` out"
        )
    # a reply that gives no score, by a refusal for instance, may have made one probable all the same
    return columns._replace(score=np.where(np.isnan(columns.score), np.nan, columns.expected), expected=columns.score)


def threshold(columns: Columns, tau: float, floors: Mapping[str, int], seed: int) -> Choice:
    """Rows with score >= tau (AlpaGasus, equation 1), and the best below it of categories that would miss their floor."""
    kept = columns.score >= tau
    kept |= _flags(_floor_rows(columns, floors, seed), len(columns.ids))
    return Choice(kept, f"score below {tau:g}")


def top(columns: Columns, k: int, floors: Mapping[str, int], seed: int) -> Choice:
    """Exactly the k best; rows that a floor needs come first."""
    needed = _floor_rows(columns, floors, seed)
    ranked = best_first(columns, seed)
    rest = ranked[~np.isin(ranked, needed)]
    order = np.concatenate([needed, rest])[:k]
    lowest = columns.score[order].min() if k else np.nan
    return Choice(_flags(order, len(columns.ids)), f"not among the best {k:,} (the last of them scored {lowest:g})")


def best_first(columns: Columns, seed: int) -> Indices:
    """Indices of all rows with a score, best first, ties broken."""
    ties: list[Any] = [seeded_hashes(columns.ids, "ties", seed)]
    if not is_one_value(columns.expected):  # as where no row has an expected score: 16 bytes a row, and equal for all
        ties.append(-np.nan_to_num(columns.expected, nan=-np.inf))
    order: Indices = np.lexsort((*ties, -columns.score))
    # rows without a score are last
    return order[: len(order) - int(np.isnan(columns.score).sum())]


def is_one_value(column: NDArray[Any]) -> bool:
    """Whether a column is one value for all rows, of which one is held."""
    return column.strides == (0,)


def _floor_rows(columns: Columns, floors: Mapping[str, int], seed: int) -> Indices:
    """The best rows of each category with a floor, as many as it asks for or as there are."""
    if not floors:
        return np.empty(0, dtype=np.int64)
    category = np.asarray(columns.category, dtype=object)
    unknown = sorted(set(floors) - set(category))
    if unknown:
        known = ", ".join(sorted(set(category) - {""})) or "none: the examples have no categories"
        raise UsageError(f"pick.arms: `floors` names category {unknown[0]!r}, which no example has; there are: {known}")
    ranked = best_first(columns, seed)
    return np.concatenate([ranked[category[ranked] == name][:count] for name, count in floors.items()])


def _random(columns: Columns, seed: int) -> Indices:
    return np.asarray(np.argsort(seeded_hashes(columns.ids, "random", seed), kind="stable"))


def _longest(columns: Columns, seed: int) -> Indices:
    return np.asarray(np.lexsort((seeded_hashes(columns.ids, "longest", seed), -columns.length)))


def _lowest(columns: Columns, seed: int) -> Indices:
    order: Indices = np.lexsort(
        (seeded_hashes(columns.ids, "lowest", seed), np.nan_to_num(columns.expected, nan=np.inf), columns.score)
    )
    return np.asarray(order[~np.isnan(columns.score[order])])


def _flags(chosen: Indices, length: int) -> Flags:
    flags = np.zeros(length, dtype=bool)
    flags[chosen] = True
    return flags


def first_of(order: Callable[[Columns, int], Indices], reason: str) -> Chooser:
    """The policy that takes the first k rows of an order; `order` is told the columns and the arm's seed, `reason` says of the
    other rows why they were dropped."""
    return lambda arm, columns, k: Choice(_flags(order(columns, arm.seed)[:k], len(columns.ids)), reason)


ORDERS: dict[str, Callable[[Columns, int], Indices]] = {
    "top": best_first,
    "random": _random,
    "longest": _longest,
    "lowest": _lowest,
}
"""The orders by which policies of a given size take rows."""
CHOOSERS: dict[str, Chooser] = {
    "threshold": lambda arm, columns, _: threshold(
        columns, DEFAULT_THRESHOLD if arm.threshold is None else arm.threshold, arm.floors, arm.seed
    ),
    "top": lambda arm, columns, k: top(columns, k, arm.floors, arm.seed),
    "random": first_of(_random, "not drawn"),
    "longest": first_of(_longest, "shorter than those kept"),
    "lowest": first_of(_lowest, "scored higher than those kept"),
    "full": lambda arm, columns, _: Choice(np.ones(len(columns.ids), dtype=bool), ""),
}
"""How each policy of `config.pick.POLICIES` chooses."""
