"""Progress of a stage on stderr: bars where there is a terminal, and where not a line when something has changed."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from alpagasus_ray.terminal import say, spelled

PLAIN_EVERY_S = 10.0
"""Fewest seconds between two lines where there is no terminal."""
SIGN_OF_LIFE_S = 60.0
"""After so many seconds a line comes although nothing has changed."""
RATE_WINDOW_S = 30.0
_stages: list[tuple[int, int]] = []
"""The stage that an experiment is at, counted from 1, and how many it has; empty outside of one."""


@contextmanager
def stage(number: int, of: int) -> Iterator[None]:
    """Show beside the rows, while the block runs, that this is stage `number` of `of`."""
    _stages.append((number, of))
    try:
        yield
    finally:
        _stages.pop()


class Progress:
    """Shows rows, rate, time left, dollars and failures on stderr; use it in a `with` block.

    `total` is 0 where nobody knows it; `where` says who is asked, for instance a server's address.
    """

    def __init__(self, label: str, total: int, plain_every_s: float = PLAIN_EVERY_S, where: str = "") -> None:
        self._label, self._total, self._plain_every_s, self._where = label, total, plain_every_s, where
        self._printed = self._changed = time.monotonic()
        self._state: object = None
        self._marks: list[tuple[float, float]] = []
        self._done, self._below = 0, ""
        self._errors: Mapping[str, int] = {}
        self._last_error = ""
        console = Console(stderr=True)
        self._live = Live(console=console, get_renderable=self._view, transient=True) if console.is_terminal else None

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

    def show(self, done: int, stored: int = 0, details: Sequence[str] = (), errors: Mapping[str, int] | None = None) -> None:
        """Tell that `done` rows are through, `stored` of them with a reply that was there already; `details` end the line;
        `errors` counts what went wrong so far, by its text."""
        now = time.monotonic()
        # rows that came out of a ledger take no time and would make the rate and the time left look too good
        self._marks = [mark for mark in self._marks if now - mark[0] < RATE_WINDOW_S] + [(now, done - stored)]
        self._done, self._below = done, ", ".join(details)
        self._note_last_error(errors or {})
        self._tell(", ".join((self._rows(), *self._pace(), *details)), (done, *details))

    def tell(self, line: str) -> None:
        """Show a line in place of the one before; without a terminal, where the last is old enough."""
        self._below = line
        self._tell(line, line)

    def _tell(self, line: str, state: object) -> None:
        """`state` is what of the line counts as a change: its rate and its time left are never the same."""
        now = time.monotonic()
        quiet_s = now - self._printed
        if self._live or quiet_s < self._plain_every_s:
            return
        if state != self._state:
            self._printed = self._changed = now
            self._state = state
            say(line)
        elif quiet_s >= SIGN_OF_LIFE_S:
            self._printed = now
            say(f"{line}, no change for {clock(now - self._changed)}")

    def _note_last_error(self, errors: Mapping[str, int]) -> None:
        grown = [text for text, count in errors.items() if count > self._errors.get(text, 0)]
        self._errors = dict(errors)
        self._last_error = grown[-1] if grown else self._last_error

    def _rows(self) -> str:
        done = f"{self._done:,} of {self._total:,}" if self._total else f"{self._done:,}"
        return f"{self._label}: {done} rows"

    def _pace(self) -> Iterator[str]:
        if not self._done and self._total:
            yield "the engine is starting"
        rate = self._rate()
        if rate:
            yield f"{rate:,.0f} rows/s" if rate >= 1 else f"{60 * rate:,.0f} rows/min"
            if self._total:
                yield f"{clock((self._total - self._done) / rate)} left"

    def _rate(self) -> float:
        if not self._marks:
            return 0.0
        (first, before), (last, now) = self._marks[0], self._marks[-1]
        # a shard that is done again after a worker's death begins at nothing
        return max(0.0, (now - before) / (last - first)) if last - first > 0.2 else 0.0

    def _view(self) -> RenderableType:
        """What a terminal shows: bars of stages and rows, what is known besides, the last error, who is asked."""
        bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[said]}", markup=False)
        )
        for number, of in _stages[-1:]:
            bars.add_task("stages", total=of, completed=number - 1, said=f"{number} of {of}")
        if self._total:
            said = ", ".join((f"{self._done:,} of {self._total:,} rows", *self._pace()))
            bars.add_task(spelled(self._label), total=self._total, completed=self._done, said=said)
        lines = [self._below if self._total else self._below or self._rows()]
        lines += [f"last error: {self._last_error}"] if self._last_error else []
        lines += [f"asks {self._where}"] if self._where else []
        texts = (Text(f"  {spelled(line)}", style="dim", overflow="ellipsis", no_wrap=True) for line in lines if line)
        return Group(*([bars] if bars.tasks else []), *texts)


def clock(seconds: float) -> str:
    """`75` -> `1:15`; `3700` -> `1:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
