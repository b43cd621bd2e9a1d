"""Micro-batches as tensors: what a model is given, and which of its answers count.

The loss is a sum over label tokens. Who adds up an update divides by the label tokens of all of it, so that packed, padded and
sharded updates are the same function. Knows torch; knows nothing of DeepSpeed or Ray.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from alpagasus_ray.training import head
from alpagasus_ray.training.head import IGNORED, Head
from alpagasus_ray.training.schedule import starts

Integers = NDArray[np.int64]


class Examples(Protocol):
    """Tokens of examples by their index, as `token_files.Tokens` has them."""

    @property
    def lengths(self) -> Integers:
        """(examples,) tokens of each example, prompt and response."""

    @property
    def prompt_tokens(self) -> Integers:
        """(examples,) tokens of each prompt, which carry no loss."""

    def ids(self, index: int) -> NDArray[np.int32]:
        """(length,) the tokens of one example."""


class MicroBatch(NamedTuple):
    """One forward pass."""

    inputs: dict[str, Any]
    """Arguments of the model."""
    keep: torch.Tensor
    """(kept,) positions whose next token may carry loss: the others need no logits."""
    targets: torch.Tensor
    """(rows, kept) the next token there, or `IGNORED`."""

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on another device; copies from pinned memory go on while the device computes."""
        inputs = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs.items()
        }
        return MicroBatch(inputs, self.keep.to(device, non_blocking=True), self.targets.to(device, non_blocking=True))


def packed(tokens: Examples, examples: Integers) -> MicroBatch:
    """One row of examples behind each other, positions counted from 0 in each. Without examples, a row that teaches nothing:
    sharded weights are gathered by all workers together, whether they have something to compute or not."""
    if not len(examples):
        return _packed(torch.zeros(1, dtype=torch.int64), [0, 1], torch.tensor([0]), torch.tensor([[IGNORED]]))
    borders = starts(tokens.lengths[examples])
    ids = torch.from_numpy(np.concatenate([tokens.ids(index) for index in examples.tolist()]).astype(np.int64))
    labels = np.concatenate(
        [start + learned(tokens, index) for start, index in zip(borders[:-1], examples.tolist(), strict=True)]
    )
    where = torch.from_numpy(labels)
    # the token before a label is where that label is predicted
    return _packed(ids, borders, where - 1, ids[where][None])


def _packed(ids: torch.Tensor, borders: list[int], keep: torch.Tensor, targets: torch.Tensor) -> MicroBatch:
    lengths = [stop - start for start, stop in itertools.pairwise(borders)]
    # 32 bits, as kernels for rows of different lengths want their borders
    ends = torch.tensor(borders, dtype=torch.int32)
    return MicroBatch(
        {
            "input_ids": ids[None],
            # each example counts from 0, as if it were alone: rotary positions would otherwise tell examples apart by their
            # place
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "pack_starts": borders,
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        },
        keep,
        targets,
    )


def padded(tokens: Examples, examples: Integers, pad: int, to: int | None = None) -> MicroBatch:
    """One row for each example, filled up on the right with the token `pad` to the longest, or `to` so many tokens."""
    if not len(examples):
        one = torch.zeros(1, 1, dtype=torch.int64)
        return MicroBatch({"input_ids": one, "attention_mask": one + 1}, torch.tensor([0]), one + IGNORED)
    width = to or int(tokens.lengths[examples].max())
    ids = torch.full((len(examples), width), pad)
    attended = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, index in enumerate(examples.tolist()):
        length, places = int(tokens.lengths[index]), torch.from_numpy(learned(tokens, index))
        ids[row, :length] = torch.from_numpy(tokens.ids(index).astype(np.int64))
        attended[row, :length] = 1
        labels[row, places] = ids[row, places]
    # what is predicted at a place is the token after it
    following = labels[:, 1:]
    # columns in which any row has a label; the output layer, as wide as the vocabulary, is spared for all others
    keep = (following != IGNORED).any(dim=0).nonzero()[:, 0]
    return MicroBatch({"input_ids": ids, "attention_mask": attended}, keep, following[:, keep])


def loss_sum(model: Any, micro_batch: MicroBatch, *, slices: bool, by: Head | None = None) -> torch.Tensor:
    """Sum of the cross entropy over the label tokens, computed in float32. `slices` says whether the model takes
    `logits_to_keep` and so spares the output layer for all other positions; `by` computes it without whole logits."""
    inputs, keep, targets = micro_batch
    if by is not None and head.takes(by, targets):
        return head.loss_sum(model, inputs, by, keep, targets, **_told(micro_batch, slices=slices))
    logits = _logits(model, micro_batch, slices=slices)
    return cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def token_losses(model: Any, micro_batch: MicroBatch, *, slices: bool, by: Head | None = None) -> torch.Tensor:
    """(rows, kept) the cross entropy of each label token, 0 where there is none; what `loss_sum` sums up."""
    inputs, keep, targets = micro_batch
    if by is not None and head.takes(by, targets):
        return head.losses(model, inputs, by, keep, targets, **_told(micro_batch, slices=slices)).view_as(targets)
    logits = _logits(model, micro_batch, slices=slices)
    return cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none").view_as(targets)


def _told(micro_batch: MicroBatch, *, slices: bool) -> dict[str, torch.Tensor]:
    return {"logits_to_keep": micro_batch.keep} if slices else {}


def _logits(model: Any, micro_batch: MicroBatch, *, slices: bool) -> torch.Tensor:
    logits = model(**micro_batch.inputs, use_cache=False, **_told(micro_batch, slices=slices)).logits
    if not slices:
        logits = logits[:, micro_batch.keep]
    # in float32: sums over a vocabulary in 16 bits lose the small losses
    kept: torch.Tensor = logits.flatten(0, 1).float()
    return kept


def label_tokens(tokens: Examples, examples: Integers) -> int:
    """Tokens that carry loss in these examples."""
    return sum(len(learned(tokens, index)) for index in examples.tolist())


def learned(tokens: Examples, index: int) -> Integers:
    """(label tokens,) places of the tokens of an example that carry loss."""
    places = np.arange(int(tokens.prompt_tokens[index]), int(tokens.lengths[index]))
    # start and stop of each stretch inside the response that carries no loss
    masked = tokens.masked(index) if hasattr(tokens, "masked") else []
    for start, stop in zip(masked[::2], masked[1::2], strict=True):
        places = places[(places < start) | (places >= stop)]
    return places


def built(tokens: Examples, parts: Sequence[Integers], pad: int | None, to: int | None) -> list[MicroBatch]:
    """The micro-batches of a worker's share of an update: rows padded with the token `pad`, or packs where it is None."""
    if pad is None:
        return [packed(tokens, part) for part in parts]
    return [padded(tokens, part, pad, to) for part in parts]
