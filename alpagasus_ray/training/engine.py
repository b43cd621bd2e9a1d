"""DeepSpeed's engine around a model. Knows nothing of data, runs or Ray."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from alpagasus_ray.config import Finetune
from alpagasus_ray.training import model, settings, shapes
from alpagasus_ray.training.devices import Place


def engine_of(config: Finetune, hf_config: Any, place: Place, has: model.Has, *, universal: bool) -> tuple[model.Loaded, Any]:
    """A model with its weights, and DeepSpeed's engine around it."""
    from alpagasus_ray.engines.tokens import load_tokenizer

    hidden = shapes.number(shapes.text_of(hf_config), "hidden_size") if place.on_gpu and place.workers > 1 else None
    told = settings.deepspeed_config(config, universal=universal, hidden=hidden)
    options = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(config.model or "", "finetune.model: the tokenizer of", **options)
    with _sharded(told) if config.zero_stage == 3 else nullcontext():
        loaded = model.load(config, hf_config, tokenizer, on_gpu=place.on_gpu, has=has)
    return loaded, around(config, loaded, told)


@contextmanager
def _sharded(told: dict[str, Any]) -> Iterator[None]:
    """Let transformers shard weights as it loads them."""
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    known = HfDeepSpeedConfig(told)  # type: ignore[no-untyped-call]  # while it lives
    try:
        yield
    finally:
        del known
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]


def around(config: Finetune, loaded: model.Loaded, told: dict[str, Any]) -> Any:
    """DeepSpeed's engine around a model that is loaded; `told` is of `settings.deepspeed_config`."""
    import deepspeed

    groups = settings.weight_groups(config, loaded.model)
    engine, *_ = deepspeed.initialize(model=loaded.model, model_parameters=groups, config=told)
    engine.train()
    return engine


def count_beside_weights(engine: Any) -> None:
    """Bring AdamW's counts of updates to where its fused kernel wants them, whatever kernel the state was saved by: one for
    each weight, on its device."""
    adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for group in adam.param_groups:
        if "fused" in adam.defaults:  # not of DeepSpeed's own
            group["fused"] = adam.defaults["fused"]
    for weight, state in adam.state.items():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].to(weight.device, torch.float32, copy=True)
