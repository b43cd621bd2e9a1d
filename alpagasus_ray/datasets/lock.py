"""One driver at a time on a run.

Locally the operating system holds the lock (`filelock`) and lets go of it when the process ends, however it ends. An
object store has no locks: there the holder renews a small object every `BEAT_S` seconds, and one not renewed for
`STALE_S` seconds belongs to nobody. Two drivers that start within the same moment are told apart by reading back.
"""

import _thread
import fcntl
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import filelock

from alpagasus_ray.datasets.run import LOCK, Run
from alpagasus_ray.datasets.storage import Storage
from alpagasus_ray.errors import RunLocked

BEAT_S = 10.0
STALE_S = 45.0
LOOK_S = 0.5
"""How long a local lock is tried for: somebody who only looks whether it is held has it for a moment."""
SETTLE_S = 1.0
"""How long a new holder of an object-store lock waits before it reads back who won."""


@contextmanager
def held(run: Run) -> Iterator[None]:
    """Hold the run's lock while the block runs; `RunLocked` says who has it."""
    with _held_local(run.storage) if run.storage.is_local else _held_remote(run.storage):
        yield


def holder(run: Run) -> str | None:
    """Who holds the run's lock, if anybody does."""
    storage = run.storage
    if storage.is_local:
        return _read_note(storage.path(f"{LOCK}.owner")) if _is_locked(storage.path(LOCK)) else None
    held_by = _entry(storage)
    return held_by["owner"] if held_by and time.time() - held_by["time"] < STALE_S else None


def _is_locked(path: str) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _entry(storage: Storage) -> dict[str, Any] | None:
    """What the holder of an object store's lock has written."""
    try:
        found: dict[str, Any] = json.loads(storage.read(LOCK))
    except FileNotFoundError:
        return None
    return found


def _owner() -> str:
    return f"process {os.getpid()} on {platform.node()}"


@contextmanager
def _held_local(storage: Storage) -> Iterator[None]:
    os.makedirs(storage.root, exist_ok=True)
    lock = filelock.FileLock(storage.path(LOCK), timeout=LOOK_S)
    note = storage.path(f"{LOCK}.owner")
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunLocked(_refusal(storage.root, _read_note(note))) from None
    try:
        with open(note, "w", encoding="utf-8") as stream:
            stream.write(_owner())
        yield
    finally:
        lock.release()


def _read_note(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return "unknown"


def _refusal(root: str, owner: str) -> str:
    return f"another driver is working on {root} ({owner}); wait until it ends, or stop it"


@contextmanager
def _held_remote(storage: Storage) -> Iterator[None]:
    token = uuid.uuid4().hex
    _refuse_if_fresh(storage, token)
    _beat(storage, token)
    time.sleep(SETTLE_S)
    _refuse_if_fresh(storage, token)
    stop = threading.Event()
    beater = threading.Thread(target=_beat_until, args=(storage, token, stop), daemon=True)
    beater.start()
    try:
        yield
    finally:
        stop.set()
        beater.join()
        if _is_ours(storage, token):
            storage.delete(LOCK)


def _is_ours(storage: Storage, token: str) -> bool:
    entry = _entry(storage)
    return entry is not None and entry["token"] == token


def _refuse_if_fresh(storage: Storage, token: str) -> None:
    entry = _entry(storage)
    if entry is None or entry["token"] == token:
        return
    age = time.time() - entry["time"]
    if age < STALE_S:
        wait = f"; a driver that died lets go in {STALE_S - age:.0f} s"
        raise RunLocked(_refusal(storage.root, entry["owner"]) + wait)


def _beat(storage: Storage, token: str) -> None:
    storage.write(LOCK, json.dumps({"token": token, "time": time.time(), "owner": _owner()}).encode())


def _beat_until(storage: Storage, token: str, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        try:
            if not _is_ours(storage, token):
                print(f"the lock of {storage.root} was lost to another driver", file=sys.stderr)
                _thread.interrupt_main()
                return
            _beat(storage, token)
        except OSError:  # the store is out of reach for a moment; the next beat may get through
            continue
