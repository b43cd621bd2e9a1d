"""Progress of a stage on the terminal: one live line where there is a terminal, a plain line now and then where not."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from alpagasus_ray.terminal import say, spelled

PLAIN_EVERY_S = 10.0
RATE_WINDOW_S = 30.0


class Progress:
    """Shows rows, rate, time left and failures by reason on stderr; use it in a `with` block."""

    def __init__(self, label: str, total: int, plain_every_s: float = PLAIN_EVERY_S) -> None:
        self._label, self._total, self._plain_every_s = label, total, plain_every_s
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._console.is_terminal else None
        self._printed = time.monotonic()
        self._marks: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def left(self, done: float) -> float:
        """Rows still to be done when `done` are through."""
        return max(0, self._total - done)

    def show(self, done: int, stored: int = 0, details: Sequence[str] = ()) -> None:
        """Tell that `done` rows are through, `stored` of them with a reply that was there already; `details` end the line."""
        now = time.monotonic()
        # rows that came out of a ledger take no time and would make the rate and the time left look too good
        self._marks = [mark for mark in self._marks if now - mark[0] < RATE_WINDOW_S] + [(now, done - stored)]
        self.tell(self._line(done, details))

    def tell(self, line: str) -> None:
        """Show a line in place of the one before; without a terminal, where the last is old enough."""
        now = time.monotonic()
        if self._live:
            self._live.update(Text(spelled(line)))
        elif now - self._printed >= self._plain_every_s:
            self._printed = now
            say(line)

    def _line(self, done: int, details: Sequence[str]) -> str:
        parts = [f"{self._label}: {done:,} of {self._total:,} rows" if self._total else f"{self._label}: {done:,} rows"]
        rate = self._rate()
        if not done and self._total:
            parts.append("the engine is starting")
        if rate:
            parts.append(f"{rate:,.0f} rows/s")
            if self._total:
                parts.append(f"{clock((self._total - done) / rate)} left")
        return ", ".join((*parts, *details))

    def _rate(self) -> float:
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        # a shard that is done again after a worker's death begins at nothing
        return max(0.0, (now - before) / (last - first)) if last - first > 0.2 else 0.0


def clock(seconds: float) -> str:
    """`75` -> `1:15`; `3700` -> `1:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
