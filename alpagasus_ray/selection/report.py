"""What a selection kept, in numbers: pure functions over columns, for `selection.json` and the terminal."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.selection.policies import Choice, Columns, Flags, Floats

BYTES_PER_TOKEN = 4
"""What an estimate counts with where no tokenizer is given; it is called an estimate wherever it is shown."""


MOST_SCORES = 1000
"""Different scores that a curve or a histogram has an entry for."""
BLOCK = 1 << 16
"""Rows that are looked at at a time."""


class CountedBy(NamedTuple):
    """Who or what the numbers of a report were counted by."""

    tokens: str
    """Who counted tokens, for people to read."""
    lengths: str
    """What lengths are measured in: `tokens`, or `characters` where no tokenizer is named."""


def selection_report(
    columns: Columns, choice: Choice, tokens: NDArray[np.int64], counted_by: CountedBy, pool: Flags | None = None
) -> dict[str, Any]:
    """Rows, tokens, lengths, kept share of each category, threshold curve and histogram of one arm.

    `tokens` holds the tokens of each row (instruction, input and output); `counted_by` says who
    counted them, and what the lengths of the outputs are measured in. `pool` flags the rows that a cut may keep (by default
    all): no cut keeps a dropped duplicate, whatever its score.
    """
    kept = choice.kept
    return {
        "rows": {"all": len(kept), "kept": int(kept.sum()), "share": _share(int(kept.sum()), len(kept))},
        "unscored": int(np.isnan(columns.score).sum()),
        "tokens": {"all": int(tokens.sum()), "kept": int(tokens[kept].sum()), "counted_by": counted_by.tokens},
        "mean_output_length": {
            "all": _mean(columns.length),
            "kept": _mean(columns.length[kept]),
            "dropped": _mean(columns.length[~kept]),
            "unit": counted_by.lengths,
        },
        "categories": _categories(columns.category, kept),
        "threshold_curve": threshold_curve(columns, tokens, pool),
        "histogram": histogram(columns, kept),
    }


def threshold_curve(columns: Columns, tokens: NDArray[np.int64], pool: Flags | None = None) -> list[dict[str, float]]:
    """What each possible cut would keep of the rows of `pool`: one entry for each of their scores, lowest first."""
    by_score = _ByScore(columns.score if pool is None else np.where(pool, columns.score, np.nan))
    above, held = (column[::-1].cumsum()[::-1].tolist() for column in (by_score.rows, by_score.sums(tokens)))
    rows = len(columns.score)
    return [
        {"threshold": cut, "rows": count, "share": round(count / rows, 6), "tokens": inside}
        for cut, count, inside in zip(by_score.values, above, held, strict=True)
    ]


def histogram(columns: Columns, kept: Flags) -> list[dict[str, float]]:
    """Rows and kept rows of each score."""
    by_score = _ByScore(columns.score)
    counts = zip(by_score.values, by_score.rows.tolist(), by_score.sums(kept).tolist(), strict=True)
    return [{"score": value, "rows": rows, "kept": chosen} for value, rows, chosen in counts]


class _ByScore:
    """Rows by their score; of more than `MOST_SCORES` different ones, by those rounded down to so many steps.

    Of a long column a block after the other is looked at: nothing is held for each row.
    """

    def __init__(self, score: Floats) -> None:
        self._score = score
        self._values, self._width = _different(score), 0.0
        if len(self._values) > MOST_SCORES:
            low, high = self._values[[0, -1]]
            self._width = (high - low) / (MOST_SCORES - 1)
            self._values = low + np.arange(MOST_SCORES) * self._width
        every = self._sums(None)
        self._there = np.flatnonzero(every)
        self.rows = every[self._there]
        self.values = [float(value) for value in self._values[self._there]]

    def sums(self, column: Any) -> NDArray[np.int64]:
        """The sum of a column for each score, lowest first."""
        return self._sums(column)[self._there]

    def _sums(self, column: Any) -> NDArray[np.int64]:
        """For each value the sum of a column, or without one the number of rows."""
        total = np.zeros(len(self._values))  # exact up to 2^53
        for start in range(0, len(self._score), BLOCK):
            here = slice(start, start + BLOCK)
            scored = ~np.isnan(self._score[here])
            own = self._score[here][scored]
            if self._width:
                place = np.floor((own - self._values[0]) / self._width).astype(np.int64)
            else:
                place = np.searchsorted(self._values, own)
            total += np.bincount(place, None if column is None else column[here][scored], minlength=len(total))
        return total.astype(np.int64)


def _different(score: Floats) -> Floats:
    """The different scores that occur, lowest first; of more than `MOST_SCORES` some, the lowest and the highest among them."""
    known = np.empty(0)
    for start in range(0, len(score), BLOCK):
        block = score[start : start + BLOCK]
        known = np.union1d(known, block[~np.isnan(block)])
        if len(known) > MOST_SCORES + 1:
            known = known[np.linspace(0, len(known) - 1, MOST_SCORES + 1).astype(np.int64)]
    return known


def _categories(category: Iterable[str], kept: Flags) -> list[dict[str, Any]]:
    """Kept share of each category, largest first; empty where the examples have none."""
    every = Counter(category)
    chosen = Counter(name for name, keep in zip(category, kept, strict=True) if keep)
    if set(every) <= {""}:
        return []
    return [
        {"category": name or None, "rows": rows, "kept": chosen[name], "share": _share(chosen[name], rows)}
        for name, rows in every.most_common()
    ]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _mean(values: NDArray[np.integer[Any]]) -> float | None:
    """None, not 0, where there is nothing to take a mean of."""
    mean = float(values.mean()) if len(values) else math.nan
    return None if math.isnan(mean) else round(mean, 2)
