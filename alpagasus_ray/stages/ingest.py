"""Read a dataset, whatever its layout, and write it as shards of examples with ids.

One pass with one shard in memory: the shards of a source are the same whenever and wherever they are made.
"""

import contextlib
import hashlib
import json
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson
import pyarrow as pa

from alpagasus_ray.config import Ingest, digest, identity
from alpagasus_ray.datasets import layouts, sources
from alpagasus_ray.datasets.run import Begun, FileEntry, Manifest, Run, StageDir, shard_name, versions
from alpagasus_ray.datasets.schema import EXAMPLES, REJECTED
from alpagasus_ray.datasets.sources import Record
from alpagasus_ray.errors import InputError, StageFailed, UsageError

KINDS = ("json", "jsonl", "csv", "parquet")
RAW_LIMIT = 2000


def ingest(config: Ingest, run: Run, progress: Callable[[int], None] = lambda rows: None) -> Manifest:
    """Make `examples/` of the run from the source, or return at once when it is made; `progress` is told rows so far.

    Raises `InputError` for an unreadable file, `StageFailed` when more than `max_rejected` of the records are no examples.
    """
    if not config.source:
        raise UsageError("`ingest.source` is not set: give a file, glob, directory, s3:// or hf: source")
    stage = run.examples()
    settings = identity(config) | {"name": config.name or _default_name(config.source)}
    done = stage.manifest()
    if done is not None:
        stage.same_or_refuse(done, settings, _fingerprint(config.source) or done.inputs)
        return done
    stage.storage.delete_tree()
    inputs = _fingerprint(config.source)
    stage.begin(Begun(settings=settings, inputs=inputs))
    started = time.monotonic()
    writer = _Writer(stage, config.rows_per_shard, settings["name"], progress)
    with contextlib.closing(writer):
        for row, (record, drafts) in enumerate(_drafts(config)):
            writer.add(row, record, drafts)
        writer.flush()
    _check_rejected(writer, config.max_rejected, stage)
    manifest = Manifest(
        stage="examples",
        settings=settings,
        settings_hash=digest(settings),
        inputs=inputs,
        files=writer.files,
        rows=writer.examples,
        counts={"examples": writer.examples, "rejected": writer.rejected, "duplicates": writer.duplicates},
        seconds=time.monotonic() - started,
        versions=versions(),
        details={"records": writer.records, "reasons": dict(writer.reasons.most_common(20))},
    )
    stage.finish(manifest)
    return manifest


def _default_name(source: str | tuple[str, ...]) -> str:
    """A name from the first location: its file name, or for a glob the directory it is in."""
    first = source if isinstance(source, str) else source[0]
    parts = [part for part in first.removeprefix(sources.HUGGING_FACE).split("/") if part and not sources.glob_like(part)]
    stem = (parts or ["data"])[-1].split(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)[:64] or "data"


def _is_hub(source: str | tuple[str, ...]) -> bool:
    return isinstance(source, str) and source.startswith(sources.HUGGING_FACE)


def _fingerprint(source: str | tuple[str, ...]) -> dict[str, str]:
    """Checksums of the files; empty where they cannot be told (the hub, or files that are gone since)."""
    if _is_hub(source):
        return {}
    try:
        return {file.name: file.fingerprint() for file in sources.expand(source)}
    except UsageError:
        return {}


def _drafts(config: Ingest) -> Iterator[tuple[Record, list[layouts.Draft] | str]]:
    """Each record with its examples, or with the reason why it has none."""
    for layout_of, records in _streams(config):
        read: layouts.Layout | None = None
        for record in records:
            if record.data is None:
                yield record, record.problem
                continue
            read = read or layout_of(record)
            try:
                yield record, read(record.data)
            except layouts.NoExample as reason:
                yield record, str(reason)


Stream = tuple[Callable[[Record], layouts.Layout], Iterable[Record]]


def _streams(config: Ingest) -> Iterator[Stream]:
    """One stream of records for each file, with the function that finds the layout from its first record."""
    assert config.source is not None
    if _is_hub(config.source):
        assert isinstance(config.source, str)
        yield _stream(config, config.source, sources.hub_records(config.source, config.split))
        return
    kind = config.format if config.format in KINDS else "auto"
    for file in sources.expand(config.source):
        yield _stream(config, file.path, sources.records(file, kind))


def _stream(config: Ingest, path: str, records: Iterator[Record]) -> Stream:
    def layout_of(record: Record) -> layouts.Layout:
        assert record.data is not None
        name = config.format if config.format not in (*KINDS, "auto") else layouts.detect(record.data)
        _check_layout(name, record, path, config.columns)
        return layouts.reader(name or "", config.columns, config.turns)

    return layout_of, layouts.grown(records)


def _check_layout(name: str | None, record: Record, path: str, columns: Mapping[Any, str]) -> None:
    """Refuse a file whose first record does not have the fields that the layout or the column map needs."""
    fields = record.data or {}
    place, keys = f"record at {record.position}", ", ".join(map(str, fields))
    if columns:
        missing = [column for column in columns.values() if column not in fields]
        if missing:
            raise InputError(path, place, f"no column {missing[0]!r}, which ingest.columns names; it has {keys}")
    elif name is None:
        fix = "name its columns, e.g. --set ingest.columns='{instruction: question, output: answer}'"
        raise InputError(path, place, f"no known layout has the fields {keys}; {fix}")
    elif layouts.detect(fields) not in (name, "alpaca" if name == "dolly" else name):
        raise InputError(path, place, f"not the {name} layout that ingest.format names; its fields are {keys}")


class _Writer:
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

    def add(self, row: int, record: Record, drafts: list[layouts.Draft] | str) -> None:
        """Take one record, number `row` of the source: its examples, or the reason why it has none."""
        self.records += 1
        if isinstance(drafts, str):
            self._reject(record, drafts)
            return
        for turn, draft in enumerate(drafts):
            suffix = f".{turn:03d}" if len(drafts) > 1 else ""
            self._keep(f"{self._name}:{row:09d}{suffix}", row, record, draft)

    def _keep(self, example_id: str, row: int, record: Record, draft: layouts.Draft) -> None:
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


def content_hash(draft: layouts.Draft) -> str:
    """Hash (32 hex digits) of all that a judge or a trainer would see; the category is not part of it."""
    content = [draft.instruction, draft.input, draft.output, draft.system, draft.history]
    return hashlib.blake2b(orjson.dumps(content), digest_size=16).hexdigest()


def _check_rejected(writer: _Writer, allowed: float, stage: StageDir) -> None:
    if writer.records == 0:
        raise StageFailed("the source holds no records")
    if writer.examples and writer.rejected <= allowed * writer.records:
        return
    reasons = "; ".join(f"{count} x {reason}" for reason, count in writer.reasons.most_common(3))
    where = stage.storage.path(shard_name(0, "rejected"))
    raise StageFailed(
        f"{writer.rejected} of {writer.records} records cannot be examples, more than ingest.max_rejected = {allowed:g} "
        f"allows: {reasons}. They are listed in {where}"
    )
