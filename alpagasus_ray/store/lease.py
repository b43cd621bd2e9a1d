"""The right to write in a run, as every process that works there can check it: the driver that holds the lock, and its workers.

Whoever takes the lock gets an epoch that nobody else has. A process may write while the lock still has that epoch and, on an
object store, while its beat was seen to change within half the time after which others may take the lock over. Only the
process's own clock is asked for how long that is, one that goes on while the process or the machine is stopped; what the
machines call the time of day does not matter.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from alpagasus_ray.errors import RunLocked
from alpagasus_ray.store.storage import Storage

BEAT_S = 10.0
"""Seconds between two beats of a holder."""
STALE_S = 45.0
"""A lock whose beat has stood still for so long, as others see it, belongs to nobody."""
TRUSTED_S = STALE_S / 2
"""A holder that could not renew its lock for so long does not rely on it any more, long before others may take it."""
_EPOCH = re.compile(r"\d{12}-[0-9a-f]{8}")
_OF_A_PART = re.compile(rf"\.{_EPOCH.pattern}(?=\.parquet$)")


def now() -> float:
    """Seconds of a clock that never leaps, and goes on while the machine sleeps."""
    # a laptop that slept for an hour must know so: `monotonic` of Linux stands still meanwhile, and a lock would look fresh
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def epoch_of(number: int, token: str) -> str:
    """Name of an epoch; later ones sort after earlier ones."""
    return f"{number:012d}-{token[:8]}"


def epoch_in(note: bytes) -> str | None:
    """The epoch that a lock's note tells, if it can be read."""
    return epoch_of_file(note.decode(errors="replace")) or None


def epoch_of_file(file: str) -> str:
    """The epoch in the name of a part or of its record; empty where there is none, as in older runs."""
    found = _EPOCH.search(file)
    return found[0] if found else ""


def shard_of(file: str) -> str:
    """`part-00003.<epoch>.parquet` and `part-00003.parquet` are the same shard, `part-00003.parquet`."""
    return _OF_A_PART.sub("", file)


def latest_parts(files: Iterable[str]) -> dict[str, str]:
    """The file of each shard that the latest epoch has written, in the order of the shards: by number, though that of a large
    run has more digits than the names of the first 100,000 shards have room for."""

    def place(file: str) -> tuple[int, str, str]:
        shard = shard_of(file)
        return len(shard), shard, epoch_of_file(file)

    return {shard_of(file): file for file in sorted(files, key=place)}


class Watch:
    """What one process knows of the lock it works under."""

    def __init__(self, clock: Callable[[], float] = now) -> None:
        """The lock has just been seen to be held."""
        self._clock = clock
        self._renewed = clock()
        self._seen: bytes | None = None
        self._is_own = False
        self._lost: str | None = None
        self._changing = threading.Lock()

    def saw(self, note: bytes) -> None:
        """Take what the lock's note says now: one that has changed is a beat, but for the holder, who knows its own."""
        with self._changing:
            # a worker trusts what it has seen to change, never a time that the note tells: clocks of machines differ
            if note != self._seen and not self._is_own:
                self._seen, self._renewed = note, self._clock()

    def renewed(self, at: float) -> None:
        """Of the holder itself: a beat that it began to write then has been written."""
        with self._changing:
            self._renewed, self._is_own = at, True

    def age(self) -> float:
        """Seconds since the last beat that is known."""
        return self._clock() - self._renewed

    def lose(self, reason: str) -> None:
        """The lock is another's; the first reason stays."""
        with self._changing:
            self._lost = self._lost or reason

    def lost(self, *, beats: bool = True) -> str | None:
        """Why the lock is not to be relied upon any more, or None while it is. What is lost once stays lost."""
        if beats and (still_s := self.age()) > TRUSTED_S:
            self.lose(f"its lock was not renewed for {still_s:.0f} s")
        return self._lost


_watches: dict[str, Watch] = {}
_making = threading.Lock()


@dataclass(frozen=True)
class Lease:
    """The right to write in a run during one epoch; it can be sent to workers."""

    storage: Storage
    """Where the lock is."""
    file: str
    epoch: str
    beats: bool
    """Whether the holder renews it, as on an object store; a local lock is held by the operating system."""

    def watch(self, clock: Callable[[], float] = now) -> Watch:
        """What the process knows of it, made when it is first asked for."""
        with _making:
            # one for the process, whatever copies of the lease were sent to it: each copy would begin to trust anew
            return _watches.setdefault(self.epoch, Watch(clock))

    def look(self) -> str | None:
        """Read the lock; why the right is lost, or None. A lock that cannot be read has not been seen to be renewed."""
        watch = self.watch()
        try:
            note = self.storage.read(self.file)
        except FileNotFoundError:
            watch.lose("its lock is gone")
        except OSError:
            # on an object store an unreadable lock is one that was not renewed, which the time tells; a disk that cannot be
            # read is an error
            if not self.beats:
                raise
        else:
            if epoch_in(note) == self.epoch:
                watch.saw(note)
            else:
                watch.lose("another driver has taken its lock")
        return self.lost()

    def lost(self) -> str | None:
        """The same by what was seen last, without a look."""
        return self.watch().lost(beats=self.beats)

    def check(self) -> None:
        """Raise `RunLocked` where nothing may be written any more. Cheap enough for every write: an object store is looked at
        where no beat was seen for as long as one takes."""
        lost = self.lost() if self.beats and self.watch().age() < BEAT_S else self.look()
        if lost is not None:
            raise self.error(lost)

    def confirm(self) -> None:
        """The same after a look at the lock, for what must not come from a driver that another has replaced."""
        lost = self.look()
        if lost is not None:
            raise self.error(lost)

    def error(self, lost: str) -> RunLocked:
        return RunLocked(
            f"this driver has lost {self.storage.root}: {lost}. What was received is kept, and the same command goes on once "
            "no other driver is at work on the run"
        )

    def file_of(self, shard: str) -> str:
        """Where this epoch writes a shard: on an object store, under a name that no other epoch has, so that nobody's slow
        upload replaces what another has committed."""
        return f"{shard.removesuffix('.parquet')}.{self.epoch}.parquet" if self.beats else shard
