"""Attention in which the examples of a pack do not see each other.

Registered with transformers under the name `PACKED`, it is called in place of a model's own. Where PyTorch has a kernel for
rows of different lengths (`torch.nn.attention.varlen`: CUDA, 16 bits), one call does a pack; elsewhere each example is a call
of its own, which costs what the examples cost, not the square of the pack.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from alpagasus_ray.errors import UsageError

PACKED = "packed"
SIXTEEN_BITS = (torch.bfloat16, torch.float16)
BEYOND = ("s_aux", "sinks", "softcap", "position_bias", "indices", "block_indices")
"""What a model of transformers tells its attention where that is more than plain causal attention."""


def register() -> None:
    """Make the name known to transformers, in this process."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed)


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
    _check_plain(module, told)
    dropout = told.get("dropout", 0.0) if module.training else 0.0
    scale, grouped = told.get("scaling"), query.shape[1] != key.shape[1]
    if query.is_cuda and query.dtype in SIXTEEN_BITS and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        borders, longest = told["cu_seq_lens_q"], told["max_length_q"]
        found = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            borders,
            borders,
            longest,
            longest,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=grouped,
        )
        assert isinstance(found, torch.Tensor)
        return found[None], None
    starts: list[int] = told["pack_starts"]
    lengths = [to - at for at, to in itertools.pairwise(starts)]
    # one split, whose gradient is one concatenation; slices would each have a gradient of the whole pack's size
    rows = zip(*(torch.split(part, lengths, dim=2) for part in (query, key, value)), strict=True)
    parts = [
        scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, scale=scale, enable_gqa=grouped)
        for q, k, v in rows
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None  # some models look at it as another shape


def _check_plain(module: torch.nn.Module, told: Mapping[str, Any]) -> None:
    """Refuse to compute something else than the model was made with."""
    why = None
    window = told.get("sliding_window")
    if "pack_starts" not in told:
        why = "is not told where the examples of a pack begin"
    elif not told.get("is_causal", getattr(module, "is_causal", True)):
        why = "is not causal"
    elif window is not None and window < told["max_length_q"]:
        why = f"looks back {window} tokens only"
    else:
        why = next((f"is told of {name!r}, which packs know nothing of" for name in BEYOND if told.get(name) is not None), None)
    if why is not None:
        raise UsageError(
            f"finetune.packing: the attention of finetune.model ({type(module).__name__}) {why}; set finetune.packing: false"
        )
