"""Some of the rows of a stage as a stage of its own, written before any of them is asked about: whoever goes on after a crash
asks about the same rows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alpagasus_ray.data.schema import EXAMPLES, conformed
from alpagasus_ray.selection.draws import seeded_hashes
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir, shard_name

Flags = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

ROWS = 1000
"""Rows in a file."""
ASKED_ABOUT = pa.schema([field for field in EXAMPLES if field.name != "record"])
"""What a judge is asked about; the record as it came is not needed for that."""


def write(source: StageDir, listed: Manifest, home: StageDir, chosen: Flags, settings: dict[str, Any]) -> Manifest:
    """Write the chosen rows of a stage (a flag for each of its rows, in order) to `home`, or leave them as an earlier call has
    written them with the same settings. `SettingsChanged` where those were others."""
    inputs = {source.name: listed.content_hash()}
    made = home.made(settings, inputs)
    if made is not None:
        return made
    home.storage.delete_tree()
    home.begin(begun := Begun(settings=settings, inputs=inputs))
    manifest = home.build(begun, list(_files(home, _tables(source, listed, chosen))))
    home.finish(manifest)
    return manifest


def _tables(source: StageDir, listed: Manifest, chosen: Flags) -> Iterator[pa.Table]:
    start = 0
    for entry in listed.parts():
        flags = chosen[start : start + entry.rows]
        start += entry.rows
        if flags.any():
            yield conformed(source.table(entry.name, entry.sha256).filter(pa.array(flags)), ASKED_ABOUT)


def _files(home: StageDir, tables: Iterator[pa.Table]) -> Iterator[FileEntry]:
    waiting, number = ASKED_ABOUT.empty_table(), 0
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while len(waiting) >= ROWS:
            yield _file(home, number, waiting.slice(0, ROWS))
            waiting, number = waiting.slice(ROWS), number + 1
    if len(waiting):
        yield _file(home, number, waiting)


def _file(home: StageDir, number: int, table: pa.Table) -> FileEntry:
    name = shard_name(number)
    return FileEntry(name=name, rows=len(table), **home.storage.write_table(name, table)._asdict())


def hashes_of(source: StageDir, listed: Manifest, purpose: str, seed: int) -> Hashes:
    """The number of each row of a stage (`seeded_hashes` of its id), shard by shard: 8 bytes a row are held."""
    every = np.empty(listed.rows, dtype=np.uint64)
    start = 0
    for table in source.tables(listed, ["example_id"]):
        every[start : start + len(table)] = seeded_hashes(table["example_id"].to_pylist(), purpose, seed)
        start += len(table)
    return every


def drawn(hashes: Hashes, count: int) -> Flags:
    """So many rows at random: those with the lowest numbers. A larger draw holds a smaller one's."""
    flags = np.zeros(len(hashes), dtype=bool)
    flags[np.argsort(hashes, kind="stable")[:count]] = True
    return flags
