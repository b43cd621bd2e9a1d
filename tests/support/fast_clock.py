"""An event loop whose clock leaps: while nothing can happen, the time to the next timer passes at once.

Hours of waiting cost no time, the work in between costs none on the loop's clock, and a busy machine makes no timeouts. For
code whose other ends live on the same loop, servers on loopback among them: what waits for another process would wait for
ever. Work in threads stops the clock until it is done.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


class LeapingSelector(selectors.DefaultSelector):
    """Waits for nothing but events: a timeout is over at once, and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0
        self.threads = 0
        """Pieces of work under way in threads."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (self.threads and timeout > 0):
            return super().select(None)  # a thread that is done wakes the loop
        events = super().select(0)
        if not events:
            self.passed_s += max(0.0, timeout)
        return events


class LeapingLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._leaps = LeapingSelector()
        super().__init__(self._leaps)

    def time(self) -> float:
        return self._leaps.passed_s

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        self._leaps.threads += 1
        done = super().run_in_executor(executor, func, *args)
        done.add_done_callback(self._thread_done)
        return done

    def _thread_done(self, _: "asyncio.Future[Any]") -> None:
        self._leaps.threads -= 1


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, on the leaping clock."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(work)


class LeapingPolicy(asyncio.DefaultEventLoopPolicy):
    """Every new event loop leaps; for code that makes its own."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return LeapingLoop()
