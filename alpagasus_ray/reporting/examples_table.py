"""The examples that the page shows beside their ratings.

Rows are ranked by how much they say: the best, the worst and those around the cut first, taken in turn; so many are kept as
their texts fit into the space there is. They are read in two passes: scores and lengths of all, then texts of those that are
shown. Joins are by `example_id`, whatever the order of the rows. In the first pass one shard's texts are in memory at a time,
in the second those that are shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.data.schema import EXAMPLES, RATINGS
from alpagasus_ray.reporting.run_reader import FinishedStages, dropped_tables
from alpagasus_ray.reporting.selection_data import rule_reasons
from alpagasus_ray.store.run import Manifest, StageDir

BEST, WORST, CUT = 1, 2, 4
GROUP_ROWS = 200
"""Rows of each group; of those around the cut so many on either side."""
TEXTS = ("instruction", "input", "output", "reply", "error")
EXAMPLE_COLUMNS = ("example_id", "instruction", "input", "output", "category", "duplicate_of")
RATING_COLUMNS = ("score", "expected_score", "status", "reply", "error")
NOT_CHOSEN = "not in this arm"

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


class TableArm(NamedTuple):
    """Which arm and which ratings the table is about."""

    name: str | None
    ratings: str | None
    by_score: bool
    by_expected: bool


@dataclass(frozen=True)
class Coded:
    """A column of texts that repeat: each once in `names`, and for each row its number there or null."""

    names: Sequence[str]
    rows: Sequence[int | None]


@dataclass(frozen=True)
class ExamplesTable:
    """Columns of one length, as JSON for the page's script; a column of which nothing is known is null."""

    shown: int
    of: int
    """How many examples there are, shown or not."""
    id: Sequence[str]
    instruction: Sequence[str]
    input: Sequence[str]
    output: Sequence[str]
    reply: Sequence[str | None]
    error: Sequence[str | None]
    category: Coded | None
    score: Sequence[float | None] | None
    expected: Sequence[float | None] | None
    status: Coded | None
    duplicate: Sequence[str | None] | None
    """Of which example each is a duplicate."""
    kept: Sequence[int]
    """1 in the arm, 0 not."""
    reason: Coded | None
    """Why each is not in the arm."""
    groups: Sequence[int]
    """1 best, 2 worst, 4 around the cut, added up."""
    other: Mapping[str, Sequence[float | None] | None]
    """Scores of the other ratings, by name."""


class _Joined(NamedTuple):
    """Examples of a run beside their ratings; all arrays of one length, in source order."""

    ids: pa.ChunkedArray
    sizes: Indices
    """Bytes of the texts of each."""
    rating_row: Indices
    """Row of each one's rating; -1 where it has none."""
    score: Floats
    expected: Floats


class Ranks(NamedTuple):
    """How rows stand by their score."""

    order: Indices
    """Rows with a score, best first: those that were kept before equals that were not."""
    cut: int | None
    """How many of `order` stand above the cut; None where the arm was not chosen by the score."""
    unscored: Indices


