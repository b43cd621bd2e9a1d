"""A stage's work with an engine of a few lines, for what real engines cannot be told to do: to die over a certain row."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.engines.base import ANY_FORM, Engine, Rate, Reply, ReplyForm, Request
from alpagasus_ray.errors import EngineDied
from alpagasus_ray.inference.ledger import Outcome

LATENCY_S = 0.02


class Mortal:
    """Dies for good when it is asked a row with this number; what it has in flight then gets no answer either."""

    address = "a mortal engine"
    stated = Rate()

    def __init__(self, deadly: str) -> None:
        self._deadly, self._dead = deadly, False

    async def complete(self, request: Request) -> Reply:
        await asyncio.sleep(LATENCY_S)
        self._dead = self._dead or request.key == self._deadly
        await asyncio.sleep(LATENCY_S)
        if self._dead:
            raise EngineDied("engine died", "over a row")
        return Reply("4", "stop", 10, 2, 0)


@dataclass(frozen=True)
class MortalWork:
    """The key of a row is its number."""

    deadly: str
    form: ReplyForm = ANY_FORM

    @property
    def schema(self) -> pa.Schema:
        return RATINGS

    def open_engines(self) -> Sequence[Engine]:
        return [Mortal(self.deadly)]

    def request(self, row: Mapping[str, Any]) -> Request:
        number = row["instruction"].split()[-1].rstrip(".")
        return Request(number, [{"role": "user", "content": row["instruction"]}], row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        reply = outcome.reply
        return {
            "example_id": row["example_id"],
            "request_hash": request.key,
            "status": "scored" if reply else "failed",
            "reply": reply.text if reply else None,
            "attempts": outcome.attempts,
            "maybe_billed_twice": outcome.maybe_billed_twice,
            "error": outcome.error,
        }
