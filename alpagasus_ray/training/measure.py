"""The held-out loss while a model learns, and the weights that had the lowest.

The weights are kept beside the states, `state/best/`: first the weights, under a name of their step, then `best.json`, which
names them. Knows torch and storage; knows nothing of Ray.
"""

import os
import tempfile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from alpagasus_ray.config import Finetune
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.training import collate, schedule
from alpagasus_ray.training.devices import Place
from alpagasus_ray.training.model import Loaded
from alpagasus_ray.training.token_files import Tokens

AT_ONCE = 256
"""Held-out examples that are shared out among the workers together."""
BEST = "best"
TOLD = "best.json"


class Measured(NamedTuple):
    """The loss over what is held out, as the curve's a mean over label tokens."""

    loss: float
    examples: int
    label_tokens: int


class Best(BaseModel):
    """What the kept weights say of themselves."""

    model_config = ConfigDict(frozen=True)

    step: int
    """Updates that were through."""
    loss: float
    """Their held-out loss."""

    @property
    def file(self) -> str:
        """Name of the file that holds the weights."""
        return f"weights-{self.step:08d}.pt"


class Keeper:
    """The weights of the lowest held-out loss so far."""

    def __init__(self, states: Storage) -> None:
        self._storage = states.at(BEST)

    def best(self) -> Best | None:
        """What the kept weights say of themselves; None where none are kept."""
        return Best.model_validate_json(self._storage.read(TOLD)) if self._storage.exists(TOLD) else None

    def clear(self) -> None:
        """Forget weights of another training, which left no state."""
        self._storage.delete_tree()

    def keep(self, best: Best, weights: dict[str, torch.Tensor]) -> None:
        """Take these weights in place of those that are there; the first worker does it."""
        former = self.best()
        with tempfile.TemporaryDirectory(prefix="alpagasus-best-") as folder:
            file = os.path.join(folder, best.file)
            torch.save(weights, file)
            self._storage.put(best.file, file)
        # names the new weights; killed before it the former ones are still named and still there
        self._storage.write(TOLD, best.model_dump_json().encode())
        if former is not None and former.file != best.file:
            self._storage.delete(former.file)

    def weights(self, best: Best) -> dict[str, torch.Tensor]:
        """The kept weights by the names that the model has for them, on the host; raises what reading a file does."""
        with tempfile.TemporaryDirectory(prefix="alpagasus-best-") as folder:
            file = os.path.join(folder, best.file)
            with open(file, "wb") as stream:
                stream.write(self._storage.read(best.file))
            found: dict[str, torch.Tensor] = torch.load(file, weights_only=True, mmap=False)
        return found


def measured(config: Finetune, place: Place, loaded: Loaded, engine: Any, heldout: pa.RecordBatch) -> Measured:
    """Without dropout and without gradients; every worker takes part."""
    tokens = Tokens([heldout])
    sums = torch.zeros(3, dtype=torch.float64, device=place.device)
    # no dropout: the loss of the whole model, the same whatever the seed
    engine.eval()
    with torch.no_grad():
        for start in range(0, len(tokens), AT_ONCE):
            batch = np.arange(start, min(start + AT_ONCE, len(tokens)))
            parts = parts_of(config, batch, tokens.lengths, place)
            for micro_batch in built(config, loaded, tokens, parts):
                there = micro_batch.to(place.device)
                sums[0] += collate.loss_sum(engine, there, slices=loaded.slices, by=loaded.head).double()
            sums[1:] += torch.tensor([sum(map(len, parts)), sum(int(tokens.label_tokens[part].sum()) for part in parts)])
    engine.train()
    dist.all_reduce(sums)
    loss, examples, labels = sums.tolist()
    # packs that are empty on some workers, or a share that is left out, would change a mean without a sign of it
    assert examples == len(tokens), f"{examples} of {len(tokens)} held-out examples were measured"
    return Measured(loss / labels, int(examples), int(labels))


def row_losses(config: Finetune, place: Place, loaded: Loaded, engine: Any, heldout: pa.RecordBatch) -> NDArray[np.float64]:
    """(rows,) the mean loss over the label tokens of each row, by one worker alone; without dropout and without gradients."""
    tokens = Tokens([heldout])
    sums = np.zeros(len(tokens))
    engine.eval()
    with torch.no_grad():
        for start in range(0, len(tokens), AT_ONCE):
            batch = np.arange(start, min(start + AT_ONCE, len(tokens)))
            parts = [part for part in parts_of(config, batch, tokens.lengths, place) if len(part)]
            for part, micro_batch in zip(parts, built(config, loaded, tokens, parts), strict=True):
                there = micro_batch.to(place.device)
                losses = collate.token_losses(engine, there, slices=loaded.slices, by=loaded.head).double().cpu()
                each = torch.split(losses[0], tokens.label_tokens[part].tolist()) if config.packing else losses
                sums[part] = [float(row.sum()) for row in each]
    engine.train()
    return sums / tokens.label_tokens


def parts_of(config: Finetune, batch: collate.Integers, lengths: collate.Integers, place: Place) -> list[Any]:
    """A worker's micro-batches of an update."""
    if config.packing:
        return schedule.packs(batch, lengths, config.least_pack, place.workers)[place.rank]
    return schedule.rows(batch, config.micro_batch, place.workers)[place.rank]


def built(config: Finetune, loaded: Loaded, tokens: Tokens, parts: list[Any]) -> list[collate.MicroBatch]:
    """They as tensors, on the host."""
    pad = None if config.packing else loaded.tokenizer.pad_token_id
    return collate.built(tokens, parts, pad, width(config))


def width(config: Finetune) -> int | None:
    """What rows are padded to; None for their longest example."""
    return config.max_length if config.pad_to_max else None
