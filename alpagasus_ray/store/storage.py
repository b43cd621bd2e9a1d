"""A directory tree on any filesystem that pyarrow knows (local, `s3://`, `gs://`); what is written is whole or absent.

Locally a write goes to a hidden name in the same directory, is synced and renamed. On an object store one upload becomes
visible when it is complete. Knows nothing of what the files mean.
"""

import fnmatch
import hashlib
import io
import itertools
import os
import posixpath
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from alpagasus_ray.errors import UsageError

FAILPOINT = "ALPAGASUS_FAILPOINT"
"""Environment variable, for tests of crashes: `<point>:<pattern>:<n>`. The process kills itself when it passes the point for
the n-th time with a file (or directory) whose name fits. Points: `before-rename`, `after-rename`, `before-delete`; on an
object store the first two are before and after the upload."""
_passed = itertools.count(1)
COPIED_BYTES = 16 << 20


class Written(NamedTuple):
    """What a manifest says of one file."""

    bytes: int
    sha256: str


def resolve(location: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a path or URI and the path inside it; local paths become absolute."""
    try:
        if "://" in location:
            return pafs.FileSystem.from_uri(location)  # type: ignore[no-any-return]
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(location))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise UsageError(f"cannot open {location}: {error}") from None


class Guard(Protocol):
    """Says whether a directory may still be written to."""

    def check(self) -> None:
        """Raise an error where it may not."""


@dataclass(frozen=True)
class Storage:
    """A directory; it can be sent to workers."""

    fs: pafs.FileSystem
    root: str
    guard: Guard | None = field(default=None, compare=False)
    """Asked before every write and every removal, here and in the directories below."""

    def __repr__(self) -> str:
        return f"Storage({self.path('')!r})"

    @classmethod
    def open(cls, location: str) -> "Storage":
        """The directory at a path or URI; it need not exist yet."""
        fs, path = resolve(location)
        return cls(fs, path.rstrip("/"))

    def at(self, *names: str) -> "Storage":
        """A directory below this one."""
        return Storage(self.fs, posixpath.join(self.root, *names), self.guard)

    def unguarded(self) -> "Storage":
        """The same directory, for what is kept whoever wrote it."""
        return replace(self, guard=None)

    def _check(self) -> None:
        if self.guard is not None:
            self.guard.check()

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        return posixpath.join(self.root, name)

    def exists(self, name: str) -> bool:
        return bool(self.fs.get_file_info(self.path(name)).type == pafs.FileType.File)

    def names(self) -> list[str]:
        """Names of the files directly inside, sorted; empty where the directory does not exist."""
        return self._entries(pafs.FileType.File)

    def _entries(self, kind: pafs.FileType) -> list[str]:
        infos = self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True)) if self.root else []
        return sorted(info.base_name for info in infos if info.type == kind and not info.base_name.startswith("."))

    def folders(self) -> list[str]:
        """Names of the directories directly inside, sorted; empty where this one does not exist."""
        return self._entries(pafs.FileType.Directory)

    def all_names(self) -> set[str]:
        """Paths below this directory of all files in it and in its directories."""
        selector = pafs.FileSelector(self.root, recursive=True, allow_not_found=True)
        files = [info.path for info in self.fs.get_file_info(selector) if info.type == pafs.FileType.File]
        return {posixpath.relpath(path, self.root) for path in files}

    def read(self, name: str) -> bytes:
        with self.fs.open_input_file(self.path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes, *, private: bool = False) -> Written:
        """`private`: on a disk, for its owner alone."""
        with self.writing(name, private=private) as stream:
            stream.write(content)
        return Written(len(content), hashlib.sha256(content).hexdigest())

    def put(self, name: str, file: str) -> Written:
        """Copy a local file of any size here."""
        digest = hashlib.sha256()
        with open(file, "rb") as source, self.writing(name) as stream:
            while block := source.read(COPIED_BYTES):
                digest.update(block)
                stream.write(block)
        return Written(os.path.getsize(file), digest.hexdigest())

    @contextmanager
    def writing(self, name: str, *, private: bool = False) -> Iterator[IO[bytes]]:
        """A stream whose content appears under `name` when the block ends well, and not at all when it does not."""
        self._check()
        if self.is_local:
            with _renamed_when_whole(self.path(name), self._check, 0o600 if private else 0o666) as stream:
                yield stream
            return
        # through a file, so that nothing is sent before the content is complete
        with tempfile.NamedTemporaryFile(prefix="alpagasus-") as spool:
            yield spool
            spool.flush()
            _failpoint("before-rename", name)
            self._check()
            # one call that Python cannot be interrupted in: a stream that an exception closes would be a whole upload
            pafs.copy_files(
                spool.name, self.path(name), source_filesystem=pafs.LocalFileSystem(), destination_filesystem=self.fs
            )
            _failpoint("after-rename", name)

    def checksum(self, name: str) -> str:
        """SHA-256 of a file of any size."""
        digest = hashlib.sha256()
        with self.fs.open_input_stream(self.path(name)) as stream:
            while block := stream.read(COPIED_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        # pre_buffer starts threads of its own that a busy worker does not need for files of a megabyte
        return pq.read_table(self.path(name), filesystem=self.fs, columns=columns, pre_buffer=False, partitioning=None)

    def write_table(self, name: str, table: pa.Table) -> Written:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return self.write(name, sink.getvalue())

    def delete(self, name: str) -> None:
        _failpoint("before-delete", name)
        self._check()
        if self.exists(name):
            self.fs.delete_file(self.path(name))

    def delete_tree(self) -> None:
        """Remove this directory and all in it, if there is one."""
        _failpoint("before-delete", posixpath.basename(self.root))
        self._check()
        if self.fs.get_file_info(self.root).type == pafs.FileType.Directory:
            self.fs.delete_dir(self.root)


@contextmanager
def _renamed_when_whole(path: str, check: Callable[[], None], mode: int) -> Iterator[IO[bytes]]:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    # in the same folder, for a rename is whole only within a filesystem; hidden, so that `names` never lists it
    hidden = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(hidden, "wb", opener=lambda file, flags: os.open(file, flags, mode)) as stream:
            yield stream
            stream.flush()
            # before the rename: a name that survives a power cut without its content would be a file that is there and empty
            os.fsync(stream.fileno())
        _failpoint("before-rename", name)
        # again, after the writing, which may have taken long: the run's lock may have been lost meanwhile
        check()
        os.replace(hidden, path)
        _failpoint("after-rename", name)
    except BaseException:
        if os.path.exists(hidden):
            os.unlink(hidden)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """A rename survives a power cut only when its directory is synced too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failpoint(point: str, name: str) -> None:
    wanted = os.environ.get(FAILPOINT)
    if wanted:
        at, pattern, number = wanted.split(":")
        if at == point and fnmatch.fnmatch(name, pattern) and next(_passed) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
