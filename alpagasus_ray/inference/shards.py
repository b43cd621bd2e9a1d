"""What is done to a stage's shards, in terms of files: which are missing, what a committed one leaves, who does them.

A shard is committed whole or not at all: its output is written, then a commit record, and only then does it count. Output,
record and ledger are those of an epoch: the hold of the run's lock under which they are written (`datasets/lease.py`). Which
rows are asked what, and what is made of a reply, is the `Work`'s business; how requests are sent is that of `worker.py`.
"""

from collections.abc import Collection, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from alpagasus_ray import __version__
from alpagasus_ray.engines.base import Engine, ReplyForm, Request
from alpagasus_ray.engines.prices import Tariff
from alpagasus_ray.errors import UNREADABLE, RunLocked
from alpagasus_ray.inference.endpoint import RequestLimits
from alpagasus_ray.inference.first_replies import Usable
from alpagasus_ray.inference.ledger import Ledger, Outcome, StoredReplies, stored_in_output
from alpagasus_ray.store.lease import Lease, latest_parts, shard_of
from alpagasus_ray.store.run import DONE, LEDGER, FileEntry, StageDir, describe
from alpagasus_ray.store.storage import Storage

READERS = 16
AT_A_TIME = 128
FEW, LARGEST = 2_000, 64
"""Up to so many tasks each has a call of its own; the most that a call does."""


class Work(Protocol):
    """What a stage does with each row; it is sent to the workers."""

    def open_engines(self) -> Sequence[Engine]:
        """The engines, opened once in each worker, one for each endpoint."""

    def request(self, row: Mapping[str, Any]) -> Request:
        """What to ask about a row of the input."""

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        """The row of the output, with a `status`."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the output."""

    @property
    def form(self) -> ReplyForm:
        """What is asked of every reply."""


class Pool(NamedTuple):
    """The processes that do the work, and what each takes of a node."""

    least: int = 1
    most: int = 1
    cpus: int = 1
    gpus: int = 0
    labels: Mapping[str, str] = {}
    """Labels that the node has to have."""


ONE = Pool()


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know."""

    work: Work
    source: StageDir
    home: StageDir
    """The stage's directory: ledgers and commit records."""
    output: Storage
    """Where output shards go: the stage's directory, or that of a trial."""
    limits: RequestLimits
    tariff: Tariff
    max_attempts: int
    paid: bool
    """Whether replies cost something, so that a ledger is kept."""
    pool: Pool = ONE
    again: frozenset[str] = frozenset()
    """Rows of earlier output with one of these statuses are asked anew, though they may have a reply."""
    version: str = __version__
    """Of the driver's package."""
    usable: Usable | None = None
    """What results are of use, where the first ones are looked at."""
    model: str | None = None
    """The model that is asked for at an API; what another answers is told."""

    def ledger(self, shard: str) -> Ledger:
        return ledger_of(self.home, shard)

    def stored_replies(self, shard: str) -> StoredReplies:
        """What earlier calls left of a shard that is not committed."""
        return stored_replies(self.home, shard, self.again) if self.paid else StoredReplies({}, {})

    @property
    def is_billed(self) -> bool:
        """Whether somebody else counts the requests, and may have billed one that was never answered."""
        return self.paid and self.limits.adaptive

    @property
    def is_trial(self) -> bool:
        return self.output != self.home.storage

    @property
    def lease(self) -> Lease | None:
        """The hold of the run's lock that the work is done under; None where there is no lock."""
        guard = self.home.storage.guard
        return guard if isinstance(guard, Lease) else None

    def file_of(self, shard: str) -> str:
        """The file that a shard's output goes to."""
        return shard if self.lease is None or self.is_trial else self.lease.file_of(shard)


class Task(NamedTuple):
    """One shard to do."""

    shard: str
    rows: Sequence[int] | None = None
    """Numbers of the rows to do, in order; None for all of them. A trial does a few."""
    job: int = 0
    """Place of its job among those that are done together."""
    sha256: str | None = None
    """Checksum of the shard, where the manifest that lists it is at hand."""

    def read(self, source: StageDir) -> pa.Table:
        """The rows to do. `StageFailed` tells of a shard that is not as it was written."""
        table = source.table(self.shard, self.sha256)
        return table if self.rows is None else table.take(pa.array(self.rows, pa.int64()))


