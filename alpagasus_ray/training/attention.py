"""Attention in which the examples of a pack do not see each other.

Registered with transformers under the name `PACKED`, it is called in place of a model's own. Where PyTorch has a kernel for
rows of different lengths (`torch.nn.attention.varlen`: CUDA, 16 bits), one call does a pack; elsewhere each example is a call
of its own, which costs what the examples cost, not the square of the pack.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import torch
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import windows

PACKED = "packed"
NAMES = ("self_attn", "attn", "attention", "self_attention")
"""What models of transformers call the attention of a layer."""
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Attention over the tokens of a pack: queries, keys and values, (tokens, heads, width)."""
SIXTEEN_BITS = (torch.bfloat16, torch.float16)
FLASH = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3", "flash_attention_4": "flash-attn-4"}
"""Attentions by packages of their own, and the distributions that bring them: 2 and 4 share the name of their module."""
HOPPER = 9
BEYOND = ("s_aux", "sinks", "position_bias", "indices", "block_indices")
"""What a model of transformers tells its attention where that is more than plain causal attention."""


def register() -> None:
    """Make the name known to transformers, in this process."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed)


def compute_again(config: Finetune, model: Any) -> None:
    """Let the attention of every layer be computed again in the backward pass, and keep nothing of it but its input."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    found = [part for layer in layers for name, part in layer.named_children() if name in NAMES]
    if not found:
        raise UsageError(
            f"finetune.gradient_checkpointing = attention: the layers of finetune.model {config.model!r} have no part that is "
            f"called {', '.join(NAMES)}; set it to full or none"
        )
    for part in found:
        # its own forward, not the module: hooks around it, which gather sharded weights, stay around it
        part.__dict__["forward"] = functools.partial(checkpoint, part.forward, use_reentrant=False)


def runs_flash(kind: str, config: Finetune, *, on_gpu: bool) -> bool:
    """Whether an attention of `FLASH` is installed and can run."""
    return on_gpu and config.precision == "bf16" and _is_installed(FLASH[kind])


def quickest_flash(config: Finetune, *, on_gpu: bool) -> str | None:
    """Of the attentions of `FLASH` that are installed and can run here the quickest; None where there is none."""
    kinds = ("flash_attention_3", "flash_attention_2") if _is_hopper() else ("flash_attention_2",)
    return next((kind for kind in kinds if runs_flash(kind, config, on_gpu=on_gpu)), None)


def _is_hopper() -> bool:
    """Whether this process's GPU is of the generation that the third is written for (H100, H200)."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def check_flash(config: Finetune, *, on_gpu: bool, has_flash: bool) -> None:
    """Refuse an attention that is asked for and cannot run. `has_flash`: the model's class can take it."""
    if not has_flash:
        raise UsageError(
            f"finetune.attention = {config.attention}: the class of finetune.model {config.model!r} cannot take it; set it "
            "to auto"
        )
    if not runs_flash(config.attention, config, on_gpu=on_gpu):
        raise UsageError(
            f"finetune.attention = {config.attention} needs the package {FLASH[config.attention]}, a GPU and `precision: "
            "bf16`; set it to auto"
        )


def packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - transformers' name of it, by which some models pass it
    **told: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each example of a pack.

    `query` is (1, heads, tokens, width), `key` and `value` the same with as many heads or fewer; the answer is
    (1, tokens, heads, width). Among what else transformers passes through is where examples begin and end: `pack_starts`, and
    the same as `cu_seq_lens_q` and `max_length_q`, which are its names for it in flash attention. A `UsageError` tells of a
    model whose attention is another one.
    """
    # at every call, which is cheap: models differ from layer to layer, in their windows for instance
    _check_plain(module, told)
    dropout = told.get("dropout", 0.0) if module.training else 0.0
    scale, cap, window = told.get("scaling"), told.get("softcap"), told.get("sliding_window")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # the kernels know no dropout and no 32 bits
    if query.is_cuda and query.dtype in SIXTEEN_BITS and not dropout:
        if cap is not None:
            return windows.flexed(query, key, value, told["cu_seq_lens_q"], windows.Scores(scale, cap, window)), None
        kernel = _in_one_call(told, scale, grouped=query.shape[1] != key.shape[1])
        return evened(kernel, *(part[0].transpose(0, 1) for part in (query, key, value)))[None], None
    starts: list[int] = told["pack_starts"]
    lengths = [to - at for at, to in itertools.pairwise(starts)]
    # one split, whose gradient is one concatenation; slices would each have a gradient of the whole pack's size
    rows = zip(*(torch.split(part, lengths, dim=2) for part in (query, key, value)), strict=True)
    parts = [windows.of_one(q, k, v, windows.Scores(scale, cap, window), dropout) for q, k, v in rows]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None  # some models look at it as another shape


def _in_one_call(told: Mapping[str, Any], scale: float, *, grouped: bool) -> Kernel:
    """PyTorch's kernel for rows of different lengths, for the examples of this pack."""
    from torch.nn.attention.varlen import varlen_attn

    borders, longest = told["cu_seq_lens_q"], told["max_length_q"]
    window = told.get("sliding_window")
    # the whole past or a window of it, a token itself among it, and nothing of the future
    past = -1 if window is None else window - 1
    options: dict[str, Any] = {"scale": scale, "window_size": (past, 0), "enable_gqa": grouped}

    def kernel(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        found = varlen_attn(queries, keys, values, borders, borders, longest, longest, **options)
        assert isinstance(found, torch.Tensor)
        return found

    return kernel


def evened(
    kernel: Kernel,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """What a kernel computes that takes heads of one width alone: the narrower are filled up with zeros, which add nothing to
    a product, and the answer is cut to the values' width (multi-head latent attention has wider keys than values)."""
    width, told = max(query.shape[-1], value.shape[-1]), value.shape[-1]
    query, key, value = (pad(part, (0, width - part.shape[-1])) for part in (query, key, value))
    return kernel(query, key, value)[..., :told]


def _check_plain(module: torch.nn.Module, told: Mapping[str, Any]) -> None:
    """Refuse to compute something else than the model was made with."""
    why = None
    if "pack_starts" not in told:
        why = "is not told where the examples of a pack begin"
    elif not told.get("is_causal", getattr(module, "is_causal", True)):
        why = "is not causal"
    else:
        why = next((f"is told of {name!r}, which packs know nothing of" for name in BEYOND if told.get(name) is not None), None)
    if why is not None:
        raise UsageError(
            f"finetune.packing: the attention of finetune.model ({type(module).__name__}) {why}; set finetune.packing: false"
        )
