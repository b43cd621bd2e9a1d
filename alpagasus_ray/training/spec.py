"""One arm's training as it is sent to the workers, and what comes back. Knows nothing of torch, so the driver loads it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from alpagasus_ray.config import Finetune
from alpagasus_ray.store.run import STATE, FileEntry, Manifest, StageDir
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.training.schedule import Order
from alpagasus_ray.training.status import TrainingStatus
from alpagasus_ray.version import __version__

KINDS = ("start", "load", "train", "measure", "save")
"""What the time of a training goes into."""


@dataclass(frozen=True)
class Training:
    """What the workers are told."""

    config: Finetune
    arm: str
    home: StageDir
    tokens: StageDir
    tokens_manifest: Manifest
    key: str
    """Hash of what the model is made of."""
    called_at: float
    """When Ray Train was called, in seconds since the epoch."""
    status: TrainingStatus
    """Shows the driver how far the training is."""
    heldout: pa.RecordBatch | None = None
    """Examples that the trained model is measured by, of schema TOKENS."""
    version: str = __version__
    """Of the driver's package."""

    @property
    def states(self) -> Storage:
        """Where the states lie that a stopped training goes on from."""
        return self.home.storage.at(STATE)

    @property
    def order(self) -> Order:
        """The examples of every update."""
        return order_of(self.config, self.tokens_manifest)


def order_of(config: Finetune, tokens: Manifest) -> Order:
    """The examples of every update."""
    examples = sum(entry.rows for entry in tokens.files if entry.name.endswith(".arrow"))
    return Order.of(examples, config.global_batch, config.seed, epochs=config.epochs, steps=config.steps)


class Stopped(NamedTuple):
    """Why a training ended before its end; trying again would not help."""

    reason: str
    is_usage: bool


class Trained(NamedTuple):
    """What the first worker has to tell at the end."""

    files: list[FileEntry]
    facts: dict[str, Any]
