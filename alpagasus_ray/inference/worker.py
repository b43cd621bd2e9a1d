"""A worker: it lives in a Ray actor, takes shards one call at a time, reports to the coordinator, and stops when that says so.

Calls come in threads; all requests run on one event loop. Shards overlap, so that the engines never drain while the last
rows of one come in. How a shard is done is in `shard_run.py`.
"""

import asyncio
import gc
import json
import os
import platform
import sys
import threading
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from alpagasus_ray.engines.base import AtOnce, Closing, Engine, Request
from alpagasus_ray.errors import AlpagasusError, RunLocked, StageFailed, UsageError
from alpagasus_ray.inference import lock_guard, shards
from alpagasus_ray.inference.coordinator import CoordinatorClient, Directive
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.cut_prompts import CutPrompts
from alpagasus_ray.inference.dispatcher import Dispatcher
from alpagasus_ray.inference.first_replies import ROOM, FirstLook
from alpagasus_ray.inference.ledger import FLUSH_S, Outcome
from alpagasus_ray.inference.reporter import Reporter
from alpagasus_ray.inference.retry import FLUSH_ATTEMPTS
from alpagasus_ray.inference.shard_run import ShardRun
from alpagasus_ray.inference.spec import Job, Task
from alpagasus_ray.raycluster import worker_process

REPORT_S, CROWD = 0.5, 250
"""Seconds between two reports of a worker; more where more workers than so many share the coordinator."""
POLL_S = 0.05
EXIT_ENGINE_DIED = 86
STARTS, START_PAUSE_S = 5, 15.0
"""How often an engine is started while others are at work, and seconds in between."""
GARBAGE = 50_000, 10, 100
"""Thresholds of the garbage collector: requests leave few cycles; looking for them as often as by default costs 3%."""
SWITCH_S = 0.0005
"""Seconds for which another thread keeps the interpreter while the event loop waits for it. By default it is ten times as long,
and while a shard is read or committed each wait for the network would end so much later."""
ERROR_TEXTS = 50
"""Different texts of failures that a worker counts."""
T = TypeVar("T")


class Finished(NamedTuple):
    """What became of a task: committed, or why it stopped."""

    shard: str
    stopped: str | None


