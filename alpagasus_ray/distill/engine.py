"""A distilled judge as an engine: it scores all rows of a shard in one go, for nothing.

The reply is the expected score with four decimals; score and expected score of a rating are both read off it.
"""

from collections.abc import Sequence

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

    async def complete(self, request: Request) -> Reply:
        """The expected score of one row."""
        return self.complete_all([request])[0]

    def complete_all(self, requests: Sequence[Request]) -> list[Reply]:
        """The expected scores of many rows."""
        block = features(*([request.row[part] for request in requests] for part in PARTS))
        return [Reply(f"{expected:.4f}") for expected in self._student.expected(block)]
