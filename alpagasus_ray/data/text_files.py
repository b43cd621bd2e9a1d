"""From a file to a stream of its text as UTF-8: packing and encoding are told by the first bytes, whatever the name says.

gzip, Zstandard, bzip2, xz and a zip with one member are undone, one inside the other too; UTF-8, UTF-16 and UTF-32 are told by
their byte order mark. Knows nothing of what the text holds.
"""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from alpagasus_ray.errors import InputError

BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What a stream raises whose packing is damaged."""
PACKED = (".gz", ".zst", ".zstd", ".bz2", ".xz", ".zip")
MOST_LAYERS = 3
CHARACTERS = 1 << 16
NO_MEMBERS = ("__MACOSX/", ".DS_Store")

MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04", "zip"),
)
MARKS = (  # UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def opened(fs: pafs.FileSystem, path: str) -> IO[bytes]:
    """The unpacked content of a file; text with a byte order mark comes as UTF-8 without one."""
    stream: Any = io.BufferedReader(fs.open_input_file(path))
    for _ in range(MOST_LAYERS):
        packing = packing_of(stream.peek(6))
        if packing is None:
            break
        stream = io.BufferedReader(_unpacked(packing, stream, path))
    head = stream.peek(4)[:4]
    mark, encoding = next(((mark, name) for mark, name in MARKS if head.startswith(mark)), (b"", "utf-8"))
    if encoding != "utf-8":
        return io.BufferedReader(_Recoded(io.TextIOWrapper(stream, encoding=encoding, newline="")))
    stream.read(len(mark))
    return stream  # type: ignore[no-any-return]


def packing_of(head: bytes) -> str | None:
    """The packing of a file by its first bytes, in words; None where it has none."""
    return next((name for magic, name in MAGIC if head.startswith(magic)), None)


def packing(fs: pafs.FileSystem, path: str) -> str | None:
    with fs.open_input_file(path) as stream:
        return packing_of(bytes(stream.read(6)))


def bare_name(fs: pafs.FileSystem, path: str, name: str) -> str:
    """The name of what is packed in a file, in small letters: that of a zip's member, or without the packing's ending."""
    if packing(fs, path) == "zip":
        name = _member(zipfile.ZipFile(fs.open_input_file(path)), path)
    name = name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    return name


def seekable(fs: pafs.FileSystem, path: str) -> Any:
    """A file for readers that jump in it, as Parquet's do; one that is packed is held in memory."""
    if packing(fs, path) is None:
        return fs.open_input_file(path)
    with opened(fs, path) as stream:
        return io.BytesIO(stream.read())


def _unpacked(packing: str, stream: Any, path: str) -> Any:
    """The content of a packed stream."""
    if packing == "gzip":
        return gzip.GzipFile(fileobj=stream)
    if packing == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
    if packing == "zip":
        return _unzipped(stream, path)
    return bz2.BZ2File(stream) if packing == "bzip2" else lzma.LZMAFile(stream)


def _unzipped(stream: Any, path: str) -> Any:
    archive = zipfile.ZipFile(stream)
    return archive.open(_member(archive, path))


def _member(archive: zipfile.ZipFile, path: str) -> str:
    """The name of the only file in a zip."""
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = [name for name in names if not any(other in name for other in NO_MEMBERS)]
    if len(names) == 1:
        return names[0]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise InputError(path, "", f"a zip of {len(names)} files ({shown}); unpack it and name those that are to be read")


class _Recoded(io.RawIOBase):
    """A text stream as the bytes of its UTF-8."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._waiting = text, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._waiting:
            # half of a character is told where the text is read, not here
            self._waiting = self._text.read(CHARACTERS).encode("utf-8", "surrogatepass")
        count = min(len(buffer), len(self._waiting))
        buffer[:count], self._waiting = self._waiting[:count], self._waiting[count:]
        return count

    def close(self) -> None:
        self._text.close()
        super().close()
