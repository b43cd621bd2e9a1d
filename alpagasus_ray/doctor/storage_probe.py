"""Tries a storage with a file of its own, which it removes: can it be written, read, listed, replaced whole, deleted?"""

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alpagasus_ray.store.storage import Storage

BYTES = 1 << 20
ROUNDS = 8
MOUNTS = "/proc/mounts"
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "afs")
"""Kinds of file system whose locks and renames other machines may see late; all of `fuse.*` besides."""


@contextmanager
def placed(storage: Storage) -> Iterator[str]:
    """A file in the storage while the block runs: its name. Local folders that were made for it go with it; an object store
    may keep an empty entry for a run that did not exist. `OSError` where it cannot be written."""
    name = f"doctor-{uuid.uuid4().hex[:12]}.probe"
    new = _absent(storage)
    try:
        storage.write(name, _filled(0))
        yield name
    finally:
        with suppress(OSError):
            storage.delete(name)
        for folder in new:
            with suppress(OSError):  # somebody has put something there meanwhile
                os.rmdir(folder)


def faults(storage: Storage, name: str) -> list[str]:
    """What is wrong with the storage, tried on the placed file; `OSError` where an operation is refused."""
    found = []
    if storage.read(name) != _filled(0):
        found.append("what is read is not what was written")
    if name not in storage.names():
        found.append("a file that was written is not listed")
    if storage.is_local and _torn(storage, name):
        found.append("a reader sees half of a file while it is replaced")
    storage.write(name, _filled(ROUNDS))
    if storage.read(name) != _filled(ROUNDS):
        found.append("a file that was replaced still has its old content")
    storage.delete(name)
    if storage.exists(name):
        found.append("a file that was deleted is still there")
    return found


def network_kind(storage: Storage) -> str | None:
    """The kind of a network file system that a local path lies on; None where it is another kind, or not to be told."""
    kind = _kind_of(os.path.realpath(storage.root)) if storage.is_local else ""
    return kind if kind in NETWORK or kind.startswith("fuse.") else None


def _filled(number: int) -> bytes:
    return bytes([number]) * BYTES


def _torn(storage: Storage, name: str) -> bool:
    """Replace the file again and again while a thread reads it; whether it ever saw anything but a whole one."""
    whole = {_filled(number) for number in range(ROUNDS)}
    seen: list[bool] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                seen.append(storage.read(name) in whole)
            except OSError:
                seen.append(False)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(ROUNDS):
            storage.write(name, _filled(number))
    finally:
        done.set()
        reader.join()
    return not all(seen)


def _absent(storage: Storage) -> list[Path]:
    """The folders that a first file would make, deepest first."""
    root = Path(storage.root)
    return [folder for folder in (root, *root.parents) if not folder.exists()] if storage.is_local else []


def _kind_of(path: str) -> str:
    """The file system's kind at an absolute path, in the kernel's words; empty where the kernel does not list them."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="replace") as stream:
            fields = [line.split() for line in stream]
    except OSError:
        return ""
    # spaces in a mount point are written as octal
    mounts = [(field[1].replace("\\040", " "), field[2]) for field in fields if len(field) > 2]
    over = [(place, kind) for place, kind in mounts if Path(path).is_relative_to(place)]
    return max(over, key=lambda mount: len(mount[0]), default=("", ""))[1]
