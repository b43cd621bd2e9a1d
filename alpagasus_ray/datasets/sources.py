"""From a source (paths, globs, `s3://`, `hf:`) to a stream of records with their places, in a fixed order.

The kind of file is read off its content, not its name: JSON (a list, or an object holding one), JSON lines, CSV, Parquet,
and gzip of these. One record at a time is in memory. A file that is broken as a whole ends in one `InputError` with its
place; a single broken line is a record with a problem. Knows nothing of what the fields of a record mean (`layouts.py`).
"""

import codecs
import csv
import fnmatch
import gzip
import hashlib
import io
import json
import os
import posixpath
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, NamedTuple

import ijson
import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alpagasus_ray.datasets.storage import resolve
from alpagasus_ray.errors import InputError, UsageError

HUGGING_FACE = "hf:"
HEAD_BYTES = 4096
LFS_POINTER = b"version https://git-lfs.github.com/spec"
BROKEN_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
WRAPPERS = ("data", "rows", "examples", "instances", "train")
"""Keys under which an object that stands on one line may hold the list of records."""
CHECKSUM_LIMIT = 256 * 2**20
PLACE_LIMIT = 512 * 2**20
"""Files up to this size are read again as a whole to tell the line and column of a JSON error."""


class Record(NamedTuple):
    """One record of a source; `data` is None where `problem` says why it could not be read."""

    file: str
    position: int
    """Number in the file, from 1: the record, or for JSON lines and CSV the line it starts on."""
    data: dict[str, Any] | None
    problem: str = ""
    raw: str = ""


@dataclass(frozen=True)
class SourceFile:
    """One file to read."""

    fs: pafs.FileSystem
    path: str
    size: int
    name: str = ""
    """The path below the directory that all files of the source have in common."""
    changed: str = ""
    """When it was last changed."""

    def fingerprint(self) -> str:
        """Tells a changed file: its checksum, or for a large one its size and when it was changed."""
        if self.size > CHECKSUM_LIMIT:
            return f"{self.size} bytes, changed {self.changed}"
        with self.fs.open_input_file(self.path) as stream:
            return hashlib.sha256(stream.read()).hexdigest()[:16]


def expand(source: str | Iterable[str], key: str = "ingest.source") -> list[SourceFile]:
    """The files of a source in a fixed order: as listed; within a glob or directory by name, numbers by their value. A
    `UsageError` speaks of the `key` that names it."""
    found: list[SourceFile] = []
    for location in [source] if isinstance(source, str) else source:
        found += _expand_one(location, key)
    try:
        common = posixpath.commonpath([posixpath.dirname(file.path) for file in found])
    except ValueError:  # on different filesystems
        return [replace(file, name=file.path) for file in found]
    return [replace(file, name=posixpath.relpath(file.path, common or ".")) for file in found]


def _expand_one(location: str, key: str) -> list[SourceFile]:
    fs, path = resolve(location)
    info = fs.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [SourceFile(fs, path, info.size, changed=str(info.mtime))]
    pattern = path if glob_like(path) else posixpath.join(path, "*")
    fixed = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    selector = pafs.FileSelector(fixed or "/", recursive="/" in pattern[len(fixed) + 1 :], allow_not_found=True)
    infos = [i for i in fs.get_file_info(selector) if i.type == pafs.FileType.File and not i.base_name.startswith(".")]
    files = [SourceFile(fs, i.path, i.size, changed=str(i.mtime)) for i in infos if fnmatch.fnmatchcase(i.path, pattern)]
    if not files:
        raise UsageError(f"{key}: nothing found at {location}; it is neither a file, nor a directory or glob with files")
    return sorted(files, key=lambda file: natural(file.path))


