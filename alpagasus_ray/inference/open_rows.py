"""How many rows may be open at a time: those that wait for their next attempt hold no place.

A row that was left without an answer gives its place to another, so that rows which no server takes keep no others from theirs.
"""

import asyncio
from collections import Counter


class OpenRows:
    """So many rows; a row is known by its request's key, and rows with the same one by their number."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._held: Counter[str] = Counter()

    async def acquire(self, row: str) -> None:
        """Wait for a place, and hold it."""
        await self._free.acquire()
        self._held[row] += 1

    def release(self, row: str) -> None:
        """Give the row's place back, if it holds one."""
        if self._held[row] > 0:
            self._held[row] -= 1
            self._free.release()
        # or the counter would keep a key for each row of the stage
        if not self._held[row]:
            del self._held[row]
