"""Reads examples and their ratings for the page, in two passes: scores and lengths of all, texts of those that are shown.

Joins are by `example_id`, whatever the order of the rows. One shard's texts are in memory at a time in the first pass, in the
second those that are shown.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.data.schema import EXAMPLES, RATINGS
from alpagasus_ray.reporting import examples_table, selection_data
from alpagasus_ray.reporting.examples_table import Flags, Floats, Indices
from alpagasus_ray.reporting.run_reader import Evidence, dropped_tables
from alpagasus_ray.store.run import Manifest, StageDir

EXAMPLE_COLUMNS = ("example_id", "instruction", "input", "output", "category", "duplicate_of")
RATING_COLUMNS = ("score", "expected_score", "status", "reply", "error")
LEFT_OUT = "not in this arm"


class Arm(NamedTuple):
    """Which arm and which ratings the table is about."""

    name: str | None
    ratings: str | None
    by_score: bool
    by_expected: bool


class Found(NamedTuple):
    """Examples of a run beside their ratings; all arrays of one length, in source order."""

    ids: pa.ChunkedArray
    sizes: Indices
    """Bytes of the texts of each."""
    place: Indices
    """Row of each one's rating; -1 where it has none."""
    score: Floats
    expected: Floats


def table_blob(seen: Evidence, arm: Arm, limit: int) -> dict[str, Any] | None:
    """The blob of the page (`table.columns`) with `shown` and `of`; None where there are no examples."""
    if "examples" not in seen.manifests:
        return None
    found = _found(seen, arm.ratings)
    kept, reason = _kept(seen, arm.name, found.ids)
    ranked = examples_table.ranks(found.score, found.expected, kept, by_score=arm.by_score, by_expected=arm.by_expected)
    chosen = examples_table.fitting(examples_table.priority(ranked), found.sizes, limit)
    marks = {
        "kept": kept[chosen],
        "reason": pc.take(reason, pa.array(chosen)).to_pylist(),
        "groups": examples_table.groups(ranked, len(kept))[chosen],
    }
    others = {name: _scores(seen, name, found.ids)[chosen] for name in seen.named("ratings") if name != arm.ratings}
    blob = examples_table.columns(_texts(seen, arm.ratings, found, chosen), marks, others)
    return {"shown": len(chosen), "of": len(kept), **blob}


def _found(seen: Evidence, ratings: str | None) -> Found:
    stage, manifest = seen.stage("examples"), seen.manifests["examples"]
    ids, sizes = _ids_and_sizes(stage, manifest, ("instruction", "input", "output"))
    if ratings is None:
        nothing = np.full(len(ids), np.nan)
        return Found(ids, sizes, np.full(len(ids), -1), nothing, nothing)
    name = f"ratings/{ratings}"
    stage, manifest = seen.stage(name), seen.manifests[name]
    rated, more = _ids_and_sizes(stage, manifest, ("reply", "error"))
    place = _places(ids, rated)
    scores = pa.concat_tables(stage.tables(manifest, ["score", "expected_score"]))
    score, expected = (_at(scores[field], place) for field in ("score", "expected_score"))
    return Found(ids, sizes + np.where(place >= 0, more[place], 0), place, score, expected)


def _ids_and_sizes(stage: StageDir, manifest: Manifest, texts: Sequence[str]) -> tuple[pa.ChunkedArray, Indices]:
    ids, sizes = [], [np.zeros(0, dtype=np.int64)]
    for rows in stage.tables(manifest, ["example_id", *texts]):
        ids += rows["example_id"].chunks
        sizes.append(examples_table.text_bytes(rows))
    return pa.chunked_array(ids, pa.string()), np.concatenate(sizes)


def _places(ids: pa.ChunkedArray, other: pa.ChunkedArray) -> Indices:
    """Where each id stands among the others; -1 where it does not."""
    if ids.equals(other):
        return np.arange(len(ids))
    found = pc.index_in(ids, value_set=other.combine_chunks() if len(other) else pa.array([], pa.string()))
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)


def _at(values: pa.ChunkedArray, place: Indices) -> Floats:
    """Numbers at these places; NaN where there is no place or no number."""
    plain = np.append(pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(), np.nan)
    return np.asarray(plain[place], dtype=np.float64)


