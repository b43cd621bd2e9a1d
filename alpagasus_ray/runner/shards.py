"""Work on shards: Ray Data maps a pool of actors over those that are missing; each is committed whole or not at all.

One call of an actor is one shard: read it, take from its ledger what was answered before, ask the engine for the rest, write
the output under the same name, leave a commit record. Two shards overlap in an actor, so that its engine never drains
while the last rows of one shard come in. Which rows are asked what, and what is made of a reply, is the `Work`'s business.
"""

import asyncio
import gc
import logging
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import pyarrow as pa
import ray
import ray.data

from alpagasus_ray.datasets.run import FileEntry, StageDir, describe
from alpagasus_ray.datasets.storage import Storage
from alpagasus_ray.engines.base import Engine, Request
from alpagasus_ray.errors import EngineUnusable
from alpagasus_ray.runner.ask import ask
from alpagasus_ray.runner.board import BoardHandle
from alpagasus_ray.runner.ledger import FLUSH_S, Ledger, Outcome, outcomes_in

OVERLAP = 2
"""Shards that one actor works on at the same time."""
REPORT_S = 0.5
FLUSH_ATTEMPTS = 5
DONE, LEDGER = "done", "ledger"
READERS = 16
T = TypeVar("T")


class Work(Protocol):
    """What a stage does with each row; it is sent to the workers."""

    def open_engine(self) -> Engine:
        """The engine, opened once in each worker."""

    def request(self, row: Mapping[str, Any]) -> Request:
        """What to ask about a row of the input."""

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        """The row of the output, with a `status`."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the output."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know."""

    work: Work
    source: StageDir
    home: StageDir
    """The stage's directory: ledgers and commit records."""
    output: Storage
    """Where output shards go: the stage's directory, or that of a trial."""
    concurrency: int
    max_attempts: int
    paid: bool
    """Whether replies cost something, so that a ledger is kept."""

    def ledger(self, shard: str) -> Ledger:
        return Ledger(self.home.storage.at(LEDGER, shard.removesuffix(".parquet")))

    @property
    def is_trial(self) -> bool:
        return self.output != self.home.storage


class Task(NamedTuple):
    """One shard to do; `rows` bounds it to the first so many (a trial)."""

    shard: str
    rows: int | None = None


class Finished(NamedTuple):
    """What became of a task: committed, or why it stopped."""

    shard: str
    stopped: str | None


def missing(job: Job, shards: Sequence[str]) -> list[str]:
    """The shards that have no commit record yet, in order."""
    done = {name.removesuffix(".json") for name in job.home.storage.at(DONE).names()}
    return [shard for shard in shards if shard not in done]


def committed(job: Job) -> list[FileEntry]:
    """The commit records of a stage, in the order of the shards."""
    done = job.home.storage.at(DONE)
    with ThreadPoolExecutor(READERS) as pool:
        return [FileEntry.model_validate_json(content) for content in pool.map(done.read, done.names())]


def record(home: StageDir, entry: FileEntry) -> None:
    """Leave a commit record: from here on the shard is done."""
    home.storage.at(DONE).write(f"{entry.name}.json", entry.model_dump_json().encode())


def take_back(job: Job, status: str) -> None:
    """Make the shards that hold rows of this status missing again; their other rows keep their replies."""
    for entry in committed(job):
        if entry.counts.get(status):
            job.home.storage.at(DONE).delete(f"{entry.name}.json")


def clean_up(job: Job) -> None:
    """Remove ledgers and commit records of a finished stage: its manifest and files hold all that was in them."""
    job.home.storage.at(DONE).delete_tree()
    job.home.storage.at(LEDGER).delete_tree()


def run(job: Job, tasks: Sequence[Task], actors: int, board: BoardHandle) -> Iterator[Finished]:
    """Do the tasks on a pool of `actors`; results come as they finish."""
    context = ray.data.DataContext.get_current()
    # the driver shows rows, not blocks; what Ray Data has to tell stands in its own log files
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.enable_progress_bars = False
    # a shard may rightly take hours under a low rate limit; progress is watched per row, not per block
    context.execution_no_progress_timeout_s = -1
    dataset = ray.data.from_items(
        [{"shard": task.shard, "rows": task.rows or 0} for task in tasks], override_num_blocks=len(tasks)
    ).map_batches(
        ShardWorker,
        fn_constructor_args=(job, board),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(
            size=min(actors, len(tasks)),
            max_tasks_in_flight_per_actor=OVERLAP,
            max_concurrent_calls_per_actor=OVERLAP,
            enable_true_multi_threading=True,
        ),
    )
    for row in dataset.iter_rows():
        yield Finished(row["shard"], row["stopped"] or None)


