"""The training loop in one process, without Ray Train: updates of several configurations in turns, and where their time goes.

    python benchmarks/loop_alone.py FILE

FILE is JSON: `run` and `arm` (whose tokens are made), `configs` (`finetune` sections by name), `updates` of each, `on_gpu`,
`threads`. Prints JSON: `rows` by name, the curve's, one an update, with its seconds (`whole`), those of the CPU (`cpu`) and
those of each of its `parts`; `parameters` by name; `device`.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from alpagasus_ray.config import Finetune
from alpagasus_ray.store.run import Run
from alpagasus_ray.training import collate, measure
from alpagasus_ray.training.devices import Place, choose_accelerator, name_of
from alpagasus_ray.training.loop import Loop, Spent
from alpagasus_ray.training.schedule import Order
from alpagasus_ray.training.setup import prepare
from alpagasus_ray.training.spec import Training
from alpagasus_ray.training.status import TrainingStatus


class Silent(TrainingStatus):
    """Nobody listens."""

    def __init__(self) -> None: ...

    def tell(self, news: dict[str, Any]) -> None: ...


class Watch:
    """Seconds of the parts of updates. Work that a GPU has still to do counts where it is waited for."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def on(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **told: Any) -> Any:
            started = time.perf_counter()
            found = call(*given, **told)
            self._seconds[part] += time.perf_counter() - started
            return found

        return timed

    def taken(self) -> dict[str, float]:
        """What was counted since it was last taken."""
        found = dict(self._seconds)
        self._seconds.clear()
        return found


def _loop(asked: Mapping[str, Any], name: str, watch: Watch, place: Place) -> Loop:
    run = Run.open(asked["run"])
    tokens = run.tokens(asked["arm"])
    config = Finetune.model_validate(asked["configs"][name])
    told = Training(config, name, run.model(name), tokens, tokens.finished(), name, time.time(), Silent())
    ready = prepare(told, place)
    # on CPUs both do their work before they return
    ready.engine.backward = watch.on("backward", ready.engine.backward)
    ready.engine.step = watch.on("step", ready.engine.step)
    return Loop(told, place, ready, Spent())


def _world(place: Place) -> None:
    """A world of this process alone, as Ray Train would have made it."""
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    choose_accelerator(place)
    dist.init_process_group("nccl" if place.on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def _parts(watch: Watch) -> list[Any]:
    """Patches that time the parts of an update."""
    watched = (
        (collate, "loss_sum", "forward"),
        (measure, "built", "building micro-batches"),
        (measure, "parts_of", "packing"),
        (Order, "batch", "choosing examples"),
        (Loop, "_agree", "agreeing"),
        (Loop, "_record", "recording"),
    )
    timed = [mock.patch.object(owner, name, watch.on(part, getattr(owner, name))) for owner, name, part in watched]
    return [*timed, mock.patch.object(Loop, "_is_leaving", return_value=False)]  # only Ray Train could say


def measured(asked: Mapping[str, Any]) -> dict[str, Any]:
    """All configurations, an update of each in turn."""
    torch.set_num_threads(asked["threads"])
    place = Place(0, 1, 1, torch.device("cuda", 0) if asked["on_gpu"] else torch.device("cpu"))
    _world(place)
    watch = Watch()
    loops = {name: _loop(asked, name, watch, place) for name in asked["configs"]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in loops}
    with ExitStack() as stack:
        for patch in _parts(watch):
            stack.enter_context(patch)
        for step in range(asked["updates"]):
            for name, one in loops.items():
                watch.taken()
                started, worked = time.perf_counter(), time.process_time()
                wrong = one._update(step)  # noqa: SLF001 - an update is what is measured
                times = {"whole": time.perf_counter() - started, "cpu": time.process_time() - worked}
                assert wrong is None, wrong
                found[name].append({**one._curve.rows()[-1], **times, "parts": watch.taken()})  # noqa: SLF001
    parameters = {name: one._ready.parameters for name, one in loops.items()}  # noqa: SLF001
    return {"rows": found, "parameters": parameters, "device": name_of(place.device)}


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(Path(sys.argv[1]).read_text()))))
