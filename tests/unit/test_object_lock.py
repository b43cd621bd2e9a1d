"""The lock of an object store: never two holders, whatever clocks, slow writes and stopped processes do. Time is a number."""

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.errors import RunLocked, StageFailed
from alpagasus_ray.store import lease, lock, object_lock
from alpagasus_ray.store.lease import BEAT_S, STALE_S, TRUSTED_S, Watch
from alpagasus_ray.store.object_lock import CLAIM, SharedLock
from alpagasus_ray.store.run import LOCK, Run
from alpagasus_ray.store.storage import Storage, Written

HOUR = 3600.0


@dataclass
class Hand:
    """A clock that is moved by waiting on it, or by hand; `every` does something while somebody waits."""

    at: float = 0.0
    every: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        self.every()


@dataclass(frozen=True)
class Store(Storage):
    """Storage that does something before a write of some name lands, or refuses it."""

    before: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def write(self, name: str, content: bytes) -> Written:
        self.before.get(name, lambda: None)()
        return super().write(name, content)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A directory that stands for an object store."""
    opened = Storage.open(str(tmp_path / "bucket"))
    return Store(opened.fs, opened.root)


class Afar(Storage):
    """The same, as one that only reads sees it."""

    is_local = False  # type: ignore[assignment]


def leave(store: Storage, beat: int = 0, skew_s: float = 0.0) -> None:
    """What another driver, whose clock is wrong by so much, has written."""
    note = {"token": "theirs", "beat": beat, "time": time.time() + skew_s, "owner": "process 7 on far"}
    store.write(LOCK, json.dumps(note).encode())


def token(store: Storage) -> str:
    return str(json.loads(store.read(LOCK))["token"])


@pytest.mark.parametrize("skew_s", [-HOUR, 0.0, HOUR])
def test_a_holder_that_beats_is_alive_whatever_its_clock_says(store: Store, skew_s: float) -> None:
    leave(store, 0, skew_s)
    clock = Hand()

    def beat() -> None:
        if clock.at >= BEAT_S:
            leave(store, 1, skew_s)

    clock.every = beat
    with pytest.raises(RunLocked, match="process 7 on far"):
        SharedLock(store, clock).take()
    assert (token(store), clock.at) == ("theirs", pytest.approx(BEAT_S, abs=1.0))


@pytest.mark.parametrize("skew_s", [-HOUR, 0.0, HOUR])
def test_a_holder_that_stands_still_is_dead_whatever_its_clock_says(store: Store, skew_s: float) -> None:
    leave(store, 0, skew_s)
    clock = Hand()
    held = SharedLock(store, clock).take()
    assert clock.at >= STALE_S
    assert token(store) != "theirs"
    assert held.lost() is None


@pytest.mark.parametrize("note", [b"", b"\xff\xfe{", b"[1]", b'{"token": 7, "time": "now", "owner": null}'])
def test_a_lock_that_cannot_be_read_is_watched_like_any_other(store: Store, note: bytes) -> None:
    store.write(LOCK, note)
    clock = Hand()
    clock.every = lambda: store.write(LOCK, note + b" ") and None  # type: ignore[func-returns-value]
    with pytest.raises(RunLocked, match="unknown: its note cannot be read"):
        SharedLock(store, clock).take()
    clock.every = lambda: None
    before = clock.at
    SharedLock(store, clock).take()
    assert clock.at - before >= STALE_S


def test_a_holder_that_finds_what_cannot_be_read_in_its_place_stops(store: Store) -> None:
    mine = SharedLock(store, Hand())
    held = mine.take()
    store.write(LOCK, b"\x00garbage")
    mine.renew()
    assert "has taken its lock" in str(held.lost())
    mine.release()
    assert store.read(LOCK) == b"\x00garbage"


def test_a_holder_that_could_not_renew_for_half_the_stale_time_holds_nothing(store: Store) -> None:
    clock = Hand()
    mine = SharedLock(store, clock)
    held = mine.take()
    guarded = Storage(store.fs, store.root, held)

    def refuse() -> None:
        raise OSError("the store refuses")

    store.before[LOCK] = refuse
    while clock.at < TRUSTED_S - BEAT_S:
        clock.sleep(BEAT_S)
        with pytest.raises(OSError, match="refuses"):
            mine.renew()
    guarded.write("a", b"still held")
    clock.at = TRUSTED_S + 3
    del store.before[LOCK]
    with pytest.raises(RunLocked, match=r"not renewed for \d+ s"):
        guarded.write("b", b"not any more")
    with pytest.raises(RunLocked):
        guarded.delete("a")
    before = store.read(LOCK)
    mine.renew()  # the store is back, and it is too late
    assert (store.read(LOCK), guarded.names()) == (before, ["a", LOCK])


def test_what_is_lost_half_way_through_a_write_does_not_appear(store: Store) -> None:
    clock = Hand()
    held = SharedLock(store, clock).take()
    guarded = Storage(store.fs, store.root, held)

    def write() -> None:
        with guarded.writing("part") as stream:
            stream.write(b"half")
            clock.at += STALE_S

    with pytest.raises(RunLocked):
        write()
    assert not guarded.exists("part")


def test_a_stopped_holder_that_goes_on_finds_itself_replaced_and_touches_nothing(store: Store) -> None:
    old, new = SharedLock(store, Hand()), SharedLock(store, Hand())
    before = old.take()
    after = new.take()  # on its own clock it has waited; the old one's stood still with its process
    assert after.epoch > before.epoch
    old.renew()
    assert "has taken its lock" in str(before.lost())
    old.release()
    new.renew()
    assert after.lost() is None
    assert json.loads(store.read(LOCK))["epoch"] == after.epoch


def test_the_late_beat_of_an_earlier_holder_is_written_over_by_the_present_one(store: Store) -> None:
    old, new = SharedLock(store, Hand()), SharedLock(store, Hand())
    old.take()
    late = store.read(LOCK)
    after = new.take()
    store.write(LOCK, late)
    new.renew()
    assert after.lost() is None
    assert json.loads(store.read(LOCK))["epoch"] == after.epoch


def test_a_write_of_the_lock_that_outlasts_the_others_patience_takes_no_lock(store: Store) -> None:
    clock = Hand()
    other = SharedLock(Storage(store.fs, store.root), clock)
    store.before[LOCK] = other.take  # while the first one's write is under way, a second gives it up for dead
    with pytest.raises((StageFailed, RunLocked)):
        SharedLock(store, clock).take()
    assert clock.at >= STALE_S


def test_the_claim_of_one_that_died_while_it_took_the_lock_is_waited_for_and_removed(store: Store) -> None:
    store.write(f"{CLAIM}0", b"{}")
    clock = Hand()
    SharedLock(store, clock).take()
    assert clock.at >= STALE_S
    assert store.names() == [LOCK]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real threads and real time, in which a hundredth of a second is a second."""
    for module in (object_lock, lock, lease):
        for name in ("BEAT_S", "STALE_S", "TRUSTED_S", "SETTLE_S", "LOOK_EVERY_S", "WATCH_S"):
            if hasattr(module, name):
                seconds = {"BEAT_S": 0.1, "STALE_S": 2.0, "TRUSTED_S": 1.0}.get(name, 0.01)
                monkeypatch.setattr(module, name, seconds)


