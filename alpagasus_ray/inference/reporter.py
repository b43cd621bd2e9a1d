"""What a worker tells the coordinator and Ray's metrics, each number once, and what it hears back.

Reports may be lost and shards may be done again, so a report holds what happened since the last one that arrived, and of each
shard all that was counted since its begin, which replaces what was said of it before.
"""

import asyncio
import sys
from typing import TYPE_CHECKING

from alpagasus_ray.inference.coordinator import CoordinatorClient, Directive
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.dispatcher import Dispatcher
from alpagasus_ray.inference.shard_run import ShardRun

if TYPE_CHECKING:
    from alpagasus_ray.inference.metrics import Metrics


class Reporter:
    """The reports of one worker."""

    def __init__(self, worker: str, coordinator: CoordinatorClient, dispatcher: Dispatcher, stage: str) -> None:
        self._worker, self._coordinator, self._dispatcher = worker, coordinator, dispatcher
        self._metrics = _metrics(stage)
        self._shards: list[ShardRun] = []
        """Those whose last counts the coordinator does not have."""
        self._earlier = Counts()
        """Of all shards before these."""
        self._reported = Counts()
        self._one_at_a_time = asyncio.Lock()
        self.any_answer = False
        """Whether any worker has had an answer in this call."""

    def follow(self, shard: ShardRun) -> None:
        """Report the counts of this shard from now on, until they are final and have arrived."""
        self._shards.append(shard)

    async def report(self) -> str | None:
        """Report what is new; the answer is why to stop, or None."""
        async with self._one_at_a_time:  # two at a time would report the same twice
            await self._dispatcher.supply.release_dollars()
            return await self._exchange()

    async def _exchange(self) -> str | None:
        endpoints = self._dispatcher.endpoints
        # told before the call: a shard that ends during it has numbers that this report does not hold
        over, pauses = [shard for shard in self._shards if shard.is_over], endpoints.unreported_pauses()
        by_shard = {shard.name: shard.counts.copy() for shard in self._shards}
        self._dispatcher.counts.endpoints_down = endpoints.down
        # a copy, for requests end while the report is on its way, and belong to the next one
        now = self._dispatcher.counts.copy()
        if self._metrics is not None:
            self._metrics.publish(self._totals(now), endpoints.in_flight, endpoints.room)
        directive: Directive | None = await self._coordinator.call(
            "report", self._worker, now.since(self._reported), by_shard, pauses
        )
        if directive is None:
            return None  # it is reported when the coordinator is back
        self._reported = now
        for shard in over:
            self._earlier.add(shard.counts)
            self._shards.remove(shard)
        endpoints.reported(pauses)
        endpoints.pause(directive.pauses)
        self.any_answer = self.any_answer or directive.answered or now.requests["answered"] > 0
        return directive.stop

    def _totals(self, now: Counts) -> Counts:
        """Of the worker's life, with all its shards."""
        totals = now.copy().add(self._earlier)
        for shard in self._shards:
            totals.add(shard.counts)
        return totals


def _metrics(stage: str) -> "Metrics | None":
    """None in a process without Ray, whose metrics nobody could read: there a few rows do not wait for Ray to be loaded."""
    if "ray" not in sys.modules:
        return None
    from alpagasus_ray.inference.metrics import Metrics

    return Metrics(stage)
