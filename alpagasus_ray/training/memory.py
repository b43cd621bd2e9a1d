"""How many tokens a pack may have, and what of the activations is kept, by the memory there is.

An estimate from the model's configuration: what autograd keeps of the layers of transformers' Llama, which others resemble.
Pure functions of the recipe and of configurations; knows nothing of torch, DeepSpeed or Ray.
"""

from typing import Any, NamedTuple

from alpagasus_ray.config import Finetune
from alpagasus_ray.training import shapes
from alpagasus_ray.training.settings import state_bytes

GIB = 2**30
SHARE = 0.85
"""Of the memory that states leave free; the rest is for what no formula knows: buffers, the allocator's gaps, gradients of
activations."""
GRANULE, MOST = 256, 32_768
"""Packs are multiples of the first, and no longer than the second: beyond it a GPU gets no quicker."""
ENOUGH = 8_192
"""Tokens in a pack that keep a GPU busy: activations are kept whole where so many have room."""
LOGITS = 4
"""How many times the plain way holds the logits of a micro-batch in float32: themselves, their exponentials, both gradients."""
PIECES = 2**30
"""Bytes for a loss that is computed in pieces (`head.PIECE`, a few of them at once)."""
KINDS = ("none", "attention", "full")
"""Of `finetune.gradient_checkpointing`, from the quickest to the one that needs least memory."""


class Layer(NamedTuple):
    """Elements a token that autograd keeps of one layer, and how many layers there are."""

    norms: float
    """Of both norms, and the residual stream; those of float32 count as many bytes as they have."""
    attention: float
    feed_forward: float
    hidden: int
    layers: int


def layer(hf_config: Any, wide: int) -> Layer | None:
    """What a layer keeps, in bytes a token; None where the configuration does not say enough. `wide` is bytes of a number."""
    text = shapes.text_of(hf_config)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    hidden, layers, heads = (shapes.number(text, name) for name in names)
    inner = shapes.number(text, "intermediate_size")
    if hidden is None or layers is None or heads is None or inner is None:
        return None
    chosen = next(filter(None, (shapes.number(text, name) for name in shapes.CHOSEN)), 1)
    width = shapes.number(text, "head_dim") or hidden // heads
    queries, keys = heads * width, (shapes.number(text, "num_key_value_heads") or heads) * width
    # a norm keeps its input in float32, and in 16 bits its quotient besides; what comes out of it is kept by the layer after it
    norms = 2 * hidden * (4 + wide) + 2 * hidden * wide
    # queries, keys, values and what comes of them, that again as the output projection sees it
    attention = wide * (2 * keys + 3 * queries)
    # gate, its activation, the other half, and their product
    return Layer(norms, attention, 4 * wide * inner * chosen, hidden, layers)


def bytes_a_token(hf_config: Any, wide: int, kind: str) -> float | None:
    """Activations of all layers that one token of a micro-batch keeps till the backward pass. `kind` is one of `KINDS`."""
    each = layer(hf_config, wide)
    if each is None:
        return None
    whole = each.norms + each.attention + each.feed_forward
    if kind == "none":
        return whole * each.layers
    if kind == "attention":
        return (whole - each.attention) * each.layers + each.attention
    # the input of every layer, and all of the one that is computed again
    return wide * each.hidden * each.layers + whole


class Settled(NamedTuple):
    """What `auto` came to, and why."""

    config: Finetune
    why: str


def settled(config: Finetune, hf_config: Any, counts: tuple[int, int] | None, free: float | None, workers: int) -> Settled:
    """The same settings with a number of tokens in place of `pack_tokens: auto`, and a kind in place of
    `gradient_checkpointing: auto`. `counts` are the model's parameters and how many are trained; `free` is the memory of a
    worker's GPU in bytes, None where it computes on a CPU."""
    if config.gradient_checkpointing != "auto" and not (config.packing and config.pack_tokens == "auto"):
        return Settled(config, "")
    if free is None and config.pack_tokens != "auto":
        return Settled(config.model_copy(update={"gradient_checkpointing": "none"}), "")  # which is nothing to tell
    if free is None:
        return _set(config, "none", config.least_pack, "on a CPU, which larger packs make no quicker")
    wide = 2 if config.precision == "bf16" else 4
    if counts is None or bytes_a_token(hf_config, wide, "none") is None:
        return _set(config, "none", config.least_pack, "the configuration of this model does not say what it keeps of a token")
    states = state_bytes(config, *counts, workers)
    room = (free - states) * SHARE - PIECES
    kinds = KINDS if config.gradient_checkpointing == "auto" else (config.gradient_checkpointing,)
    wanted = _wanted(config)
    each = {kind: _each(config, hf_config, wide, kind) for kind in kinds}
    kind = next((kind for kind in kinds if room >= wanted * each[kind]), kinds[-1])
    tokens = max(config.max_length, min(MOST, int(room / each[kind]) // GRANULE * GRANULE))
    why = (
        f"{free / GIB:,.1f} GiB are free, states take {states / GIB:,.1f}, a token {each[kind] / 2**20:,.2f} MiB by the "
        "configuration of the model"
    )
    return _set(config, kind, tokens, why)


def _wanted(config: Finetune) -> int:
    """Tokens of a micro-batch for which activations are to have room."""
    if not config.packing:
        return config.micro_batch * config.max_length
    return max(config.max_length, ENOUGH) if config.pack_tokens == "auto" else config.pack_tokens


def _each(config: Finetune, hf_config: Any, wide: int, kind: str) -> float:
    layers = bytes_a_token(hf_config, wide, kind)
    assert layers is not None, "looked at before"
    is_whole = config.logits == "whole" or shapes.why_whole_logits(hf_config) is not None
    vocabulary = shapes.number(shapes.text_of(hf_config), "vocab_size") or 0
    return layers + (LOGITS * 4 * vocabulary if is_whole else 0)


def _set(config: Finetune, kind: str, tokens: int, why: str) -> Settled:
    changes: dict[str, Any] = {"gradient_checkpointing": kind} if config.gradient_checkpointing == "auto" else {}
    if config.packing and config.pack_tokens == "auto":
        changes["pack_tokens"] = tokens
    said = ", ".join(
        f"{name} = {value:,}" if isinstance(value, int) else f"{name} = {value}" for name, value in changes.items()
    )
    return Settled(config.model_copy(update=changes), f"{said}: {why}")
