"""From a source (paths, globs, `s3://`, `hf:`) to a stream of records with their places, in a fixed order.

The kind of file is read off its content, not its name: JSON (a list, or an object holding one), JSON lines, CSV, Parquet,
Arrow, and packings of these (`text_files.py`). One record at a time is in memory. A file that is broken as a whole ends in one
`InputError` with its place; a single broken line is a record with a problem. Knows nothing of what the fields of a record mean
(`formats.py`).
"""

import difflib
import fnmatch
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow.fs as pafs

from alpagasus_ray.data import json_records, json_text, tables, text_files
from alpagasus_ray.data.records import Form, Record, SourceFile
from alpagasus_ray.data.tables import HUGGING_FACE, hub_records
from alpagasus_ray.data.text_files import BROKEN
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.store.storage import resolve

__all__ = ["HUGGING_FACE", "Form", "Record", "SourceFile", "expand", "form", "glob_like", "hub_records", "natural", "records"]

HEAD_BYTES = 4096
LFS_POINTER = b"version https://git-lfs.github.com/spec"
SPLIT_NAMES = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation")
SPLIT = re.compile(rf"(?:^|.*[_.-])({'|'.join(SPLIT_NAMES)})(?=$|[_.-])", re.IGNORECASE)
"""The split that a file's name speaks of, as in `train-00000-of-00002.parquet` or `dolly_test.jsonl`."""


def expand(source: str | Iterable[str], key: str = "ingest.source", split: str | None = None) -> list[SourceFile]:
    """The files of a source in a fixed order: as listed; within a glob or directory by name, numbers by their value. A
    `UsageError` speaks of the `key` that names it, also where a directory holds several splits and none is asked for."""
    found: list[SourceFile] = []
    for location in [source] if isinstance(source, str) else source:
        found += _expand_one(location, key, split)
    try:
        common = posixpath.commonpath([posixpath.dirname(file.path) for file in found])
    except ValueError:  # on different filesystems
        return [replace(file, name=file.path) for file in found]
    return [replace(file, name=posixpath.relpath(file.path, common or ".")) for file in found]


def _beside(fs: pafs.FileSystem, path: str) -> str:
    """The name in the same directory that was most likely meant, as an ending of a message."""
    folder, name = posixpath.split(path)
    listed = fs.get_file_info(pafs.FileSelector(folder or "/", allow_not_found=True)) if name and not glob_like(path) else []
    near = difflib.get_close_matches(name, [info.base_name for info in listed], n=1)
    return f". Did you mean {near[0]}, which is beside it?" if near else ""


def _expand_one(location: str, key: str, split: str | None) -> list[SourceFile]:
    fs, path = resolve(location)
    info = fs.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [SourceFile(fs, path, info.size, changed=str(info.mtime))]
    if info.type == pafs.FileType.Directory:
        saved = _saved(fs, path, location, key, split)
        if saved is not None:
            return saved
    pattern = path if glob_like(path) else posixpath.join(path, "*")
    # the part before the first sign of a pattern: only what is below it has to be listed
    fixed = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    selector = pafs.FileSelector(fixed or "/", recursive="/" in pattern[len(fixed) + 1 :], allow_not_found=True)
    infos = [i for i in fs.get_file_info(selector) if i.type == pafs.FileType.File and not i.base_name.startswith(".")]
    files = [SourceFile(fs, i.path, i.size, changed=str(i.mtime)) for i in infos if fnmatch.fnmatchcase(i.path, pattern)]
    if not files:
        raise UsageError(
            f"{key}: nothing found at {location}; it is neither a file, nor a directory or glob with files{_beside(fs, path)}"
        )
    files = sorted(files, key=lambda file: natural(file.path))
    return files if glob_like(path) else _of_split(files, location, key, split)


def _saved(fs: pafs.FileSystem, path: str, location: str, key: str, split: str | None) -> list[SourceFile] | None:
    """The files of a saved Hugging Face dataset; None where the directory is none."""
    splits = tables.saved_splits(fs, path)
    if splits:
        _check_split(splits, split, location, key)
        path = posixpath.join(path, splits[0] if split is None else split)
    paths = tables.saved_files(fs, path, location)
    if paths is None:
        return None
    infos = fs.get_file_info(paths)
    return [SourceFile(fs, info.path, info.size, changed=str(info.mtime)) for info in infos]


def _check_split(splits: Iterable[str], split: str | None, location: str, key: str) -> None:
    names = list(splits)
    if split is None and len(names) > 1:
        ask = f"say which to read: --set ingest.split={names[0]}" if key == "ingest.source" else "name the files of one of them"
        raise UsageError(f"{key}: {location} holds several splits: {', '.join(names)}; {ask}")
    if split is not None and split not in names:
        raise UsageError(f"{key}: {location} has no split {split!r}; it has {', '.join(names)}")


