"""One shard in the hands of a worker: replay what is stored, ask for the rest, keep each reply, commit the output.

Where requests cost money, rows are written into the ledger before they are sent, so that whatever ends the process, what was
in flight is known to have been. The coordinator is told of them as well: if the worker dies, its successor sends those rows
alone, one at a time, and sets aside the one over which a worker has died twice.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from alpagasus_ray.engines.base import AtOnce, Request
from alpagasus_ray.engines.model_names import is_same_model
from alpagasus_ray.errors import UNREADABLE, EngineDied, EngineUnusable, reason_of
from alpagasus_ray.inference import shards
from alpagasus_ray.inference.coordinator import CoordinatorClient, CrashedRows
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.dispatcher import Dispatcher, Stopping
from alpagasus_ray.inference.ledger import NO_ATTEMPTS, Outcome, StoredReplies
from alpagasus_ray.inference.retry import AttemptLog, complete_with_retries, write_patiently
from alpagasus_ray.inference.spec import Job, Task

MARKED = 16
"""Rows of which the coordinator is told at a time, before they are sent; with many in flight, a part of these."""
MARKED_SHARE = 8
REMOTE_BLOCK = 4
"""So many times as many rows are written into the ledger at a time where a write to storage takes long."""
DEATHS = 2
"""After so many dead workers a row is set aside."""
MANY_ROWS = 64
"""From so many rows on a shard is asked about in an order of its own."""
GOLDEN = 0.6180339887
IN_FLIGHT = Outcome(None, None, 1, None, 1)
"""A request that is sent, of which nothing is known: it may have been billed."""


class Host(Protocol):
    """What a shard needs of its worker."""

    dispatcher: Dispatcher
    coordinator: CoordinatorClient
    in_flight: dict[str, asyncio.Future[Outcome | None]]
    """Requests of all shards of the worker, by key: a row with an equal one waits for its outcome."""
    feeding: asyncio.Lock
    """Held by the shard whose rows are being sent."""
    stopped: str | None
    """Why nothing more is sent."""

    async def stop_all(self, reason: str) -> None:
        """Let all workers end after the requests they have in flight."""

    def engine_died(self) -> None:
        """End the process, once what was received is kept."""

    def failed(self, error: str) -> None:
        """Count what a failure says."""

    def look_at(self, request: Request, outcome: Outcome, result: Mapping[str, Any]) -> None:
        """Watch results for a judge that is of no use."""


class ShardRun:
    """One shard in work. A row is known by its index in the shard, a request by its key, which rows may share."""

    @classmethod
    def open(cls, host: Host, job: Job, task: Task) -> "ShardRun":
        """Read the shard, and what earlier calls have left of it. `StageFailed` where it is not as it was written."""
        rows = shards.rows_of(task.read(job.source))
        return cls(host, job, task.shard, rows, job.backlog.known(task.shard))

    def __init__(self, host: Host, job: Job, file: str, rows: list[dict[str, Any]], stored: StoredReplies) -> None:
        self._host, self._job, self._rows = host, job, rows
        self.file, self.name, self.ledger = file, f"{job.home.name}/{file}", job.ledger(file)
        self._replies, self._unanswered = stored
        self._is_new = not (stored.replies or stored.unanswered)
        self._ahead: dict[str, Outcome] = {}
        """By key: requests that the ledger tells as sent and that were not sent yet, with what there was of them before."""
        self._sent: set[str] = set()
        self._failed: dict[str, Outcome] = {}
        self._taken: set[str] = set()
        """Keys whose reply a row has taken; a second row with the same request shares it, and pays nothing."""
        self._results: list[dict[str, Any] | None] = [None] * len(rows)
        self.counts = Counts()
        self.is_over = False
        """Whether the counts are final."""
        self._in_flight_rows: set[int] = set()
        """Those that the coordinator knows of."""
        self._done: list[int] = []
        """Rows that were finished since the coordinator was told last."""
        self._suspects: set[int] = set()
        """Rows that an engine died over."""

    # from its begin to its end

    async def begin(self) -> dict[int, int]:
        """Tell the coordinator; the answer is how often workers have died over rows of this shard, by row."""
        crashed: CrashedRows | None = await self._host.coordinator.call("begin_shard", self.name, len(self._replies))
        return crashed.deaths if crashed else {}

    async def ask_all(self, deaths: Mapping[int, int]) -> None:
        """Bring every row to its result; rows that are not asked about any more, because the stage stops, keep none."""
        crashed = {index: self._job.work.request(self._rows[index]) for index in sorted(deaths)}
        alone = {index: request for index, request in crashed.items() if request.key not in self._replies}
        many = self._job.spec.limits.adaptive and len(self._rows) >= MANY_ROWS
        order = scattered(len(self._rows)) if many else range(len(self._rows))
        others = [index for index in order if index not in alone]
        # one shard feeds the engines at a time: the next one starts when the last row of this one is in flight
        async with asyncio.TaskGroup() as group, self._host.feeding:
            for index, request in alone.items():
                await self._row_alone(index, request, deaths[index])
            told = max(MARKED, self._job.spec.limits.concurrency // MARKED_SHARE) if self._job.spec.paid else 0
            written = told * (1 if self._job.home.storage.is_local else REMOTE_BLOCK)
            for block in _chunks(others, written or len(others)):
                # made as they are needed: to make those of a whole shard would stop the loop for a tenth of a second
                requests = {index: self._job.work.request(self._rows[index]) for index in block}
                await self._write_ahead(requests)
                for chunk in _chunks(block, told or len(block)):
                    await self._tell_in_flight([index for index in chunk if requests[index].key not in self._replies])
                    for index in chunk:
                        await self._host.dispatcher.open_rows.acquire(requests[index].key)
                        task = group.create_task(self._row(index, requests[index]))
                        task.add_done_callback(partial(self._through, requests[index].key))

    def answer_at_once(self, engine: AtOnce) -> None:
        """Bring every row to its result by an engine that takes them all at once."""
        for index, reply in enumerate(engine.complete_all([self._job.work.request(row) for row in self._rows])):
            self._result(index, self._job.work.request(self._rows[index]), Outcome(reply, None, 1, None))

    def _through(self, key: str, _: asyncio.Task[None]) -> None:
        self._host.dispatcher.through(key)

    async def save(self) -> None:
        """Write what was received; a ledger in which nothing is worth keeping goes."""
        await write_patiently(self.ledger.delete if self._is_new and self.ledger.is_blank else self.ledger.flush)

    @property
    def is_complete(self) -> bool:
        """Whether every row has its result."""
        return all(result is not None for result in self._results)

    async def commit(self) -> None:
        """Write the shard's output; a row that no file can hold is set aside, and costs the others nothing."""
        assert self.is_complete, "a shard is committed whole"
        commit = partial(shards.commit, self._job, self.file, ledger=self.ledger)
        results = [result for result in self._results if result is not None]
        try:
            await write_patiently(partial(commit, results=results))
        except (pa.ArrowException, *UNREADABLE):
            wrong = await asyncio.to_thread(shards.unwritable, results, self._job.work.schema)
            if not wrong:
                raise
            for index, reason in wrong.items():
                self._set_aside(index, f"malformed reply: it cannot be written down ({reason})")
            await write_patiently(partial(commit, results=[result for result in self._results if result is not None]))

    async def leave_suspects(self) -> None:
        """The engine has died: keep what was received, and leave nobody but the rows that it had under suspicion."""
        await write_patiently(self.ledger.flush)
        innocent = (self._in_flight_rows | set(self._done)) - self._suspects
        await self._host.coordinator.call("mark_in_flight", self.name, sorted(self._suspects), sorted(innocent))

    # before rows are sent

    async def _write_ahead(self, requests: Mapping[int, Request]) -> None:
        """Write down the rows that are sent next as sent without an answer, for as long as nothing else is known of them."""
        if not self._job.spec.is_billed or self._host.stopped is not None:
            return
        for index, request in requests.items():
            if not any(request.key in seen for seen in (self._replies, self._sent, self._ahead)):
                before = self._ahead[request.key] = self._unanswered.get(request.key, NO_ATTEMPTS)
                self.ledger.add(request.key, self._id_of(index), IN_FLIGHT.after(before))
        await self._flush()

    async def _flush(self) -> None:
        """What cannot be written down is not sent: then the stage stops."""
        try:
            await write_patiently(self.ledger.flush)
        except OSError as error:
            await self._host.stop_all(f"the ledger cannot be written: {error}")

    async def _tell_in_flight(self, indices: Sequence[int]) -> None:
        if indices and self._host.stopped is None:
            done, self._done = self._done, []
            self._in_flight_rows.update(indices)
            self._in_flight_rows.difference_update(done)
            await self._host.coordinator.call("mark_in_flight", self.name, indices, done)

    async def _row_alone(self, index: int, request: Request, deaths: int) -> None:
        """A row that may have killed a worker: nothing else is in flight while it is, so that there will be no doubt."""
        if deaths >= DEATHS:
            outcome = Outcome(None, f"deadly: {deaths} workers died while they asked this", 0, None)
            self._result(index, request, outcome.after(self._take_unanswered(request)))
            return
        async with self._host.dispatcher.alone(request.key):
            await self._write_ahead({index: request})
            await self._tell_in_flight([index])
            await self._row(index, request)

    # a row

    async def _row(self, index: int, request: Request) -> None:
        outcome = self._stored(request)
        if outcome is None and self._host.stopped is None:
            other = self._host.in_flight.get(request.key) if self._job.spec.paid else None
            outcome = await (self._share(index, request, other) if other else self._ask(index, request))
        before = self._ahead.pop(request.key, None)
        if before is not None and (outcome is None or outcome.reply is None):
            self.ledger.add(request.key, self._id_of(index), before)  # it was written ahead, and not sent for this shard
        if outcome is not None:
            self._result(index, request, outcome)

    def _stored(self, request: Request) -> Outcome | None:
        """The outcome that an earlier call, or an earlier row of the shard, has left."""
        if request.key in self._failed:
            return self._failed[request.key].shared()
        outcome = self._replies.get(request.key)
        if outcome is None:
            return None
        self.counts.stored += 1
        is_taken = request.key in self._taken
        self._taken.add(request.key)
        return outcome.shared() if is_taken else outcome

    async def _share(self, index: int, request: Request, other: asyncio.Future[Outcome | None]) -> Outcome | None:
        """The outcome of an equal request that is in flight."""
        theirs = await other
        if theirs is None:
            return None
        self.counts.merged += 1
        outcome = theirs.shared().after(self._take_unanswered(request))
        if outcome.reply is not None and request.key not in self._replies:  # it was asked for a row of another shard
            self._keep(index, request, outcome)
        return outcome

    async def _ask(self, index: int, request: Request) -> Outcome | None:
        """Ask the engines; None when the stage stops before there is an outcome."""
        future = self._host.in_flight[request.key] = asyncio.get_running_loop().create_future()
        outcome: Outcome | None = None
        earlier = self._take_unanswered(request)
        self._ahead.pop(request.key, None)
        self._sent.add(request.key)
        try:
            log = self._attempt_log(index, request, earlier)
            gave_up = earlier.error is not None and earlier.maybe_billed_twice > 0
            outcome = await complete_with_retries(
                self._host.dispatcher, request, self._job.spec.tariff, self._job.spec.max_attempts, log, has_failed=gave_up
            )
            outcome = outcome.after(earlier)
        except Stopping:
            pass
        except EngineUnusable as error:
            await self._host.stop_all(str(error))
        except EngineDied:
            self._suspects.add(index)
            self._host.engine_died()
        finally:
            self._host.in_flight.pop(request.key, None)
            future.set_result(outcome)
        if outcome is None:
            return None
        if outcome.reply is not None:
            if self._job.spec.paid:
                self._keep(index, request, outcome)
            return outcome
        self._failed[request.key] = outcome
        return outcome if self._host.stopped is None else None  # a stage that stops asks for it again in its next call

    def _attempt_log(self, index: int, request: Request, earlier: Outcome) -> AttemptLog:
        """Into the ledger goes each attempt of a request that costs something; `earlier` are those of earlier calls."""

        def record(attempts: Outcome) -> None:
            if self._job.spec.paid:
                self.ledger.add(request.key, self._id_of(index), attempts.after(earlier))

        async def write_ahead(attempts: Outcome) -> None:
            record(attempts)
            await self._flush()

        return AttemptLog(record, write_ahead if self._job.spec.is_billed else None)

    def _take_unanswered(self, request: Request) -> Outcome:
        """What earlier calls have asked in vain; the first of several equal rows counts it."""
        return self._unanswered.pop(request.key, NO_ATTEMPTS)

    def _keep(self, index: int, request: Request, outcome: Outcome) -> None:
        """Into the ledger of the shard, and for its later rows with the same request."""
        wanted, model = self._job.spec.model, outcome.reply.model if outcome.reply else None
        if wanted is not None and model is not None and not is_same_model(wanted, model):
            self.counts.other_model += 1
        self.ledger.add(request.key, self._id_of(index), outcome)
        self._replies[request.key] = outcome
        self._taken.add(request.key)

    def _id_of(self, index: int) -> str:
        """The row's id, for people who look into a ledger; it stands in the first column of whatever is asked about."""
        return str(next(iter(self._rows[index].values())))

    # results

    def _result(self, index: int, request: Request, outcome: Outcome) -> None:
        try:
            result = self._job.work.result(self._rows[index], request, outcome)
        except UNREADABLE as error:  # whatever a judge writes costs its row only
            if outcome.reply is None:
                raise
            reason = f"malformed reply: reading it raised {type(error).__name__}: {error}"
            outcome = outcome._replace(reply=None, error=reason)
            result = self._job.work.result(self._rows[index], request, outcome)
        self._results[index] = result
        self._done.append(index)
        self.counts.rows += 1
        self._count(result, outcome.error)
        self._host.look_at(request, outcome, result)

    def _set_aside(self, index: int, reason: str) -> None:
        """Put a failure in place of a result."""
        before = self._results[index]
        assert before is not None, "only results are written"
        self.counts.statuses[before["status"]] -= 1
        request = self._job.work.request(self._rows[index])
        failure = Outcome(None, reason, before.get("attempts") or 0, None, before.get("maybe_billed_twice") or 0)
        self._results[index] = result = self._job.work.result(self._rows[index], request, failure)
        self._count(result, reason)

    def _count(self, result: Mapping[str, Any], error: str | None) -> None:
        """Count a row; `error` says why it has no reply."""
        self.counts.statuses[result["status"]] += 1
        if result.get("error"):
            self.counts.without_result[reason_of(result["error"])] += 1
        if error:
            self.counts.without_reply[reason_of(error)] += 1
            self._host.failed(error)


def scattered(count: int) -> Sequence[int]:
    """All indices of so many rows, each far from the one before: rows that no server takes often lie side by side, and asked
    one after the other they would look like an outage. Steps of the golden ratio spread the most evenly (Knuth, The Art of
    Computer Programming 3, section 6.4)."""
    step = max(1, round(count * GOLDEN))
    while math.gcd(step, count) > 1:
        step += 1
    return [index * step % count for index in range(count)]


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (indices[start : start + size] for start in range(0, len(indices), size or 1))
