"""A worker's way to its engines: one queue before all endpoints.

A request waits in the queue until some endpoint has room in flight, is not down or paused, and has a permit and the dollars for
it; then it goes there. Endpoints learn from how requests end. Permits and dollars are fetched from the coordinator for the next
half second; while it is away each worker keeps to its share of the rates, and spends nothing that it has not reserved.
"""

import asyncio
import itertools
import math
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from alpagasus_ray.engines.base import Engine, Reply
from alpagasus_ray.engines.prices import Need
from alpagasus_ray.errors import EngineError, EngineUnusable, TryAgain
from alpagasus_ray.inference.budget_client import BudgetClient
from alpagasus_ray.inference.coordinator import CoordinatorClient, Permits
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.endpoint import SEVERAL, Endpoint, RequestLimits, patience_s
from alpagasus_ray.inference.open_rows import OpenRows

ASK_S = 0.1
"""Shortest time between two requests to the coordinator for the same thing."""
JITTER = 0.1
"""Share by which a pause that a server asks for is stretched at most."""
DOZEN = 12
"""So many equal refusals, and nothing else so far: every row would get this one."""
QUEUE = 4
"""While every server is down so many times the requests that may be in flight may wait: rows from elsewhere to try it with."""
MAY_PASS = ("http 400", "http 401", "http 404")
"""Categories of what every request would get, unless one reply among many is wrong. No money is never an accident."""

NUMBER = re.compile(r"\d+")


class Stopping(Exception):
    """The stage stops: nothing more is sent."""


class QueuedRequest(NamedTuple):
    """A request in the queue."""

    row: str
    need: Need
    turn: "asyncio.Future[Endpoint]"