def glob_like(path: str) -> bool:
    return any(character in path for character in "*?[")


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key under which `part-2` comes before `part-10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def records(file: SourceFile, kind: str = "auto") -> Iterator[Record]:
    """All records of a file; `kind` is `auto`, `json`, `jsonl`, `csv` or `parquet`."""
    head = _head(file)
    if kind == "auto" or (kind == "json" and head.lstrip().startswith(b"{")):
        kind = _kind(file, head)
    read = {
        "json": _json_records,
        "object": _object_records,
        "jsonl": _line_records,
        "csv": _csv_records,
        "parquet": _parquet_records,
    }
    yield from read[kind](file)


def _open(file: SourceFile) -> IO[bytes]:
    stream: Any = io.BufferedReader(file.fs.open_input_file(file.path))
    if stream.peek(2)[:2] == b"\x1f\x8b":
        stream = io.BufferedReader(gzip.GzipFile(fileobj=stream))
    if stream.peek(3)[:3] == codecs.BOM_UTF8:
        stream.read(3)
    return stream  # type: ignore[no-any-return]


def _head(file: SourceFile) -> bytes:
    if file.size == 0:
        raise InputError(file.path, "byte 0", "the file is empty (0 bytes)")
    try:
        with _open(file) as stream:
            head = stream.read(HEAD_BYTES)
    except BROKEN_GZIP as error:
        raise InputError(file.path, "byte 0", f"broken gzip file: {error}") from None
    if head.startswith(LFS_POINTER):
        raise InputError(file.path, "line 1", "this is a Git LFS pointer, not the data; run `git lfs pull` where it came from")
    if not head.strip():
        raise InputError(file.path, "byte 0", "the file holds nothing but white space")
    return head


def _kind(file: SourceFile, head: bytes) -> str:
    start = head.lstrip()[:1]
    name = file.name.lower().removesuffix(".gz")
    if head.startswith(b"PAR1"):
        return "parquet"
    if start == b"[":
        return "json"
    if start == b"{":
        return _kind_of_object(file)
    if name.endswith((".csv", ".tsv")):
        return "csv"
    shown = head[:40].decode("utf-8", "replace")
    raise InputError(file.path, "line 1", f"neither JSON, JSON lines, Parquet nor a .csv file; it starts with {shown!r}")


def _kind_of_object(file: SourceFile) -> str:
    """`jsonl`, or `object` for one object that holds the list of records."""
    with _open(file) as stream:
        line, more = stream.readline(), stream.readline()
    try:
        first = orjson.loads(line)
    except orjson.JSONDecodeError:
        # a line that is whole but broken is a broken JSON-lines file; a lone brace starts a pretty-printed object
        return "jsonl" if line.rstrip().endswith(b"}") else "object"
    wraps = not more.strip() and any(isinstance(first.get(key), list) for key in WRAPPERS)
    return "object" if wraps else "jsonl"


def _json_records(file: SourceFile) -> Iterator[Record]:
    yield from _items(file, "item")


def _object_records(file: SourceFile) -> Iterator[Record]:
    """An object that holds the list of records under one of its keys."""
    with _open(file) as stream:
        try:
            for prefix, event, _ in ijson.parse(stream):
                if event == "start_array" and prefix and "." not in prefix:
                    break
            else:
                raise InputError(file.path, "line 1", "one JSON object without a list of records in it")
        except ijson.JSONError as error:
            raise InputError(file.path, _json_place(file, 0), _first_line(error)) from None
    yield from _items(file, f"{prefix}.item")


def _items(file: SourceFile, prefix: str) -> Iterator[Record]:
    count = 0
    with _open(file) as stream:
        try:
            for item in ijson.items(stream, prefix, use_float=True):
                count += 1
                yield _record(file, count, item)
        except (ijson.JSONError, *BROKEN_GZIP, UnicodeDecodeError) as error:
            raise InputError(file.path, _json_place(file, count), _first_line(error)) from None
    if count == 0:
        raise InputError(file.path, "line 1", "the list of records is empty")


def _record(file: SourceFile, position: int, item: Any) -> Record:
    if isinstance(item, dict):
        return Record(file.name, position, item)
    return Record(file.name, position, None, f"the record is {_shown_type(item)}, not an object", json.dumps(item, default=str))


def _shown_type(value: object) -> str:
    names = {
        list: "a list",
        dict: "an object",
        str: "text",
        bool: "true or false",
        type(None): "null",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), type(value).__name__)


def _json_place(file: SourceFile, count: int) -> str:
    """Where a broken JSON file is broken: line and column where it is small enough to be read again as a whole."""
    if file.size <= PLACE_LIMIT:
        try:
            with _open(file) as stream:
                json.loads(stream.read())
        except json.JSONDecodeError as error:
            return f"line {error.lineno} column {error.colno} (after record {count})"
        except UnicodeDecodeError as error:
            return f"byte {error.start} (after record {count})"
        except BROKEN_GZIP:
            pass
    return f"after record {count}"


def _first_line(error: Exception) -> str:
    text = error.args[0] if error.args else error
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return "not valid JSON: " + " ".join(text.splitlines()[0].split() if text else ["unexpected end"])


def _line_records(file: SourceFile) -> Iterator[Record]:
    with _open(file) as stream:
        number = 0
        try:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    yield _record(file, number, orjson.loads(line))
                except orjson.JSONDecodeError as error:
                    if number == 1:
                        raise InputError(file.path, f"line 1 column {error.colno}", f"not valid JSON: {error.msg}") from None
                    shown = line.decode("utf-8", "replace").rstrip("\n")
                    yield Record(file.name, number, None, f"not valid JSON: {error.msg}", shown)
        except BROKEN_GZIP as error:
            raise InputError(file.path, f"after line {number}", f"broken gzip file: {error}") from None


def _csv_records(file: SourceFile) -> Iterator[Record]:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if file.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    with _open(file) as stream:
        reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), delimiter=delimiter, strict=True)
        header: list[str] = []
        line = 0
        try:
            for row in reader:
                start, line = line + 1, reader.line_num
                if not header:
                    header = row
                elif len(row) == len(header):
                    yield Record(file.name, start, dict(zip(header, row, strict=True)))
                elif row:
                    yield Record(file.name, start, None, "the row has not as many fields as the header", delimiter.join(row))
        except (csv.Error, UnicodeDecodeError, *BROKEN_GZIP) as error:
            raise InputError(file.path, f"after line {line}", f"not valid CSV: {error}") from None


def _parquet_records(file: SourceFile) -> Iterator[Record]:
    try:
        parquet = pq.ParquetFile(file.fs.open_input_file(file.path))
        position = 0
        for batch in parquet.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                position += 1
                yield Record(file.name, position, row)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(file.path, "", f"not valid Parquet: {error}") from None


def hub_records(location: str, split: str) -> Iterator[Record]:
    """Records of a Hugging Face dataset: `hf:<id>[:<config>]`, streamed from the hub, or `hf:<directory>` saved before."""
    import datasets

    name = location.removeprefix(HUGGING_FACE)
    try:
        if os.path.isdir(name):
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.DatasetDict):
                loaded = loaded[split]
        else:
            repository, _, config = name.partition(":")
            loaded = datasets.load_dataset(repository, config or None, split=split, streaming=True)
    except KeyError:
        raise UsageError(f"ingest.source {location}: no split {split!r}; it has {', '.join(loaded)}") from None
    except (FileNotFoundError, ValueError, ConnectionError) as error:
        raise UsageError(f"ingest.source {location}: {' '.join(str(error).split())}") from None
    for position, row in enumerate(loaded, 1):
        yield Record(name, position, row)
