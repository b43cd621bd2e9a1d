"""Read the stored replies of ratings, answers or games again, with another scale or a newer parser; sends nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import asking
from alpagasus_ray.inference.reply_columns import stored
from alpagasus_ray.inference.stage import Summing
from alpagasus_ray.stages.answer_task import GenerateWork
from alpagasus_ray.stages.pair_task import PairWork, lengths
from alpagasus_ray.stages.rating_task import ScoreWork
from alpagasus_ray.store.lease import latest_parts, shard_of
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir, describe

Rows = list[dict[str, Any]]
HOW_IT_IS_READ = (("rubric", "scale"), ("rubric", "reply"), ("judge", "max_outside"), ("", "thoughts"))
"""Settings that only say how replies are read: they may be others than when the replies were asked for."""


@dataclass(frozen=True)
class Stored:
    """A stage whose replies are read again."""

    stage: StageDir
    job: str
    """What makes the stage."""
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    source: Manifest
    """Of what was asked about."""
    schema: pa.Schema


def read_again(stored_: Stored, again: Callable[[str, Rows], Rows], summing: Summing) -> Manifest:
    """Read all stored replies again, in place: while it lasts there is no manifest, and `stage.json` says why. `again` makes
    the rows of a file anew."""
    stage, done = stored_.stage, stored_.stage.manifest()
    begun = stage.begun() if done is None else _begun_of(done)
    if begun is None or (done is None and not begun.rescoring):
        raise UsageError(
            f"{stage.name}/ is not finished in this run, so there is nothing to read again; run jobs/{stored_.job}.py first"
        )
    stage.same_or_refuse(begun, _read_as(begun.settings, stored_.settings), stored_.inputs)
    if done is not None:
        # all of them before the first is written anew: from then on there is no manifest
        stage.verify(done.model_copy(update={"files": done.parts()}))
    started = time.monotonic()
    begun = begun.model_copy(update={"settings": dict(stored_.settings), "rescoring": True})
    stage.begin(begun)
    stage.reopen()
    latest = latest_parts(stage.storage.names())
    files = [_file_again(stage, latest[entry.shard], again, stored_.schema) for entry in stored_.source.parts()]
    manifest = summing(stage, files, begun.model_copy(update={"seconds": begun.seconds + time.monotonic() - started}))
    asking.check_rows(manifest, stored_.source)
    stage.finish(manifest)
    return manifest


def _begun_of(done: Manifest) -> Begun:
    details = done.details
    return Begun(
        settings=done.settings,
        inputs=done.inputs,
        seconds=done.seconds,
        asked_scale=details.get("asked_scale", {}),
        discarded=details.get("discarded", {}),
    )


def _read_as(made: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The present settings, but for how replies are read, which is as it was."""
    same: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in now.items()}
    for section, key in HOW_IT_IS_READ:
        here: dict[str, Any] = same.get(section, {}) if section else same
        there: Mapping[str, Any] = made.get(section, {}) if section else made
        here.pop(key, None)
        if key in there:
            here[key] = there[key]
    return same


def _file_again(stage: StageDir, name: str, again: Callable[[str, Rows], Rows], schema: pa.Schema) -> FileEntry:
    # without its checksum: it was compared before the first was written, and after a crash some are new already, of which no
    # manifest tells
    rows = again(name, stage.storage.read_table(name).to_pylist())
    written = stage.storage.write_table(name, pa.Table.from_pylist(rows, schema=schema))
    return describe(name, written, rows)


def ratings_again(work: ScoreWork) -> Callable[[str, Rows], Rows]:
    """Reads ratings again."""

    def again(_: str, rows: Rows) -> Rows:
        return [_rating(work, row) for row in rows]

    return again


def _rating(work: ScoreWork, row: dict[str, Any]) -> dict[str, Any]:
    reply = stored(row)
    if reply is None:
        return row
    logprobs = orjson.loads(row["logprobs"]) if row.get("logprobs") else None
    return row | work.reading(reply._replace(logprobs=logprobs))


def answers_again(work: GenerateWork) -> Callable[[str, Rows], Rows]:
    """Reads answers again."""

    def again(_: str, rows: Rows) -> Rows:
        return [row | work.reading(stored(row), row["error"]) for row in rows]

    return again


def games_again(work: PairWork, pairs: StageDir, listed: Manifest) -> Callable[[str, Rows], Rows]:
    """Reads games again; `pairs` holds the answers that the judge saw, as `listed` says."""
    files = {entry.shard: entry for entry in listed.parts()}

    def again(name: str, rows: Rows) -> Rows:
        file = files[shard_of(name)]
        shown = pairs.table(file.name, file.sha256).to_pylist()
        found = [(pair["prompt_id"], pair["order"]) for pair in shown]
        assert found == [(row["prompt_id"], row["order"]) for row in rows], "games are kept in the order of their pairs"
        return [
            row | lengths(pair) | work.reading(pair, stored(row), row["error"]) for pair, row in zip(shown, rows, strict=True)
        ]

    return again
