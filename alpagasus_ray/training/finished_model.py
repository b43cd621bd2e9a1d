"""What a training leaves: all weights in one place, adapters merged into them, and files that others open.

Knows transformers, peft and DeepSpeed's sharded weights; knows nothing of data, runs or Ray.
"""

import os
from typing import Any

import torch

from alpagasus_ray.config import Finetune
from alpagasus_ray.data.prompts import ALPACA_CHAT_TEMPLATE
from alpagasus_ray.training.model import Loaded, dtype, empty

LARGEST_FILE = "5GB"
ADAPTER_FOLDER = "adapter"


def weights_of(engine: Any, config: Finetune) -> dict[str, torch.Tensor] | None:
    """All weights in host memory on the first worker, None on the others; every worker has to call it."""
    if config.zero_stage == 3:
        found: dict[str, torch.Tensor] | None = engine._zero3_consolidated_16bit_state_dict()  # noqa: SLF001 - what DeepSpeed's own `save_16bit_model` writes to a file of another format
        return found
    if engine.global_rank != 0:
        return None
    return {name: weight.detach().cpu() for name, weight in engine.module.state_dict().items()}


def write(config: Finetune, loaded: Loaded, weights: dict[str, torch.Tensor], ends: set[int], folder: str) -> None:
    """Write what `from_pretrained` and vLLM open: weights (adapters merged), configuration, tokenizer, chat template. `ends`
    are the tokens that it has learned to end with: those that stop it from now on."""
    model = loaded.model
    _stop_at(ends, loaded)
    if config.lora is not None:
        own = {name: weight for name, weight in weights.items() if "lora_" in name}
        # told so, `peft` does not ask a hub for the size of the vocabulary
        model.save_pretrained(os.path.join(folder, ADAPTER_FOLDER), state_dict=own, save_embedding_layers=False)
        model, weights = merged_with(config, model, weights)
    # it was turned off for the training; who generates with this model wants it
    model.config.use_cache = True
    model.save_pretrained(folder, state_dict=weights, max_shard_size=LARGEST_FILE)
    if config.template == "alpaca":
        # the template must write what the tokenizer put before each training example, as chat templates get nothing added
        begins = loaded.tokenizer("").input_ids[:1] == [loaded.tokenizer.bos_token_id]
        loaded.tokenizer.chat_template = ("{{- bos_token }}" if begins else "") + ALPACA_CHAT_TEMPLATE
    loaded.tokenizer.save_pretrained(folder)


def _stop_at(ends: set[int], loaded: Loaded) -> None:
    """A base model knows the end of a text; a chat template ends turns with another token."""
    tokenizer, its_config = loaded.tokenizer, loaded.model.config
    new = sorted(ends - {tokenizer.eos_token_id})
    if not new:
        return
    stops = [*new, tokenizer.eos_token_id]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(new[0])
    its_config.eos_token_id = stops
    if loaded.model.generation_config is not None:
        loaded.model.generation_config.eos_token_id = stops


def merged_with(config: Finetune, model: Any, weights: dict[str, torch.Tensor]) -> tuple[Any, dict[str, torch.Tensor]]:
    """The adapters added to the weights, by an empty twin of the model that takes them over."""
    from peft.tuners.lora import LoraLayer

    hf_config = model.get_base_model().config
    with torch.device("meta"):
        twin = empty(config, hf_config)
    # assigned and not copied: the twin has no memory of its own for them
    twin.load_state_dict(weights, strict=False, assign=True)
    layers: list[Any] = [module for module in twin.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.to(torch.float32)  # one layer at a time: a product of adapters has digits that bf16 would lose before the sum
        layer.merge()
        layer.to(dtype(config))
    merged = twin.unload()
    merged.generation_config = model.get_base_model().generation_config
    return merged, merged.state_dict()
