"""What a loaded model does, looked at before it learns: whether examples of a pack stay apart, whether tokens see those after
them.

A configuration says what its authors thought of; this says what happens. Knows torch and the attention of packs; knows nothing
of runs or Ray.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import collate
from alpagasus_ray.training.model import Loaded

CLOSE = {"float32": 1e-4, "bf16": 1e-2}
"""How far two losses of the same example may lie apart, relative to the loss: float additions in another order."""
MOST = 256
"""Tokens of an example that are looked at: all of them have logits here, which a large vocabulary makes large."""
LOOKED_AT = 2
"""Examples that are packed and looked at alone."""
Ids = NDArray[np.int32]


class _Bare:
    """Examples in which every token but the first carries loss: the sooner after a border, the more a leak tells."""

    def __init__(self, ids: Sequence[Ids]) -> None:
        self._ids = ids
        self.lengths = np.array([len(each) for each in ids], dtype=np.int64)
        self.prompt_tokens = np.ones(len(ids), dtype=np.int64)

    def ids(self, index: int) -> Ids:
        return self._ids[index]


def check(config: Finetune, loaded: Loaded, forward: Any, ids: Sequence[Ids], device: torch.device) -> None:
    """Refuse a model that is not what a training takes it for. `forward` is what computes, the model or DeepSpeed's engine
    around it; `ids` are some examples, of which the first of at least two tokens are taken, as they are or repeated."""
    some = [each[: min(MOST, config.least_pack // LOOKED_AT)] for each in ids if len(each) > 1][:LOOKED_AT]
    if not some:
        return
    some = (some * LOOKED_AT)[:LOOKED_AT]
    was_training = bool(forward.training)
    forward.eval()
    try:
        with torch.no_grad():
            _check(config, loaded, lambda inputs: forward(**inputs, use_cache=False).logits, some, device)
    finally:
        forward.train(was_training)


def _check(
    config: Finetune, loaded: Loaded, logits: Callable[[dict[str, Any]], torch.Tensor], ids: Sequence[Ids], device: torch.device
) -> None:
    most = CLOSE[config.precision]
    packed = _packed_losses(logits, ids, device) if config.packing else None
    with own_attention(loaded):
        alone = [_losses(logits(_plain(each, device)), each) for each in ids]
        ahead = _sees_ahead(logits, ids[0], device, alone[0], most)
    if ahead:
        raise UsageError(
            f"finetune.model {config.model!r} is no causal language model: what comes later changes what it says before it, so "
            "that it would learn to copy, not to answer. Give a model that writes text (a decoder)"
        )
    for before, after in zip(alone, packed or alone, strict=True):
        left, right = before.mean().item(), after.mean().item()
        if not _same(left, right, most):
            raise UsageError(
                f"finetune.packing: an example has the loss {left:.6g} alone and {right:.6g} in a pack with another, so that "
                f"finetune.model {config.model!r} does not keep them apart; set finetune.packing: false"
            )


def _same(left: float, right: float, most: float) -> bool:
    return abs(left - right) <= most * max(abs(left), abs(right), 1e-6)


def _packed_losses(
    logits: Callable[[dict[str, Any]], torch.Tensor], ids: Sequence[Ids], device: torch.device
) -> list[torch.Tensor]:
    """The losses of each example of one pack of all."""
    batch = collate.packed(_Bare(ids), np.arange(len(ids))).to(device)
    rows = logits(batch.inputs)[0]
    ends = np.cumsum([len(each) for each in ids])
    return [_losses(rows[None, end - len(each) : end], each) for each, end in zip(ids, ends.tolist(), strict=True)]


def _plain(ids: Ids, device: torch.device) -> dict[str, torch.Tensor]:
    row = torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(device)[None]
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}


def _losses(logits: torch.Tensor, ids: Ids) -> torch.Tensor:
    """(tokens - 1,) the loss of every token but the first."""
    targets = torch.from_numpy(np.asarray(ids[1:], dtype=np.int64)).to(logits.device)
    return cross_entropy(logits[0, :-1].float(), targets, reduction="none")


def _sees_ahead(
    logits: Callable[[dict[str, Any]], torch.Tensor], ids: Ids, device: torch.device, losses: torch.Tensor, most: float
) -> bool:
    """Whether what is said in the first half depends on the second."""
    half = len(ids) // 2
    other = ids.copy()
    other[half:] = ids[:1]
    if half < 2 or (other == ids).all():
        return False
    after = _losses(logits(_plain(other, device)), other)
    return not _same(losses[: half - 1].mean().item(), after[: half - 1].mean().item(), most)


@contextmanager
def own_attention(loaded: Loaded) -> Iterator[None]:
    """Let a model compute with its own attention in place of that of packs, which only knows packs."""
    if loaded.kind == loaded.own:
        yield
        return
    model = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
    model.set_attn_implementation(loaded.own)
    try:
        yield
    finally:
        model.set_attn_implementation(loaded.kind)
