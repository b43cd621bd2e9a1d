"""What a stage writes belongs to one hold of the run's lock: nothing of a driver that was replaced enters a manifest."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from test_object_lock import Hand

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.engines.base import Engine, Rate, Reply, ReplyForm, Request
from alpagasus_ray.errors import EngineUnusable, RunLocked
from alpagasus_ray.inference import lock_guard, shards
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.spec import AskSpec, Job
from alpagasus_ray.store import lock
from alpagasus_ray.store.lease import Lease, shard_of
from alpagasus_ray.store.object_lock import SharedLock
from alpagasus_ray.store.run import DONE, LEDGER, LOCK, Begun, Manifest, Run, StageDir, describe
from alpagasus_ray.store.storage import Written
from toy_runs import toy_run

SHARD = "part-00000.parquet"
BEGUN = Begun(settings={}, inputs={})


@dataclass
class Asked:
    """An engine that counts what it is asked."""

    address: str = "toy"
    stated: Rate = field(default_factory=Rate)
    keys: list[str] = field(default_factory=list)

    async def complete(self, request: Request) -> Reply:
        self.keys.append(request.key)
        return Reply("4")


class Work:
    """Rows are never asked about here."""

    schema, form = RATINGS, ReplyForm()

    def open_engines(self) -> Sequence[Engine]:
        return [Asked()]

    def request(self, row: Mapping[str, Any]) -> Request:
        raise AssertionError

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        raise AssertionError


class Drivers:
    """Drivers that take the lock of one run, one after the other, as on an object store."""

    def __init__(self, folder: Path) -> None:
        self.run = toy_run(folder, 4, rows_per_shard=2)

    def next(self) -> tuple[Job, SharedLock]:
        """The job of a driver that finds the one before it dead, and its lock."""
        taken = SharedLock(self.run.storage, Hand())
        mine = Run(replace(self.run.storage, guard=taken.take()))
        home = mine.ratings("judge")
        judge = Judge(max_attempts=3, max_outage_s=1.0)
        return Job(Work(), AskSpec.of(Score(concurrency=8), judge), mine.examples(), home, home.storage), taken

    @property
    def stage(self) -> StageDir:
        return self.run.ratings("judge")


@pytest.fixture
def drivers(tmp_path: Path) -> Drivers:
    return Drivers(tmp_path)


def rows_of(who: str) -> list[dict[str, Any]]:
    row = {"status": "scored", "reply": who, "finish_reason": "stop", "attempts": 1, "maybe_billed_twice": 0}
    return [{"example_id": f"toy:{n}", "request_hash": f"{n}", **row} for n in (0, 1)]


def commit(job: Job, who: str, shard: str = SHARD) -> None:
    shards.commit(job, shard, rows_of(who), job.ledger(shard))


def finish(job: Job, found: frozenset[str] | None = None) -> Manifest:
    files = job.backlog.done(found)
    manifest = job.home.build(BEGUN, files, ["scored"])
    job.home.begin(BEGUN)
    job.home.finish(manifest)
    return manifest


def test_a_driver_that_was_replaced_commits_nothing_and_keeps_what_it_paid_for(drivers: Drivers) -> None:
    old, _ = drivers.next()
    new, _ = drivers.next()
    ledger = old.ledger(SHARD)
    ledger.add("0", "toy:0", Outcome(Reply("paid"), None, 1, 0.1))
    ledger.flush()
    with pytest.raises(RunLocked, match="another driver has taken its lock"):
        commit(old, "zombie")
    with pytest.raises(RunLocked):
        finish(old)
    assert drivers.stage.storage.all_names() == {f"{LEDGER}/part-00000/{name}" for name in ledger_files(drivers)}
    assert set(new.backlog.known(SHARD).replies) == {"0"}


def ledger_files(drivers: Drivers) -> list[str]:
    return drivers.stage.storage.at(LEDGER, "part-00000").names()


def test_a_part_whose_upload_lands_after_another_driver_has_done_the_shard_changes_nothing(
    drivers: Drivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = drivers.next()
    write_table = type(old.output).write_table
    jobs: list[Job] = []

    def slow(self: Any, name: str, table: Any) -> Written:
        """The upload of the old driver, during which a new one takes over and does the same shard."""
        if not jobs:
            jobs.append(drivers.next()[0])
            commit(jobs[0], "new")
        return write_table(replace(self, guard=None), name, table)

    monkeypatch.setattr(type(old.output), "write_table", slow)
    with pytest.raises(RunLocked):
        commit(old, "zombie")
    manifest = finish(jobs[0])
    drivers.stage.verify(manifest)
    (table,) = drivers.stage.tables(manifest)
    assert table["reply"].to_pylist() == ["new", "new"]
    assert [name for name in drivers.stage.storage.names() if name.startswith("part-")] == [manifest.files[0].name]


def test_a_record_that_an_earlier_driver_leaves_while_a_later_one_works_does_not_count(drivers: Drivers) -> None:
    old, _ = drivers.next()
    commit(old, "in time")
    new, _ = drivers.next()
    found = new.backlog.records()
    assert new.backlog.open([SHARD, "part-00001.parquet"]) == ["part-00001.parquet"]
    late = old.file_of("part-00001.parquet")
    written = drivers.stage.storage.write_table(late, shards._table_of(rows_of("late"), RATINGS))
    shards.record(drivers.stage, describe(late, written, rows_of("late")))
    assert not shards.is_done(new, "part-00001.parquet")
    commit(new, "new", "part-00001.parquet")
    manifest = finish(new, found)
    replies = [reply for table in drivers.stage.tables(manifest) for reply in table["reply"].to_pylist()]
    assert replies == ["in time", "in time", "new", "new"]
    assert [entry.shard for entry in manifest.parts()] == [SHARD, "part-00001.parquet"]


def test_a_record_whose_write_outlasted_the_lease_is_taken_back(drivers: Drivers, monkeypatch: pytest.MonkeyPatch) -> None:
    old, _ = drivers.next()
    record = shards.record

    def slow(home: StageDir, entry: Any) -> None:
        record(home, entry)
        drivers.next()

    monkeypatch.setattr(shards, "record", slow)
    with pytest.raises(RunLocked):
        commit(old, "zombie")
    assert drivers.stage.storage.at(DONE).names() == []


def test_runs_of_earlier_versions_have_no_epoch_in_their_names_and_go_on(drivers: Drivers) -> None:
    home = drivers.stage
    written = home.storage.write_table(SHARD, shards._table_of(rows_of("older"), RATINGS))
    shards.record(home, describe(SHARD, written, rows_of("older")))
    job, _ = drivers.next()
    found = job.backlog.records()
    assert job.backlog.open([SHARD, "part-00001.parquet"]) == ["part-00001.parquet"]
    commit(job, "new", "part-00001.parquet")
    manifest = finish(job, found)
    assert [entry.name for entry in manifest.parts()] == [SHARD, job.file_of("part-00001.parquet")]
    replies = [reply for table in home.tables(manifest) for reply in table["reply"].to_pylist()]
    assert replies == ["older", "older", "new", "new"]


def test_rows_that_are_asked_again_keep_what_an_earlier_epoch_has_of_the_others(drivers: Drivers) -> None:
    old, lock_of_old = drivers.next()
    rows = rows_of("kept")
    rows[1] |= {"status": "failed", "reply": None, "error": "timeout"}
    shards.commit(old, SHARD, rows, old.ledger(SHARD))
    lock_of_old.release()
    new, _ = drivers.next()
    shards.take_back(new, {"failed"})
    assert new.backlog.open([SHARD]) == [SHARD]
    known = new.backlog.known(SHARD)
    assert ({key: outcome.reply.text for key, outcome in known.replies.items() if outcome.reply}, set(known.unanswered)) == (
        {"0": "kept"},
        {"1"},
    )


def test_a_ledger_that_goes_leaves_what_another_driver_has_written_since(drivers: Drivers) -> None:
    old, _ = drivers.next()
    paid = Outcome(Reply("paid"), None, 1, 0.1)
    mine = old.ledger(SHARD)
    mine.add("0", "toy:0", paid)
    mine.flush()
    new, _ = drivers.next()
    theirs = new.ledger(SHARD)
    theirs.add("1", "toy:1", paid)
    theirs.flush()
    mine.delete()
    assert set(new.backlog.known(SHARD).replies) == {"1"}
    assert all(job.lease and job.lease.epoch in name for job, name in zip([new], ledger_files(drivers), strict=True))
    assert f"{time.time_ns():020d}-0a1b2c-00000.jsonl" < ledger_files(drivers)[0], "segments of older versions come first"
    again = new.ledger(SHARD)
    again.load()
    again.delete()
    assert ledger_files(drivers) == []


def test_a_local_run_keeps_plain_names_and_is_checked_against_the_epoch_of_its_lock(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 2)
    with lock.held(run) as mine:
        lease = mine.storage.guard
        assert isinstance(lease, Lease)
        assert lease.file_of(SHARD) == SHARD
        mine.storage.write("a", b"held")
        run.storage.write(f"{LOCK}.owner", b"process 7 on far\nepoch 999999999999-aaaaaaaa\n")
        with pytest.raises(RunLocked, match="another driver"):
            mine.storage.write("a", b"by a worker that its driver has left behind")
    assert run.storage.read("a") == b"held"


def test_an_engine_is_asked_nothing_once_the_run_is_lost(drivers: Drivers) -> None:
    job, mine = drivers.next()
    engine = Asked()
    (guarded,) = lock_guard.while_held([engine], job.lease)
    request = Request("k", [], {})
    assert asyncio.run(guarded.complete(request)).text == "4"
    drivers.next()
    mine.renew()
    with pytest.raises(EngineUnusable, match="has taken its lock"):
        asyncio.run(guarded.complete(request))
    assert engine.keys == ["k"]


def test_a_worker_looks_at_the_lock_for_itself_and_stops(drivers: Drivers, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = drivers.next()
    drivers.next()
    told: list[str] = []

    async def stop(reason: str) -> None:
        told.append(reason)
        raise asyncio.CancelledError

    with suppress(asyncio.CancelledError):
        assert job.lease is not None
        asyncio.run(lock_guard.watch(job.lease, stop))
    assert "another driver has taken its lock" in told[0]


def test_the_shard_of_a_part_is_its_name_without_the_epoch() -> None:
    assert shard_of("part-00003.001764300000-0a1b2c3d.parquet") == "part-00003.parquet"
    for name in (SHARD, "dropped-00000.parquet", "part-00003.x.parquet", "manifest.json"):
        assert shard_of(name) == name