def _of_split(files: list[SourceFile], location: str, key: str, split: str | None) -> list[SourceFile]:
    """The files of one split of a directory, where their names tell of splits."""
    by_name: dict[str, list[SourceFile]] = {}
    for file in files:
        found = SPLIT.match(posixpath.basename(file.path))
        by_name.setdefault(found[1].lower() if found else "", []).append(file)
    splits = [name for name in by_name if name]
    if (not splits and split in (None, "train")) or (len(splits) == 1 and split is None):
        return files
    _check_split(splits, split, location, key)
    return by_name[split or splits[0]]


def glob_like(path: str) -> bool:
    return any(character in path for character in "*?[")


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key under which `part-2` comes before `part-10`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


READERS = {
    "json": json_records.list_records,
    "object": json_records.object_records,
    "jsonl": json_records.line_records,
    "csv": tables.csv_records,
    "parquet": tables.parquet_records,
    "arrow": tables.arrow_records,
}


def records(file: SourceFile, kind: str = "auto") -> Iterator[Record]:
    """All records of a file; `kind` is `auto`, `json`, `jsonl`, `csv` or `parquet`."""
    yield from READERS[_kind(file, kind)](file)


def form(file: SourceFile, kind: str = "auto") -> Form:
    """How the records of a file are written."""
    kind = _kind(file, kind)
    if kind == "csv":
        return Form("tsv" if tables.delimiter_of(file) == "\t" else "csv", tables.csv_columns(file))
    if kind in ("parquet", "arrow"):
        schema = tables.parquet_schema(file) if kind == "parquet" else tables.arrow_schema(file)
        return Form("parquet", schema=tables.written_schema(schema))
    return Form("json" if kind == "object" else kind)


def passed_over(file: SourceFile, kind: str = "auto") -> str | None:
    """In words, what of a file is not read: lists of records beside the one that is."""
    if _kind(file, kind) != "object":
        return None
    others = json_records.passed_over(file)
    names = ", ".join(f"`{member.key}` ({member.rows:,} records)" for member in others)
    return f"{file.name} holds other lists of records, which are left out: {names}" if others else None


def _kind(file: SourceFile, kind: str) -> str:
    head = _head(file)
    if kind == "auto" or (kind == "json" and head.lstrip().startswith(b"{")):
        return _told_by(file, head)
    return kind


def _head(file: SourceFile) -> bytes:
    if file.size == 0:
        raise InputError(file.path, "byte 0", "the file is empty (0 bytes)")
    try:
        with file.open() as stream:
            head = stream.read(HEAD_BYTES)
    except BROKEN as error:
        raise InputError(file.path, "byte 0", file.damage(error)) from None
    # a clone without Git LFS has a text of three lines in place of each file, which would be read as broken JSON
    if head.startswith(LFS_POINTER):
        raise InputError(file.path, "line 1", "this is a Git LFS pointer, not the data; run `git lfs pull` where it came from")
    if not head.strip():
        raise InputError(file.path, "byte 0", "the file holds nothing but white space")
    return head


def _told_by(file: SourceFile, head: bytes) -> str:
    """The kind of a file by what it begins with."""
    start = head.lstrip()[:1]
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((tables.ARROW, tables.STREAM)):
        return "arrow"
    # ASCII characters in UTF-16 and UTF-32 have zero bytes beside them
    if b"\x00" in head[:4]:
        raise InputError(file.path, "byte 0", "binary, or UTF-16 without a byte order mark; write it as UTF-8")
    if start == b"[":
        return "json"
    if start == b"{":
        return _kind_of_object(file)
    if text_files.bare_name(file.fs, file.path, file.name).endswith((".csv", ".tsv")):
        return "csv"
    shown = head[:40].decode("utf-8", "replace")
    raise InputError(file.path, "line 1", f"neither JSON, JSON lines, Parquet, Arrow nor a .csv file; it starts with {shown!r}")


def _kind_of_object(file: SourceFile) -> str:
    """`jsonl`, or `object` for one object that holds the list of records."""
    with file.open() as stream:
        line = stream.readline()
        # one object alone may be a file of one line or an object around a list; a second line settles it
        more = next((True for other in stream if other.strip()), False)
    try:
        first = json_text.loads(line)
    except (json_text.BrokenJson, UnicodeDecodeError):
        # a line that is whole but broken is a broken JSON-lines file; a lone brace starts a pretty-printed object
        return "jsonl" if line.rstrip().endswith(b"}") else "object"
    return "object" if not more and json_records.wraps(first) else "jsonl"
