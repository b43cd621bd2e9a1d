"""A worker: it lives in a Ray actor, takes shards one call at a time, and asks for the rows that have no reply yet.

Calls come in threads; all requests run on one event loop. Two shards overlap, so that the engines never drain while the last
rows of one come in. Rows are marked on the board before they are sent: if the worker dies, its successor sends the marked
ones alone, one at a time, and sets aside the one over which a worker has died twice.
"""

import asyncio
import gc
import json
import os
import platform
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import tenacity

from alpagasus_ray.engines.base import Engine, Request
from alpagasus_ray.errors import AlpagasusError, EngineDied, EngineUnusable, RunLocked, UsageError
from alpagasus_ray.runner import held, preflight, shards
from alpagasus_ray.runner.ask import ask
from alpagasus_ray.runner.board import BoardLink, Loss, Word
from alpagasus_ray.runner.lanes import Lanes, Stopping
from alpagasus_ray.runner.ledger import FLUSH_S, Outcome
from alpagasus_ray.runner.metrics import Metrics
from alpagasus_ray.runner.open_shard import Shard
from alpagasus_ray.runner.shards import Job, Task

REPORT_S, CROWD = 0.5, 250
"""Seconds between two reports of a worker; more where there are more workers than so many, whom one board hears."""
POLL_S = 0.05
EXIT_ENGINE_DIED = 86
STARTS, START_PAUSE_S = 5, 15.0
"""How often an engine is started while others are at work, and seconds in between."""
FLUSH_ATTEMPTS = 5
GARBAGE = 50_000, 10, 100
"""Thresholds of the garbage collector: requests leave few cycles; looking for them as often as by default costs 3%."""
MARKED = 16
"""Rows that are marked on the board at a time, before they are sent; with many in flight, a part of these."""
MARKED_SHARE = 8
DEATHS = 2
"""After so many dead workers a row is set aside."""
T = TypeVar("T")
Waiting = asyncio.Future[Outcome | None]


class Finished(NamedTuple):
    """What became of a task: committed, or why it stopped."""

    shard: str
    stopped: str | None


