"""How shards are committed and taken back, and how they are shared out to calls.

A shard is committed whole or not at all: its output is written, then a commit record, and only then does it count. Output,
record and ledger are those of an epoch: the hold of the run's lock under which they are written (`store/lease.py`). What is
committed already is `backlog.py`'s to say, and how requests are sent that of `worker.py`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from alpagasus_ray.errors import UNREADABLE, RunLocked
from alpagasus_ray.inference.backlog import shard_of_record
from alpagasus_ray.inference.ledger import Ledger, stored_in_output
from alpagasus_ray.inference.spec import Job, Task
from alpagasus_ray.store.run import DONE, FileEntry, StageDir, describe

AT_A_TIME = 128
FEW, LARGEST = 2_000, 64
"""Up to so many tasks each has a call of its own; the most that a call does."""
OVERLAP, PER_SHARD = 2, 256
"""Shards that a worker has under way, and one more for each so many requests in flight."""


def overlap(concurrency: int, tasks: int, workers: int) -> int:
    """How many shards a worker has under way. One sends its rows while the last answers of another come in and are committed,
    and while a third is read; with many requests in flight the rows of a shard leave faster than all that takes. No worker
    takes the shards that others could do."""
    return max(OVERLAP, min(OVERLAP + concurrency // PER_SHARD, tasks // workers))


def in_calls(tasks: Sequence[Task], slots: int) -> list[Sequence[Task]]:
    """The tasks by the calls that do them, for workers that take so many calls at the same time. Few tasks have a call each.
    Where there are many, Ray Data would take a millisecond and some KiB of the driver for each before the first could start:
    the first calls do several, the last one each, so that all workers end together (guided self-scheduling: Polychronopoulos
    and Kuck 1987)."""
    calls, start, least = [], 0, len(tasks) <= FEW
    while start < len(tasks):
        # half of what is left, shared out evenly: long calls first, and at the end calls of one, which even out how fast
        # workers are
        size = 1 if least else min(LARGEST, max(1, (len(tasks) - start) // (2 * slots)))
        calls.append(tasks[start : start + size])
        start += size
    return calls


def is_done(job: Job, shard: str) -> bool:
    """Whether a shard that was missing has its commit record now, by this epoch; one of a trial never has."""
    return not job.is_trial and job.home.storage.at(DONE).exists(f"{job.file_of(shard)}.json")


def record(home: StageDir, entry: FileEntry) -> None:
    """Leave a commit record: from here on the shard is done."""
    home.storage.at(DONE).write(f"{entry.name}.json", entry.model_dump_json().encode())


def commit(job: Job, shard: str, results: list[dict[str, Any]], ledger: Ledger) -> None:
    """Write the output, then the commit record that makes it count, then let go of the ledger. `RunLocked` where the driver has
    lost the run's lock: then nothing of it counts."""
    file = job.file_of(shard)
    # a lock that is lost between two of these steps leaves a file without a record, which nobody reads
    confirm(job)
    # output, record, ledger: killed after the first the ledger is read again, killed after the second only the ledger is left
    # over
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
    if job.spec.paid:
        ledger.delete()


def confirm(job: Job) -> None:
    """Look whether the work is still done under the run's lock; `RunLocked` where it is not."""
    if job.lease is not None:
        job.lease.confirm()


def unwritable(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> dict[int, str]:
    """The rows that no file of this schema can hold, by number, with the reason of each."""
    reasons = {}
    for number, row in enumerate(rows):
        try:
            # row by row, after the whole shard has failed: one row is not to take the others with it
            pa.RecordBatch.from_pylist([row], schema=schema)
        except (pa.ArrowException, *UNREADABLE) as error:
            reasons[number] = f"{type(error).__name__}: {error}"
    return reasons


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
    shards = {entry.shard: entry for entry in job.backlog.done() if any(entry.counts.get(status) for status in statuses)}
    for shard, entry in shards.items():
        if entry.name != shard and job.spec.paid:
            _into_ledger(job, entry)
    # records of all epochs of these shards: an older one would make the shard look done as soon as the newest is gone
    for name in done.names() if shards else ():
        if shard_of_record(name) in shards:
            done.delete(name)


def _into_ledger(job: Job, entry: FileEntry) -> None:
    """Keep what an output of an earlier epoch holds: the next one has another name, and is not looked for there."""
    ledger = job.ledger(entry.shard)
    for key, outcome in stored_in_output(job.home.storage.read_table(entry.name), job.spec.again).outcomes():
        ledger.add(key, key, outcome)
    ledger.flush()
