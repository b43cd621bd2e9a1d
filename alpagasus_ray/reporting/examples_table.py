"""The table of examples in the page: which rows it holds, in columns. Pure functions over arrays of one length n.

Rows are ranked by how much they tell: the best, the worst and those around the cut first, taken in turn; so many are kept
as their texts fit into the space there is. The blob of the page is an object of columns: `id`, `instruction`, `input`,
`output`, `category`, `score`, `expected`, `status`, `reply`, `error`, `kept`, `reason`, `duplicate`, `groups` (1 best, 2 worst,
4 around the cut, added up) and `other` (name of other ratings -> scores); null where there is nothing.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BEST, WORST, CUT = 1, 2, 4
GROUP_ROWS = 200
"""Rows of each group; of those around the cut so many on either side."""
TEXTS = ("instruction", "input", "output", "reply", "error")

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


class Ranks(NamedTuple):
    """How rows stand by their score."""

    order: Indices
    """Rows with a score, best first: those that were kept before equals that were not."""
    cut: int | None
    """How many of `order` stand above the cut; None where the arm was not chosen by the score."""
    unscored: Indices


def ranks(score: Floats, expected: Floats, kept: Flags, *, by_score: bool, by_expected: bool) -> Ranks:
    """Rows by what the arm goes by; ties by the other of the two, then by their place in the source."""
    first, second = (expected, score) if by_expected else (score, expected)
    order = np.lexsort((-np.nan_to_num(second, nan=-np.inf), ~kept, -first))
    scored = ~np.isnan(first)
    order = order[scored[order]]
    above = int(kept[order].sum()) if by_score else 0
    return Ranks(order, above if 0 < above < len(order) else None, np.flatnonzero(~scored))


def groups(ranked: Ranks, count: int) -> NDArray[np.uint8]:
    """Which groups each of the rows (count,) is in."""
    found = np.zeros(count, dtype=np.uint8)
    order = ranked.order
    size = min(GROUP_ROWS, max(1, len(order) // 4))  # in a small dataset no row is both best and worst
    if len(order):
        found[order[:size]] |= BEST
        found[order[-size:]] |= WORST
    if ranked.cut is not None:
        found[order[max(0, ranked.cut - size) : ranked.cut + size]] |= CUT
    return found


def priority(ranked: Ranks) -> Indices:
    """All rows, those that tell most first: by their distance from the top, the bottom or the cut, whichever is nearest."""
    place = np.arange(len(ranked.order))
    distance = np.minimum(place, len(place) - 1 - place)
    if ranked.cut is not None:
        distance = np.minimum(distance, np.where(place < ranked.cut, ranked.cut - 1 - place, place - ranked.cut))
    nearest: Indices = ranked.order[np.argsort(distance, kind="stable")]
    return np.asarray(np.concatenate([nearest, ranked.unscored]), dtype=np.int64)


def fitting(order: Indices, sizes: Indices, limit: int) -> Indices:
    """As many of the rows, in this order, as fit into so many bytes of text; in the order of the source."""
    room = np.cumsum(sizes[order]) <= limit
    return np.sort(order[: int(room.sum())])


def text_bytes(table: pa.Table) -> Indices:
    """Bytes of all texts of each row."""
    lengths = [pc.fill_null(pc.binary_length(table[name]), 0) for name in TEXTS if name in table.column_names]
    return np.asarray(sum((length.to_numpy() for length in lengths), np.zeros(len(table))), dtype=np.int64)


def columns(rows: pa.Table, marks: Mapping[str, Any], other: Mapping[str, Floats]) -> dict[str, Any]:
    """The blob of the page. `rows` has the columns of an example and its rating, `marks` holds `kept`, `reason`, `groups`."""
    plain = {name: rows[name].to_pylist() for name in ("instruction", "input", "output", "reply", "error")}
    return {
        "id": rows["example_id"].to_pylist(),
        **plain,
        "category": coded(rows["category"]),
        "score": _numbers(rows["score"].to_numpy()),
        "expected": _numbers(rows["expected_score"].to_numpy()),
        "status": coded(rows["status"]),
        "duplicate": rows["duplicate_of"].to_pylist() if rows["duplicate_of"].null_count < len(rows) else None,
        "kept": [int(kept) for kept in marks["kept"]],
        "reason": coded(pa.chunked_array([pa.array(marks["reason"], pa.string())])),
        "groups": [int(group) for group in marks["groups"]],
        "other": {name: _numbers(scores) for name, scores in other.items()},
    }


def coded(values: pa.ChunkedArray) -> dict[str, list[Any]] | None:
    """Texts that repeat: each once in `names`, and for each row its number there or null; None where all are null."""
    if values.null_count == len(values):
        return None
    table = values.combine_chunks().dictionary_encode()
    table = table.combine_chunks() if isinstance(table, pa.ChunkedArray) else table
    return {"names": table.dictionary.to_pylist(), "rows": table.indices.to_pylist()}


def _numbers(values: Floats) -> list[float | None] | None:
    """Scores with three decimals and null for none; None where there are none at all."""
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).all():
        return None
    return [None if np.isnan(value) else round(float(value), 3) for value in values]
