"""Where a fault scenario takes place: a folder, a Ray to join, judge servers, driver processes, and the means to hurt them.

Drivers are jobs as `python jobs/<name>.py` runs them, forked from a process that has imported everything already. Whatever an
arena started ends with it, by process id.
"""

import contextlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

import drivers
from alpagasus_ray.store.run import Run
from drivers import PATIENCE_S, Driver, Ended, below
from loopback import JudgeStarter, LoopbackJudge
from toy_runs import toy_run

POLL_S = 0.02
WORKER, COORDINATOR = "MapWorker(MapBatches(Worker))", "ray::Coordinator"
"""What stands in the titles of the processes of those actors."""
Settings = Mapping[str, Any]


class NotHere(Exception):
    """A scenario cannot be played on this machine; says why."""


class Arena:
    """One scenario's place; everything in it ends with the `with` block."""

    def __init__(self, ray_address: str, seed: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ar-"))
        self.ray_address = ray_address
        self.random = random.Random(seed)
        self._judges = JudgeStarter(self.folder)
        self._drivers: list[Driver] = []
        self._runs = 0
        self._at_end: list[Callable[[], object]] = []
        self._before = {process.pid for process in below(os.getpid(), WORKER)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for driver in self._drivers:
            driver.close()
        for server in self._judges.servers:
            server.close()
        for undo in reversed(self._at_end):
            undo()
        shutil.rmtree(self.folder, ignore_errors=True)

    def at_end(self, undo: Callable[[], object]) -> None:
        """Call this when the arena closes, before its folder goes."""
        self._at_end.append(undo)

    def judge(self, *options: str, faults: list[dict[str, Any]] | None = None) -> LoopbackJudge:
        """A judge server on loopback, whose log is the truth."""
        return self._judges(*options, *(["--faults", json.dumps(faults)] if faults else []))

    def toy(self, rows: int, rows_per_shard: int = 100, folder: Path | None = None) -> Run:
        """A run with so many different examples, in a folder of its own unless one is given."""
        if folder is None:
            folder = self.folder / f"run-{self._runs}"
            folder.mkdir()
            self._runs += 1
        return toy_run(folder, rows, rows_per_shard)

    def start(
        self,
        run: Run | str,
        server: LoopbackJudge,
        settings: Settings | None = None,
        *,
        own_ray: bool = False,
        prepare: Callable[[], None] | None = None,
        flags: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Driver:
        """Start `jobs/score.py`, which joins the arena's Ray or starts its own."""
        location = run if isinstance(run, str) else run.storage.root
        knobs = {"judge.model": "toy", "judge.base_url": server.base_url, **(settings or {})}
        arguments = ["--run", location, "--json", *flags]
        for key, value in knobs.items():
            arguments += ["--set", f"score.{key}={json.dumps(value)}"]
        joined = {} if own_ray else {"RAY_ADDRESS": self.ray_address}
        return self.start_job("score", arguments, {**joined, **(environment or {})}, prepare)

    def start_job(
        self,
        job: str,
        arguments: list[str],
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Driver:
        """Start any job."""
        self._drivers.append(drivers.start(job, arguments, self.folder / f"driver-{len(self._drivers)}", environment, prepare))
        return self._drivers[-1]

    def score(self, run: Run | str, server: LoopbackJudge, settings: Settings | None = None, **how: Any) -> Ended:
        """Run `jobs/score.py` to its end."""
        return self.start(run, server, settings, **how).wait()

    def actors(self, title: str = WORKER) -> list[psutil.Process]:
        """Processes of actors that drivers of this arena have on the Ray they joined, which this process started."""
        return [process for process in below(os.getpid(), title) if process.pid not in self._before]

    def wait(self, condition: Callable[[], bool], driver: Driver | None = None) -> bool:
        """Wait until it holds; False where the driver ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if driver is not None and not driver.is_alive:
                return condition()
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(POLL_S)
        return True

    def kill_one(self, title: str, driver: Driver, *, own_ray: bool = False) -> bool:
        """SIGKILL an actor as soon as there is one; False where the driver ended before."""
        victims: list[psutil.Process] = []

        def found() -> bool:
            victims[:] = driver.processes(title) if own_ray else self.actors(title)
            return bool(victims)

        if not self.wait(found, driver):
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            victim = self.random.choice(victims)
            victim.kill()
            victim.wait(10)
        return True

    def until_quiet(self) -> None:
        """Wait until no worker of an earlier driver is left on the arena's Ray."""
        self.wait(lambda: not self.actors())