@pytest.mark.usefixtures("_quick")
def test_of_many_that_start_at_once_never_two_hold_the_lock_however_slow_their_writes_are(store: Store) -> None:
    chance, inside, most, holders = random.Random(7), [0], [0], [0]
    counting = threading.Lock()

    def drive(pause: float) -> None:
        slow = Store(store.fs, store.root, before={LOCK: lambda: time.sleep(pause)})
        mine = SharedLock(slow)
        try:
            mine.take()
        except RunLocked:
            return
        with counting:
            inside[0] += 1
            holders[0] += 1
            most[0] = max(most[0], inside[0])
        for _ in range(3):
            time.sleep(0.05)
            slow.before.clear()
            mine.renew()
        with counting:
            inside[0] -= 1
        mine.release()

    for _ in range(4):
        drivers = [threading.Thread(target=drive, args=(chance.random() * 0.1,)) for _ in range(5)]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
    assert most == [1]
    assert holders[0] >= 4, "each time somebody is to get it"
    assert store.names() == []


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Ctrl-C reaches the test, also where its process was started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_quick", "_interruptible")
@pytest.mark.parametrize("error", [OSError("away"), ValueError("odd"), MemoryError()])
def test_whatever_keeps_a_holder_from_renewing_it_is_interrupted_and_told_so(store: Store, error: Exception) -> None:
    def refuse() -> None:
        raise error

    def hold() -> None:
        with lock._held_remote(store):
            store.before[LOCK] = refuse
            time.sleep(60)

    with pytest.raises(RunLocked, match="not renewed for"):
        hold()


@pytest.mark.usefixtures("_quick", "_interruptible")
def test_a_process_that_does_not_end_when_it_has_lost_the_lock_is_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(lock, "_end_this_process", ended.append)
    monkeypatch.setattr(lock, "GRACE_S", 0.05)

    def hold() -> None:
        with lock._held_remote(store):
            store.write(LOCK, b'{"token": "theirs", "epoch": "999999999999-aaaaaaaa", "owner": "process 7 on far"}')
            while not ended:
                with suppress(KeyboardInterrupt):  # what must not keep it from ending
                    time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(RunLocked):
        hold()
    assert ended == [1]
    assert "process 7 on far has taken its lock" in capfd.readouterr().err


def test_who_only_looks_believes_a_beat_and_not_a_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    run = Run(Afar(store.fs, store.root))
    assert lock.holder(run) is None
    leave(store, 0, HOUR)
    assert lock.holder(run) is None
    monkeypatch.setattr(lock, "BEAT_S", 10.0)  # it looks until it sees one
    over = threading.Event()

    def beat() -> None:
        number = 0
        while not over.wait(0.01):
            number += 1
            leave(store, number, HOUR)

    holder = threading.Thread(target=beat)
    holder.start()
    assert lock.holder(run) == "process 7 on far"
    over.set()
    holder.join()


def test_a_watch_counts_from_the_last_beat_that_it_saw_change() -> None:
    clock = Hand()
    watch = Watch(clock.now)
    for beat in range(5):
        clock.sleep(TRUSTED_S - 1)
        watch.saw(f"beat {beat}".encode())
        assert watch.lost() is None
    clock.sleep(TRUSTED_S - 1)
    watch.saw(b"beat 4")
    assert watch.lost() is None
    clock.sleep(2)
    assert "not renewed" in str(watch.lost())
    watch.saw(b"beat 5")
    assert watch.lost() is not None, "what is lost once stays lost"
