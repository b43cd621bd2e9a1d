"""Progress of a stage on the terminal: one live line where there is a terminal, a plain line now and then where not."""

import time
from collections.abc import Mapping
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

    def show(self, done: int, counts: Mapping[str, float] | None = None) -> None:
        """Tell that `done` rows are through; `counts` are the board's."""
        now = time.monotonic()
        # rows that came out of a ledger take no time and would make the rate and the time left look too good
        asked = done - (counts or {}).get("from ledger", 0)
        self._marks = [mark for mark in self._marks if now - mark[0] < RATE_WINDOW_S] + [(now, asked)]
        self.tell(self._line(done, counts or {}))

    def tell(self, line: str) -> None:
        """Show a line in place of the one before; without a terminal, where the last is old enough."""
        now = time.monotonic()
        if self._live:
            self._live.update(Text(spelled(line)))
        elif now - self._printed >= self._plain_every_s:
            self._printed = now
            say(line)

    def _line(self, done: int, counts: Mapping[str, float]) -> str:
        parts = [f"{self._label}: {done:,} of {self._total:,} rows" if self._total else f"{self._label}: {done:,} rows"]
        rate = self._rate()
        if not done and self._total:
            parts.append("what answers is starting")
        if rate:
            parts.append(f"{rate:,.0f} rows/s")
            if self._total:
                parts.append(f"{clock((self._total - done) / rate)} left")
        if counts.get("usd billed"):
            parts.append(f"${counts['usd billed']:,.2f}")
        if counts.get("answered by another model"):
            parts.append(f"{counts['answered by another model']:,.0f} answered by another model than the one asked for")
        if counts.get("endpoints down"):
            parts.append("waiting for a server that is down or asked to be left alone")
        if counts.get("from ledger"):
            parts.append(f"{counts['from ledger']:,} from the ledger")
        reasons = {key.removeprefix("reason "): count for key, count in counts.items() if key.startswith("reason ")}
        worst = sorted(reasons.items(), key=lambda item: -item[1])[:3]
        parts += [f"{count:,} failed: {reason}" for reason, count in worst]
        others = {key.removeprefix("status "): n for key, n in counts.items() if key.startswith("status ")}
        parts += [f"{others[key]:,} {key}" for key in ("unparsed", "refused", "truncated") if others.get(key)]
        return ", ".join(parts)

    def _rate(self) -> float:
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        # a shard that is done again after a worker's death begins at nothing
        return max(0.0, (now - before) / (last - first)) if last - first > 0.2 else 0.0


def clock(seconds: float) -> str:
    """`75` -> `1:15`; `3700` -> `1:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
