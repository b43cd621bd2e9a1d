"""All that a worker has at hand before its first update: examples, model, engine, and the state it goes on from."""

from typing import Any, NamedTuple

from alpagasus_ray.config import Finetune
from alpagasus_ray.engines.tokens import load_tokenizer
from alpagasus_ray.training import behaviour, devices, model, native_ops, settings, shapes
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


def prepare(training: Training, place: Place) -> Ready:
    """Load everything. A `UsageError` tells what of it cannot be."""
    config = training.config
    devices.choose_accelerator(place)
    native_ops.load(config, on_gpu=place.on_gpu, tell=lambda said: training.status.tell({"note": said}))
    hf_config = model.shape(config)
    known = model.census(config, hf_config)
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
    tokens = Tokens.open(training.tokens, training.tokens_manifest)
    order = training.order
    behaviour.check(config, loaded, engine, [tokens.ids(index) for index in order.batch(0)[:LOOKED_AT].tolist()], place.device)
    parameters, trained, routed = known[:3] if known else model.counted(loaded.model)
    flops = shapes.flops(hf_config, parameters, trained, routed)
    return Ready(tokens, order, loaded, engine, states, mark, earlier, parameters, flops)


def engine_of(config: Finetune, hf_config: Any, place: Place, has: model.Has, *, universal: bool) -> tuple[model.Loaded, Any]:
    """A model with its weights, and DeepSpeed's engine around it."""
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    told = settings.deepspeed_config(config, universal=universal)
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
