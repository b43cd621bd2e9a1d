"""A worker's way to its engines: one lane for each endpoint, one queue before all of them.

A request waits in the queue until some lane has room in flight, is not down or paused, and has a permit and the dollars for
it; then it goes there. Lanes learn from how requests end. Permits and dollars come from the board in stocks for the next
half second; while the board is away each worker keeps to its share of the rates, and spends nothing it has not borrowed.
"""

import asyncio
import itertools
import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from alpagasus_ray.engines.base import Engine, Reply
from alpagasus_ray.engines.prices import Need
from alpagasus_ray.errors import EngineError, EngineUnusable, TryAgain
from alpagasus_ray.inference.budget_client import Wallet
from alpagasus_ray.inference.coordinator import BoardLink, Permits
from alpagasus_ray.inference.endpoint import SEVERAL, Lane, Terms
from alpagasus_ray.inference.open_rows import Places

ASK_S = 0.1
"""Shortest time between two requests to the board for the same thing."""
JITTER = 0.1
"""Share by which a pause that a server asks for is stretched at most."""
DOZEN = 12
"""So many equal refusals, and nothing else so far: every row would get this one."""
QUEUE = 4
"""While every server is down so many times the requests that may be in flight may wait: rows from elsewhere to try it with."""
MAY_PASS = ("http 400", "http 401", "http 404")
"""Categories of what every request would get, unless one reply among many is wrong. No money is never an accident."""
FIRST_ANSWER_S = 60.0
"""How long to try a server that has never answered in this call: its address may be wrong."""

NUMBER = re.compile(r"\d+")


class Stopping(Exception):
    """The stage stops: nothing more is sent."""


class Waiter(NamedTuple):
    """A request in the queue."""

    row: str
    need: Need
    turn: "asyncio.Future[Lane]"


