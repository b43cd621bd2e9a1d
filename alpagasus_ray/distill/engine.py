"""A distilled judge as an engine: the rows that are asked about at the same time are scored in one go, for nothing.

The reply is the expected score with four decimals; score and expected score of a rating are both read off it.
"""

import asyncio

from alpagasus_ray.distill.features import features
from alpagasus_ray.distill.student import Student
from alpagasus_ray.engines.base import Rate, Reply, Request

PARTS = ("instruction", "input", "output")


class DistilledEngine:
    """Scores rows with a fitted judge."""

    address = "the distilled judge"
    stated = Rate()

    def __init__(self, student: Student) -> None:
        self._student = student
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []

    async def complete(self, request: Request) -> Reply:
        """The expected score of the row of a request."""
        loop = asyncio.get_running_loop()
        if not self._waiting:  # scored when all that were sent in this turn of the loop are here
            loop.call_soon(self._score)
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((request, future))
        return await future

    def _score(self) -> None:
        waiting, self._waiting = self._waiting, []
        block = features(*([request.row[part] for request, _ in waiting] for part in PARTS))
        for (_, future), expected in zip(waiting, self._student.expected(block), strict=True):
            if not future.done():  # a shard that was given up waits no more
                future.set_result(Reply(f"{expected:.4f}"))
