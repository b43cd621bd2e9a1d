"""The processes that do a stage's work: what a recipe asks for, and what of a cluster it comes to."""

from collections.abc import Mapping
from typing import NamedTuple

from alpagasus_ray.config import Asking, EngineConfig


class Pool(NamedTuple):
    """The processes that do the work, and what each takes of a node."""

    most: int = 1
    cpus: int = 1
    gpus: int = 0
    labels: Mapping[str, str] = {}
    """Labels that the node has to have."""


ONE = Pool()


class PoolRequest(NamedTuple):
    """What a recipe says of the processes of a stage, before it is known what the cluster has."""

    section: str
    """The stage's section in the recipe, for messages."""
    engine: EngineConfig
    actors: int | tuple[int, int] | None = None
    """How many processes at most; of two numbers the second counts. None leaves it to the cluster's size."""
    labels: Mapping[str, str] | None = None
    """Labels that their nodes have to have."""

    @classmethod
    def of(cls, config: Asking, engine: EngineConfig) -> "PoolRequest":
        return cls(config.section, engine, config.actors, config.labels)
