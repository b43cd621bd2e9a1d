"""The log of a judge server: what it took and whether it did the work, on disk before anybody is answered."""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable


class RequestLog:
    """Lines `<hash> <fate>`, and for what was billed the tokens that it took, `300,12,128`. One fsync serves all
    requests that wait for it: one for each would bound their rate."""

    def __init__(self, path: str | None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if path else None
        self._nothing = asyncio.get_running_loop().create_future()
        self._nothing.set_result(None)
        self._last: asyncio.Task[None] | None = None
        self._joinable: asyncio.Task[None] | None = None
        self.fates: Counter[str] = Counter()

    def add(self, key: str, fate: str, did: str = "") -> Awaitable[None]:
        """Write a line; what comes back is done when the line is on disk."""
        self.fates[fate] += 1
        if self._file is None:
            return self._nothing
        os.write(self._file, f"{' '.join(filter(None, (key, fate, did)))}\n".encode())
        if self._joinable is None:
            self._joinable = self._last = asyncio.create_task(self._sync(self._file, self._last))
        return self._joinable

    async def _sync(self, file: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        self._joinable = None  # a line written from here on may come too late for this fsync
        await asyncio.get_running_loop().run_in_executor(None, os.fsync, file)
