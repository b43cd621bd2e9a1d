"""Workers send requests only while their driver holds the run's lock: two drivers of one run never both pay.

A driver whose machine was stopped, or cut off, cannot stop its workers. So each of them looks at the lock for itself, and sends
nothing more once the driver has ceased to renew it, or another driver has taken it (`store/lease.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from alpagasus_ray.engines.base import Engine, Reply, Request
from alpagasus_ray.errors import EngineUnusable
from alpagasus_ray.store.lease import BEAT_S, Lease

LOOK_S = BEAT_S / 2


class HeldEngine:
    """An engine that takes no request once the lock is lost. It looks at the clock before each one, because a machine that was
    suspended and wakes up sends before `watch` has had its turn."""

    def __init__(self, engine: Engine, lease: Lease) -> None:
        self._engine, self._lease = engine, lease
        self.address, self.stated = engine.address, engine.stated

    async def complete(self, request: Request) -> Reply:
        """Answer one request, or raise what the engine raises; `EngineUnusable` where the lock is lost."""
        lost = self._lease.lost()
        if lost is not None:
            raise EngineUnusable("run lost", str(self._lease.error(lost)))
        try:
            return await self._engine.complete(request)
        finally:
            self.stated = self._engine.stated


def while_held(engines: Sequence[Engine], lease: Lease | None) -> Sequence[Engine]:
    """The engines, which take requests only while the lock is held; as they are where there is none."""
    return engines if lease is None else [HeldEngine(engine, lease) for engine in engines]


async def watch(lease: Lease, stop: Callable[[str], Awaitable[None]]) -> None:
    """Look at the lock for as long as the worker lives, and stop the work when it is lost. What counts is the time since the
    last look that succeeded: storage that hangs must not let a worker go on paying."""
    looking: asyncio.Task[None] | None = None
    while True:
        if looking is None or looking.done():
            looking = asyncio.create_task(asyncio.to_thread(_look, lease))
        await asyncio.wait([looking], timeout=LOOK_S)  # the store may hang; then what was seen last counts
        lost = lease.lost()
        if lost is not None:
            await stop(str(lease.error(lost)))
        await asyncio.sleep(LOOK_S)


def _look(lease: Lease) -> None:
    with suppress(OSError):  # a local lock that cannot be read; the next write under it fails
        lease.look()
