"""A training of a race as it is sent to a process, and what comes back. Knows nothing of torch, so the driver loads it."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import AlpagasusError, StageFailed
from alpagasus_ray.training.token_order import TokenOrder


class Proxy(NamedTuple):
    """One training: of an arm, under a seed."""

    arm: str
    seed: int
    key: str
    """Hash of all that its outcome depends on."""
    tokens: pa.RecordBatch
    """What it is trained on, of schema TOKENS."""
    order: TokenOrder


class Raced(NamedTuple):
    """What came of a training."""

    arm: str
    seed: int
    key: str
    steps: list[int]
    """(points,) updates after which the losses were measured; the first is 0, the last is all."""
    tokens: list[int]
    """(points,) tokens that were seen by then."""
    label_tokens: int
    epochs: float
    losses: NDArray[np.float64]
    """(points, rows) mean loss over the label tokens of each held-out row."""
    seconds: float
    device: str


Trains = Callable[[Finetune, pa.RecordBatch, int, int | None, Sequence[Proxy]], Iterator[Raced]]
"""From settings, held-out rows, points, how many at once and the trainings to their outcomes, in the order they are ready."""


def in_this_process(
    config: Finetune, heldout: pa.RecordBatch, points: int, _at_once: int | None, proxies: Sequence[Proxy]
) -> Iterator[Raced]:
    """Train one after the other, without Ray."""
    from alpagasus_ray.training.proxies import Trainer

    trainer = Trainer(config, heldout, points)
    for proxy in proxies:
        yield trainer.train(proxy)


def on_ray(
    config: Finetune, heldout: pa.RecordBatch, points: int, at_once: int | None, proxies: Sequence[Proxy]
) -> Iterator[Raced]:
    """Train on the cluster, in as many processes as there are GPUs, or in one without GPUs; each keeps what it has loaded."""
    import ray
    import ray.exceptions
    from ray.util import ActorPool

    from alpagasus_ray.raycluster import connect, placement
    from alpagasus_ray.training import driver
    from alpagasus_ray.training.proxies import Trainer

    connect.connect()
    group = driver.worker_group(config)
    config = config.model_copy(update={"gpu": group.on_gpu})
    usual = int(placement.total(group.each.labels)["GPU"]) if group.on_gpu else 1
    trainer = ray.remote(
        num_cpus=group.each.cpus, num_gpus=int(group.on_gpu), label_selector=dict(group.each.labels), max_restarts=0
    )(Trainer)
    processes = [trainer.remote(config, heldout, points) for _ in range(max(1, min(at_once or usual, len(proxies))))]
    try:
        yield from ActorPool(processes).map_unordered(lambda process, proxy: process.train.remote(proxy), proxies)
    except ray.exceptions.RayTaskError as failed:
        if isinstance(failed.cause, AlpagasusError):
            raise failed.cause from None
        raise
    except ray.exceptions.RayActorError as lost:
        last = str(lost).strip().splitlines()[0]
        raise StageFailed(
            f"a process that trained proxies was lost: {last}. The same command goes on with what is left"
        ) from None
    finally:
        for process in processes:
            ray.kill(process)
