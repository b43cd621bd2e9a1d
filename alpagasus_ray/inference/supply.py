"""What requests need besides an endpoint with room: permits under the rate limits, and dollars under the cap.

Both are fetched from the coordinator ahead, for about the next half second, because a call to it for every request would be the
slowest part of each. While it is away a worker keeps to its share of the rates, and spends nothing that it has not reserved.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from alpagasus_ray.engines.prices import Need
from alpagasus_ray.inference.budget_client import BudgetClient
from alpagasus_ray.inference.coordinator import CoordinatorClient, Permits
from alpagasus_ray.inference.endpoint import Endpoint, RequestLimits

ASK_S = 0.1
"""Shortest time between two requests to the coordinator for the same thing."""


class Queue(Protocol):
    """The requests that wait."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""

    def next_needs(self, most: int) -> list[Need]:
        """What the first of them need."""

    def dispatch(self) -> None:
        """Send those that can go now."""

    def broke(self, reason: str) -> None:
        """Stop, because of a mistake of ours."""


class Supply:
    """Permits and dollars of one worker; to be used on one event loop."""

    def __init__(self, worker: str, coordinator: CoordinatorClient, limits: RequestLimits, queue: Queue) -> None:
        self._coordinator, self._limits, self._queue = coordinator, limits, queue
        self._loop = asyncio.get_running_loop()
        self.budget = BudgetClient(worker, coordinator, capped=limits.capped)
        self._is_fetching_dollars = self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Fetch nothing more."""
        self._stopped = True

    def fetch_dollars(self) -> None:
        """See to it that the next request gets its dollars."""
        if not self.budget.is_fetching and not self._is_fetching_dollars:
            self._is_fetching_dollars = True
            self._spawn(self._fetch_dollars())

    def fetch_permits(self, endpoint: Endpoint) -> None:
        """See to it that the next request gets its permits."""
        if not endpoint.is_fetching and not self._stopped:
            endpoint.is_fetching = True
            self._spawn(self._fetch_permits(endpoint))

    async def release_dollars(self) -> None:
        """Tell the coordinator what was settled, and give back dollars that nobody waits for."""
        # where a request waits its dollars are about to be used, and what is given back would have to be fetched again
        if self.budget.can_release and self._queue.is_empty:
            await self.budget.release(self._loop.time())
            self._queue.dispatch()  # what came meanwhile could not fetch

    async def _fetch_dollars(self) -> None:
        try:
            while (first := self._queue.next_needs(self._limits.concurrency)) and not self._stopped:
                needs = [need.usd or 0.0 for need in first]
                if not self.budget.is_short(needs[0]):
                    break
                await self.budget.fetch(sum(needs), needs[0], self._loop.time())
                if self.budget.is_short(needs[0]):
                    await asyncio.sleep(ASK_S)
        finally:
            self._is_fetching_dollars = False
        self._queue.dispatch()

    async def _fetch_permits(self, endpoint: Endpoint) -> None:
        """Fetch permits, and go on until the next request has its own."""
        try:
            while True:
                wait_s = await self._fetch_once(endpoint)
                self._queue.dispatch()
                first = self._queue.next_needs(1)
                if not first or endpoint.permits(first[0]) or self._stopped:
                    break
                await asyncio.sleep(wait_s)
        finally:
            endpoint.is_fetching = False
        self._queue.dispatch()

    async def _fetch_once(self, endpoint: Endpoint) -> float:
        """The answer is after how many seconds to ask again, should it not be enough."""
        now = self._loop.time()
        # permits of a while ago would leave together with those of now, and a window of 60 s would hold more than the limit
        endpoint.requests.drop_old(now)
        endpoint.tokens.drop_old(now)
        first = self._queue.next_needs(int(endpoint.window.size))
        requests = endpoint.requests.order(len(first), now)
        tokens = endpoint.tokens.order(sum(need.tokens for need in first), now)
        permits = await self._permits(endpoint, requests, tokens)
        endpoint.requests.fill(permits.requests, requests, now)
        endpoint.tokens.fill(permits.tokens, tokens, now)
        return max(ASK_S, permits.wait_s if permits.requests + permits.tokens == 0 else 0.0)

    async def _permits(self, endpoint: Endpoint, requests: float, tokens: float) -> Permits:
        stated = endpoint.engine.stated
        permits: Permits | None = await self._coordinator.call("permits", endpoint.number, requests, tokens, stated)
        if permits is not None:
            endpoint.on_its_own = False
            return permits
        now = self._loop.time()
        if not endpoint.on_its_own:
            endpoint.rely_on_itself(now)
        # the coordinator cannot be reached: limits are kept all the same, each worker by its part of them
        for_requests, for_tokens = endpoint.own_share
        granted = for_requests.take(requests, now) if for_requests else requests
        return Permits(granted, for_tokens.take(tokens, now) if for_tokens else tokens, ASK_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        # a task whose error nobody looks at would leave the queue waiting for ever
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._queue.broke(f"unexpected {type(error).__name__}: {error}")
