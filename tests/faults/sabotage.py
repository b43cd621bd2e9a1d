"""Works that end the worker they run in; a driver is made to use one by `prepare` of `Arena.start`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import ray.cloudpickle

from alpagasus_ray.engines.base import Engine, Rate, Reply, Request
from alpagasus_ray.inference.spec import Job
from alpagasus_ray.inference.stage import InferenceStage, Target
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.store.storage import FAILPOINT

DEADLY, IN_WORKERS, MOST, DEATHS = "FAULTS_DEADLY", "FAULTS_FAILPOINT_IN_WORKERS", "FAULTS_MOST", "FAULTS_DEATHS"
"""Environment variables of the driver: a text, a failpoint, how many workers have it, a file with a line for each death."""


class DeadlyEngine:
    """Dies over every request that holds a text, after leaving a line in a file."""

    def __init__(self, inner: Engine, text: str, deaths: str) -> None:
        self._inner, self._text, self._deaths = inner, text, deaths
        self.address, self.stated = inner.address, Rate()

    async def complete(self, request: Request) -> Reply:
        if self._text in request.messages[-1]["content"]:
            Path(self._deaths).open("a").write(f"{os.getpid()}\n")  # noqa: ASYNC230, SIM115 - the process ends here
            os._exit(1)
        return await self._inner.complete(request)


class DeadlyWork(RatingTask):
    """Some row kills its worker, whoever asks it."""

    text: ClassVar[str]
    deaths: ClassVar[str]

    def open_engines(self) -> list[Engine]:
        return [DeadlyEngine(engine, self.text, self.deaths) for engine in super().open_engines()]


class FailpointWork(RatingTask):
    """Sets a failpoint in the first few workers, one after the other, and nowhere else."""

    failpoint: ClassVar[str]
    deaths: ClassVar[str]
    most: ClassVar[int]

    def open_engines(self) -> list[Engine]:
        with open(self.deaths, "a+") as stream:
            stream.seek(0)
            if len(stream.readlines()) < self.most:
                stream.write(f"{os.getpid()}\n")
                os.environ[FAILPOINT] = self.failpoint
        return super().open_engines()


def deadly_row() -> None:
    DeadlyWork.text, DeadlyWork.deaths = os.environ[DEADLY], os.environ[DEATHS]
    _use(DeadlyWork)


def failpoint_in_workers() -> None:
    FailpointWork.failpoint, FailpointWork.deaths = os.environ[IN_WORKERS], os.environ[DEATHS]
    FailpointWork.most = int(os.environ[MOST])
    _use(FailpointWork)


def _use(kind: type[RatingTask]) -> None:
    """Let the driver's next job have this work; it goes to the workers by value, who do not know this module."""
    import faults.sabotage

    ray.cloudpickle.register_pickle_by_value(faults.sabotage)  # type: ignore[no-untyped-call]
    make = InferenceStage.job

    def job(stage: InferenceStage, target: Target) -> Job:
        task = stage.task
        assert isinstance(task, RatingTask)
        return replace(make(stage, target), work=kind(task.judge, task.rubric))

    InferenceStage.job = job  # type: ignore[method-assign]