class ShardWorker:
    """Lives in a Ray actor; its calls come in threads, and all of its requests run on one event loop."""

    def __init__(self, job: Job, board: BoardHandle) -> None:
        self._job, self._board = job, board
        self._stop: str | None = None
        self._news: Counter[str] = Counter()
        self._ledgers: set[Ledger] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._call(self._start())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        rows = batch["rows"][0]
        task = Task(str(batch["shard"][0]), int(rows) or None)
        finished = self._call(self._do(task))
        return {"shard": [finished.shard], "stopped": [finished.stopped or ""]}

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        self._engine = self._job.work.open_engine()
        # a full garbage collection walks all that the libraries made: 0.13 s in which no request moves, every few seconds.
        # What is there now stays; it need not be looked at again.
        gc.collect()
        gc.freeze()
        self._gate = asyncio.Semaphore(self._job.concurrency)
        self._feeding = asyncio.Lock()
        self._background = [asyncio.create_task(self._report_forever()), asyncio.create_task(self._flush_forever())]

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            await self._report()

    async def _report(self) -> None:
        news, self._news = self._news, Counter()
        answer = await asyncio.wrap_future(self._board.report.remote(dict(news)).future())
        self._stop = self._stop or answer

    async def _stop_all(self, reason: str) -> None:
        """Let all workers end after the requests they have in flight."""
        self._stop = self._stop or reason
        await asyncio.wrap_future(self._board.stop.remote(reason).future())

    async def _flush_forever(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                for ledger in list(self._ledgers):
                    await asyncio.to_thread(ledger.flush)
                failures = 0
            except OSError as error:
                failures += 1
                if failures > FLUSH_ATTEMPTS:
                    await self._stop_all(f"the ledger cannot be written: {error}")

    async def _do(self, task: Task) -> Finished:
        if self._stop is not None:
            return Finished(task.shard, self._stop)
        ledger = self._job.ledger(task.shard)
        source, known = await asyncio.to_thread(self._open, task, ledger)
        self._ledgers.add(ledger)
        try:
            results = await self._results(source, known, ledger)
        finally:
            self._ledgers.discard(ledger)
            await asyncio.to_thread(ledger.flush)
        whole = [result for result in results if result is not None]
        if len(whole) < len(source):
            return Finished(task.shard, self._stop)
        await asyncio.to_thread(self._commit, task.shard, whole, ledger)
        await self._report()
        return Finished(task.shard, None)

    def _open(self, task: Task, ledger: Ledger) -> tuple[list[dict[str, Any]], dict[str, Outcome]]:
        """The rows of the shard and the outcomes there are for them already."""
        table = self._job.source.storage.read_table(task.shard)
        known: dict[str, Outcome] = {}
        if self._job.paid:
            if self._job.home.storage.exists(task.shard):
                known = outcomes_in(self._job.home.storage.read_table(task.shard))
            known |= ledger.load()
        return table.slice(0, task.rows).to_pylist(), known

    async def _results(
        self, source: list[dict[str, Any]], known: Mapping[str, Outcome], ledger: Ledger
    ) -> list[dict[str, Any] | None]:
        """One result a row, in order; None for rows that were not asked about any more because the stage stops."""
        results: list[dict[str, Any] | None] = [None] * len(source)

        async def finish(place: int, request: Request) -> None:
            results[place] = await self._result(source[place], request, known, ledger)

        # one shard feeds the engine at a time: the next one starts when the last row of this one is under way
        async with asyncio.TaskGroup() as group, self._feeding:
            for place, row in enumerate(source):
                await self._gate.acquire()
                task = group.create_task(finish(place, self._job.work.request(row)))
                task.add_done_callback(lambda _: self._gate.release())
        return results

    async def _result(
        self, row: dict[str, Any], request: Request, known: Mapping[str, Outcome], ledger: Ledger
    ) -> dict[str, Any] | None:
        outcome = known.get(request.key)
        if outcome is not None:
            self._news["from ledger"] += 1
        else:
            if self._stop is not None:
                return None
            try:
                outcome = await ask(self._engine, request, self._job.max_attempts, lambda: self._stop is not None)
            except EngineUnusable as error:
                await self._stop_all(str(error))
                return None
            if outcome.reply is None and self._stop is not None:
                return None
            if outcome.reply is not None and self._job.paid:
                ledger.add(request.key, row["example_id"], outcome)
        result = self._job.work.result(row, request, outcome)
        self._news["rows"] += 1
        self._news[f"status {result['status']}"] += 1
        if outcome.error:
            self._news[f"reason {outcome.error.partition(':')[0]}"] += 1
        return result

    def _commit(self, shard: str, results: list[dict[str, Any]], ledger: Ledger) -> None:
        """Write the output, then the commit record that makes it count, then let go of the ledger."""
        job = self._job
        written = job.output.write_table(shard, pa.Table.from_pylist(results, schema=job.work.schema))
        entry = describe(shard, written, results)
        if not job.is_trial:
            record(job.home, entry)
            if job.paid:
                ledger.delete()
