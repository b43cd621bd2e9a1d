"""Where a fault scenario takes place: a folder, a Ray to join, judge servers, driver processes, and the means to hurt them.

Drivers are jobs as `python jobs/<name>.py` runs them, forked from a process that has imported everything already. Whatever an
arena started ends with it, by process id.
"""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil

from alpagasus_ray.datasets.run import Run
from loopback import JudgeStarter, LoopbackJudge
from toy_runs import toy_run

POLL_S = 0.02
PATIENCE_S = 200.0
WORKER, BOARD = "MapWorker(MapBatches(Worker))", "ray::Board"
"""What stands in the titles of the processes of those actors."""
PRELOAD = ["alpagasus_ray.jobs", "alpagasus_ray.stages.score", "alpagasus_ray.stages.ingest", "alpagasus_ray.runner.drive"]
PRELOAD += ["alpagasus_ray.engines.openai_api", "faults.sabotage"]
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(PRELOAD)
Settings = Mapping[str, Any]


class NotHere(Exception):
    """A scenario cannot be played on this machine; says why."""


class Ended(NamedTuple):
    """How a driver ended."""

    code: int
    message: str
    """All that it wrote to stderr."""
    report: dict[str, Any]
    """What `--json` printed, or nothing."""


def _be_a_driver(
    job: str, arguments: list[str], environment: dict[str, str], output: str, prepare: Callable[[], None] | None
) -> None:
    from alpagasus_ray import cli, jobs

    os.environ.clear()
    os.environ.update(environment)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.setsid()
    if prepare is not None:
        prepare()
    cli.main(getattr(jobs, job.upper()), arguments)


class Driver:
    """A driver process."""

    def __init__(self, process: ForkServerProcess, output: Path) -> None:
        self._process, self._output = process, output
        assert process.pid is not None
        self.pid = process.pid
        self._children: list[psutil.Process] = []

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> Ended:
        self._process.join(PATIENCE_S)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"a driver did not end in {PATIENCE_S:.0f} s; it said: {self._read('stderr')}")
        printed = self._read("stdout").splitlines()
        report = json.loads(printed[-1]) if printed and printed[-1].startswith("{") else {}
        return Ended(self._process.exitcode, self._read("stderr"), report)

    def kill(self) -> None:
        """SIGKILL, as the kernel's out-of-memory killer would end it; what it started notices by itself."""
        if self._process.is_alive():
            self._children += psutil.Process(self.pid).children(recursive=True)
            os.kill(self.pid, signal.SIGKILL)
        self._process.join()

    def terminate(self) -> None:
        """SIGTERM, as `ray job stop` ends it."""
        os.kill(self.pid, signal.SIGTERM)

    def close(self) -> None:
        """End it and all that it started."""
        self.kill()
        for process in self._children:
            if process.is_running():
                process.kill()

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of the Ray that this driver started for itself."""
        return _below(self.pid, title)

    def _read(self, name: str) -> str:
        path = Path(f"{self._output}.{name}")
        return path.read_text() if path.exists() else ""


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
        self._before = {process.pid for process in _below(os.getpid(), WORKER)}

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
        output = self.folder / f"driver-{len(self._drivers)}"
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        inherited["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        process = _FORK.Process(
            target=_be_a_driver, args=(job, arguments, {**inherited, **(environment or {})}, str(output), prepare)
        )
        process.start()
        self._drivers.append(Driver(process, output))
        return self._drivers[-1]

    def score(self, run: Run | str, server: LoopbackJudge, settings: Settings | None = None, **how: Any) -> Ended:
        """Run `jobs/score.py` to its end."""
        return self.start(run, server, settings, **how).wait()

    def actors(self, title: str = WORKER) -> list[psutil.Process]:
        """Processes of actors that drivers of this arena have on the Ray they joined, which this process started."""
        return [process for process in _below(os.getpid(), title) if process.pid not in self._before]

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


def _below(pid: int, title: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else []:
        try:
            if title in " ".join(process.cmdline()[:1]) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
