"""A worker's way to its engines: one queue before all endpoints.

A request waits in the queue until some endpoint has room in flight, is not down or paused, and has a permit and the dollars for
it (`supply.py`); then it goes there. Endpoints learn from how requests end. How often a request is tried: `retry.py`.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from alpagasus_ray.engines.base import Engine, Reply
from alpagasus_ray.engines.prices import Need
from alpagasus_ray.errors import EngineError, EngineUnusable, TryAgain
from alpagasus_ray.inference.coordinator import CoordinatorClient
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.endpoint import JITTER, Endpoint, EndpointPool, RequestLimits
from alpagasus_ray.inference.limits import EqualRefusals
from alpagasus_ray.inference.open_rows import OpenRows
from alpagasus_ray.inference.supply import Supply

QUEUE = 4
"""While every server is down so many times the requests that may be in flight may wait: rows from elsewhere to try it with."""


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
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self.endpoints = EndpointPool(engines, limits, self.now)
        self._queue: deque[QueuedRequest] = deque()
        self.open_rows = OpenRows(2 * limits.concurrency)
        self._failing: set[str] = set()
        """Rows that have failed and are not through."""
        # a wrong `extra` field is refused for each row with a 400, and would be paid for by hours of refusals
        self._refusals = EqualRefusals()
        self.gate: int | None = None
        """How many requests may be in flight or dealt with for now, where the first ones are looked at before more are sent."""
        self._dealt_with = 0
        self.supply = Supply(worker, coordinator, limits, self)
        self._only: str | None = None
        """The one row that may be sent, while there is one."""
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopped, self._ended = asyncio.Event(), asyncio.Event()
        self.counts = Counts()
        """What happened, over the worker's life."""
        self.broken: str | None = None
        """Why the queue cannot go on, should a mistake of ours have ended it."""

    def now(self) -> float:
        """Seconds of the event loop."""
        return self._loop.time()

    # for a row

    async def enter(self, row: str, need: Need) -> Endpoint:
        """Wait for an endpoint that takes a request of this row; `answered`, `failed` or `rejected` has to follow."""
        if self._stopped.is_set():
            raise Stopping
        # whoever finds nobody waiting goes at once, without a turn of the event loop; nobody overtakes those who wait
        if not self._queue and self._may_go(row) and (endpoint := self._open_endpoint(need)) is not None:
            self._start(endpoint, need)
            return endpoint
        asked = self.now()
        queued = QueuedRequest(row, need, self._loop.create_future())
        self._queue.append(queued)
        # in an outage rows give their place up, so that rows from elsewhere come in: the probe needs one that is not at fault
        if self.endpoints.all_down and len(self._queue) < QUEUE * self._limits.concurrency:
            self.open_rows.release(row)
        self.dispatch()
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
            # suspects of a dead worker are sent alone: what dies with nothing else in flight has been found
            while self.endpoints.in_flight and not self._stopped.is_set():
                # cleared before the wait and set by every end, so that no end in between is missed
                self._ended.clear()
                await self._ended.wait()
            yield
        finally:
            self._only = None
            self.dispatch()

    def hold(self, hold: bool) -> None:
        """Send nothing for now, or go on: what cannot be kept is not bought."""
        self._held = hold
        self.dispatch()

    def answered(self, endpoint: Endpoint, need: Need, reply: Reply) -> None:
        """The request came back well; where its cost is not known, it counts as the most it could be."""
        endpoint.has_answered(self.now())
        self._end(endpoint, need, (need.usd or 0.0) if reply.cost_usd is None else reply.cost_usd, dispatches=False)
        endpoint.settle_tokens(need, reply, self.now())
        self._dealt_with += 1
        endpoint.window.answered(self.now())
        self.counts.requests["answered"] += 1
        self.counts.tokens["in"] += reply.tokens_in or 0
        self.counts.tokens["out"] += reply.tokens_out or 0
        self.counts.tokens["cached"] += reply.tokens_cached or 0
        self.counts.usd_billed += reply.cost_usd or 0.0
        self.dispatch()

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
        return EngineUnusable(error.category, error.detail) if self._refusals.saw(str(error)) else error

    def unusable(self, endpoint: Endpoint, need: Need, error: EngineUnusable) -> EngineError:
        """No request could succeed here, the server says. The answer is what to raise: as long as any endpoint is open the
        request is tried again, and the last that is closed ends the stage."""
        self._end(endpoint, need, 0.0)
        self.counts.requests["rejected"] += 1
        endpoint.refuses_all(error)
        why_closed = self.endpoints.why_closed()
        if why_closed is None:
            return TryAgain(error.category, error.detail, "refused")
        # with one endpoint its own words are the message; with several all of theirs are
        is_alone = len(list(self.endpoints)) == 1
        return error if is_alone else EngineUnusable(error.category, f"no endpoint is left ({why_closed})")

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
        self.dispatch()

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
            endpoint.breaker.answered()  # it is there, and busy: no outage, and the window learns from it
            endpoint.window.pushed_back(sent, now)
            return
        was_open = endpoint.breaker.is_open
        endpoint.window.troubled(now)
        # while the breaker is open every failure keeps it open, whosever fault it is: no answer has come
        if was_open or not row_fault:
            endpoint.breaker.failed(row, error.cause != "unknown", sent, now)
        if endpoint.breaker.is_open and not was_open:
            endpoint.window.restart()
            self.counts.outages += 1
            if self.endpoints.all_down:
                for queued in itertools.islice(self._queue, QUEUE * self._limits.concurrency):
                    self.open_rows.release(queued.row)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()
        self.supply.stop()
        self._ended.set()
        while self._queue:
            queued = self._queue.popleft()
            if not queued.turn.done():
                queued.turn.set_exception(Stopping())

    def broke(self, reason: str) -> None:
        """A mistake of ours has ended what the queue waits for."""
        self.broken = reason
        self.stop()

    # the queue

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._queue

    def next_needs(self, most: int) -> list[Need]:
        """What the next requests need."""
        waiting = (queued.need for queued in self._queue if not queued.turn.done() and self._may_go(queued.row))
        return list(itertools.islice(waiting, most))

    def dispatch(self) -> None:
        """Send the requests that can go now, in order; see to what the next one lacks."""
        while (queued := self._next()) is not None:
            endpoint = self._open_endpoint(queued.need)
            if endpoint is None:
                self._get_ready_for(queued.need)
                return
            # the next in the queue may be a row that no server takes, and as a probe it would keep a healthy server out of use
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
        fits = found is not None and endpoint.permits(found.need) and not self.supply.budget.is_short(found.need.usd or 0.0)
        return found if fits else None

    def _may_go(self, row: str) -> bool:
        return (
            not self._held
            and self._only in (None, row)
            and (self.gate is None or self.endpoints.in_flight + self._dealt_with < self.gate)
        )

    def _open_endpoint(self, need: Need) -> Endpoint | None:
        """The endpoint that can take the request now."""
        return None if self.supply.budget.is_short(need.usd or 0.0) else self.endpoints.least_loaded(need)

    def _start(self, endpoint: Endpoint, need: Need) -> None:
        endpoint.start(need, self.now())
        if endpoint.low:
            self.supply.fetch_permits(endpoint)
        self.supply.budget.reserve(need.usd or 0.0)

    def _end(self, endpoint: Endpoint, need: Need, cost_usd: float, *, dispatches: bool = True) -> None:
        endpoint.window.in_flight -= 1
        self.supply.budget.settle(need.usd or 0.0, cost_usd)
        self._ended.set()
        if dispatches:
            self._loop.call_soon(self.dispatch)  # not now: what this request teaches its endpoint has to be known first

    def _get_ready_for(self, need: Need) -> None:
        """The next request cannot go: fetch what it lacks, and look again when a pause is over."""
        now = self.now()
        if self.supply.budget.is_short(need.usd or 0.0):
            self.supply.fetch_dollars()
            return
        for endpoint in self.endpoints:
            if endpoint.ready(now):
                self.supply.fetch_permits(endpoint)
        wait_s = self.endpoints.wait_s()
        if wait_s is not None and (self._timer is None or self._timer.when() > now + wait_s):
            if self._timer is not None:
                self._timer.cancel()
            # a millisecond late, or rounding would wake it just before the pause is over
            self._timer = self._loop.call_later(wait_s + 0.001, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.dispatch()
