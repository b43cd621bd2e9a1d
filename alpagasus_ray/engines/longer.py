"""Longer replies for the rows that are asked again because theirs was cut, and a note of it in each reply.

Requests keep the key that they have in the stage: what makes a reply known is how the stage asks, and the rows that are
asked this way say what they were allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.engines.base import Engine, Rate, Reply, Request

Asked = TypeVar("Asked", bound=EngineConfig)


def with_longer(asked: Asked, longest: int | None) -> Asked:
    """The same engine with this longest reply."""
    return asked if longest is None else asked.model_copy(update={"max_tokens": longest})


def noting(engines: Sequence[Engine], longest: int | None) -> list[Engine]:
    """The engines; where a longer reply was allowed, each reply says so."""
    return list(engines) if longest is None else [_Noting(engine, longest, engine.address) for engine in engines]


@dataclass
class _Noting:
    engine: Engine
    longest: int
    address: str
    stated: Rate = field(default_factory=Rate)

    async def complete(self, request: Request) -> Reply:
        try:
            reply = await self.engine.complete(request)
        finally:
            self.stated = self.engine.stated
        return reply._replace(max_tokens=self.longest)
