"""A run's state on the terminal, again and again while a driver is at work on it."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.text import Text

from alpagasus_ray.reporting.terminal import Summary, lines
from alpagasus_ray.terminal import say, spelled

WATCH_EVERY_S = 2.0


def watch(look: Callable[[], Summary], every_s: float = WATCH_EVERY_S) -> Summary:
    """Look until no driver is at work, and return what was seen last. Where there is no terminal, lines that have changed are
    written one below the other."""
    console = Console(stderr=True)
    live = Live(console=console, transient=True) if console.is_terminal else None
    shown: Sequence[str] = ()
    seen = look()
    if live:
        live.start()
    try:
        while seen["driver"]:
            now = list(lines(seen))
            if live:
                live.update(Text("\n".join(map(spelled, now))))
            else:
                for line in now:
                    if line not in shown:
                        say(line)
            shown = now
            time.sleep(every_s)
            seen = look()
    finally:
        if live:
            live.stop()
    return seen
