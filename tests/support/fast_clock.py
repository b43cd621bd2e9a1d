"""An event loop whose clock leaps: while nothing can happen, the time until the next timer is over at once.

An hour of waiting takes no time, work takes none on the loop's clock, and a busy machine makes no timeouts. It is for code
whose other ends live on the same loop, servers on loopback among them: what waits for another process waits in vain. While
a thread works for the loop (`asyncio.to_thread`) the clock stands still.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
LONGEST_S = 36_000.0
"""Of the loop's time: what is not done by then hangs."""


class LeapingSelector(selectors.DefaultSelector):
    """Waits for events only: a timeout is counted instead of waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0
        self.threads = 0
        """Calls that are under way in threads."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (self.threads and timeout > 0):
            return super().select(None)  # whoever is waited for wakes the loop
        events = super().select(0)
        if not events:
            self.passed_s += max(0.0, timeout)
        return events


class LeapingLoop(asyncio.SelectorEventLoop):
    """The loop with such a selector."""

    def __init__(self) -> None:
        self._leaps = LeapingSelector()
        super().__init__(self._leaps)

    def time(self) -> float:
        return self._leaps.passed_s

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> "asyncio.Future[T]":
        self._leaps.threads += 1
        done = super().run_in_executor(executor, func, *args)
        done.add_done_callback(self._thread_ended)
        return done

    def _thread_ended(self, _: "asyncio.Future[Any]") -> None:
        self._leaps.threads -= 1


def run(work: Coroutine[Any, Any, T], longest_s: float = LONGEST_S) -> T:
    """As `asyncio.run`; `TimeoutError` after so many seconds on the loop's clock."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(asyncio.wait_for(work, longest_s))
