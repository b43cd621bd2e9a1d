"""All that a worker has at hand before its first update: examples, model, engine, and the state it goes on from."""

from typing import Any, NamedTuple

from alpagasus_ray.config import Finetune
from alpagasus_ray.training import behaviour, devices, memory, model, native_ops, shapes
from alpagasus_ray.training.checkpoints import CheckpointInfo, Checkpoints, newest
from alpagasus_ray.training.devices import Place
from alpagasus_ray.training.engine import count_beside_weights
from alpagasus_ray.training.engine import engine_of as engine_of  # noqa: PLC0414 - proxies take it from here
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
    if known is not None:
        devices.check(config, known.parameters, known.trained, place)
    mark = newest(training.states)
    states = Checkpoints(
        training.states, place.rank, place.workers, keeps_frozen=config.lora is None, is_spread=config.zero_stage > 0
    )
    universal = mark is not None and states.needs_universal(mark)
    has = known.has if known else model.NOTHING
    loaded, engine = engine_of(config, hf_config, place, has, universal=universal)
    whole = f"logits are whole: {loaded.logits}" if loaded.head is None else ""
    if why or whole:
        training.status.tell({"note": "; ".join(filter(None, (why, whole)))})
    earlier = None
    if mark is not None:
        if universal:
            states.make_universal(mark)
        earlier = states.load(engine, mark)
        count_beside_weights(engine)
    tokens = Tokens.open(training.tokens, training.tokens_manifest)
    order = training.order
    behaviour.check(config, loaded, engine, [tokens.ids(index) for index in order.batch(0)[:LOOKED_AT].tolist()], place.device)
    parameters, trained, routed = known[:3] if known else model.counted(loaded.model)
    flops = shapes.flops(hf_config, parameters, trained, routed)
    return Ready(tokens, order, loaded, engine, states, mark, earlier, parameters, flops, config)
