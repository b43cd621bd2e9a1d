"""What layers that nothing changes make of an example, computed once and kept for all trainings of a process.

With adapters on the upper layers alone, the layers below them give the same hidden states for the same tokens in every update,
under every seed and on every arm: in a race most of the work is to compute them again. Kept are those of examples in packs, by
their tokens. Only models of `KNOWN` types take part; all others are computed as they are.
"""

import itertools
from typing import Any

import torch

from alpagasus_ray.config import Finetune

KNOWN = ("llama",)
"""Types of models whose layers hand nothing but their hidden states to the next, and are the same whatever lies above them."""
MOST_BYTES = 2**30
"""Memory of the host for hidden states; examples beyond it are computed each time."""


class Kept:
    """Hidden states (tokens, width) of examples, by the bytes of their tokens."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._states: dict[bytes, torch.Tensor] = {}
        self._left = most
        self.computed = 0
        """Tokens that went through the frozen layers."""

    def get(self, key: bytes) -> torch.Tensor | None:
        """Those of an example, on the host; None where they are not kept."""
        return self._states.get(key)

    def keep(self, key: bytes, states: torch.Tensor) -> None:
        """Keep them as far as there is room."""
        size = states.numel() * states.element_size()
        if key not in self._states and size <= self._left:
            self._states[key] = states.cpu().clone()
            self._left -= size


class _Lower(torch.nn.Module):
    """In place of a decoder's lowest layers; in training as in measuring it is the same."""

    def __init__(self, layers: list[torch.nn.Module], kept: Kept) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)
        self._kept = kept
        self._ids: torch.Tensor | None = None

    def look(self, _decoder: Any, args: tuple[Any, ...], told: dict[str, Any]) -> None:
        """The tokens that are on their way; a hook of the decoder, whose layers are not told."""
        self._ids = told.get("input_ids", args[0] if args else None)

    def forward(self, hidden: torch.Tensor, **told: Any) -> torch.Tensor:
        starts: list[int] | None = told.get("pack_starts")
        if starts is None or self._ids is None:
            return self._through(hidden, told)
        lengths = [stop - start for start, stop in itertools.pairwise(starts)]
        keys = [ids.numpy().tobytes() for ids in torch.split(self._ids[0].cpu(), lengths)]
        found = [self._kept.get(key) for key in keys]
        known = [states for states in found if states is not None]
        if len(known) == len(keys):
            return torch.cat(known)[None].to(hidden.device)
        made = self._through(hidden, told)
        for key, states in zip(keys, torch.split(made[0], lengths), strict=True):
            self._kept.keep(key, states)
        return made

    def _through(self, hidden: torch.Tensor, told: dict[str, Any]) -> torch.Tensor:
        self._kept.computed += hidden.shape[1]
        with torch.no_grad():
            for layer in self.layers:
                hidden = layer(hidden, **told)
        return hidden


def recall(config: Finetune, model: Any, kept: Kept) -> int:
    """Let a loaded model take what its frozen lowest layers make of an example from what is kept. The answer is how many layers
    that are; 0 where the model, or the way it is trained, is not known to be the same each time."""
    if config.lora is None or config.from_scratch or not config.packing:
        return 0
    base = model.get_base_model()
    if base.config.model_type not in KNOWN or base.config.attention_dropout:
        return 0
    decoder = base.get_decoder()
    frozen = _frozen(decoder)
    if frozen:
        lower = _Lower(list(decoder.layers[:frozen]), kept)
        decoder.layers = torch.nn.ModuleList([lower, *decoder.layers[frozen:]])
        decoder.register_forward_pre_hook(lower.look, with_kwargs=True)
    return frozen


def _frozen(decoder: Any) -> int:
    """How many of the lowest layers, with the embeddings before them, learn nothing."""
    if any(weight.requires_grad for weight in decoder.embed_tokens.parameters()):
        return 0
    learns = [any(weight.requires_grad for weight in layer.parameters()) for layer in decoder.layers]
    return learns.index(True) if True in learns else 0