class Dispatcher:
    """All endpoints of a worker and the queue before them; to be used on one event loop."""

    def __init__(self, worker: str, engines: Sequence[Engine], limits: RequestLimits, coordinator: CoordinatorClient) -> None:
        self._limits, self._coordinator = limits, coordinator
        self._loop = asyncio.get_running_loop()
        self.endpoints = [Endpoint(number, engine, limits) for number, engine in enumerate(engines)]
        self._queue: deque[QueuedRequest] = deque()
        self.open_rows = OpenRows(2 * limits.concurrency)
        self._failing: set[str] = set()
        """Rows that have failed and are not through."""
        self._refusals: Counter[str] = Counter()
        self.gate: int | None = None
        """How many requests may be in flight or dealt with for now, where the first ones are looked at before more are sent."""
        self._dealt_with = 0
        self._budget = BudgetClient(worker, coordinator, capped=limits.capped)
        self._asking = False
        self._only: str | None = None
        """The one row that may be sent, while there is one."""
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped, self._ended = asyncio.Event(), asyncio.Event()
        self.counts = Counts()
        """What happened, over the worker's life."""
        self.broken: str | None = None
        """Why the queue cannot go on, should a mistake of ours have ended it."""

    def now(self) -> float:
        return self._loop.time()

    @property
    def in_flight(self) -> int:
        return sum(endpoint.window.in_flight for endpoint in self.endpoints)

    @property
    def room(self) -> int:
        """Requests that may be in flight."""
        return sum(int(endpoint.window.size) for endpoint in self.endpoints)

    @property
    def down(self) -> int:
        """Endpoints whose server is down or has to be left alone for more than a moment."""
        now = self.now()
        return sum(
            endpoint.closed is not None or endpoint.breaker.is_open or endpoint.paused_until - now > ASK_S
            for endpoint in self.endpoints
        )

    # for a row

    async def enter(self, row: str, need: Need) -> Endpoint:
        """Wait for an endpoint that takes a request of this row; `answered`, `failed` or `rejected` has to follow."""
        if self._stopped.is_set():
            raise Stopping
        if not self._queue and self._may_go(row) and (endpoint := self._open_endpoint(need)) is not None:
            self._start(endpoint, need)
            return endpoint
        asked = self.now()
        queued = QueuedRequest(row, need, self._loop.create_future())
        self._queue.append(queued)
        if self._is_down() and len(self._queue) < QUEUE * self._limits.concurrency:
            self.open_rows.release(row)
        self._dispatch()
        endpoint = await queued.turn
        self.counts.waited_s += self.now() - asked
        return endpoint

    async def sleep(self, seconds: float) -> None:
        """Sleep, unless the stage stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return
        raise Stopping

    @asynccontextmanager
    async def alone(self, row: str) -> AsyncIterator[None]:
        """While the block runs nothing but this row is sent; it begins when nothing else is in flight, or the stage stops."""
        self._only = row
        try:
            while self.in_flight and not self._stopped.is_set():
                self._ended.clear()
                await self._ended.wait()
            yield
        finally:
            self._only = None
            self._dispatch()

    def hold(self, hold: bool) -> None:
        """Send nothing for now, or go on: what cannot be kept is not bought."""
        self._held = hold
        self._dispatch()

    def answered(self, endpoint: Endpoint, need: Need, reply: Reply) -> None:
        """The request came back well; where its cost is not known, it counts as the most it could be."""
        endpoint.has_answered(self.now())
        self._end(endpoint, need, (need.usd or 0.0) if reply.cost_usd is None else reply.cost_usd)
        endpoint.settle_tokens(need, reply, self.now())
        self._dealt_with += 1
        endpoint.window.answered(self.now())
        self.counts.requests["answered"] += 1
        self.counts.tokens["in"] += reply.tokens_in or 0
        self.counts.tokens["out"] += reply.tokens_out or 0
        self.counts.tokens["cached"] += reply.tokens_cached or 0
        self.counts.usd_billed += reply.cost_usd or 0.0

    def rejected(self, endpoint: Endpoint, need: Need) -> None:
        """The server works, and will not take this request."""
        endpoint.has_answered(self.now())
        self._end(endpoint, need, 0.0)
        self.counts.requests["rejected"] += 1
        self._dealt_with += 1

    def refused(self, endpoint: Endpoint, need: Need, error: EngineError) -> EngineError:
        """The same; the answer is what to raise: where the first requests are all refused in the same words, every other one
        would be."""
        self.rejected(endpoint, need)
        if not error.category.startswith("http ") or self.counts.requests["answered"]:
            return error
        words = NUMBER.sub("", str(error))
        self._refusals[words] += 1
        if self._refusals[words] < DOZEN:
            return error
        return EngineUnusable(error.category, error.detail)

    def unusable(self, endpoint: Endpoint, need: Need, error: EngineUnusable) -> EngineError:
        """No request could succeed here, the server says. The answer is what to raise: one such reply among many is tried
        again, several in a row close the endpoint, and the last endpoint that is closed ends the stage."""
        self._end(endpoint, need, 0.0)
        self.counts.requests["rejected"] += 1
        endpoint.refused_all += 1
        endpoint.trouble = str(error)
        has_answered = endpoint.answered_at > -math.inf
        if not (has_answered and error.category in MAY_PASS and endpoint.refused_all < SEVERAL):
            endpoint.closed = endpoint.closed or str(error)
        if any(other.closed is None for other in self.endpoints):
            return TryAgain(error.category, error.detail, "refused")
        if len(self.endpoints) == 1:
            return error
        told = "; ".join(f"{other.engine.address}: {other.closed}" for other in self.endpoints)
        return EngineUnusable(error.category, f"no endpoint is left ({told})")

    def broke_off(self, endpoint: Endpoint, need: Need) -> None:
        """The request ended in a way that nobody foresaw, or was cancelled: it may have been billed."""
        self._end(endpoint, need, need.usd or 0.0)
        self.counts.usd_maybe_billed += need.usd or 0.0
        self.counts.requests["unknown"] += 1

    def through(self, row: str) -> None:
        """The row needs no place any more."""
        self._failing.discard(row)
        self.open_rows.release(row)

    def open_gate(self) -> None:
        """The first replies were looked at: go on."""
        self.gate = None
        self._dispatch()

    def failed(self, endpoint: Endpoint, need: Need, error: TryAgain, row: str, sent: float, *, row_fault: bool) -> None:
        """The request got no answer; the endpoint draws its conclusions, unless it is likely the row's own fault."""
        now = self.now()
        endpoint.trouble = str(error)
        self._failing.add(row)
        self.open_rows.release(row)  # it waits now, and others take its place
        self._end(endpoint, need, (need.usd or 0.0) if error.cause == "unknown" else 0.0)
        if error.cause == "unknown":
            self.counts.usd_maybe_billed += need.usd or 0.0
        self.counts.requests[error.cause] += 1
        if error.retry_after_s:
            # later by up to a tenth, so that not all workers are back at once
            wish_s = endpoint.patience_with(error.retry_after_s, self._limits.max_outage_s)
            endpoint.pause(now + wish_s * (1 + JITTER * ((hash(row) % 97) / 97)))
        if error.category == "http 429":
            endpoint.breaker.answered()  # it is there, and busy
            endpoint.window.pushed_back(sent, now)
            return
        was_open = endpoint.breaker.is_open
        endpoint.window.troubled(now)
        if was_open or not row_fault:
            endpoint.breaker.failed(row, error.cause != "unknown", sent, now)
        if endpoint.breaker.is_open and not was_open:
            endpoint.window.restart()
            self.counts.outages += 1
            if self._is_down():
                for queued in itertools.islice(self._queue, QUEUE * self._limits.concurrency):
                    self.open_rows.release(queued.row)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()
        self._ended.set()
        while self._queue:
            queued = self._queue.popleft()
            if not queued.turn.done():
                queued.turn.set_exception(Stopping())

    # for the worker

    def pauses(self) -> dict[int, float]:
        """Seconds for which endpoints still have to be left alone because their server said so, of pauses not told yet."""
        now = self.now()
        return {
            endpoint.number: endpoint.paused_until - now
            for endpoint in self.endpoints
            if endpoint.paused_until > max(now, endpoint.told_until)
        }

    def told(self, pauses: dict[int, float]) -> None:
        """The other workers will learn of these."""
        for number, seconds in pauses.items():
            endpoint = self.endpoints[number]
            endpoint.told_until = max(endpoint.told_until, min(endpoint.paused_until, self.now() + seconds))

    def pause(self, pauses: dict[int, float]) -> None:
        """Take over what other workers were told."""
        now = self.now()
        for number, seconds in pauses.items():
            endpoint = self.endpoints[number]
            if now + seconds > endpoint.paused_until:
                endpoint.pause(now + seconds)
                endpoint.told_until = endpoint.paused_until

    def given_up(self, ever_answered: bool) -> str | None:
        """Why there is no more hope of any endpoint, or None."""
        now = self.now()
        patience = patience_s(self._limits.max_outage_s, ever_answered=ever_answered)
        reasons = []
        for endpoint in self.endpoints:
            if endpoint.closed is not None:
                reasons.append(f"{endpoint.engine.address}: {endpoint.closed}")
                continue
            down_s = now - endpoint.breaker.down_since if endpoint.breaker.down_since is not None else 0.0
            if down_s > patience:
                reasons.append(f"{endpoint.engine.address} has not answered for {down_s:.0f} s ({endpoint.trouble})")
            elif endpoint.paused_until - now > self._limits.max_outage_s * (1 + JITTER):
                wait = endpoint.paused_until - now
                reasons.append(f"{endpoint.engine.address} wants to be left alone for {wait:.0f} s (Retry-After)")
        return "; ".join(reasons) if len(reasons) == len(self.endpoints) else None

    async def release_dollars(self) -> None:
        """Tell the coordinator what was settled, and give back dollars that nobody waits for."""
        if self._budget.can_release and not self._queue:
            await self._budget.release(self.now())
            self._dispatch()  # what came meanwhile could not borrow

    # the queue

    def _dispatch(self) -> None:
        while (queued := self._next()) is not None:
            endpoint = self._open_endpoint(queued.need)
            if endpoint is None:
                self._see_to_supplies(queued.need)
                return
            if endpoint.breaker.is_open:
                queued = self._probe(endpoint) or queued
            self._queue.remove(queued)
            self._start(endpoint, queued.need)
            queued.turn.set_result(endpoint)

    def _next(self) -> QueuedRequest | None:
        """Whose turn it is."""
        while self._queue and self._queue[0].turn.done():  # its row was cancelled
            self._queue.popleft()
        return next((queued for queued in self._queue if self._may_go(queued.row)), None)

    def _probe(self, endpoint: Endpoint) -> QueuedRequest | None:
        """The row to try a server with that is down: one that has not failed, from as far behind those that have as there is,
        because rows that no server takes often lie side by side."""
        fresh = (
            queued
            for queued in reversed(self._queue)
            if not queued.turn.done() and queued.row not in self._failing and self._may_go(queued.row)
        )
        found = next(fresh, None)
        fits = found is not None and endpoint.permits(found.need) and not self._budget.is_short(found.need.usd or 0.0)
        return found if fits else None

    def _is_down(self) -> bool:
        """Whether there is no server that works."""
        return all(endpoint.closed is not None or endpoint.breaker.is_open for endpoint in self.endpoints)

    def _first(self, most: int) -> list[Need]:
        """What the next requests need."""
        return list(itertools.islice((queued.need for queued in self._queue if self._may_go(queued.row)), most))

    def _may_go(self, row: str) -> bool:
        return (
            not self._held
            and self._only in (None, row)
            and (self.gate is None or self.in_flight + self._dealt_with < self.gate)
        )

    def _open_endpoint(self, need: Need) -> Endpoint | None:
        """The least loaded endpoint that can take the request now."""
        if self._budget.is_short(need.usd or 0.0):
            return None
        now = self.now()
        fit = [endpoint for endpoint in self.endpoints if endpoint.ready(now) and endpoint.permits(need)]
        return min(fit, key=lambda endpoint: endpoint.window.in_flight / endpoint.window.size, default=None)

    def _start(self, endpoint: Endpoint, need: Need) -> None:
        endpoint.start(need, self.now())
        if endpoint.low:
            self._fetch(endpoint)
        self._budget.reserve(need.usd or 0.0)

    def _end(self, endpoint: Endpoint, need: Need, cost_usd: float) -> None:
        endpoint.window.in_flight -= 1
        self._budget.settle(need.usd or 0.0, cost_usd)
        self._ended.set()
        self._loop.call_soon(self._dispatch)

    def _see_to_supplies(self, need: Need) -> None:
        """The next request cannot go: ask for what is missing, and look again when a pause is over."""
        now = self.now()
        if self._budget.is_short(need.usd or 0.0):
            if not self._budget.is_fetching and not self._asking:
                self._asking = True
                self._spawn(self._fetch_dollars())
            return
        waits = []
        for endpoint in self.endpoints:
            if endpoint.ready(now):
                self._fetch(endpoint)
            elif endpoint.window.room and endpoint.closed is None:
                waits.append(endpoint.wait(now))
        if waits and (self._timer is None or self._timer.when() > now + min(waits)):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(min(waits) + 0.001, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch()

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken = f"unexpected {type(error).__name__}: {error}"
            self.stop()

    def _fetch(self, endpoint: Endpoint) -> None:
        if not endpoint.asking and not self._stopped.is_set():
            endpoint.asking = True
            self._spawn(self._fetch_permits(endpoint))

    async def _fetch_permits(self, endpoint: Endpoint) -> None:
        """Fetch permits, and go on until the next request has its own."""
        try:
            while True:
                wait_s = await self._fetch_once(endpoint)
                self._dispatch()
                queued = self._next()
                if queued is None or endpoint.permits(queued.need) or self._stopped.is_set():
                    break
                await asyncio.sleep(wait_s)
        finally:
            endpoint.asking = False
        self._dispatch()

    async def _fetch_once(self, endpoint: Endpoint) -> float:
        """The answer is after how many seconds to ask again, should it not be enough."""
        now = self.now()
        endpoint.requests.drop_old(now)
        endpoint.tokens.drop_old(now)
        first = self._first(int(endpoint.window.size))
        requests = endpoint.requests.order(len(first), now)
        tokens = endpoint.tokens.order(sum(need.tokens for need in first), now)
        permits = await self._permits(endpoint, requests, tokens)
        endpoint.requests.fill(permits.requests, requests, now)
        endpoint.tokens.fill(permits.tokens, tokens, now)
        return max(ASK_S, permits.wait_s if permits.requests + permits.tokens == 0 else 0.0)

    async def _permits(self, endpoint: Endpoint, requests: float, tokens: float) -> Permits:
        permits: Permits | None = await self._coordinator.call(
            "permits", endpoint.number, requests, tokens, endpoint.engine.stated
        )
        if permits is None:
            now = self.now()
            if not endpoint.on_its_own:
                endpoint.rely_on_itself(now)
            first, second = endpoint.own_share
            granted = first.take(requests, now) if first else requests
            return Permits(granted, second.take(tokens, now) if second else tokens, ASK_S)
        endpoint.on_its_own = False
        return permits

    async def _fetch_dollars(self) -> None:
        try:
            while (first := self._first(self._limits.concurrency)) and not self._stopped.is_set():
                needs = [need.usd or 0.0 for need in first]
                if not self._budget.is_short(needs[0]):
                    break
                await self._budget.fetch(sum(needs), needs[0], self.now())
                if self._budget.is_short(needs[0]):
                    await asyncio.sleep(ASK_S)
        finally:
            self._asking = False
        self._dispatch()