def in_calls(tasks: Sequence[Task], slots: int) -> list[Sequence[Task]]:
    """The tasks by the calls that do them, for workers that take so many calls at the same time. Few tasks have a call each.
    Where there are many, Ray Data would take a millisecond and some KiB of the driver for each before the first could start:
    the first calls do several, the last one each, so that all workers end together (guided self-scheduling: Polychronopoulos
    and Kuck 1987)."""
    calls, start, least = [], 0, len(tasks) <= FEW
    while start < len(tasks):
        size = 1 if least else min(LARGEST, max(1, (len(tasks) - start) // (2 * slots)))
        calls.append(tasks[start : start + size])
        start += size
    return calls


def ledger_of(home: StageDir, shard: str) -> Ledger:
    """The ledger of one shard of a stage. A reply is kept whoever received it, also by a worker of a driver that has lost the
    run."""
    guard = home.storage.guard
    epoch = guard.epoch if isinstance(guard, Lease) else ""
    return Ledger(home.storage.unguarded().at(LEDGER, shard.removesuffix(".parquet")), epoch)


def stored_replies(home: StageDir, shard: str, again: Container[str] = ()) -> StoredReplies:
    """What earlier calls left of a shard, in its ledger and in its output, but for replies of rows with a status of `again`;
    a driver may be at work on it."""
    try:
        ledger = ledger_of(home, shard).load()
    except FileNotFoundError:
        ledger = StoredReplies({}, {})  # it has just been committed: its output, read after this, holds what the ledger held
    if not home.storage.exists(shard):
        return ledger
    return StoredReplies.of((*stored_in_output(home.storage.read_table(shard), again).outcomes(), *ledger.outcomes()))


def missing(job: Job, shards: Sequence[str]) -> list[str]:
    """The shards that have no commit record yet, in order."""
    done = {_shard(name) for name in job.home.storage.at(DONE).names()}
    return [shard for shard in shards if shard not in done]


def is_done(job: Job, shard: str) -> bool:
    """Whether a shard that was missing has its commit record now, by this epoch; one of a trial never has."""
    return not job.is_trial and job.home.storage.at(DONE).exists(f"{job.file_of(shard)}.json")


def recorded(home: StageDir) -> frozenset[str]:
    """Names of the commit records that a call finds when it begins: those that earlier calls have left."""
    return frozenset(home.storage.at(DONE).names())


def committed(home: StageDir, found: Collection[str] | None = None) -> list[FileEntry]:
    """The commit records of a stage, one for each shard, in the order of the shards. With those that a call has `found` when it
    began, a record that a driver of an earlier epoch has left since is not among them."""
    done = home.storage.at(DONE)
    guard = home.storage.guard
    names = [name for name in done.names() if found is None or name in found or not _of_another(name, guard)]
    latest = latest_parts(name.removesuffix(".json") for name in names)
    with ThreadPoolExecutor(READERS) as pool:
        contents = pool.map(done.read, (f"{file}.json" for file in latest.values()))
        return [FileEntry.model_validate_json(content) for content in contents]


def _shard(record: str) -> str:
    """The shard of a commit record."""
    return shard_of(record.removesuffix(".json"))


def _of_another(name: str, guard: Any) -> bool:
    """Whether a commit record was left under another hold of the lock; a local one has no epoch in its name."""
    return isinstance(guard, Lease) and guard.beats and guard.epoch not in name


def record(home: StageDir, entry: FileEntry) -> None:
    """Leave a commit record: from here on the shard is done."""
    home.storage.at(DONE).write(f"{entry.name}.json", entry.model_dump_json().encode())


def commit(job: Job, shard: str, results: list[dict[str, Any]], ledger: Ledger) -> None:
    """Write the output, then the commit record that makes it count, then let go of the ledger. `RunLocked` where the driver has
    lost the run's lock: then nothing of it counts."""
    file = job.file_of(shard)
    confirm(job)
    written = job.output.write_table(file, _table_of(results, job.work.schema))
    if job.is_trial:
        return
    confirm(job)
    record(job.home, describe(file, written, results))
    try:
        confirm(job)  # the write may have taken longer than others wait
    except RunLocked:
        if file != shard:  # nobody else's record has this name
            job.home.storage.unguarded().at(DONE).delete(f"{file}.json")
        raise
    if job.paid:
        ledger.delete()


def confirm(job: Job) -> None:
    """Look whether the work is still done under the run's lock; `RunLocked` where it is not."""
    if job.lease is not None:
        job.lease.confirm()


def unwritable(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> dict[int, str]:
    """The rows that no file of this schema can hold, by place, with the reason of each."""
    found = {}
    for place, row in enumerate(rows):
        try:
            pa.RecordBatch.from_pylist([row], schema=schema)
        except (pa.ArrowException, *UNREADABLE) as error:
            found[place] = f"{type(error).__name__}: {error}"
    return found


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table, a few at a time: pyarrow holds Python's lock while it makes them, and requests would wait."""
    return [row for batch in table.to_batches(max_chunksize=AT_A_TIME) for row in batch.to_pylist()]


def _table_of(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """The table of some rows, made as `rows_of` reads it."""
    parts = (rows[start : start + AT_A_TIME] for start in range(0, len(rows), AT_A_TIME))
    return pa.Table.from_batches([pa.RecordBatch.from_pylist(part, schema=schema) for part in parts], schema=schema)


def take_back(job: Job, statuses: Collection[str]) -> None:
    """Make the shards that hold rows of these statuses missing again; their other rows keep their replies."""
    done = job.home.storage.at(DONE)
    shards = {entry.shard: entry for entry in committed(job.home) if any(entry.counts.get(status) for status in statuses)}
    for shard, entry in shards.items():
        if entry.name != shard and job.paid:
            _into_ledger(job, entry)
    for name in done.names() if shards else ():
        if _shard(name) in shards:
            done.delete(name)


def _into_ledger(job: Job, entry: FileEntry) -> None:
    """Keep what an output of an earlier epoch holds: the next one has another name, and is not looked for there."""
    ledger = job.ledger(entry.shard)
    for key, outcome in stored_in_output(job.home.storage.read_table(entry.name), job.again).outcomes():
        ledger.add(key, key, outcome)
    ledger.flush()
