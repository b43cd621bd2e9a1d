"""A worker's dollars under a cap: fetched ahead from the coordinator, reserved for each request, settled at its end.

A request is reserved at the most it can cost, because what it costs is known only when it is paid. The difference is at hand
again for the next request.

Knows nothing of requests and their queue (`dispatcher.py`).
"""

import asyncio

from alpagasus_ray.inference.budget import ROUNDING
from alpagasus_ray.inference.coordinator import CoordinatorClient
from alpagasus_ray.inference.endpoint import Prefetch


class BudgetClient:
    """Dollars of one worker; without a cap nothing is ever short."""

    def __init__(self, worker: str, coordinator: CoordinatorClient, *, capped: bool) -> None:
        self._worker, self._coordinator, self._capped = worker, coordinator, capped
        self._prefetch = Prefetch()
        self._under_way = self._settled = 0.0
        self._fetching = asyncio.Lock()

    def is_short(self, usd: float) -> bool:
        """Whether there is less at hand than that."""
        return self._capped and self._prefetch.at_hand + ROUNDING < usd

    def reserve(self, usd: float) -> None:
        """The most that a request can cost, which leaves now."""
        self._prefetch.use(usd)
        self._under_way += usd

    def settle(self, reserved: float, cost: float) -> None:
        """A request for which so much was reserved has cost so much."""
        self._under_way -= reserved
        self._settled += cost
        self._prefetch.use(cost - reserved)

    @property
    def is_fetching(self) -> bool:
        return self._fetching.locked()

    @property
    def can_release(self) -> bool:
        """Whether there is something to report or to give back, and no other exchange under way."""
        return self._capped and bool(self._settled or self._prefetch.at_hand) and not self.is_fetching

    async def fetch(self, needed: float, least: float, now: float) -> None:
        """Fetch what is needed: `least` or more, or nothing yet."""
        async with self._fetching:
            await self._exchange(self._prefetch.order(needed, now), least, now)

    async def release(self, now: float) -> None:
        """Give back what is at hand."""
        async with self._fetching:
            await self._exchange(0.0, 0.0, now)

    async def _exchange(self, wanted: float, least: float, now: float) -> None:
        """Report what was settled, and fetch; what is at hand goes back, so that it cannot lie idle here while others wait."""
        settled, self._settled = self._settled, 0.0
        self._prefetch.at_hand = 0.0
        lent = await self._coordinator.call("reserve", self._worker, settled, self._under_way, wanted, least)
        if lent is None:
            self._settled += settled  # the coordinator is away; nothing is lent until it is back
            return
        self._prefetch.fill(lent, wanted, now)
