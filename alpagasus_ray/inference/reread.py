"""Read the stored replies of a stage again, with another scale or a newer parser; sends nothing."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.failures import check_rows
from alpagasus_ray.inference.stage import Rows, StageTask, Target
from alpagasus_ray.store.lease import latest_parts
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, describe

HOW_IT_IS_READ = (("rubric", "scale"), ("rubric", "reply"), ("judge", "max_outside"), ("", "thoughts"))
"""Settings that only say how replies are read: they may be others than when the replies were asked for."""


def read_again(task: StageTask, target: Target) -> Manifest:
    """Read all stored replies again, in place: while it lasts there is no manifest, and `stage.json` says why."""
    stage, done = target.home, target.home.manifest()
    begun = stage.begun() if done is None else Begun.of(done)
    if begun is None or (done is None and not begun.rescoring):
        raise UsageError(f"{stage.name}/ is not finished in this run, so there is nothing to read again; {stage.how_to_make()}")
    stage.same_or_refuse(begun, _read_as(begun.settings, task.settings), target.inputs)
    if done is not None:
        # all of them before the first is written anew: from then on there is no manifest
        stage.verify(done.model_copy(update={"files": done.parts()}))
    started = time.monotonic()
    begun = begun.model_copy(update={"settings": task.settings, "rescoring": True})
    stage.begin(begun)
    stage.reopen()
    # on an object store a part's name holds the epoch that wrote it; what is read again keeps its name
    latest = latest_parts(stage.storage.names())
    files = [_file_again(task, target, latest[entry.shard], entry) for entry in target.listed.parts()]
    manifest = task.manifest(target, files, begun.after(time.monotonic() - started))
    check_rows(manifest, target.listed)
    stage.finish(manifest)
    return manifest


def _read_as(made: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The present settings, but for how replies are read, which is as it was."""
    same: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in now.items()}
    for section, key in HOW_IT_IS_READ:
        present: dict[str, Any] = same.get(section, {}) if section else same
        earlier: Mapping[str, Any] = made.get(section, {}) if section else made
        # as it was when the replies were asked for, so that all else is compared strictly
        present.pop(key, None)
        if key in earlier:
            present[key] = earlier[key]
    return same


def _file_again(task: StageTask, target: Target, name: str, entry: FileEntry) -> FileEntry:
    # without its checksum: it was compared before the first was written, and after a crash some are new already, of which no
    # manifest tells
    storage = target.home.storage
    rows = task.read_again(storage.read_table(name).to_pylist(), partial(_rows_of, target, entry))
    written = storage.write_table(name, pa.Table.from_pylist(rows, schema=task.schema))
    return describe(name, written, rows)


def _rows_of(target: Target, entry: FileEntry) -> Rows:
    rows: Rows = target.source.table(entry.name, entry.sha256).to_pylist()
    return rows
