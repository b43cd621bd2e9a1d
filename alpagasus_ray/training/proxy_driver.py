"""Where the trainings of a race are done: in this process, or in processes of a Ray cluster that stay loaded between them."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import AlpagasusError, StageFailed
from alpagasus_ray.training.proxy import Proxy, Raced


def in_this_process(
    config: Finetune, heldout: pa.RecordBatch, points: int, _at_once: int | None, proxies: Iterable[Proxy]
) -> Iterator[Raced]:
    """Train one after the other, without Ray."""
    from alpagasus_ray.training.proxies import Trainer

    trainer = Trainer(config, heldout, points)
    for proxy in proxies:
        yield trainer.train(proxy)


class _Process:
    """A process of the cluster that trains proxies; the driver does not load what it needs."""

    def __init__(self, config: Finetune, heldout: pa.RecordBatch, points: int) -> None:
        from alpagasus_ray.training.proxies import Trainer

        self._trainer = Trainer(config, heldout, points)

    def train(self, proxy: Proxy) -> Raced:
        return self._trainer.train(proxy)


def on_ray(
    config: Finetune, heldout: pa.RecordBatch, points: int, at_once: int | None, proxies: Iterable[Proxy]
) -> Iterator[Raced]:
    """Train on the cluster, in as many processes as there are GPUs, or in one without GPUs; each keeps what it has loaded."""
    import ray
    import ray.exceptions

    from alpagasus_ray.raycluster import connect, placement
    from alpagasus_ray.training import driver

    connect.connect()
    group = driver.worker_group(config)
    config = config.model_copy(update={"gpu": group.on_gpu})
    usual = int(placement.total(group.each.labels)["GPU"]) if group.on_gpu else 1
    trainer: Any = ray.remote(
        num_cpus=group.each.cpus, num_gpus=int(group.on_gpu), label_selector=dict(group.each.labels), max_restarts=0
    )(_Process)
    processes: list[Any] = []
    running: dict[Any, Any] = {}
    waiting = iter(proxies)
    try:
        while True:
            # one more at a time, as what comes first decides how many may follow
            while len(running) < max(1, at_once or usual) and (proxy := next(waiting, None)) is not None:
                free = [process for process in processes if process not in running.values()]
                if not free:
                    free = [trainer.remote(config, heldout, points)]
                    processes += free
                running[free[0].train.remote(proxy)] = free[0]
            if not running:
                return
            (done, *_), _ = ray.wait(list(running))
            del running[done]
            yield ray.get(done)
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