class Worker:
    """Does tasks; a pool of these is what Ray Data maps over the shards."""

    def __init__(self, jobs: Sequence[Job], board: BoardLink) -> None:
        """The jobs have all but their places in common."""
        self._jobs, self._job, self._board = jobs, jobs[0], board
        self._name = uuid.uuid4().hex[:8]
        self._stop: str | None = None
        self._dying: asyncio.Task[None] | None = None
        self._shards: set[Shard] = set()
        self._ended: list[Shard] = []
        """Shards whose last counts the board has not been told."""
        self._counts: Counter[str] = Counter()
        self._told: Mapping[str, float] = {}
        self._published: Mapping[str, float] = {}
        self._answered = False
        """Whether any worker has had an answer in this call."""
        self._asked: dict[str, Waiting] = {}
        """Requests under way, by key: a row with an equal one waits for its outcome."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._call(self._start())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Do the tasks of one call, one after the other; Ray asks for all of them again where a worker has died."""
        finished = [self._call(self._do(Task(*task))) for task in json.loads(batch["tasks"][0])]
        return {"shard": [task.shard for task in finished], "stopped": [task.stopped or "" for task in finished]}

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        try:
            preflight.take_part(self._job.source, self._job.version)
            engines = await self._open_engines()
        except AlpagasusError as error:  # a node without the key, or without the files of a model
            self._stop = f"{platform.node()}: {error}"
            await self._board.call("stop", self._stop, "usage" if isinstance(error, UsageError) else "failed")
            return
        self._lanes = Lanes(self._name, engines, self._job.terms, self._board)
        self._metrics = Metrics(self._job.home.name)
        # a full garbage collection walks all that the libraries made: 0.13 s in which no request moves, every few seconds.
        # What is there now stays; it need not be looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        # rows that wait for their next attempt stay open, so there are more open than in flight
        self._open = asyncio.Semaphore(2 * self._job.terms.concurrency)
        self._chunk = max(MARKED, self._job.terms.concurrency // MARKED_SHARE) if self._job.paid else 0
        self._feeding, self._reporting = asyncio.Lock(), asyncio.Lock()
        self._background = [asyncio.create_task(self._report_forever()), asyncio.create_task(self._flush_forever())]
        for task in self._background:
            task.add_done_callback(lambda ended: self._end(f"unexpected end of a task: {ended.exception()}"))
        if self._job.lease is not None:
            self._background.append(asyncio.create_task(held.watch(self._job.lease, self._stop_all)))

    async def _open_engines(self) -> Sequence[Engine]:
        """While others are at work a start that fails is tried again: memory may not be free yet, or a node is in trouble."""
        for attempt in range(1, STARTS + 1):
            try:
                return held.while_held(self._job.work.open_engines(), self._job.lease)
            except AlpagasusError:
                word: Word | None = await self._board.call("report", self._name, {}, {}, {})
                if attempt == STARTS or word is None or word.stop is not None or not word.answered:
                    raise
                await asyncio.sleep(START_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    # what it tells, and what it is told

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S * max(1.0, self._job.terms.workers / CROWD))
            await self._report()

    async def _report(self) -> None:
        async with self._reporting:  # two at a time would tell the same twice
            await self._lanes.repay()
            await self._tell()

    async def _tell(self) -> None:
        ended, paused = list(self._ended), self._lanes.pauses()
        shards_now = {shard.name: dict(shard.counts) for shard in (*self._shards, *ended)}
        totals = self._totals()
        news = {key: amount for key, amount in _added(totals, self._told).items() if key not in self._counts}
        word: Word | None = await self._board.call("report", self._name, news, shards_now, paused)
        await self._give_up_if_hopeless()
        if word is None:
            return  # it will be told when the board is back
        self._told = totals
        self._ended = self._ended[len(ended) :]
        self._lanes.told(paused)
        self._answered = self._answered or word.answered or totals.get("requests answered", 0) > 0
        self._lanes.pause(word.pauses)
        if word.stop is not None:
            self._end(word.stop)

    async def _give_up_if_hopeless(self) -> None:
        reason = self._lanes.broken or self._lanes.given_up(self._answered)
        if reason is not None:
            await self._stop_all(reason)

    def _totals(self) -> dict[str, float]:
        """What happened in this worker's life; what is new of it is published as metrics."""
        totals: dict[str, float] = {**self._lanes.counts, **self._counts, "endpoints down": self._lanes.down}
        self._metrics.publish(_added(totals, self._published), self._lanes.in_flight, self._lanes.room)
        self._published = totals
        return totals

    async def _stop_all(self, reason: str) -> None:
        """Let all workers end after the requests they have in flight."""
        self._end(reason)
        await self._board.call("stop", reason)

    def _end(self, reason: str) -> None:
        self._stop = self._stop or reason
        self._lanes.stop()

    async def _flush_forever(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(FLUSH_S)
            flush = asyncio.gather(*(asyncio.to_thread(shard.ledger.flush) for shard in self._shards))
            done, _ = await asyncio.wait([flush], timeout=FLUSH_S)
            if not done:
                self._lanes.hold(True)  # storage may be slow to say that it cannot be written
            try:
                await flush
            except OSError as error:
                failures += 1
                self._lanes.hold(True)
                if failures > FLUSH_ATTEMPTS:
                    await self._stop_all(f"the ledger cannot be written: {error}")
            else:
                failures = 0
                self._lanes.hold(False)

    # a shard

    async def _do(self, task: Task) -> Finished:
        if self._dying is not None:
            await self._dying
        if self._stop is not None:
            return Finished(task.shard, self._stop)
        try:
            if await asyncio.to_thread(shards.is_done, self._jobs[task.job], task.shard):
                return Finished(task.shard, None)  # by a worker that has died since
            return await self._do_shard(await asyncio.to_thread(Shard.open, self._jobs[task.job], task))
        except (OSError, RunLocked) as error:
            reason = f"{task.shard}: {error}"
            await self._stop_all(reason)
            return Finished(task.shard, reason)

    async def _do_shard(self, shard: Shard) -> Finished:
        loss: Loss | None = await self._board.call("begin", shard.name, len(shard.known))
        if self._dying is not None:
            await self._dying
        self._shards.add(shard)
        try:
            await self._ask_all(shard, loss.deaths if loss else {})
        finally:
            try:
                await _stored(shard.ledger.flush)
            finally:
                if self._dying is None:
                    self._shards.discard(shard)
        if self._dying is not None:
            await self._dying
        results = [result for result in shard.results if result is not None]
        if len(results) == len(shard.rows):
            await _stored(partial(shards.commit, shard.job, shard.file, results, shard.ledger))
        self._ended.append(shard)
        await self._report()
        await self._board.call("end", shard.name)
        return Finished(shard.file, None if len(results) == len(shard.rows) else self._stop)

    async def _ask_all(self, shard: Shard, deaths: Mapping[int, int]) -> None:
        """Bring every row of the shard to its result; rows that are not asked about any more, because the stage stops, keep
        none."""
        dead = {place: self._job.work.request(shard.rows[place]) for place in sorted(deaths)}
        suspects = {place: request for place, request in dead.items() if request.key not in shard.known}
        others = [place for place in range(len(shard.rows)) if place not in suspects]
        # one shard feeds the engines at a time: the next one starts when the last row of this one is under way
        async with asyncio.TaskGroup() as group, self._feeding:
            for place, request in suspects.items():
                await self._row_alone(shard, place, request, deaths[place])
            for chunk in _chunks(others, self._chunk or len(others)):
                # made as they are needed: to make those of a whole shard would stop the loop for a tenth of a second
                requests = {place: self._job.work.request(shard.rows[place]) for place in chunk}
                await self._mark(shard, [place for place in chunk if requests[place].key not in shard.known])
                for place, request in requests.items():
                    await self._open.acquire()
                    task = group.create_task(self._row(shard, place, request))
                    task.add_done_callback(lambda _: self._open.release())

    async def _mark(self, shard: Shard, places: Sequence[int]) -> None:
        if places and self._stop is None:
            done, shard.done = shard.done, []
            shard.marked.update(places)
            shard.marked.difference_update(done)
            await self._board.call("under_way", shard.name, places, done)

    async def _row_alone(self, shard: Shard, place: int, request: Request, deaths: int) -> None:
        """A row that may have killed a worker: nothing else is under way while it is, so that there will be no doubt."""
        if deaths >= DEATHS:
            outcome = Outcome(None, f"deadly: {deaths} workers died while they asked this", 0, None)
            self._result(shard, place, request, outcome.after(shard.earlier(request)))
            return
        async with self._lanes.alone(request.key):
            await self._mark(shard, [place])
            await self._row(shard, place, request)

    # a row

    async def _row(self, shard: Shard, place: int, request: Request) -> None:
        outcome = self._known(shard, request)
        if outcome is None and self._stop is None:
            other = self._asked.get(request.key) if self._job.paid else None
            outcome = await (self._shared(shard, place, request, other) if other else self._ask(shard, place, request))
        if outcome is not None:
            self._result(shard, place, request, outcome)

    def _known(self, shard: Shard, request: Request) -> Outcome | None:
        """The outcome that an earlier call, or an earlier row of the shard, has left."""
        if request.key in shard.failed:
            return shard.failed[request.key].shared()
        outcome = shard.known.get(request.key)
        if outcome is None:
            return None
        shard.counts["from ledger"] += 1
        self._counts["ledger"] += 1
        shared = request.key in shard.taken
        shard.taken.add(request.key)
        return outcome.shared() if shared else outcome

    async def _shared(self, shard: Shard, place: int, request: Request, other: Waiting) -> Outcome | None:
        """The outcome of an equal request that is under way."""
        asked = await other
        if asked is None:
            return None
        self._counts["merged"] += 1
        outcome = asked.shared().after(shard.earlier(request))
        if outcome.reply is not None and request.key not in shard.known:  # it was asked for a row of another shard
            self._keep(shard, place, request, outcome)
        return outcome

    async def _ask(self, shard: Shard, place: int, request: Request) -> Outcome | None:
        """Ask the engines; None when the stage stops before there is an outcome."""
        asked = self._asked[request.key] = self._loop.create_future()
        outcome: Outcome | None = None
        earlier = shard.earlier(request)

        def note(attempts: Outcome) -> None:
            if self._job.paid:
                shard.ledger.add(request.key, shard.id_of(place), attempts.after(earlier))

        try:
            tariff, most = self._job.tariff, self._job.max_attempts
            has_failed = earlier.error is not None and earlier.maybe_billed_twice > 0
            outcome = await ask(self._lanes, request, tariff, most, note, has_failed=has_failed)
            outcome = outcome.after(earlier)
        except Stopping:
            pass
        except EngineUnusable as error:
            await self._stop_all(str(error))
        except EngineDied:
            shard.victims.add(place)
            if self._stop is None:
                self._end("the engine died")  # at once: nothing more is marked, and no row is sent after those that it had
                self._dying = self._loop.create_task(self._die())
        finally:
            self._asked.pop(request.key, None)
            asked.set_result(outcome)
        if outcome is not None and outcome.reply is not None and self._job.paid:
            self._keep(shard, place, request, outcome)
        if outcome is None or outcome.reply is not None:
            return outcome
        shard.failed[request.key] = outcome
        return outcome if self._stop is None else None

    async def _die(self) -> None:
        """The engine in this process is dead, and a new process takes over with all that was received: only what the engine had
        is under suspicion of having ended it."""
        while self._lanes.in_flight:  # noqa: ASYNC110 - each of these raises as well
            await asyncio.sleep(POLL_S)
        for shard in tuple(self._shards):
            await _stored(shard.ledger.flush)
            innocent = (shard.marked | set(shard.done)) - shard.victims
            await self._board.call("under_way", shard.name, sorted(shard.victims), sorted(innocent))
        os._exit(EXIT_ENGINE_DIED)

    def _keep(self, shard: Shard, place: int, request: Request, outcome: Outcome) -> None:
        """Into the ledger of the shard, and for its later rows with the same request."""
        shard.ledger.add(request.key, shard.id_of(place), outcome)
        shard.known[request.key] = outcome
        shard.taken.add(request.key)

    def _result(self, shard: Shard, place: int, request: Request, outcome: Outcome) -> None:
        result = self._job.work.result(shard.rows[place], request, outcome)
        shard.results[place] = result
        shard.done.append(place)
        shard.counts["rows"] += 1
        shard.counts[f"status {result['status']}"] += 1
        self._counts[f"status {result['status']}"] += 1
        if result.get("error"):
            self._counts[f"failures {result['error'].partition(':')[0]}"] += 1
        if outcome.error:
            shard.counts[f"reason {outcome.error.partition(':')[0]}"] += 1


async def _stored(write: Callable[[], None]) -> None:
    """Write to storage, which may be away for a moment; `OSError` when it stays away."""
    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(FLUSH_ATTEMPTS),
        wait=tenacity.wait_fixed(FLUSH_S),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            await asyncio.to_thread(write)


def _added(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What counts have grown by."""
    return {key: total - before.get(key, 0) for key, total in now.items() if total != before.get(key, 0)}


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (places[start : start + size] for start in range(0, len(places), size or 1))
