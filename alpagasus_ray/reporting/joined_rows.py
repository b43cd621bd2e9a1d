"""The examples of a run beside their ratings and the report's arm: numbers of all, texts of none.

Joins are by `example_id`, whatever the order of the rows. One shard's texts are in memory at a time, and only to be measured.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.reporting.run_reader import FinishedStages, dropped_tables
from alpagasus_ray.store.run import Manifest, StageDir

NOT_CHOSEN = "not in this arm"
ROW_BYTES = 80
"""About what a row takes on the page besides its texts: its id, its scores, its place in lists."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


class TableArm(NamedTuple):
    """Which arm and which ratings the table is about."""

    name: str | None
    ratings: str | None
    by_score: bool
    by_expected: bool


class JoinedRows(NamedTuple):
    """Examples of a run beside their ratings; all columns of one length, in source order."""

    ids: pa.ChunkedArray
    sizes: Indices
    """Bytes of the texts of each."""
    length: Indices
    """Characters of its output."""
    category: pa.ChunkedArray
    rating_row: Indices
    """Row of each one's rating; -1 where it has none."""
    score: Floats
    expected: Floats
    kept: Flags
    """Whether the arm holds it."""
    reason: pa.ChunkedArray
    """Why it does not."""


def joined_rows(stages: FinishedStages, arm: TableArm) -> JoinedRows | None:
    """None where there are no examples."""
    if "examples" not in stages.manifests:
        return None
    ids, sizes, length, category = _examples(stages)
    rating_row, score, expected = np.full(len(ids), -1), np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    if arm.ratings is not None:
        stage, manifest = stages.stage(f"ratings/{arm.ratings}"), stages.manifests[f"ratings/{arm.ratings}"]
        rated, more = _ids_and_sizes(stage, manifest, ("reply", "error"))
        rating_row = rows_of(ids, rated)
        scores = pa.concat_tables(stage.tables(manifest, ["score", "expected_score"]))
        score, expected = (_at(scores[field], rating_row) for field in ("score", "expected_score"))
        sizes = sizes + np.where(rating_row >= 0, more[rating_row], 0)
    kept, reason = _kept(stages, arm.name, ids)
    return JoinedRows(ids, sizes, length, category, rating_row, score, expected, kept, reason)


def scores_of(stages: FinishedStages, name: str, ids: pa.ChunkedArray) -> Floats:
    """Scores of these examples by other ratings; NaN where there is none."""
    stage, manifest = stages.stage(f"ratings/{name}"), stages.manifests[f"ratings/{name}"]
    rated = pa.concat_tables(stage.tables(manifest, ["example_id", "score"]))
    return _at(rated["score"], rows_of(ids, rated["example_id"]))


def rows_of(ids: pa.ChunkedArray, other: pa.ChunkedArray) -> Indices:
    """The row of each id among the others; -1 where it is not there."""
    if ids.equals(other):
        return np.arange(len(ids))
    rows = pc.index_in(ids, value_set=other.combine_chunks() if len(other) else pa.array([], pa.string()))
    return np.asarray(pc.fill_null(rows, -1).to_numpy(), dtype=np.int64)


def _examples(stages: FinishedStages) -> tuple[pa.ChunkedArray, Indices, Indices, pa.ChunkedArray]:
    """Ids, bytes of the texts, characters of the output, and category."""
    ids, categories, sizes, lengths = [], [], [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    columns = ["example_id", "instruction", "input", "output", "category"]
    for rows in stages.stage("examples").tables(stages.manifests["examples"], columns):
        ids += rows["example_id"].chunks
        categories += rows["category"].chunks
        sizes.append(_text_bytes(rows, ("instruction", "input", "output")) + ROW_BYTES)
        lengths.append(pc.utf8_length(rows["output"]).to_numpy().astype(np.int64))
    return (
        pa.chunked_array(ids, pa.string()),
        np.concatenate(sizes),
        np.concatenate(lengths),
        pa.chunked_array(categories, pa.string()),
    )


def _ids_and_sizes(stage: StageDir, manifest: Manifest, texts: Sequence[str]) -> tuple[pa.ChunkedArray, Indices]:
    ids, sizes = [], [np.zeros(0, dtype=np.int64)]
    for rows in stage.tables(manifest, ["example_id", *texts]):
        ids += rows["example_id"].chunks
        sizes.append(_text_bytes(rows, texts))
    return pa.chunked_array(ids, pa.string()), np.concatenate(sizes)


def _text_bytes(table: pa.Table, texts: Sequence[str]) -> Indices:
    """Bytes of all texts of each row."""
    lengths = [pc.fill_null(pc.binary_length(table[name]), 0).to_numpy() for name in texts]
    return np.asarray(sum(lengths, np.zeros(len(table))), dtype=np.int64)


def _at(values: pa.ChunkedArray, rows: Indices) -> Floats:
    """Numbers of these rows; NaN for a row of -1 and where there is no number."""
    plain = np.append(pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(), np.nan)
    return np.asarray(plain[rows], dtype=np.float64)


def _kept(stages: FinishedStages, arm: str | None, ids: pa.ChunkedArray) -> tuple[Flags, pa.ChunkedArray]:
    """Which examples the arm holds, and why it does not hold the others."""
    nothing = pa.chunked_array([pa.nulls(len(ids), pa.string())])
    name = f"subsets/{arm}"
    if name not in stages.manifests:
        return np.zeros(len(ids), dtype=bool), nothing
    stage, manifest = stages.stage(name), stages.manifests[name]
    held, _ = _ids_and_sizes(stage, manifest, ())
    kept = rows_of(ids, held) >= 0
    dropped = list(dropped_tables(stage, manifest, ["example_id", "reason"]))
    if not dropped:
        return kept, pc.if_else(pa.array(kept), nothing, NOT_CHOSEN)
    left_out = pa.concat_tables(dropped)
    row = rows_of(ids, left_out["example_id"])
    return kept, pc.take(left_out["reason"], pa.array(row, mask=row < 0))