def examples_table(stages: FinishedStages, arm: TableArm, limit: int) -> ExamplesTable | None:
    """As many rows as fit into `limit` bytes of text; None where there are no examples."""
    if "examples" not in stages.manifests:
        return None
    joined = _joined(stages, arm.ratings)
    kept, reason = _kept(stages, arm.name, joined.ids)
    ranked = ranks(joined.score, joined.expected, kept, by_score=arm.by_score, by_expected=arm.by_expected)
    chosen = fitting(priority(ranked), joined.sizes, limit)
    rows = _texts(stages, arm.ratings, joined, chosen)
    others = {name: _scores(stages, name, joined.ids)[chosen] for name in stages.named("ratings") if name != arm.ratings}
    return ExamplesTable(
        shown=len(chosen),
        of=len(kept),
        id=rows["example_id"].to_pylist(),
        **{name: rows[name].to_pylist() for name in TEXTS},
        category=_coded(rows["category"]),
        score=_numbers(rows["score"].to_numpy()),
        expected=_numbers(rows["expected_score"].to_numpy()),
        status=_coded(rows["status"]),
        duplicate=rows["duplicate_of"].to_pylist() if rows["duplicate_of"].null_count < len(rows) else None,
        kept=[int(is_kept) for is_kept in kept[chosen]],
        reason=_coded(pc.take(reason, pa.array(chosen)).cast(pa.string())),
        groups=[int(marks) for marks in groups(ranked, len(kept))[chosen]],
        other={name: _numbers(scores) for name, scores in others.items()},
    )


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
    marks = np.zeros(count, dtype=np.uint8)
    order = ranked.order
    size = min(GROUP_ROWS, max(1, len(order) // 4))  # in a small dataset no row is both best and worst
    if len(order):
        marks[order[:size]] |= BEST
        marks[order[-size:]] |= WORST
    if ranked.cut is not None:
        marks[order[max(0, ranked.cut - size) : ranked.cut + size]] |= CUT
    return marks


def priority(ranked: Ranks) -> Indices:
    """All rows, those that say most first: by their distance from the top, the bottom or the cut, whichever is nearest."""
    rank = np.arange(len(ranked.order))
    distance = np.minimum(rank, len(rank) - 1 - rank)
    if ranked.cut is not None:
        distance = np.minimum(distance, np.where(rank < ranked.cut, ranked.cut - 1 - rank, rank - ranked.cut))
    nearest: Indices = ranked.order[np.argsort(distance, kind="stable")]
    return np.asarray(np.concatenate([nearest, ranked.unscored]), dtype=np.int64)


def fitting(order: Indices, sizes: Indices, limit: int) -> Indices:
    """As many of the rows, in this order, as fit into so many bytes of text; in the order of the source."""
    room = np.cumsum(sizes[order]) <= limit
    return np.sort(order[: int(room.sum())])


def _text_bytes(table: pa.Table) -> Indices:
    """Bytes of all texts of each row."""
    lengths = [pc.fill_null(pc.binary_length(table[name]), 0) for name in TEXTS if name in table.column_names]
    return np.asarray(sum((length.to_numpy() for length in lengths), np.zeros(len(table))), dtype=np.int64)


def _coded(values: pa.ChunkedArray) -> Coded | None:
    """None where all are null."""
    if values.null_count == len(values):
        return None
    table = values.combine_chunks().dictionary_encode()
    table = table.combine_chunks() if isinstance(table, pa.ChunkedArray) else table
    return Coded(table.dictionary.to_pylist(), table.indices.to_pylist())


def _numbers(values: Floats) -> list[float | None] | None:
    """Scores with three decimals and null for none; None where there are none at all."""
    values = np.asarray(values, dtype=np.float64)
    if np.isnan(values).all():
        return None
    return [None if np.isnan(value) else round(float(value), 3) for value in values]


def _joined(stages: FinishedStages, ratings: str | None) -> _Joined:
    stage, manifest = stages.stage("examples"), stages.manifests["examples"]
    ids, sizes = _ids_and_sizes(stage, manifest, ("instruction", "input", "output"))
    if ratings is None:
        nothing = np.full(len(ids), np.nan)
        return _Joined(ids, sizes, np.full(len(ids), -1), nothing, nothing)
    name = f"ratings/{ratings}"
    stage, manifest = stages.stage(name), stages.manifests[name]
    rated, more = _ids_and_sizes(stage, manifest, ("reply", "error"))
    rating_row = _rows_of(ids, rated)
    scores = pa.concat_tables(stage.tables(manifest, ["score", "expected_score"]))
    score, expected = (_at(scores[field], rating_row) for field in ("score", "expected_score"))
    return _Joined(ids, sizes + np.where(rating_row >= 0, more[rating_row], 0), rating_row, score, expected)


def _ids_and_sizes(stage: StageDir, manifest: Manifest, texts: Sequence[str]) -> tuple[pa.ChunkedArray, Indices]:
    ids, sizes = [], [np.zeros(0, dtype=np.int64)]
    for rows in stage.tables(manifest, ["example_id", *texts]):
        ids += rows["example_id"].chunks
        sizes.append(_text_bytes(rows))
    return pa.chunked_array(ids, pa.string()), np.concatenate(sizes)


def _rows_of(ids: pa.ChunkedArray, other: pa.ChunkedArray) -> Indices:
    """The row of each id among the others; -1 where it is not there."""
    if ids.equals(other):
        return np.arange(len(ids))
    rows = pc.index_in(ids, value_set=other.combine_chunks() if len(other) else pa.array([], pa.string()))
    return np.asarray(pc.fill_null(rows, -1).to_numpy(), dtype=np.int64)


def _at(values: pa.ChunkedArray, rows: Indices) -> Floats:
    """Numbers of these rows; NaN for a row of -1 and where there is no number."""
    plain = np.append(pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(), np.nan)
    return np.asarray(plain[rows], dtype=np.float64)


def _scores(stages: FinishedStages, name: str, ids: pa.ChunkedArray) -> Floats:
    stage, manifest = stages.stage(f"ratings/{name}"), stages.manifests[f"ratings/{name}"]
    rated = pa.concat_tables(stage.tables(manifest, ["example_id", "score"]))
    return _at(rated["score"], _rows_of(ids, rated["example_id"]))


def _kept(stages: FinishedStages, arm: str | None, ids: pa.ChunkedArray) -> tuple[Flags, pa.ChunkedArray]:
    """Which examples the arm holds, and why it does not hold the others."""
    nothing = pa.chunked_array([pa.nulls(len(ids), pa.string())])
    name = f"subsets/{arm}"
    if name not in stages.manifests:
        return np.zeros(len(ids), dtype=bool), nothing
    stage, manifest = stages.stage(name), stages.manifests[name]
    held, _ = _ids_and_sizes(stage, manifest, ())
    kept = _rows_of(ids, held) >= 0
    dropped = list(dropped_tables(stage, manifest, ["example_id", "reason"]))
    if not dropped:
        return kept, pc.if_else(pa.array(kept), nothing, NOT_CHOSEN)
    left_out = pa.concat_tables(dropped)
    row = _rows_of(ids, left_out["example_id"])
    return kept, pc.take(left_out["reason"], pa.array(row, mask=row < 0))


def _texts(stages: FinishedStages, ratings: str | None, joined: _Joined, chosen: Indices) -> pa.Table:
    """The chosen rows with their ratings."""
    rows = _take(stages.stage("examples"), stages.manifests["examples"], EXAMPLE_COLUMNS, chosen)
    if ratings is None:
        return _with_nulls(rows)
    name = f"ratings/{ratings}"
    rated = _take(stages.stage(name), stages.manifests[name], RATING_COLUMNS, joined.rating_row[chosen])
    for field in RATING_COLUMNS:
        rows = rows.append_column(field, rated[field])
    return rows


def _with_nulls(rows: pa.Table) -> pa.Table:
    for field in RATING_COLUMNS:
        rows = rows.append_column(field, pa.nulls(len(rows), RATINGS.field(field).type))
    return rows


def _take(stage: StageDir, manifest: Manifest, columns: Sequence[str], rows: Indices) -> pa.Table:
    """These rows of a stage, in this order; nulls for a row of -1. A shard is opened only where a row of it is wanted."""
    order = np.argsort(rows, kind="stable")
    ordered, pieces, start = rows[order], [], 0
    for entry in manifest.parts():
        inside = ordered[(ordered >= start) & (ordered < start + entry.rows)] - start
        if len(inside):
            pieces.append(stage.table(entry.name, entry.sha256, list(columns)).take(pa.array(inside)))
        start += entry.rows
    read = pa.concat_tables(pieces) if pieces else _empty(columns)
    missing = int((rows < 0).sum())
    back = np.empty(len(rows), dtype=np.int64)
    back[order] = np.arange(len(rows)) - missing
    return read.take(pa.array(back, mask=back < 0))


def _empty(columns: Sequence[str]) -> pa.Table:
    known = [*EXAMPLES, *RATINGS]
    return pa.schema(
        [next(field.with_nullable(True) for field in known if field.name == name) for name in columns]
    ).empty_table()


def judge_reasons(stages: FinishedStages, arm: str, ratings: str) -> dict[str, int]:
    """What the offline judge finds wrong with the examples that the arm leaves out."""
    dropped = list(dropped_tables(stages.stage(f"subsets/{arm}"), stages.manifests[f"subsets/{arm}"], ["example_id"]))
    if not dropped:
        return {}
    ids = pa.concat_tables(dropped)["example_id"].combine_chunks()
    return rule_reasons(_replies(stages, ratings, ids))


def _replies(stages: FinishedStages, ratings: str, ids: pa.Array) -> Iterator[str | None]:
    name = f"ratings/{ratings}"
    for rows in stages.stage(name).tables(stages.manifests[name], ["example_id", "reply"]):
        yield from rows.filter(pc.is_in(rows["example_id"], value_set=ids))["reply"].to_pylist()
