"""Records from tables: CSV, Parquet, Arrow, and Hugging Face datasets that were saved or are on the hub.

Knows nothing of what the columns mean.
"""

import base64
import csv
import io
import json
import os
import posixpath
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alpagasus_ray.data import text_files
from alpagasus_ray.data.records import Record, SourceFile
from alpagasus_ray.data.text_files import BROKEN
from alpagasus_ray.errors import InputError, UsageError

HUGGING_FACE = "hf:"
BATCH = 1000
ARROW = b"ARROW1"
STREAM = b"\xff\xff\xff\xff"
"""How an Arrow stream begins, which is what `save_to_disk` writes."""
STATE, SPLITS = "state.json", "dataset_dict.json"


def csv_records(file: SourceFile) -> Iterator[Record]:
    # Python's own limit is 128 KiB a field, which a long output passes
    csv.field_size_limit(sys.maxsize)
    delimiter = delimiter_of(file)
    with file.open() as stream:
        reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), delimiter=delimiter, strict=True)
        header: list[str] = []
        line = 0
        try:
            for row in reader:
                start, line = line + 1, reader.line_num
                if not header:
                    header = _header(file, row)
                elif len(row) == len(header):
                    yield Record(file.name, start, dict(zip(header, row, strict=True)))
                elif row:
                    yield Record(file.name, start, None, "the row has not as many fields as the header", delimiter.join(row))
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(file.path, f"after line {line}", f"not valid CSV: {error}") from None
        except BROKEN as error:
            raise InputError(file.path, f"after line {line}", file.damage(error)) from None


def csv_columns(file: SourceFile) -> tuple[str, ...]:
    """The header; empty where the file cannot be read."""
    with file.open() as stream:
        reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8", newline=""), delimiter=delimiter_of(file))
        try:
            return tuple(next(reader, ()))
        except (csv.Error, *BROKEN, UnicodeDecodeError):
            return ()


def delimiter_of(file: SourceFile) -> str:
    return "\t" if text_files.bare_name(file.fs, file.path, file.name).endswith(".tsv") else ","


def _header(file: SourceFile, row: list[str]) -> list[str]:
    _differ(file, row, "line 1")
    return row


def _differ(file: SourceFile, names: Iterable[str], place: str) -> None:
    """Of two columns with one name one would be lost."""
    known: set[str] = set()
    for name in names:
        if name in known:
            raise InputError(file.path, place, f"two columns are named {name!r}, and one of them would be lost; rename one")
        known.add(name)


def parquet_records(file: SourceFile) -> Iterator[Record]:
    try:
        parquet = pq.ParquetFile(text_files.seekable(file.fs, file.path))
        _differ(file, parquet.schema_arrow.names, "the schema")
        yield from _numbered(file.name, parquet.iter_batches(batch_size=BATCH))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(file.path, "", f"not valid Parquet: {error}") from None


def parquet_schema(file: SourceFile) -> pa.Schema:
    return pq.ParquetFile(text_files.seekable(file.fs, file.path)).schema_arrow


def arrow_records(file: SourceFile) -> Iterator[Record]:
    """The rows of an Arrow file or stream."""
    try:
        with file.open() as stream:
            reader = _arrow(stream)
            _differ(file, reader.schema.names, "the schema")
            yield from _numbered(file.name, (part for batch in _batches(reader) for part in _parts(batch)))
    except (pa.ArrowInvalid, *BROKEN) as error:
        raise InputError(file.path, "", f"not a valid Arrow file: {error}") from None


def arrow_schema(file: SourceFile) -> pa.Schema:
    with file.open() as stream:
        return _arrow(stream).schema


def _arrow(stream: Any) -> Any:
    if stream.peek(len(ARROW)).startswith(ARROW):
        # the table of contents of an Arrow file is at its end, and a packed stream cannot be read from there
        return pa.ipc.open_file(io.BytesIO(stream.read()))
    return pa.ipc.open_stream(stream)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    return (batch.slice(start, BATCH) for start in range(0, len(batch), BATCH))


def _numbered(name: str, batches: Iterable[pa.RecordBatch]) -> Iterator[Record]:
    position = 0
    for batch in batches:
        for row in batch.to_pylist():
            position += 1
            yield Record(name, position, row)


def written_schema(schema: pa.Schema) -> str:
    """A schema as text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def read_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def saved_files(fs: pafs.FileSystem, folder: str, location: str) -> list[str] | None:
    """The files, in order, of a Hugging Face dataset that `save_to_disk` wrote; None where the directory is none."""
    state = _json(fs, posixpath.join(folder, STATE))
    if not isinstance(state, dict) or "_data_files" not in state:
        return None
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UsageError(f"{location} is a saved dataset with an index of its own; call flatten_indices() before save_to_disk")
    return [posixpath.join(folder, entry["filename"]) for entry in state["_data_files"]]


def saved_splits(fs: pafs.FileSystem, folder: str) -> list[str]:
    """The splits of a saved Hugging Face dictionary; empty where the directory is none."""
    return list((_json(fs, posixpath.join(folder, SPLITS)) or {}).get("splits", ()))


def _json(fs: pafs.FileSystem, path: str) -> Any:
    if fs.get_file_info(path).type != pafs.FileType.File:
        return None
    with fs.open_input_file(path) as stream:
        return json.loads(stream.read())


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
