"""The examples that the page shows beside their ratings.

The best, the worst and those around the cut come first, then all others that the arm holds, then a seeded sample of the rest;
so many are shown as their texts fit into the space there is. Their texts are read after numbers of all rows have been joined
(`joined_rows.py`): only the texts of what is shown are in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.data.schema import EXAMPLES, RATINGS
from alpagasus_ray.reporting.joined_rows import Flags, Floats, Indices, JoinedRows, TableArm, scores_of
from alpagasus_ray.reporting.run_reader import FinishedStages, dropped_tables
from alpagasus_ray.reporting.selection_data import rule_reasons
from alpagasus_ray.selection.draws import seeded_hashes
from alpagasus_ray.store.run import Manifest, StageDir

BEST, WORST, CUT = 1, 2, 4
GROUP_ROWS = 200
"""Rows of each group; of those around the cut so many on either side."""
TEXTS = ("instruction", "input", "output", "reply", "error")
EXAMPLE_COLUMNS = ("example_id", "instruction", "input", "output", "category", "duplicate_of")
RATING_COLUMNS = ("score", "expected_score", "status", "reply", "error")


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
    kept_shown: int
    kept_of: int
    """How many the arm holds, shown or not."""
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


class Ranks(NamedTuple):
    """How rows stand by their score."""

    order: Indices
    """Rows with a score, best first: those that were kept before equals that were not."""
    cut: int | None
    """How many of `order` stand above the cut; None where the arm was not chosen by the score."""
    unscored: Indices


def examples_table(stages: FinishedStages, arm: TableArm, joined: JoinedRows, limit: int, seed: int) -> ExamplesTable:
    """As many rows as fit into `limit` bytes of text."""
    kept = joined.kept
    ranked = ranks(joined.score, joined.expected, kept, by_score=arm.by_score, by_expected=arm.by_expected)
    marks = groups(ranked, len(kept))
    drawn = seeded_hashes(joined.ids.to_pylist(), "page", seed) if joined.sizes.sum() > limit else np.zeros(len(kept))
    chosen = fitting(priority(ranked, marks, kept, drawn), joined.sizes, limit)
    rows = _texts(stages, arm.ratings, joined, chosen)
    others = {name: scores_of(stages, name, joined.ids)[chosen] for name in stages.named("ratings") if name != arm.ratings}
    return ExamplesTable(
        shown=len(chosen),
        of=len(kept),
        kept_shown=int(kept[chosen].sum()),
        kept_of=int(kept.sum()),
        id=rows["example_id"].to_pylist(),
        **{name: rows[name].to_pylist() for name in TEXTS},
        category=_coded(rows["category"]),
        score=_numbers(rows["score"].to_numpy()),
        expected=_numbers(rows["expected_score"].to_numpy()),
        status=_coded(rows["status"]),
        duplicate=rows["duplicate_of"].to_pylist() if rows["duplicate_of"].null_count < len(rows) else None,
        kept=[int(is_kept) for is_kept in kept[chosen]],
        reason=_coded(pc.take(joined.reason, pa.array(chosen)).cast(pa.string())),
        groups=[int(mark) for mark in marks[chosen]],
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


def priority(ranked: Ranks, marks: NDArray[np.uint8], kept: Flags, drawn: NDArray[Any]) -> Indices:
    """All rows in the order in which they are given room: those of a group, by their distance from the top, the bottom or the
    cut, whichever is nearest; then those that are kept, then the others, in the order of the numbers that were drawn."""
    rank = np.arange(len(ranked.order))
    distance = np.minimum(rank, len(rank) - 1 - rank)
    if ranked.cut is not None:
        distance = np.minimum(distance, np.where(rank < ranked.cut, ranked.cut - 1 - rank, rank - ranked.cut))
    nearness = np.zeros(len(kept), dtype=np.int64)
    nearness[ranked.order] = distance
    turn = np.where(marks > 0, 0, np.where(kept, 1, 2))
    return np.asarray(np.lexsort((drawn, np.where(marks > 0, nearness, 0), turn)), dtype=np.int64)


def fitting(order: Indices, sizes: Indices, limit: int) -> Indices:
    """As many of the rows, in this order, as fit into so many bytes of text; in the order of the source."""
    room = np.cumsum(sizes[order]) <= limit
    return np.sort(order[: int(room.sum())])


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


def _texts(stages: FinishedStages, ratings: str | None, joined: JoinedRows, chosen: Indices) -> pa.Table:
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
