"""Attention that looks back a window only, or whose scores are capped: of one example, and of a whole pack.

Of one example by PyTorch's own attention, with a mask where there is a window, and in plain steps where scores are capped. Of a
pack on a GPU by FlexAttention, which PyTorch compiles for the model. Both compute the same (`tests/unit/test_windows.py`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch.nn.functional import dropout as dropped
from torch.nn.functional import scaled_dot_product_attention

Masks = dict[int | None, Any]


class Scores(NamedTuple):
    """What becomes of the products of queries and keys before their softmax."""

    scale: float
    cap: float | None = None
    """They are pressed into -cap to cap by its hyperbolic tangent; None where they are not."""
    window: int | None = None
    """How many tokens one sees, itself among them; None for all before it."""


def of_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores, dropout: float) -> torch.Tensor:
    """(1, heads, tokens, width) causal attention in one example; fewer heads of keys and values serve several of queries."""
    grouped = query.shape[1] != key.shape[1]
    length = query.shape[2]
    mask = None if scores.window is None or scores.window >= length else _band(length, scores.window, query.device)
    if scores.cap is None:
        options: dict[str, Any] = {"dropout_p": dropout, "scale": scores.scale, "enable_gqa": grouped}
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, **options)
    if grouped:
        times = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(times, dim=1) for part in (key, value))
    products = torch.tanh(query @ key.transpose(2, 3) * (scores.scale / scores.cap)) * scores.cap
    seen = _band(length, length, query.device) if mask is None else mask
    weights = products.masked_fill(~seen, float("-inf")).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return dropped(weights, dropout) @ value


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """(length, length) which token sees which."""
    everything = torch.ones(length, length, dtype=torch.bool, device=device)
    return everything.tril().triu(1 - window)


def flexed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, scores: Scores, *, compiled: bool = True
) -> torch.Tensor:
    """(1, tokens, heads, width) the same for the examples of a pack, which begin and end at `borders`, by FlexAttention."""
    from torch.nn.attention.flex_attention import flex_attention

    call = _compiled() if compiled else flex_attention
    mask = _mask(borders, query.shape[2], scores.window)
    options = {"scale": scores.scale, "enable_gqa": query.shape[1] != key.shape[1]}
    found = call(query, key, value, score_mod=_pressed(scores.cap), block_mask=mask, **options)
    return cast(torch.Tensor, found).transpose(1, 2).contiguous()


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # packs have another length each time
    return torch.compile(flex_attention, dynamic=True)


@functools.cache
def _pressed(cap: float | None) -> Callable[..., torch.Tensor] | None:
    if cap is None:
        return None

    def pressed(score: torch.Tensor, *_place: torch.Tensor) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return pressed


def _mask(borders: torch.Tensor, tokens: int, window: int | None) -> Any:
    """FlexAttention's mask of a pack. All layers of a forward pass share the borders, and the mask with them."""
    from torch.nn.attention.flex_attention import create_block_mask

    kept: Masks = borders.__dict__.setdefault("masks", {})
    if window not in kept:
        places = torch.arange(tokens, device=borders.device)
        example = torch.searchsorted(borders[1:].contiguous(), places, right=True)

        def sees(_row: Any, _head: Any, at: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            within = (example[at] == example[other]) & (other <= at)
            return within if window is None else within & (other > at - window)

        kept[window] = create_block_mask(sees, None, None, tokens, tokens, device=borders.device)
    return kept[window]
