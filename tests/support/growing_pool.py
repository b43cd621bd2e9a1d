"""A driver of a pool of one or two engines with a GPU each, in a process of its own; the cluster has yet to grow the GPUs.

    RAY_ADDRESS=… python tests/support/growing_pool.py RUN

No engine answers before there are two GPUs, and one row has no answer before there is one again, as idle nodes go.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import ray

import toy_engines
from alpagasus_ray.config import Judge, Score
from alpagasus_ray.engines.base import Engine, Rate, Reply, Request
from alpagasus_ray.inference import driver
from alpagasus_ray.inference.spec import AskSpec, Job, Task
from alpagasus_ray.progress import Progress
from alpagasus_ray.raycluster import connect, placement
from alpagasus_ray.raycluster.pool import Pool
from alpagasus_ray.store.run import Run
from toy_engines import MortalWork

GPUS, LOOK_S = 2, 0.2
LAST = "0"
"""The row that waits."""
POOL = Pool(most=GPUS, gpus=1, labels={placement.POOL: placement.GPU})


class Patient:
    """An engine that looks at the cluster before it answers."""

    address = "a patient engine"
    stated = Rate()

    async def complete(self, request: Request) -> Reply:
        await self._until(GPUS)
        if request.key == LAST:
            await self._until(1)
        return Reply("4", "stop", 10, 2, 0)

    async def _until(self, gpus: int) -> None:
        while ray.cluster_resources().get("GPU", 0) != gpus:  # noqa: ASYNC110 - a cluster calls nobody
            await asyncio.sleep(LOOK_S)


@dataclass(frozen=True)
class PatientWork(MortalWork):
    def open_engines(self) -> Sequence[Engine]:
        return [Patient()]


def main(location: str) -> None:
    ray.cloudpickle.register_pickle_by_value(toy_engines)
    run = Run.open(location)
    home, spec = run.ratings("judge"), AskSpec.of(Score(), Judge(max_outage_s=600.0))
    connect.connect()
    job = Job(PatientWork("none"), spec.on(POOL), run.examples(), home, home.storage)
    tasks = [Task(entry.name) for entry in run.examples().finished().parts()]
    with Progress("toy", len(tasks)) as progress:
        driver.drive([job], tasks, None, progress, lambda _: None)
    print(sum(entry.counts.get("scored", 0) for entry in job.backlog.done()))


if __name__ == "__main__":
    main(sys.argv[1])
