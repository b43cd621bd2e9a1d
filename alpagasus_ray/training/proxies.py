"""Trains proxies, one after the other in one loaded process: the updates are those of every other training (`loop.py`).

A proxy is not kept: what comes back is its loss on each held-out row, measured some times on the way. One process, one device;
a process that is lost has cost the training it was at, and nothing else.
"""

import gc
import math
import os
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers.utils import logging

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import StageFailed
from alpagasus_ray.store.manifest import FileEntry
from alpagasus_ray.store.run import Manifest, StageDir
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.training import behaviour, devices, frozen, measure, model, native_ops, setup, shapes
from alpagasus_ray.training.checkpoints import Checkpoints
from alpagasus_ray.training.curve import Watcher
from alpagasus_ray.training.devices import Place
from alpagasus_ray.training.loop import Loop, Spent
from alpagasus_ray.training.proxy import Proxy, Raced
from alpagasus_ray.training.proxy_answers import Answering, answers
from alpagasus_ray.training.setup import Ready
from alpagasus_ray.training.spec import Stopped, Training
from alpagasus_ray.training.status import TrainingStatus
from alpagasus_ray.training.token_files import Tokens

Floats = NDArray[np.float64]


class Trainer:
    """A process that trains proxies of one kind; also an actor of Ray."""

    def __init__(self, config: Finetune, heldout: pa.RecordBatch, points: int) -> None:
        """`heldout` is of schema TOKENS; its rows' losses are measured before each training and `points` times in it."""
        self._config, self._heldout, self._points = config, heldout, points
        self._shape: Any = None
        self._known: model.Census | None = None
        self.kept, self._before = frozen.Kept(), None if config.from_scratch else _Before()
        self._place = Place(0, 1, 1, torch.device("cuda", 0) if config.gpu else torch.device("cpu"))
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        devices.take_cores(config.cpus)
        devices.choose_accelerator(self._place)
        if not dist.is_initialized():
            # DeepSpeed asks the environment, though the group is there
            os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
            backend = "nccl" if self._place.on_gpu else "gloo"
            store = dist.HashStore()  # type: ignore[attr-defined]  # it is, and documented
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
        native_ops.load(config, on_gpu=self._place.on_gpu)

    def train(self, proxy: Proxy) -> Raced:
        """Train one. A `UsageError` tells of what cannot be trained, a `StageFailed` of one whose loss is no number."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="alpagasus-proxy-") as folder:
            config = self._config.model_copy(update={"seed": proxy.seed})
            training = _training(config, proxy, StageDir("race", Storage.open(folder)))
            ready = self._prepared(config, proxy, training)
            before = self._before or _Before()
            loop = _ProxyLoop(training, self._place, ready, (self._heldout, self._points, before), proxy.answers)
            try:
                stopped = loop.run()
            finally:
                ready.engine.destroy()
        if isinstance(stopped, Stopped):
            raise StageFailed(stopped.reason)
        del ready
        gc.collect()
        return loop.raced(proxy, time.monotonic() - started)

    def _prepared(self, config: Finetune, proxy: Proxy, training: Training) -> Ready:
        is_first = self._shape is None
        if is_first:  # the model is the same in all trainings
            self._shape = model.shape(config)
            self._known = model.census(config, self._shape)
        known = self._known
        if known is not None:
            devices.check(config, known.parameters, known.trained, self._place)
        has = known.has if known else model.NOTHING
        loaded, engine = setup.engine_of(config, self._shape, self._place, has, universal=False)
        tokens = Tokens([proxy.tokens])
        if is_first:
            some = [tokens.ids(index) for index in proxy.order.batch(0)[: setup.LOOKED_AT].tolist()]
            behaviour.check(config, loaded, engine, some, self._place.device)
        frozen.recall(config, loaded.model, self.kept)
        parameters, trained, routed = known[:3] if known else model.counted(loaded.model)
        states = Checkpoints(training.states, 0, 1, keeps_frozen=False, is_spread=False)
        flops = shapes.flops(self._shape, parameters, trained, routed)
        return Ready(tokens, proxy.order, loaded, engine, states, None, None, parameters, flops)


class _Before:
    """Losses before the first update: of weights that are the same for all trainings, unless they are drawn by the seed."""

    losses: Floats | None = None


class _Quiet(TrainingStatus):
    """Nobody asks a proxy how far it is."""

    def __init__(self) -> None: ...

    def tell(self, news: dict[str, Any]) -> None: ...


def _training(config: Finetune, proxy: Proxy, home: StageDir) -> Training:
    nothing = Manifest(
        stage="", settings={}, settings_hash="", inputs={}, files=list[FileEntry](), rows=0, seconds=0, versions={}
    )
    return Training(config, f"{proxy.arm}, seed {proxy.seed}", home, home, nothing, proxy.key, time.time(), _Quiet())


class _Point(NamedTuple):
    step: int
    losses: Floats


class _ProxyLoop(Loop):
    """The updates of a proxy: measured on rows, and neither saved nor kept."""

    def __init__(
        self,
        training: Training,
        place: Place,
        ready: Ready,
        measured: tuple[pa.RecordBatch, int, _Before],
        answering: tuple[int, int] | None,
    ) -> None:
        super().__init__(training, place, ready, Spent())
        self._answering = answering
        self._answers: tuple[str, ...] = ()
        self._rows, points, self._before = measured
        steps = ready.order.steps
        self._when = {round(steps * point / points) for point in range(points + 1)}
        self._points: list[_Point] = []

    def watchers(self) -> list[Watcher]:
        return []

    def raced(self, proxy: Proxy, seconds: float) -> Raced:
        """What has come of it."""
        order = self._ready.order
        seen = [sum(row["tokens"] for row in self._curve.rows()[: point.step]) for point in self._points]
        return Raced(
            arm=proxy.arm,
            seed=proxy.seed,
            key=proxy.key,
            steps=[point.step for point in self._points],
            tokens=seen,
            label_tokens=sum(row["label_tokens"] for row in self._curve.rows()),
            epochs=order.epoch(order.steps - 1),
            losses=np.array([point.losses for point in self._points]),
            seconds=seconds,
            device=devices.name_of(self._place.device),
            answers=self._answers,
        )

    def _is_time(self, step: int) -> bool:  # noqa: ARG002 - no state is saved: the whole is short
        return False

    def _is_leaving(self) -> bool:
        return False

    def _measure(self, done: int) -> str | None:
        if done not in self._when:
            return None
        ready = self._ready
        found = self._before.losses if done == 0 else None
        if found is None:
            found = measure.row_losses(self._config, self._place, ready.loaded, ready.engine, self._rows)
        if not math.isfinite(float(found.sum())):
            return "the loss over what is held out is no number"
        if done == 0:
            self._before.losses = found
        self._points.append(_Point(done, found))
        return None

    def _finish(self) -> None:
        self._curve.close()
        if self._answering is not None:
            loaded, device = self._ready.loaded, self._place.device
            self._answers = answers(loaded, self._rows, Answering(*self._answering), self._ends(), device)
