"""One driver at a time on a run.

Locally the operating system holds the lock (`filelock`) and lets go of it when the process ends, however it ends. An
object store has no locks: there the holder renews a small object every `BEAT_S` seconds (`object_lock.py`). Either way the
holder has an epoch of its own, which stands in the lock, and what it writes is checked against that (`lease.py`).
"""

import fcntl
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import filelock

from alpagasus_ray.errors import RunLocked
from alpagasus_ray.store.lease import BEAT_S, STALE_S, Lease, epoch_of, now
from alpagasus_ray.store.object_lock import SETTLE_S, SYSTEM, Clock, SharedLock, entry_of, owner, refusal
from alpagasus_ray.store.run import LOCK, Run
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.terminal import say

__all__ = ["BEAT_S", "SETTLE_S", "STALE_S", "held", "holder"]

LOOK_S = 0.5
"""How long a local lock is tried for: somebody who only looks whether it is held has it for a moment."""
WATCH_S = 0.5
"""How often a holder looks whether it still is one."""
GRACE_S = 10.0
"""How long a driver that has lost its lock may take to end, before its process is ended."""
EXIT_LOST = 1


@contextmanager
def held(run: Run) -> Iterator[Run]:
    """Hold the run's lock while the block runs; `RunLocked` says who has it. Yields the run as its holder may write it."""
    with _held_local(run.storage) if run.storage.is_local else _held_remote(run.storage) as lease:
        yield replace(run, storage=replace(run.storage, guard=lease))


def holder(run: Run) -> str | None:
    """Who holds the run's lock, if anybody does. On an object store this takes more than a beat where the clocks of the holder
    and of this machine do not agree, or where a holder has died."""
    storage = run.storage
    if storage.is_local:
        return _read_note(storage.path(f"{LOCK}.owner")) if _is_locked(storage.path(LOCK)) else None
    entry = entry_of(storage, LOCK)
    if entry is None:
        return None
    if abs(time.time() - entry.time) < STALE_S or _has_changed(storage, entry.note):
        return entry.owner
    return None


def _has_changed(storage: Storage, note: bytes) -> bool:
    """Whether the lock is renewed within a beat and a half."""
    # a living holder renews once in `BEAT_S`; half a beat more for the store's own time
    until = now() + 1.5 * BEAT_S
    while now() < until:
        time.sleep(BEAT_S / 10)
        entry = entry_of(storage, LOCK)
        if entry is None:
            return False
        if entry.note != note:
            return True
    return False


def _is_locked(path: str) -> bool:
    try:
        # opened for reading and locked as shared: to look must not make the file, and whoever wants the lock waits that moment
        # (`LOOK_S`)
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


@contextmanager
def _held_local(storage: Storage) -> Iterator[Lease]:
    os.makedirs(storage.root, exist_ok=True)
    # the kernel lets go of it when the process ends, even by SIGKILL: there is no stale local lock to break
    lock = filelock.FileLock(storage.path(LOCK), timeout=LOOK_S)
    note = f"{LOCK}.owner"
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunLocked(refusal(storage.root, _read_note(storage.path(note)))) from None
    try:
        lease = Lease(storage, note, epoch_of(int(time.time()), uuid.uuid4().hex), beats=False)
        with open(storage.path(note), "w", encoding="utf-8") as stream:
            stream.write(f"{owner()}\nepoch {lease.epoch}\n")
        yield lease
    finally:
        lock.release()


def _read_note(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.readline().strip() or "unknown"
    except OSError:
        return "unknown"


@contextmanager
def _held_remote(storage: Storage, clock: Clock = SYSTEM) -> Iterator[Lease]:
    """The lock of an object store: it is renewed, and its renewal watched, in threads of their own."""
    lock = SharedLock(storage, clock)
    lease = lock.take()
    ended = threading.Event()
    # daemons: a beat that hangs in the store must not keep the process alive
    threads = [threading.Thread(target=work, args=(lock, ended), daemon=True) for work in (_beat_until, _watch_until)]
    for thread in threads:
        thread.start()
    try:
        yield lease
    except BaseException:
        if (lost := lease.lost()) is not None:  # the main thread was interrupted for that
            raise lease.error(lost) from None
        raise
    finally:
        ended.set()
        for thread in threads if lease.lost() is None else ():
            thread.join(BEAT_S)  # a beat that is being written would bring the lock back
        lock.release()


def _beat_until(lock: SharedLock, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S) and lock.lease.lost() is None:
        try:
            lock.renew()
        except Exception:  # noqa: BLE001, S112 - whatever it was, the lock was not renewed; the other thread counts the time
            continue


def _watch_until(lock: SharedLock, ended: threading.Event) -> None:
    """A beat may hang in the store for minutes: somebody else has to look at the clock."""
    while not ended.wait(WATCH_S):
        lost = lock.lease.lost()
        if lost is not None:
            _stop_this_process()
            # an interrupt is seen between two steps of Python; who waits inside a library for longer would write on after the
            # lock was lost
            if not ended.wait(GRACE_S):
                say(f"error: {lock.lease.error(lost)}")
                _end_this_process(EXIT_LOST)
            return


def _stop_this_process() -> None:
    """As Ctrl-C does, or SIGTERM where that is ignored: a signal to the main thread ends what it waits for, too."""
    main = threading.main_thread().ident
    assert main is not None
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.pthread_kill(main, signal.SIGTERM if ignored else signal.SIGINT)


_end_this_process: Callable[[int], None] = os._exit
