"""What a source is read as: files and records. How a file is read is in `readers.py`, what its fields mean in `formats.py`."""

import hashlib
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import pyarrow.fs as pafs

from alpagasus_ray.data import text_files

CHECKSUM_LIMIT = 256 * 2**20
"""Of larger files size and time of change are compared, not the content; in bytes."""


LINES = (".jsonl", ".ndjson", ".csv", ".tsv")
"""Ends of the names of files whose records are counted by the line that they start on."""


class Record(NamedTuple):
    """One record of a source; `data` is None where `problem` says why it could not be read."""

    file: str
    position: int
    """Number in the file, from 1: the record, or for JSON lines and CSV the line it starts on."""
    data: dict[str, Any] | None
    problem: str = ""
    raw: str = ""
    """What could not be read."""
    text: str = ""
    """What it was written as, where that is JSON; of a tree that was put together, the texts of its messages."""

    @property
    def place(self) -> str:
        """Where in its file it is, for messages: `record 3`, or `line 3` of a file of lines."""
        return f"{'line' if self.file.removesuffix('.gz').endswith(LINES) else 'record'} {self.position}"


class Form(NamedTuple):
    """How the records of a file are written."""

    kind: str
    """`json` (a list), `jsonl`, `csv`, `tsv` or `parquet`: what they are written back as."""
    columns: tuple[str, ...] = ()
    """Of CSV."""
    schema: str = ""
    """Of tables: the Arrow schema, serialized, in base 64."""


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

    def open(self) -> IO[bytes]:
        """Its content as UTF-8, unpacked."""
        return text_files.opened(self.fs, self.path)

    def damage(self, error: Exception) -> str:
        """In words that its packing is broken."""
        packing = text_files.packing(self.fs, self.path)
        return f"broken {packing} file: {error}" if packing else f"it cannot be read: {error}"