class Worker:
    """Does tasks; a pool of these is what Ray Data maps over the shards."""

    def __init__(self, jobs: Sequence[Job], coordinator: CoordinatorClient) -> None:
        """The jobs have all but their places in common."""
        self._jobs, self._job, self.coordinator = jobs, jobs[0], coordinator
        self._name = uuid.uuid4().hex[:8]
        self.stopped: str | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._engines: Sequence[Engine] = ()
        self._dying: asyncio.Task[None] | None = None
        self._open: set[ShardRun] = set()
        """Shards whose ledgers are written and whose rows are sent."""
        usable = self._job.spec.usable
        self._first = FirstLook(usable) if usable else None
        self._cut = CutPrompts()
        self.in_flight: dict[str, asyncio.Future[Outcome | None]] = {}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._call(self._start())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Do the tasks of one call, one after the other; Ray asks for all of them again where a worker has died."""
        finished = [self._call(self._do(Task(*task))) for task in json.loads(batch["tasks"][0])]
        return {"shard": [task.shard for task in finished], "stopped": [task.stopped or "" for task in finished]}

    def close(self) -> None:
        """End, once no call is under way: for a worker whose process lives on."""
        self._call(self._end_background())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end_background(self) -> None:
        # those of the supply too, which may be fetching dollars or permits for requests that wait no more
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for engine in self._engines:
            if isinstance(engine, Closing):
                await engine.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # its start

    async def _start(self) -> None:
        try:
            worker_process.take_part(self._job.source, self._job.version)
            engines = await self._open_engines()
        except AlpagasusError as error:  # a node without the key, or without the files of a model
            self.stopped = f"{platform.node()}: {error}"
            await self.coordinator.call("stop", self.stopped, "usage" if isinstance(error, UsageError) else "failed")
            return
        self.dispatcher = Dispatcher(self._name, engines, self._job.spec.limits, self.coordinator)
        self.dispatcher.gate = ROOM if self._first and self._job.spec.limits.adaptive else None
        self._reporter = Reporter(self._name, self.coordinator, self.dispatcher, self._job.home.name)
        # a full garbage collection walks all that the libraries made: 0.13 s in which no request moves, every few seconds.
        # What is there now stays; it need not be looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        sys.setswitchinterval(SWITCH_S)
        self.feeding = asyncio.Lock()
        self._background = [asyncio.create_task(self._report_forever()), asyncio.create_task(self._flush_forever())]
        for task in self._background:
            task.add_done_callback(self._background_ended)
        if self._job.lease is not None:
            self._background.append(asyncio.create_task(lock_guard.watch(self._job.lease, self.stop_all)))

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._end(f"unexpected end of a task: {task.exception()}")

    async def _open_engines(self) -> Sequence[Engine]:
        """While others are at work a start that fails is tried again: memory may not be free yet, or a node is in trouble. Not
        the retry rule: a start takes minutes, and where nobody is at work its error is most likely the recipe's."""
        for attempt in range(1, STARTS + 1):
            try:
                self._engines = self._job.work.open_engines()
                return lock_guard.while_held(self._engines, self._job.lease)
            except AlpagasusError:
                directive: Directive | None = await self.coordinator.call("report", self._name, Counts(), {}, {})
                if attempt == STARTS or directive is None or directive.stop is not None or not directive.answered:
                    raise
                await asyncio.sleep(START_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    # reports, and the word to stop

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S * max(1.0, self._job.spec.limits.workers / CROWD))
            await self._report()

    async def _report(self) -> None:
        reason = await self._reporter.report()
        await self._give_up_if_hopeless()
        if reason is not None:
            self._end(reason)

    async def _give_up_if_hopeless(self) -> None:
        reason = self.dispatcher.broken or self.dispatcher.endpoints.why_hopeless(ever_answered=self._reporter.any_answer)
        if reason is not None:
            await self.stop_all(reason)

    async def stop_all(self, reason: str) -> None:
        """Let all workers end after the requests they have in flight."""
        self._end(reason)
        await self.coordinator.call("stop", reason)

    def _end(self, reason: str) -> None:
        self.stopped = self.stopped or reason
        self.dispatcher.stop()

    async def _flush_forever(self) -> None:
        """Keep ledgers on storage; while they cannot be written nothing is sent, and in the end the stage stops."""
        failures = 0
        while True:
            await asyncio.sleep(FLUSH_S)
            flush = asyncio.gather(*(asyncio.to_thread(shard.ledger.flush) for shard in self._open))
            done, _ = await asyncio.wait([flush], timeout=FLUSH_S)
            if not done:
                self.dispatcher.hold(True)  # storage may be slow to say that it cannot be written
            try:
                await flush
            except OSError as error:
                failures += 1
                self.dispatcher.hold(True)
                if failures > FLUSH_ATTEMPTS:
                    await self.stop_all(f"the ledger cannot be written: {error}")
            else:
                failures = 0
                self.dispatcher.hold(False)

    # shards

    async def _do(self, task: Task) -> Finished:
        await self._end_if_dying()
        if self.stopped is not None:
            return Finished(task.shard, self.stopped)
        job = self._jobs[task.job]
        try:
            if await asyncio.to_thread(shards.is_done, job, task.shard):
                return Finished(task.shard, None)  # by a worker that has died since
            return await self._do_shard(await asyncio.to_thread(ShardRun.open, self, job, task))
        except (OSError, StageFailed, RunLocked) as error:  # the second tells of a shard that is not as it was written
            reason = f"{task.shard}: {error}"
            await self.stop_all(reason)
            return Finished(task.shard, reason)

    async def _do_shard(self, shard: ShardRun) -> Finished:
        deaths = await shard.begin()
        await self._end_if_dying()
        self._open.add(shard)
        self._reporter.follow(shard)
        try:
            engine = self._engines[0]
            await (asyncio.to_thread(shard.answer_at_once, engine) if isinstance(engine, AtOnce) else shard.ask_all(deaths))
        finally:
            try:
                await shard.save()
            finally:
                if self._dying is None:
                    self._open.discard(shard)
        await self._end_if_dying()
        if shard.is_complete:
            await shard.commit()
        shard.is_over = True
        await self._report()
        await self.coordinator.call("end_shard", shard.name)
        return Finished(shard.file, None if shard.is_complete else self.stopped)

    # its end, where the engine in this process dies

    def engine_died(self) -> None:
        """End at once: nothing more is marked, and no row is sent after those that the engine had."""
        if self.stopped is None:
            self._end("the engine died")
            self._dying = self._loop.create_task(self._die())

    async def _end_if_dying(self) -> None:
        if self._dying is not None:
            await self._dying

    async def _die(self) -> None:
        """A new process takes over with all that was received; only what the engine had is suspected of having ended it."""
        while self.dispatcher.endpoints.in_flight:  # noqa: ASYNC110 - each of these raises as well
            await asyncio.sleep(POLL_S)
        for shard in tuple(self._open):
            await shard.leave_suspects()
        os._exit(EXIT_ENGINE_DIED)

    # what rows come to

    def failed(self, error: str) -> None:
        """Count what a failure says; the driver tells the commonest."""
        texts = self.dispatcher.counts.error_texts
        if error in texts or len(texts) < ERROR_TEXTS:
            texts[error] += 1

    def look_at(self, request: Request, outcome: Outcome, result: Mapping[str, Any]) -> None:
        """Stop where the first results are of no use; tell where prompts are cut."""
        reply = outcome.reply
        cut = self._cut.saw(request.messages, reply.tokens_in) if reply and outcome.attempts else None
        if cut is not None:
            self._spawn(self.coordinator.call("note", "cut prompts", cut))
        if self._first is None or self.stopped is not None:
            return
        reason = self._first.saw(result)
        if reason is not None:
            self._spawn(self.stop_all(reason))
            self._end(reason)
        elif self._first.is_over and self.dispatcher.gate is not None:
            self.dispatcher.open_gate()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
