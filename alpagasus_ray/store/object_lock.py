"""A lock on storage that has no locks, only objects that are written whole, and that are seen by all once they are written.

Nobody's time of day is believed. Who finds a lock watches it on a clock of its own: a note that changes has a living holder,
one that stands still for `STALE_S` has none. Two that want the same free lock each put down a claim *before* they look for the
claims of others, so that, however slow a write is, at least one of them sees the other (Dekker's rule); of two that see each
other the first by name stays. A write that took so long that others may have given its writer up takes no lock.
"""

import os
import platform
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import orjson

from alpagasus_ray.errors import RunLocked, StageFailed
from alpagasus_ray.store.lease import BEAT_S, STALE_S, TRUSTED_S, Lease, epoch_in, epoch_of, now
from alpagasus_ray.store.run import LOCK
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.terminal import say

CLAIM = f"{LOCK}.claim-"
LOOK_EVERY_S = 1.0
SETTLE_S = 1.0
"""How long a new holder waits before it reads back its name, for stores that show what is written a moment later."""


class Clock(Protocol):
    """Seconds that never leap, and a wait."""

    def now(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class _System:
    def now(self) -> float:
        return now()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM: Clock = _System()


class Entry(NamedTuple):
    """What a lock or a claim says."""

    note: bytes
    token: str | None
    epoch: str
    owner: str
    time: float
    """Of the writer's day; for people."""


def entry_of(storage: Storage, name: str) -> Entry | None:
    """What is written there; a note that cannot be read has an owner that nobody knows."""
    try:
        note = storage.read(name)
    except FileNotFoundError:
        return None
    try:
        told: Any = orjson.loads(note)
    except orjson.JSONDecodeError:
        told = None
    told = told if isinstance(told, Mapping) else {}
    when = told.get("time")
    token, name_of_owner = told.get("token"), told.get("owner")
    return Entry(
        note,
        token if isinstance(token, str) else None,
        epoch_in(note) or "",
        name_of_owner if isinstance(name_of_owner, str) else "unknown: its note cannot be read",
        float(when) if isinstance(when, int | float) else 0.0,
    )


def owner() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def refusal(root: str, whose: str) -> str:
    return f"another driver is working on {root} ({whose}); wait until it ends, or stop it"


class SharedLock:
    """One driver's hold, or attempt at a hold, of the lock."""

    lease: Lease

    def __init__(self, storage: Storage, clock: Clock = SYSTEM) -> None:
        self._storage, self._clock = storage, clock
        self._token = uuid.uuid4().hex
        self._claim = f"{CLAIM}{self._token}"
        self._claimed = 0.0
        self._beats = 0

    def take(self) -> Lease:
        """Become the holder. `RunLocked` where another is, or wants to be."""
        # in this order: a lock is found dead, the claim is down, claims are looked for, and only then the lock is written
        dead = self._wait_for_a_free_lock()
        try:
            self._put_claim()
            self._wait_for_other_claims()
            return self._take(dead)
        finally:
            with suppress(OSError):  # a claim that stays stands still, and others wait until it is stale
                self._storage.delete(self._claim)

    def _wait_for_a_free_lock(self) -> Entry | None:
        """Return once there is none, or one that has stood still for `STALE_S`: that one."""
        first = entry_of(self._storage, LOCK)
        since, told = self._clock.now(), False
        while first is not None and self._clock.now() - since < STALE_S:
            if not told and self._clock.now() - since > BEAT_S:
                say(f"the lock of {self._storage.root} is that of {first.owner}; looking for {STALE_S:g} s whether it is alive")
                told = True
            self._clock.sleep(min(LOOK_EVERY_S, BEAT_S))
            entry = entry_of(self._storage, LOCK)
            if entry is None:
                return None
            if entry.note != first.note:
                raise RunLocked(refusal(self._storage.root, entry.owner))
        return first

    def _put_claim(self) -> None:
        self._claimed = self._clock.now()
        self._beats += 1
        self._storage.write(self._claim, self._note(""))

    def _wait_for_other_claims(self) -> None:
        """Return once nobody else wants the lock. Claims that stand still for `STALE_S` are those of the dead."""
        seen: dict[str, tuple[bytes, float]] = {}
        while others := self._other_claims():
            for name, entry in others.items():
                note, since = seen.get(name, (entry.note, self._clock.now()))
                # it changes, so its holder lives; the first by name stays, and this one goes
                if note != entry.note and name < self._claim:
                    raise RunLocked(refusal(self._storage.root, entry.owner))
                if note == entry.note and self._clock.now() - since >= STALE_S:
                    # a claim of the dead: nobody else removes it, and it would be waited for by everybody who comes
                    self._storage.delete(name)
                seen[name] = (entry.note, since if note == entry.note else self._clock.now())
            self._clock.sleep(min(LOOK_EVERY_S, BEAT_S))
            self._put_claim()  # so that others see that this one is alive

    def _other_claims(self) -> dict[str, Entry]:
        names = [name for name in self._storage.names() if name.startswith(CLAIM) and name != self._claim]
        found = {name: entry_of(self._storage, name) for name in names}
        return {name: entry for name, entry in found.items() if entry is not None}

    def _take(self, dead: Entry | None) -> Lease:
        entry = entry_of(self._storage, LOCK)
        if entry is not None and (dead is None or entry.note != dead.note):
            raise RunLocked(refusal(self._storage.root, entry.owner))
        last = int(dead.epoch.partition("-")[0]) if dead is not None and dead.epoch else 0
        # the clock makes epochs readable; what makes them later than the last holder's is the `last + 1`, whatever the clock
        # says
        epoch = epoch_of(max(last + 1, int(time.time())), self._token)
        self.lease = Lease(self._storage, LOCK, epoch, beats=True)
        began = self._clock.now()
        self._storage.write(LOCK, self._note(epoch))
        # written last wins: after a moment the name in the lock is that of the one who holds it
        self._clock.sleep(SETTLE_S)
        entry = entry_of(self._storage, LOCK)
        if entry is None or entry.token != self._token:
            raise RunLocked(refusal(self._storage.root, entry.owner if entry else "unknown: it has let go since"))
        took = self._clock.now() - self._claimed
        if took > TRUSTED_S:
            self._storage.delete(LOCK)
            raise StageFailed(
                f"{self._storage.root} took {took:.0f} s to write the run's lock, and one that takes more than {TRUSTED_S:g} s "
                "protects nothing. Nothing was done; try again when the storage is faster"
            )
        # from before the write began, for others may have read the note as soon as that
        self.lease.watch(self._clock.now).renewed(began)
        return self.lease

    def renew(self) -> None:
        """One beat. Any error means that it was not renewed; that the lock is another's is told to the lease's watch."""
        # the time before the read and the write counts: a beat that took a minute is a minute old when it is written
        began, watch = self._clock.now(), self.lease.watch()
        entry = entry_of(self._storage, LOCK)
        if entry is None:
            watch.lose("its lock is gone")
        # the late write of an earlier holder is written over
        elif entry.token != self._token and not "" < entry.epoch < self.lease.epoch:
            watch.lose(f"{entry.owner} has taken its lock")
        elif watch.lost() is None:
            self._beats += 1
            self._storage.write(LOCK, self._note(self.lease.epoch))
            watch.renewed(began)

    def release(self) -> None:
        """Take the lock away if it is still this one's; where that cannot be done, others wait until it is stale."""
        if self.lease.lost() is not None:  # the store may hang, and the lock may be another's by now
            return
        with suppress(OSError):
            entry = entry_of(self._storage, LOCK)
            if entry is not None and entry.token == self._token:
                self._storage.delete(LOCK)

    def _note(self, epoch: str) -> bytes:
        told = {"token": self._token, "epoch": epoch, "beat": self._beats, "time": time.time(), "owner": owner()}
        return orjson.dumps(told)
