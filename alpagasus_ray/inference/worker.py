"""A worker: it lives in a Ray actor, takes shards one call at a time, and asks for the rows that have no reply yet.

Calls come in threads; all requests run on one event loop. Two shards overlap, so that the engines never drain while the last
rows of one come in. Where requests cost money, rows are marked in the ledger before they are sent, so that whatever ends this
process, what was under way is known to have been. Rows are marked on the board as well: if the worker dies, its successor sends
the marked ones alone, one at a time, and sets aside the one over which a worker has died twice.
"""

import asyncio
import gc
import json
import math
import os
import platform
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import tenacity

from alpagasus_ray.engines.base import Engine, Request
from alpagasus_ray.engines.model_names import is_same_model
from alpagasus_ray.errors import UNREADABLE, AlpagasusError, EngineDied, EngineUnusable, RunLocked, StageFailed, UsageError
from alpagasus_ray.inference import lock_guard, shards
from alpagasus_ray.inference.coordinator import SAID, BoardLink, Loss, Word
from alpagasus_ray.inference.cut_prompts import CutPrompts
from alpagasus_ray.inference.dispatcher import Lanes, Stopping
from alpagasus_ray.inference.first_replies import ROOM, FirstLook
from alpagasus_ray.inference.ledger import FLUSH_S, Outcome
from alpagasus_ray.inference.metrics import Metrics
from alpagasus_ray.inference.open_shard import Shard
from alpagasus_ray.inference.retry import Books, ask
from alpagasus_ray.inference.spec import Job, Task
from alpagasus_ray.raycluster import preflight

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
REMOTE_BLOCK = 4
"""So many times as many rows are marked in the ledger at a time where a write to storage takes long."""
DEATHS = 2
"""After so many dead workers a row is set aside."""
MANY_ROWS = 64
"""From so many rows on a shard is asked about in an order of its own."""
GOLDEN = 0.6180339887
SENTENCES = 50
"""Different ones that failures say that a worker counts."""
UNDER_WAY = Outcome(None, None, 1, None, 1)
"""A request that is sent, of which nothing is known."""
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
        self._telling: set[asyncio.Task[Any]] = set()
        self._dying: asyncio.Task[None] | None = None
        self._shards: set[Shard] = set()
        self._ended: list[Shard] = []
        """Shards whose last counts the board has not been told."""
        self._counts: Counter[str] = Counter()
        self._told: Mapping[str, float] = {}
        self._published: Mapping[str, float] = {}
        self._answered = False
        """Whether any worker has had an answer in this call."""
        usable = self._job.spec.usable
        self._first = FirstLook(usable) if usable else None
        self._cut = CutPrompts()
        self._sentences: set[str] = set()
        """What failures say, of which the commonest is told."""
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
        self._lanes = Lanes(self._name, engines, self._job.spec.limits, self._board)
        self._lanes.gate = ROOM if self._first and self._job.spec.limits.adaptive else None
        self._metrics = Metrics(self._job.home.name)
        # a full garbage collection walks all that the libraries made: 0.13 s in which no request moves, every few seconds.
        # What is there now stays; it need not be looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        self._chunk = max(MARKED, self._job.spec.limits.concurrency // MARKED_SHARE) if self._job.spec.paid else 0
        self._block = self._chunk * (1 if self._job.home.storage.is_local else REMOTE_BLOCK)
        self._feeding, self._reporting = asyncio.Lock(), asyncio.Lock()
        self._background = [asyncio.create_task(self._report_forever()), asyncio.create_task(self._flush_forever())]
        for task in self._background:
            task.add_done_callback(lambda ended: self._end(f"unexpected end of a task: {ended.exception()}"))
        if self._job.lease is not None:
            self._background.append(asyncio.create_task(lock_guard.watch(self._job.lease, self._stop_all)))

    async def _open_engines(self) -> Sequence[Engine]:
        """While others are at work a start that fails is tried again: memory may not be free yet, or a node is in trouble."""
        for attempt in range(1, STARTS + 1):
            try:
                return lock_guard.while_held(self._job.work.open_engines(), self._job.lease)
            except AlpagasusError:
                word: Word | None = await self._board.call("report", self._name, {}, {}, {})
                if attempt == STARTS or word is None or word.stop is not None or not word.answered:
                    raise
                await asyncio.sleep(START_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    # what it tells, and what it is told

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S * max(1.0, self._job.spec.limits.workers / CROWD))
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
        except (OSError, StageFailed, RunLocked) as error:  # the second tells of a shard that is not as it was written
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
                await _stored(shard.ledger.delete if shard.is_blank else shard.ledger.flush)
            finally:
                if self._dying is None:
                    self._shards.discard(shard)
        if self._dying is not None:
            await self._dying
        results = [result for result in shard.results if result is not None]
        if len(results) == len(shard.rows):
            await self._commit(shard, results)
        self._ended.append(shard)
        await self._report()
        await self._board.call("end", shard.name)
        return Finished(shard.file, None if len(results) == len(shard.rows) else self._stop)

    async def _commit(self, shard: Shard, results: list[dict[str, Any]]) -> None:
        """Write the shard's output; a row that no file can hold is set aside, and costs the others nothing."""
        commit = partial(shards.commit, shard.job, shard.file, ledger=shard.ledger)
        try:
            await _stored(partial(commit, results=results))
        except (pa.ArrowException, *UNREADABLE):
            wrong = await asyncio.to_thread(shards.unwritable, results, shard.job.work.schema)
            if not wrong:
                raise
            for place, reason in wrong.items():
                self._set_aside(shard, place, f"malformed reply: it cannot be written down ({reason})")
            await _stored(partial(commit, results=[result for result in shard.results if result is not None]))

    async def _ask_all(self, shard: Shard, deaths: Mapping[int, int]) -> None:
        """Bring every row of the shard to its result; rows that are not asked about any more, because the stage stops, keep
        none."""
        dead = {place: self._job.work.request(shard.rows[place]) for place in sorted(deaths)}
        suspects = {place: request for place, request in dead.items() if request.key not in shard.known}
        many = self._job.spec.limits.adaptive and len(shard.rows) >= MANY_ROWS
        order = scattered(len(shard.rows)) if many else range(len(shard.rows))
        others = [place for place in order if place not in suspects]
        # one shard feeds the engines at a time: the next one starts when the last row of this one is under way
        async with asyncio.TaskGroup() as group, self._feeding:
            for place, request in suspects.items():
                await self._row_alone(shard, place, request, deaths[place])
            for block in _chunks(others, self._block or len(others)):
                # made as they are needed: to make those of a whole shard would stop the loop for a tenth of a second
                requests = {place: self._job.work.request(shard.rows[place]) for place in block}
                await self._write_ahead(shard, requests)
                for chunk in _chunks(block, self._chunk or len(block)):
                    await self._mark(shard, [place for place in chunk if requests[place].key not in shard.known])
                    for place in chunk:
                        await self._lanes.places.take(requests[place].key)
                        task = group.create_task(self._row(shard, place, requests[place]))
                        task.add_done_callback(partial(self._through, requests[place].key))

    def _through(self, row: str, _: asyncio.Task[None]) -> None:
        self._lanes.through(row)

    async def _write_ahead(self, shard: Shard, requests: Mapping[int, Request]) -> None:
        """Write down the rows that are sent next as asked without an answer, for as long as nothing else is known of them."""
        if not self._job.spec.is_billed or self._stop is not None:
            return
        for place, request in requests.items():
            if request.key not in shard.known and request.key not in shard.asked and request.key not in shard.ahead:
                before = shard.ahead[request.key] = shard.waiting(request)
                shard.ledger.add(request.key, shard.id_of(place), UNDER_WAY.after(before))
        await self._flushed(shard)

    async def _flushed(self, shard: Shard) -> None:
        """What cannot be written down is not sent: then the stage stops."""
        try:
            await _stored(shard.ledger.flush)
        except OSError as error:
            await self._stop_all(f"the ledger cannot be written: {error}")

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
            await self._write_ahead(shard, {place: request})
            await self._mark(shard, [place])
            await self._row(shard, place, request)

    # a row

    async def _row(self, shard: Shard, place: int, request: Request) -> None:
        outcome = self._known(shard, request)
        if outcome is None and self._stop is None:
            other = self._asked.get(request.key) if self._job.spec.paid else None
            outcome = await (self._shared(shard, place, request, other) if other else self._ask(shard, place, request))
        before = shard.ahead.pop(request.key, None)
        if before is not None and (outcome is None or outcome.reply is None):
            shard.ledger.add(request.key, shard.id_of(place), before)  # it was marked, and not sent for this shard
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
        shard.ahead.pop(request.key, None)
        shard.asked.add(request.key)

        def note(attempts: Outcome) -> None:
            if self._job.spec.paid:
                shard.ledger.add(request.key, shard.id_of(place), attempts.after(earlier))

        async def mark(attempts: Outcome) -> None:
            note(attempts)
            await self._flushed(shard)

        try:
            tariff, most = self._job.spec.tariff, self._job.spec.max_attempts
            has_failed = earlier.error is not None and earlier.maybe_billed_twice > 0
            books = Books(note, mark if self._job.spec.is_billed else None)
            outcome = await ask(self._lanes, request, tariff, most, books, has_failed=has_failed)
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
        if outcome is not None and outcome.reply is not None and self._job.spec.paid:
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
        asked, model = self._job.spec.model, outcome.reply.model if outcome.reply else None
        if asked is not None and model is not None and not is_same_model(asked, model):
            shard.counts["answered by another model"] += 1
        shard.ledger.add(request.key, shard.id_of(place), outcome)
        shard.known[request.key] = outcome
        shard.taken.add(request.key)

    def _result(self, shard: Shard, place: int, request: Request, outcome: Outcome) -> None:
        try:
            result = self._job.work.result(shard.rows[place], request, outcome)
        except UNREADABLE as error:  # whatever a judge writes costs its row only
            if outcome.reply is None:
                raise
            reason = f"malformed reply: reading it raised {type(error).__name__}: {error}"
            outcome = outcome._replace(reply=None, error=reason)
            result = self._job.work.result(shard.rows[place], request, outcome)
        shard.results[place] = result
        shard.done.append(place)
        shard.counts["rows"] += 1
        self._count(shard, result, 1)
        if result.get("error"):
            self._counts[f"failures {result['error'].partition(':')[0]}"] += 1
        if outcome.error:
            shard.counts[f"reason {outcome.error.partition(':')[0]}"] += 1
            self._remember(outcome.error)
        self._look_at(request, outcome, result)

    def _set_aside(self, shard: Shard, place: int, reason: str) -> None:
        """Put a failure in place of a result."""
        before = shard.results[place]
        assert before is not None, "only results are written"
        self._count(shard, before, -1)
        request = self._job.work.request(shard.rows[place])
        known = Outcome(None, reason, before.get("attempts") or 0, None, before.get("maybe_billed_twice") or 0)
        shard.results[place] = result = self._job.work.result(shard.rows[place], request, known)
        self._count(shard, result, 1)
        shard.counts["reason malformed reply"] += 1
        self._remember(reason)

    def _count(self, shard: Shard, result: Mapping[str, Any], rows: int) -> None:
        shard.counts[f"status {result['status']}"] += rows
        self._counts[f"status {result['status']}"] += rows

    def _remember(self, error: str) -> None:
        """Count what a failure says; the driver tells the commonest."""
        if error in self._sentences or len(self._sentences) < SENTENCES:
            self._sentences.add(error)
            self._lanes.counts[f"{SAID}{error}"] += 1

    def _look_at(self, request: Request, outcome: Outcome, result: Mapping[str, Any]) -> None:
        """Stop where the first results are of no use; tell where prompts are cut."""
        reply = outcome.reply
        cut = self._cut.saw(request.messages, reply.tokens_in) if reply and outcome.attempts else None
        if cut is not None:
            self._spawn(self._board.call("note", "cut prompts", cut))
        if self._first is None or self._stop is not None:
            return
        reason = self._first.saw(result)
        if reason is not None:
            self._spawn(self._stop_all(reason))
            self._end(reason)
        elif self._first.is_over and self._lanes.gate is not None:
            self._lanes.open_gate()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


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


def scattered(count: int) -> Sequence[int]:
    """All places of so many, each far from the one before: rows that no server takes often lie side by side, and asked one
    after the other they would look like an outage. Steps of the golden ratio spread the most evenly (Knuth, The Art of Computer
    Programming 3, section 6.4)."""
    step = max(1, round(count * GOLDEN))
    while math.gcd(step, count) > 1:
        step += 1
    return [place * step % count for place in range(count)]


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (places[start : start + size] for start in range(0, len(places), size or 1))
