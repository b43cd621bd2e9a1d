"""All that a worker has at hand before its first update: examples, model, engine, and the state it goes on from."""

from typing import Any, NamedTuple

import torch

from alpagasus_ray.config import Finetune
from alpagasus_ray.engines.tokens import load_tokenizer
from alpagasus_ray.training import behaviour, devices, memory, model, native_ops, settings, shapes
from alpagasus_ray.training.checkpoints import CheckpointInfo, Checkpoints, newest
from alpagasus_ray.training.devices import Place
from alpagasus_ray.training.schedule import Order
from alpagasus_ray.training.shapes import Flops
from alpagasus_ray.training.spec import Training
from alpagasus_ray.training.token_files import Tokens
from alpagasus_ray.training.token_order import TokenOrder

LOOKED_AT = 16
"""Examples among which those are found that a model is looked at with before it learns."""


class Ready(NamedTuple):
    """What the loop works with."""

    tokens: Tokens
    order: Order | TokenOrder
    loaded: model.Loaded
    engine: Any
    states: Checkpoints
    mark: CheckpointInfo | None
    """The state that was taken over."""
    earlier: bytes | None
    """The curve up to there."""
    parameters: int
    flops: Flops | None
    """None where nobody can count them."""
    config: Finetune | None = None
    """What was asked for, with what `auto` came to on these workers; None where nothing was left to them."""


def prepare(training: Training, place: Place) -> Ready:
    """Load everything. A `UsageError` tells what of it cannot be."""
    asked = training.config
    devices.choose_accelerator(place)
    native_ops.load(asked, on_gpu=place.on_gpu, tell=lambda said: training.status.tell({"note": said}))
    hf_config = model.shape(asked)
    known = model.census(asked, hf_config)
    config, why = memory.settled(asked, hf_config, known and known[:2], devices.free_on_all(place), place.workers)
    if why:
        training.status.tell({"note": why})
    if known is not None:
        devices.check(config, known.parameters, known.trained, place)
    mark = newest(training.states)
    states = Checkpoints(
        training.states, place.rank, place.workers, keeps_frozen=config.lora is None, is_spread=config.zero_stage > 0
    )
    universal = mark is not None and states.needs_universal(mark)
    has = known.has if known else model.NOTHING
    loaded, engine = engine_of(config, hf_config, place, has, universal=universal)
    earlier = None
    if mark is not None:
        if universal:
            states.make_universal(mark)
        earlier = states.load(engine, mark)
        _count_beside_weights(engine)
    tokens = Tokens.open(training.tokens, training.tokens_manifest)
    order = training.order
    behaviour.check(config, loaded, engine, [tokens.ids(index) for index in order.batch(0)[:LOOKED_AT].tolist()], place.device)
    parameters, trained, routed = known[:3] if known else model.counted(loaded.model)
    flops = shapes.flops(hf_config, parameters, trained, routed)
    return Ready(tokens, order, loaded, engine, states, mark, earlier, parameters, flops, config)


def _count_beside_weights(engine: Any) -> None:
    """Bring AdamW's counts of updates to where its fused kernel wants them, whatever kernel the state was saved by: one for
    each weight, on its device."""
    adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for group in adam.param_groups:
        if "fused" in adam.defaults:  # not of DeepSpeed's own
            group["fused"] = adam.defaults["fused"]
    for weight, state in adam.state.items():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].to(weight.device, torch.float32, copy=True)


def engine_of(config: Finetune, hf_config: Any, place: Place, has: model.Has, *, universal: bool) -> tuple[model.Loaded, Any]:
    """A model with its weights, and DeepSpeed's engine around it."""
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    hidden = shapes.number(shapes.text_of(hf_config), "hidden_size") if place.on_gpu and place.workers > 1 else None
    told = settings.deepspeed_config(config, universal=universal, hidden=hidden)
    options = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
    tokenizer = load_tokenizer(config.model or "", "finetune.model: the tokenizer of", **options)
    # while it lives, transformers shards weights as it loads them where that is ZeRO-3
    sharding = HfDeepSpeedConfig(told)  # type: ignore[no-untyped-call]
    loaded = model.load(config, hf_config, tokenizer, on_gpu=place.on_gpu, has=has)
    del sharding
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    groups = settings.weight_groups(config, loaded.model)
    engine, *_ = deepspeed.initialize(model=loaded.model, model_parameters=groups, config=told)
    engine.train()
    return loaded, engine