def _scores(seen: Evidence, name: str, ids: pa.ChunkedArray) -> Floats:
    stage, manifest = seen.stage(f"ratings/{name}"), seen.manifests[f"ratings/{name}"]
    rated = pa.concat_tables(stage.tables(manifest, ["example_id", "score"]))
    return _at(rated["score"], _places(ids, rated["example_id"]))


def _kept(seen: Evidence, arm: str | None, ids: pa.ChunkedArray) -> tuple[Flags, pa.ChunkedArray]:
    """Which examples the arm holds, and why it does not hold the others."""
    nothing = pa.chunked_array([pa.nulls(len(ids), pa.string())])
    name = f"subsets/{arm}"
    if name not in seen.manifests:
        return np.zeros(len(ids), dtype=bool), nothing
    stage, manifest = seen.stage(name), seen.manifests[name]
    held, _ = _ids_and_sizes(stage, manifest, ())
    kept = _places(ids, held) >= 0
    dropped = list(dropped_tables(stage, manifest, ["example_id", "reason"]))
    if not dropped:
        return kept, pc.if_else(pa.array(kept), nothing, LEFT_OUT)
    left_out = pa.concat_tables(dropped)
    place = _places(ids, left_out["example_id"])
    return kept, pc.take(left_out["reason"], pa.array(place, mask=place < 0))


def _texts(seen: Evidence, ratings: str | None, found: Found, chosen: Indices) -> pa.Table:
    """Everything that the page says of the chosen rows."""
    rows = _taken(seen.stage("examples"), seen.manifests["examples"], EXAMPLE_COLUMNS, chosen)
    place = found.place[chosen]
    if ratings is None:
        return _with_nulls(rows)
    name = f"ratings/{ratings}"
    rated = _taken(seen.stage(name), seen.manifests[name], RATING_COLUMNS, place)
    for field in RATING_COLUMNS:
        rows = rows.append_column(field, rated[field])
    return rows


def _with_nulls(rows: pa.Table) -> pa.Table:
    for field in RATING_COLUMNS:
        rows = rows.append_column(field, pa.nulls(len(rows), RATINGS.field(field).type))
    return rows


def _taken(stage: StageDir, manifest: Manifest, columns: Sequence[str], places: Indices) -> pa.Table:
    """The rows at these places of a stage, in this order; nulls for a place of -1."""
    order = np.argsort(places, kind="stable")
    ordered, pieces, start = places[order], [], 0
    for entry in manifest.parts():
        inside = ordered[(ordered >= start) & (ordered < start + entry.rows)] - start
        if len(inside):
            pieces.append(stage.table(entry.name, entry.sha256, list(columns)).take(pa.array(inside)))
        start += entry.rows
    read = pa.concat_tables(pieces) if pieces else _empty(columns)
    missing = int((places < 0).sum())
    back = np.empty(len(places), dtype=np.int64)
    back[order] = np.arange(len(places)) - missing
    return read.take(pa.array(back, mask=back < 0))


def _empty(columns: Sequence[str]) -> pa.Table:
    known = [*EXAMPLES, *RATINGS]
    return pa.schema(
        [next(field.with_nullable(True) for field in known if field.name == name) for name in columns]
    ).empty_table()


def judge_reasons(seen: Evidence, arm: str, ratings: str) -> dict[str, int]:
    """What the offline judge said of the examples that the arm left out."""
    dropped = list(dropped_tables(seen.stage(f"subsets/{arm}"), seen.manifests[f"subsets/{arm}"], ["example_id"]))
    if not dropped:
        return {}
    ids = pa.concat_tables(dropped)["example_id"].combine_chunks()
    return selection_data.rule_reasons(_replies(seen, ratings, ids))


def _replies(seen: Evidence, ratings: str, ids: pa.Array) -> Iterator[str | None]:
    name = f"ratings/{ratings}"
    for rows in seen.stage(name).tables(seen.manifests[name], ["example_id", "reply"]):
        yield from rows.filter(pc.is_in(rows["example_id"], value_set=ids))["reply"].to_pylist()
