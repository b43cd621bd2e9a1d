"""Where the workers of one stage and its driver meet while it runs: counts go up, the word to stop comes down."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray


@ray.remote(num_cpus=0)
class Board:
    """An actor that adds up what all workers report."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._stop: str | None = None

    def report(self, counts: Mapping[str, int]) -> str | None:
        """Add a worker's news; the answer is why to stop, or None to go on."""
        self._counts.update(counts)
        return self._stop

    def stop(self, reason: str) -> None:
        """Let every worker end after the requests it has in flight; the first reason stays."""
        self._stop = self._stop or reason

    def snapshot(self) -> tuple[dict[str, int], str | None]:
        """Counts so far, and why the stage is stopping if it is."""
        return dict(self._counts), self._stop


BoardHandle = Any
"""Ray's handle of a `Board`; Ray gives its methods no types."""
