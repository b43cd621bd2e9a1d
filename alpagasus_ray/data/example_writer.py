"""Examples as the shards of a stage: gathered, given ids, looked through for exact duplicates, and counted.

Knows nothing of where records come from.
"""

import hashlib
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa

from alpagasus_ray.data import formats, originals
from alpagasus_ray.data.records import Record
from alpagasus_ray.data.schema import EXAMPLES, REJECTED
from alpagasus_ray.store.run import FileEntry, StageDir, shard_name

RAW_LIMIT = 2000


class ExampleWriter:
    """Gathers rows into shards, gives ids, flags exact duplicates, and counts."""

    def __init__(self, stage: StageDir, rows_per_shard: int, name: str, progress: Callable[[int], None]) -> None:
        self._stage, self._size, self._name, self._progress = stage, rows_per_shard, name, progress
        self._rows: list[dict[str, Any]] = []
        self._rejects: list[dict[str, Any]] = []
        self._parts = self._reject_parts = 0
        self._seen = _Seen()
        self.files: list[FileEntry] = []
        self.records = self.examples = self.rejected = self.duplicates = 0
        self.reasons: Counter[str] = Counter()
        self.fields: set[str] = set()
        """All fields that records have."""

    def add(self, row: int, record: Record, drafts: list[formats.Draft] | str) -> None:
        """Take one record, number `row` of the source: its examples, or the reason why it has none."""
        self.records += 1
        if isinstance(drafts, str):
            self._reject(record, drafts)
            return
        self.fields.update(record.data or ())
        for turn, draft in enumerate(drafts):
            suffix = f".{turn:03d}" if len(drafts) > 1 else ""
            # the examples of one record follow each other: the first of them keeps it for all
            self._keep(f"{self._name}:{row:09d}{suffix}", row, record, draft, None if turn else originals.kept(record))

    def _keep(self, example_id: str, row: int, record: Record, draft: formats.Draft, kept: str | None) -> None:
        content = content_hash(draft)
        first = self._seen.first(content, example_id)
        self.duplicates += first is not None
        self.examples += 1
        self._rows.append(
            {
                **draft._asdict(),
                "history": [{"instruction": asked, "output": said} for asked, said in draft.history] or None,
                "example_id": example_id,
                "content_hash": content,
                "source": f"{record.file}#{record.position}",
                "row": row,
                "duplicate_of": first,
                "record": kept,
            }
        )
        if len(self._rows) >= self._size:
            self._write_rows()

    def _reject(self, record: Record, reason: str) -> None:
        self.rejected += 1
        self.reasons[reason] += 1
        raw = record.raw if record.data is None else json.dumps(record.data, default=str)
        self._rejects.append({"file": record.file, "position": record.position, "reason": reason, "record": raw[:RAW_LIMIT]})
        if len(self._rejects) >= self._size:
            self._write_rejects()

    def flush(self) -> None:
        """Write what is left in memory."""
        if self._rows:
            self._write_rows()
        if self._rejects:
            self._write_rejects()

    def close(self) -> None:
        self._seen.close()

    def _write_rows(self) -> None:
        self._write(shard_name(self._parts), self._rows, EXAMPLES)
        self._parts, self._rows = self._parts + 1, []
        self._progress(self.examples)

    def _write_rejects(self) -> None:
        self._write(shard_name(self._reject_parts, "rejected"), self._rejects, REJECTED)
        self._reject_parts, self._rejects = self._reject_parts + 1, []

    def _write(self, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        written = self._stage.storage.write_table(name, pa.Table.from_pylist(rows, schema=schema))
        self.files.append(FileEntry(name=name, rows=len(rows), bytes=written.bytes, sha256=written.sha256))


class _Seen:
    """Which contents there were before. On disk: the memory of the pass stays flat however many rows there are."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="alpagasus-ingest-")
        self._base = sqlite3.connect(f"{self._folder.name}/seen.sqlite", isolation_level=None)
        # a scratch table: after a crash it is made anew, so nothing has to survive one
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("CREATE TABLE seen (content BLOB PRIMARY KEY, example TEXT) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def first(self, content: str, example_id: str) -> str | None:
        """The id of the first example with this content, or None where this is the first."""
        key = bytes.fromhex(content)
        if self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, example_id)).rowcount:
            return None
        found = self._base.execute("SELECT example FROM seen WHERE content = ?", (key,)).fetchone()
        return str(found[0])

    def close(self) -> None:
        self._base.close()
        self._folder.cleanup()


def content_hash(draft: formats.Draft) -> str:
    """Hash (32 hex digits) of all that a judge or a trainer would see; the category is not part of it."""
    content: list[Any] = [draft.instruction, draft.input, draft.output, draft.system, draft.history]
    if draft.learn is not None:
        # only where there is something: hashes of all other examples stay what they were in earlier versions
        content.append(draft.learn)
    # as JSON, so that no two contents run together; 128 bits, so that 100 million rows hardly ever collide
    return hashlib.blake2b(orjson.dumps(content), digest_size=16).hexdigest()
