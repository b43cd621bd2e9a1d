"""The end of a cascade: a row of ratings for each example, and what was missed, with its interval."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.data.schema import CASCADED, RATINGS, conformed
from alpagasus_ray.distill import cascade
from alpagasus_ray.distill.cascade import State
from alpagasus_ray.errors import reason_of
from alpagasus_ray.inference.stage import StageTask, Target
from alpagasus_ray.judging.parse_rating import NOT_ASKED
from alpagasus_ray.store.reply import USAGE
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir
from alpagasus_ray.store.storage import Written

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Ended(NamedTuple):
    """What the rounds have come to."""

    state: State
    numbers: list[Indices]
    """Of each round, the rows that were asked about."""
    rounds: list[Manifest]
    homes: list[StageDir]
    """Where the rounds' ratings are."""
    first: Floats
    """The cheaper judge's score of each row."""
    score: Floats
    """The judge's; NaN where there is none."""


def finish(task: StageTask, target: Target, begun: Begun, ended: Ended, cut: float) -> Manifest:
    """Write the ratings of all rows and their manifest."""
    files = [_written(target.home, entry, table) for entry, table in _tables(target, ended)]
    addresses = sorted({address for one in ended.rounds for address in one.details.get("addresses", ())})
    seconds = sum(one.seconds for one in ended.rounds)
    begun = begun.model_copy(update={"seconds": seconds, **({"addresses": addresses} if addresses else {})})
    manifest = task.manifest(target, files, begun)
    told = {"cascade": _told(ended, cut, manifest.usage.get("cost_usd"))}
    manifest = manifest.model_copy(update={"details": manifest.details | told})
    assert manifest.rows == target.listed.rows, "a row of ratings for each example"
    target.home.finish(manifest)
    return manifest


def _told(ended: Ended, cut: float, cost_usd: float | None) -> dict[str, Any]:
    state, keepers, scored = ended.state, ended.score >= cut, ~np.isnan(ended.score)
    asked, rows = int(state.asked.sum()), len(keepers)
    return {
        "asked": asked,
        "rows": rows,
        "cut": cut,
        "rounds": [len(numbers) for numbers in ended.numbers],
        "kept": int(cascade.kept(state, keepers).sum()),
        "audit": int(state.audit.sum()),
        "audit_without_score": int((state.audit & ~scored).sum()),
        **cascade.estimates(state, keepers, scored),
        "saved_usd": None if cost_usd is None or not asked else round(cost_usd / asked * (rows - asked), 6),
        "in_words": cascade.in_words(state, keepers, scored),
    }


def _tables(target: Target, ended: Ended) -> Iterator[tuple[FileEntry, pa.Table]]:
    """The ratings of each shard of examples: those of its rows that were asked about, from all rounds, and the rest."""
    readers = [_Reader(home, manifest) for home, manifest in zip(ended.homes, ended.rounds, strict=True)]
    start = 0
    for entry in target.listed.parts():
        ids = target.source.table(entry.name, entry.sha256, ["example_id"])["example_id"]
        end = start + entry.rows
        bounds = [np.searchsorted(numbers, [start, end]) for numbers in ended.numbers]
        asked = [reader.take(int(last - first)) for reader, (first, last) in zip(readers, bounds, strict=True)]
        places = [numbers[first:last] - start for numbers, (first, last) in zip(ended.numbers, bounds, strict=True)]
        yield entry, _whole(ids, asked, np.concatenate(places), ended, slice(start, end))
        start = end


def _whole(ids: pa.ChunkedArray, asked: list[pa.Table], places: Indices, ended: Ended, here: slice) -> pa.Table:
    others = np.setdiff1d(np.arange(len(ids)), places)
    table = pa.concat_tables([*asked, _not_asked(ids.take(pa.array(others)))])
    table = table.take(pa.array(np.argsort(np.concatenate([places, others]), kind="stable")))
    above = ended.state.accepted[here] & ~ended.state.asked[here]
    return table.append_column("first_score", pa.array(ended.first[here], from_pandas=True)).append_column(
        "above_band", pa.array(above)
    )


def _not_asked(ids: pa.ChunkedArray) -> pa.Table:
    """Ratings of rows that nobody asked about: a status, and no score."""
    given = {"example_id": ids, "request_hash": "", "status": NOT_ASKED, "attempts": 0, "maybe_billed_twice": 0}

    def column(field: pa.Field) -> Any:
        value = given.get(field.name)
        if value is None:
            return pa.nulls(len(ids), field.type)
        return value if isinstance(value, pa.ChunkedArray) else pa.array([value] * len(ids), field.type)

    return pa.table([column(field) for field in RATINGS], schema=RATINGS)


class _Reader:
    """Ratings of a round in the order of their rows, some at a time."""

    def __init__(self, home: StageDir, manifest: Manifest) -> None:
        self._tables = (conformed(table, RATINGS) for table in home.tables(manifest))
        self._waiting = RATINGS.empty_table()

    def take(self, count: int) -> pa.Table:
        while len(self._waiting) < count:
            self._waiting = pa.concat_tables([self._waiting, next(self._tables)])
        taken, self._waiting = self._waiting.slice(0, count), self._waiting.slice(count)
        return taken


def _written(home: StageDir, entry: FileEntry, table: pa.Table) -> FileEntry:
    return described(entry.name, home.storage.write_table(entry.name, table.cast(CASCADED)), table)


def described(name: str, written: Written, table: pa.Table) -> FileEntry:
    """The entry of a file of ratings, as `store.manifest.describe` makes it of rows: counted by column, for many rows."""
    used = {field: pc.sum(table[field]).as_py() for field in USAGE if field in table.column_names}
    errors = Counter(reason_of(error) for error in table["error"].drop_null().to_pylist())
    scores = pc.value_counts(table["score"].drop_null()).to_pylist()
    return FileEntry(
        name=name,
        rows=len(table),
        **written._asdict(),
        counts={item["values"]: item["counts"] for item in pc.value_counts(table["status"]).to_pylist()},
        reasons=errors,
        histogram={f"{item['values']:g}": item["counts"] for item in scores},
        usage={field: value for field, value in used.items() if value is not None},
        models={item["values"]: item["counts"] for item in pc.value_counts(table["model"].drop_null()).to_pylist()},
    )
