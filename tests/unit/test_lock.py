"""The lock: one driver on a run; the second is told who has it; a dead holder holds nothing."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpagasus_ray.errors import RunLocked
from alpagasus_ray.store import lock, object_lock
from alpagasus_ray.store.run import LOCK, Run
from alpagasus_ray.store.storage import Storage

HOLDER = """
import sys
from alpagasus_ray.store import lock, object_lock
from alpagasus_ray.store.run import Run
with lock.held(Run.open(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(str(tmp_path / "run"))


@pytest.fixture
def holder(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `run`."""
    command = [sys.executable, "-c", HOLDER, run.storage.root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_holder_in_the_same_process_is_refused_with_the_owner(run: Run) -> None:
    with lock.held(run), pytest.raises(RunLocked, match=f"process {os.getpid()} on") as refusal, lock.held(run):
        pass
    assert run.storage.root in str(refusal.value)


def test_the_lock_is_free_again_after_the_block_however_it_ends(run: Run) -> None:
    for _ in range(2):
        with pytest.raises(ValueError), lock.held(run):
            raise ValueError


def test_two_runs_can_be_held_at_once(tmp_path: Path) -> None:
    with lock.held(Run.open(str(tmp_path / "a"))), lock.held(Run.open(str(tmp_path / "b"))):
        pass


def test_another_process_is_refused_until_the_holder_dies(run: Run, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(RunLocked, match=f"process {holder.pid} on"), lock.held(run):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock.held(run):
        assert run.storage.read(f"{LOCK}.owner").decode().startswith(f"process {os.getpid()} on")


def test_who_looks_is_told_who_holds_the_lock_and_leaves_nothing(run: Run, holder: subprocess.Popen[str]) -> None:
    assert str(lock.holder(run)).startswith(f"process {holder.pid} on")
    holder.kill()
    holder.wait()
    assert lock.holder(run) is None
    assert lock.holder(Run.open(f"{run.storage.root}/none")) is None
    assert not Path(f"{run.storage.root}/none").exists()


def test_who_looks_in_the_moment_in_which_a_driver_starts_is_not_taken_for_one(run: Run) -> None:
    with lock.held(run):
        pass
    with open(run.storage.path(LOCK), encoding="utf-8") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with lock.held(run):
            pass


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A directory that stands for an object store, with a lock that settles, and beats, at once."""
    monkeypatch.setattr(object_lock, "SETTLE_S", 0.01)
    monkeypatch.setattr(object_lock, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    return Storage.open(str(tmp_path / "bucket"))


def _left_by_another(storage: Storage, age_s: float) -> None:
    note = {"token": "theirs", "time": time.time() - age_s, "owner": "process 7 on far"}
    storage.write(LOCK, json.dumps(note).encode())


def test_the_object_is_gone_when_the_block_has_ended_however_it_ends(bucket: Storage) -> None:
    with lock._held_remote(bucket):
        assert bucket.exists(LOCK)
    assert not bucket.exists(LOCK)
    with pytest.raises(ValueError), lock._held_remote(bucket):
        raise ValueError
    assert not bucket.exists(LOCK)


def test_a_second_holder_of_the_object_is_refused_while_the_first_goes_on(bucket: Storage) -> None:
    with lock._held_remote(bucket):
        with pytest.raises(RunLocked, match=f"process {os.getpid()} on"), lock._held_remote(bucket):
            pass
        assert bucket.exists(LOCK)


def test_of_two_that_start_at_once_the_one_that_reads_the_others_name_gives_way(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda _: _left_by_another(bucket, age_s=0))
    with pytest.raises(RunLocked, match="process 7 on far"), lock._held_remote(bucket):
        pass
    assert json.loads(bucket.read(LOCK))["token"] == "theirs"


def test_the_object_is_renewed_while_it_is_held(bucket: Storage) -> None:
    with lock._held_remote(bucket):
        first = json.loads(bucket.read(LOCK))
        deadline = time.monotonic() + 20
        while (now := json.loads(bucket.read(LOCK)))["time"] == first["time"]:
            assert time.monotonic() < deadline, "no beat"
            time.sleep(0.01)
    assert now["token"] == first["token"]


def test_a_holder_that_was_overtaken_leaves_the_new_holders_object_alone(
    bucket: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 60.0)
    with lock._held_remote(bucket):
        _left_by_another(bucket, age_s=0)
    assert json.loads(bucket.read(LOCK))["token"] == "theirs"
