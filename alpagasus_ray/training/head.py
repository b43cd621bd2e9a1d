"""The loss without all logits at once: output layer and cross entropy together, a piece at a time.

4,096 label tokens of a vocabulary of 152 thousand have 2.3 GiB of logits in float32, and the plain way holds them several times
over. Here no piece is larger than `PIECE`. Only for models whose output layer is one plain matrix after which nothing comes
(`shapes.HEADS`): the others have whole logits. Knows torch and modules of transformers; knows nothing of data, runs or Ray.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import shapes

IGNORED = -100
"""The label of what carries no loss, as everywhere in PyTorch."""
PIECE = 256 * 2**20
"""Bytes of logits in float32 that are held at once; a micro-batch with no more than that has them whole, which is quicker."""
THEIR_CLASSES = "transformers.models."


class Head(NamedTuple):
    """An output layer whose losses are computed in pieces."""

    layer: torch.nn.Linear
    always: bool
    """Also where whole logits would be small."""
    by_liger: bool
    """By the kernels of the package liger-kernel, where only a sum is asked for."""


class Chosen(NamedTuple):
    """How losses are computed, and why so."""

    head: Head | None
    """None where logits are whole."""
    why: str


def choose(config: Finetune, model: Any, *, on_gpu: bool) -> Chosen:
    """How the losses of this model are computed. A `UsageError` tells of a way that is asked for and cannot be."""
    if config.logits == "whole":
        return Chosen(None, "finetune.logits = whole")
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    reason = _why_whole(base)
    if reason is not None and config.logits != "auto":
        raise UsageError(f"finetune.logits = {config.logits}: finetune.model {config.model!r} has {reason}; set it to auto")
    if reason is not None:
        return Chosen(None, reason)
    has_liger = on_gpu and find_spec("liger_kernel") is not None
    if config.logits == "liger" and not has_liger:
        raise UsageError(
            "finetune.logits = liger needs a GPU and the package liger-kernel (pip install 'alpagasus-ray[liger]'); set it to "
            "auto"
        )
    by_liger = has_liger and config.logits != "pieces"
    return Chosen(
        Head(base.get_output_embeddings(), always=config.logits != "auto", by_liger=by_liger),
        "by liger-kernel" if by_liger else "in pieces",
    )


def _why_whole(base: Any) -> str | None:
    """What of a model is not known to be an output layer alone; None where it is."""
    if not type(base).__module__.startswith(THEIR_CLASSES):
        return "a class of its own, whose logits nobody has looked at"
    reason = shapes.why_whole_logits(base.config)
    if reason is not None:
        return reason
    if type(base.get_output_embeddings()) is not torch.nn.Linear:
        return f"an output layer that is no plain matrix ({type(base.get_output_embeddings()).__name__})"
    return None


def takes(head: Head | None, targets: torch.Tensor) -> bool:
    """Whether losses at so many targets are computed in pieces."""
    return head is not None and (head.always or targets.numel() * head.layer.out_features * 4 > PIECE)


def losses(
    model: Any, inputs: dict[str, Any], head: Head, keep: torch.Tensor, targets: torch.Tensor, **told: Any
) -> torch.Tensor:
    """(rows * kept,) the cross entropy at each target, 0 where it is `IGNORED`. `model` is what computes, the model itself or
    an engine around it; `told` is `logits_to_keep` where the model takes that."""

    def answer(hidden: torch.Tensor) -> torch.Tensor:
        kept = hidden if told else hidden[:, keep]
        return in_pieces(kept.flatten(0, 1), head.layer.weight, head.layer.bias, targets.flatten())

    return _answered(model, inputs, head, answer, told)


def loss_sum(
    model: Any, inputs: dict[str, Any], head: Head, keep: torch.Tensor, targets: torch.Tensor, **told: Any
) -> torch.Tensor:
    """Their sum."""
    if not head.by_liger:
        return losses(model, inputs, head, keep, targets, **told).sum()
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def answer(hidden: torch.Tensor) -> torch.Tensor:
        kept = hidden if told else hidden[:, keep]
        # sums of gradients in 32 bits, as elsewhere in the loop
        summed = liger_fused_linear_cross_entropy(
            kept.flatten(0, 1),
            head.layer.weight,
            targets.flatten(),
            bias=head.layer.bias,
            ignore_index=IGNORED,
            reduction="sum",
            accum_dtype=torch.float32,
        )
        return cast(torch.Tensor, summed)[None]

    return _answered(model, inputs, head, answer, told).sum()


def _answered(model: Any, inputs: dict[str, Any], head: Head, answer: Any, told: dict[str, Any]) -> torch.Tensor:
    with _standing_in(head.layer, answer):
        found: torch.Tensor = model(**inputs, use_cache=False, **told).logits
    return found


@contextmanager
def _standing_in(layer: torch.nn.Linear, answer: Any) -> Iterator[None]:
    """Let a layer answer otherwise. The model calls it as ever, so that sharded weights are gathered around it, forward and
    backward."""
    layer.__dict__["forward"] = answer
    try:
        yield
    finally:
        del layer.__dict__["forward"]


def in_pieces(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, piece: int | None = None
) -> torch.Tensor:
    """(tokens,) cross entropy in float32 of `linear(hidden, weight, bias)`; 0 where the target is `IGNORED`. `hidden` is
    (tokens, width), `weight` (vocabulary, width); `piece` is the most bytes of logits at a time, `PIECE` unless given."""
    return cast(torch.Tensor, _InPieces.apply(hidden, weight, bias, targets, piece or PIECE))  # type: ignore[no-untyped-call]


class _InPieces(torch.autograd.Function):
    """Forward in pieces of tokens. Backward in pieces of the vocabulary, whose logits are computed again: so each part of the
    weight's gradient is one product over all tokens, rounded once, and nothing of the weight's size is held besides it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        piece: int,
    ) -> torch.Tensor:
        many = max(1, piece // (4 * weight.shape[0]))
        wanted = targets.clamp(min=0)
        logs, found = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
        for start in range(0, len(hidden), many):
            part = slice(start, start + many)
            logits = linear(hidden[part], weight, bias).float()
            at_target = logits.gather(1, wanted[part, None])[:, 0]
            top = logits.amax(dim=1, keepdim=True)
            # in place: a second piece of the same size would double the peak
            logs[part] = top[:, 0] + logits.sub_(top).exp_().sum(dim=1).log()
            found[part] = logs[part] - at_target
        ctx.save_for_backward(hidden, weight, bias, targets, logs)
        ctx.piece = piece
        return found.masked_fill_(targets == IGNORED, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, logs = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        scale = upstream.float().masked_fill(targets == IGNORED, 0.0)[:, None]
        grad_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if of_hidden else None
        grad_weight = torch.empty_like(weight) if of_weight else None
        grad_bias = torch.empty_like(bias) if of_bias else None
        many = max(1, ctx.piece // (4 * len(hidden)))
        for start in range(0, len(weight), many):
            part = slice(start, start + many)
            slopes = _slopes(linear(hidden, weight[part], None if bias is None else bias[part]), logs, targets - start, scale)
            if grad_bias is not None:
                grad_bias[part] = slopes.sum(dim=0)
            slopes = slopes.to(weight.dtype)
            if grad_weight is not None:
                torch.mm(slopes.t(), hidden, out=grad_weight[part])
            if grad_hidden is not None:
                grad_hidden += slopes @ weight[part]
        return (None if grad_hidden is None else grad_hidden.to(hidden.dtype)), grad_weight, grad_bias, None, None


def _slopes(logits: torch.Tensor, logs: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(tokens, part of the vocabulary) the loss's gradient by these logits: probabilities, less 1 at the target. `targets`
    count from the beginning of this part, and most lie outside of it."""
    found = logits.float().sub_(logs[:, None]).exp_().mul_(scale)
    inside = (targets >= 0) & (targets < found.shape[1])
    # without asking which, for that would make a GPU wait
    return found.scatter_add_(1, targets.clamp(0, found.shape[1] - 1)[:, None], -scale * inside[:, None])