class Lanes:
    """All lanes of a worker and the queue before them; to be used on one event loop."""

    def __init__(self, worker: str, engines: Sequence[Engine], terms: Terms, board: BoardLink) -> None:
        self._terms, self._board = terms, board
        self._loop = asyncio.get_running_loop()
        self.lanes = [Lane(number, engine, terms) for number, engine in enumerate(engines)]
        self._queue: deque[Waiter] = deque()
        self.places = Places(2 * terms.concurrency)
        self._failing: set[str] = set()
        """Rows that have failed and are not through."""
        self._refusals: Counter[str] = Counter()
        self.gate: int | None = None
        """How many requests may be in flight or dealt with for now, where the first ones are looked at before more are sent."""
        self._dealt_with = 0
        self._wallet = Wallet(worker, board, capped=terms.capped)
        self._asking = False
        self._only: str | None = None
        """The one row that may be sent, while there is one."""
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped, self._ended = asyncio.Event(), asyncio.Event()
        self.counts: defaultdict[str, float] = defaultdict(float)
        """What happened, over the worker's life."""
        self.broken: str | None = None
        """Why the queue cannot go on, should a mistake of ours have ended it."""

    def now(self) -> float:
        return self._loop.time()

    @property
    def in_flight(self) -> int:
        return sum(lane.window.in_flight for lane in self.lanes)

    @property
    def room(self) -> int:
        """Requests that may be in flight."""
        return sum(int(lane.window.size) for lane in self.lanes)

    @property
    def down(self) -> int:
        """Lanes whose server is down or has to be left alone for more than a moment."""
        now = self.now()
        return sum(lane.closed is not None or lane.breaker.is_open or lane.paused_until - now > ASK_S for lane in self.lanes)

    # for a row

    async def enter(self, row: str, need: Need) -> Lane:
        """Wait for a lane that takes a request of this row with this need; `answered`, `failed` or `rejected` has to follow."""
        if self._stopped.is_set():
            raise Stopping
        if not self._queue and self._may_go(row) and (lane := self._open_lane(need)) is not None:
            self._start(lane, need)
            return lane
        asked = self.now()
        waiter = Waiter(row, need, self._loop.create_future())
        self._queue.append(waiter)
        if self._is_down() and len(self._queue) < QUEUE * self._terms.concurrency:
            self.places.leave(row)
        self._dispatch()
        lane = await waiter.turn
        self.counts["waited"] += self.now() - asked
        return lane

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

    def answered(self, lane: Lane, need: Need, reply: Reply) -> None:
        """The request came back well; where its cost is not known, it counts as the most it could be."""
        lane.has_answered(self.now())
        self._end(lane, need, (need.usd or 0.0) if reply.cost_usd is None else reply.cost_usd)
        lane.settle_tokens(need, reply, self.now())
        self._dealt_with += 1
        lane.window.answered(self.now())
        self.counts["requests answered"] += 1
        self.counts["tokens in"] += reply.tokens_in or 0
        self.counts["tokens out"] += reply.tokens_out or 0
        self.counts["tokens cached"] += reply.tokens_cached or 0
        self.counts["usd billed"] += reply.cost_usd or 0.0

    def rejected(self, lane: Lane, need: Need) -> None:
        """The server works, and will not take this request."""
        lane.has_answered(self.now())
        self._end(lane, need, 0.0)
        self.counts["requests rejected"] += 1
        self._dealt_with += 1

    def refused(self, lane: Lane, need: Need, error: EngineError) -> EngineError:
        """The same; the answer is what to raise: where the first requests are all refused in the same words, every other one
        would be."""
        self.rejected(lane, need)
        if not error.category.startswith("http ") or self.counts["requests answered"]:
            return error
        words = NUMBER.sub("", str(error))
        self._refusals[words] += 1
        if self._refusals[words] < DOZEN:
            return error
        return EngineUnusable(error.category, error.detail)

    def unusable(self, lane: Lane, need: Need, error: EngineUnusable) -> EngineError:
        """No request could succeed here, the server says. The answer is what to raise: one such reply among many is tried
        again, several in a row close the lane, and the last lane that is closed ends the stage."""
        self._end(lane, need, 0.0)
        self.counts["requests rejected"] += 1
        lane.refused_all += 1
        lane.trouble = str(error)
        has_answered = lane.answered_at > -math.inf
        if not (has_answered and error.category in MAY_PASS and lane.refused_all < SEVERAL):
            lane.closed = lane.closed or str(error)
        if any(other.closed is None for other in self.lanes):
            return TryAgain(error.category, error.detail, "refused")
        if len(self.lanes) == 1:
            return error
        told = "; ".join(f"{other.engine.address}: {other.closed}" for other in self.lanes)
        return EngineUnusable(error.category, f"no endpoint is left ({told})")

    def broke_off(self, lane: Lane, need: Need) -> None:
        """The request ended in a way that nobody foresaw, or was cancelled: it may have been billed."""
        self._end(lane, need, need.usd or 0.0)
        self.counts["usd maybe"] += need.usd or 0.0
        self.counts["requests unknown"] += 1

    def through(self, row: str) -> None:
        """The row needs no place any more."""
        self._failing.discard(row)
        self.places.leave(row)

    def open_gate(self) -> None:
        """The first replies were looked at: go on."""
        self.gate = None
        self._dispatch()

    def failed(self, lane: Lane, need: Need, error: TryAgain, row: str, sent: float, *, own_fault: bool) -> None:
        """The request got no answer; the lane draws its conclusions, unless it is likely the row's own fault."""
        now = self.now()
        lane.trouble = str(error)
        self._failing.add(row)
        self.places.leave(row)  # it waits now, and others take its place
        self._end(lane, need, (need.usd or 0.0) if error.cause == "unknown" else 0.0)
        if error.cause == "unknown":
            self.counts["usd maybe"] += need.usd or 0.0
        self.counts[f"requests {error.cause}"] += 1
        if error.retry_after_s:
            # later by up to a tenth, so that not all workers are back at once
            wish_s = lane.patience_with(error.retry_after_s, self._terms.max_outage_s)
            lane.pause(now + wish_s * (1 + JITTER * ((hash(row) % 97) / 97)))
        if error.category == "http 429":
            lane.breaker.answered()  # it is there, and busy
            lane.window.pushed_back(sent, now)
            return
        was_open = lane.breaker.is_open
        lane.window.troubled(now)
        if was_open or not own_fault:
            lane.breaker.failed(row, error.cause != "unknown", sent, now)
        if lane.breaker.is_open and not was_open:
            lane.window.restart()
            self.counts["outages"] += 1
            if self._is_down():
                for waiter in itertools.islice(self._queue, QUEUE * self._terms.concurrency):
                    self.places.leave(waiter.row)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()
        self._ended.set()
        while self._queue:
            waiter = self._queue.popleft()
            if not waiter.turn.done():
                waiter.turn.set_exception(Stopping())

    # for the worker

    def pauses(self) -> dict[int, float]:
        """Seconds for which lanes still have to be left alone because their server said so, of pauses not told yet."""
        now = self.now()
        return {lane.number: lane.paused_until - now for lane in self.lanes if lane.paused_until > max(now, lane.told_until)}

    def told(self, pauses: dict[int, float]) -> None:
        """The other workers will learn of these."""
        for number, seconds in pauses.items():
            lane = self.lanes[number]
            lane.told_until = max(lane.told_until, min(lane.paused_until, self.now() + seconds))

    def pause(self, pauses: dict[int, float]) -> None:
        """Take over what other workers were told."""
        now = self.now()
        for number, seconds in pauses.items():
            lane = self.lanes[number]
            if now + seconds > lane.paused_until:
                lane.pause(now + seconds)
                lane.told_until = lane.paused_until

    def given_up(self, ever_answered: bool) -> str | None:
        """Why there is no more hope of any lane, or None."""
        now = self.now()
        patience = self._terms.max_outage_s if ever_answered else min(FIRST_ANSWER_S, self._terms.max_outage_s)
        reasons = []
        for lane in self.lanes:
            if lane.closed is not None:
                reasons.append(f"{lane.engine.address}: {lane.closed}")
                continue
            down_s = now - lane.breaker.down_since if lane.breaker.down_since is not None else 0.0
            if down_s > patience:
                reasons.append(f"{lane.engine.address} has not answered for {down_s:.0f} s ({lane.trouble})")
            elif lane.paused_until - now > self._terms.max_outage_s * (1 + JITTER):
                wait = lane.paused_until - now
                reasons.append(f"{lane.engine.address} wants to be left alone for {wait:.0f} s (Retry-After)")
        return "; ".join(reasons) if len(reasons) == len(self.lanes) else None

    async def repay(self) -> None:
        """Tell the board what was settled, and give back dollars that nobody waits for."""
        if self._wallet.can_repay and not self._queue:
            await self._wallet.repay(self.now())
            self._dispatch()  # what came meanwhile could not borrow

    # the queue

    def _dispatch(self) -> None:
        while (waiter := self._next()) is not None:
            lane = self._open_lane(waiter.need)
            if lane is None:
                self._see_to_supplies(waiter.need)
                return
            if lane.breaker.is_open:
                waiter = self._probe(lane) or waiter
            self._queue.remove(waiter)
            self._start(lane, waiter.need)
            waiter.turn.set_result(lane)

    def _next(self) -> Waiter | None:
        """Whose turn it is."""
        while self._queue and self._queue[0].turn.done():  # its row was cancelled
            self._queue.popleft()
        return next((waiter for waiter in self._queue if self._may_go(waiter.row)), None)

    def _probe(self, lane: Lane) -> Waiter | None:
        """The row to try a server with that is down: one that has not failed, from as far behind those that have as there is,
        because rows that no server takes often lie side by side."""
        fresh = (
            waiter
            for waiter in reversed(self._queue)
            if not waiter.turn.done() and waiter.row not in self._failing and self._may_go(waiter.row)
        )
        found = next(fresh, None)
        fits = found is not None and lane.permits(found.need) and not self._wallet.is_short(found.need.usd or 0.0)
        return found if fits else None

    def _is_down(self) -> bool:
        """Whether there is no server that works."""
        return all(lane.closed is not None or lane.breaker.is_open for lane in self.lanes)

    def _first(self, most: int) -> list[Need]:
        """What the next requests need."""
        return list(itertools.islice((waiter.need for waiter in self._queue if self._may_go(waiter.row)), most))

    def _may_go(self, row: str) -> bool:
        return (
            not self._held
            and self._only in (None, row)
            and (self.gate is None or self.in_flight + self._dealt_with < self.gate)
        )

    def _open_lane(self, need: Need) -> Lane | None:
        """The least loaded lane that can take the request now."""
        if self._wallet.is_short(need.usd or 0.0):
            return None
        now = self.now()
        fit = [lane for lane in self.lanes if lane.ready(now) and lane.permits(need)]
        return min(fit, key=lambda lane: lane.window.in_flight / lane.window.size, default=None)

    def _start(self, lane: Lane, need: Need) -> None:
        lane.start(need, self.now())
        if lane.low:
            self._fetch(lane)
        self._wallet.reserve(need.usd or 0.0)

    def _end(self, lane: Lane, need: Need, cost_usd: float) -> None:
        lane.window.in_flight -= 1
        self._wallet.settle(need.usd or 0.0, cost_usd)
        self._ended.set()
        self._loop.call_soon(self._dispatch)

    def _see_to_supplies(self, need: Need) -> None:
        """The next request cannot go: ask for what is missing, and look again when a pause is over."""
        now = self.now()
        if self._wallet.is_short(need.usd or 0.0):
            if not self._wallet.is_borrowing and not self._asking:
                self._asking = True
                self._spawn(self._borrow_for_queue())
            return
        waits = []
        for lane in self.lanes:
            if lane.ready(now):
                self._fetch(lane)
            elif lane.window.room and lane.closed is None:
                waits.append(lane.wait(now))
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

    def _fetch(self, lane: Lane) -> None:
        if not lane.asking and not self._stopped.is_set():
            lane.asking = True
            self._spawn(self._fetch_permits(lane))

    async def _fetch_permits(self, lane: Lane) -> None:
        """Fetch permits, and go on until the next request has its own."""
        try:
            while True:
                wait_s = await self._fetch_once(lane)
                self._dispatch()
                waiter = self._next()
                if waiter is None or lane.permits(waiter.need) or self._stopped.is_set():
                    break
                await asyncio.sleep(wait_s)
        finally:
            lane.asking = False
        self._dispatch()

    async def _fetch_once(self, lane: Lane) -> float:
        """The answer is after how many seconds to ask again, should it not be enough."""
        now = self.now()
        lane.requests.drop_old(now)
        lane.tokens.drop_old(now)
        first = self._first(int(lane.window.size))
        requests = lane.requests.order(len(first), now)
        tokens = lane.tokens.order(sum(need.tokens for need in first), now)
        permits = await self._permits(lane, requests, tokens)
        lane.requests.fill(permits.requests, requests, now)
        lane.tokens.fill(permits.tokens, tokens, now)
        return max(ASK_S, permits.wait_s if permits.requests + permits.tokens == 0 else 0.0)

    async def _permits(self, lane: Lane, requests: float, tokens: float) -> Permits:
        permits: Permits | None = await self._board.call("permits", lane.number, requests, tokens, lane.engine.stated)
        if permits is None:
            now = self.now()
            if not lane.on_its_own:
                lane.rely_on_itself(now)
            first, second = lane.own_share
            granted = first.take(requests, now) if first else requests
            return Permits(granted, second.take(tokens, now) if second else tokens, ASK_S)
        lane.on_its_own = False
        return permits

    async def _borrow_for_queue(self) -> None:
        try:
            while (first := self._first(self._terms.concurrency)) and not self._stopped.is_set():
                needs = [need.usd or 0.0 for need in first]
                if not self._wallet.is_short(needs[0]):
                    break
                await self._wallet.borrow(sum(needs), needs[0], self.now())
                if self._wallet.is_short(needs[0]):
                    await asyncio.sleep(ASK_S)
        finally:
            self._asking = False
        self._dispatch()
