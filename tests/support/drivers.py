"""Jobs as `python jobs/<name>.py` runs them, each in a process forked from one that has imported everything already.

They join the Ray of the test run, or start their own.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import psutil

PATIENCE_S = 280.0
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(
    ["fresh_ids"]
    + [
        f"alpagasus_ray.{name}"
        for name in ("commands", "inference.driver", "engines.openai_api", "stages.ingest", "stages.score")
    ]
    + [f"alpagasus_ray.stages.{name}" for name in ("generate", "compare", "finetune", "pick_subset", "report")]
    + ["faults.sabotage"]
)


class Ended(NamedTuple):
    """How a driver ended."""

    code: int
    message: str
    """All that it wrote to stderr."""
    printed: str
    """All that it wrote to stdout."""
    report: dict[str, Any]
    """What `--json` printed, or nothing."""


def _be_a_driver(
    job: str, arguments: list[str], environment: dict[str, str], output: str, prepare: Callable[[], None] | None
) -> None:
    from alpagasus_ray import cli, commands, run_all

    os.environ.clear()
    os.environ.update(environment)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.setsid()
    if prepare is not None:
        prepare()
    known = {spec.name: spec for spec in (*vars(commands).values(), *vars(run_all).values()) if isinstance(spec, cli.JobSpec)}
    cli.main(known[job], arguments)


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
        """How it ended, once it has."""
        self._process.join(PATIENCE_S)
        if self._process.exitcode is None:
            self.kill()
            raise AssertionError(f"a driver did not end in {PATIENCE_S:.0f} s; it said: {self._read('stderr')}")
        printed = self._read("stdout")
        last = printed.splitlines()[-1:]
        report = json.loads(last[0]) if last and last[0].startswith("{") else {}
        return Ended(self._process.exitcode, self._read("stderr"), printed, report)

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
        return below(self.pid, title)

    def _read(self, name: str) -> str:
        path = Path(f"{self._output}.{name}")
        return path.read_text() if path.exists() else ""


def start(
    job: str,
    arguments: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
) -> Driver:
    """Start a job; what it prints goes to files named like `output`. `prepare` runs in its process before it begins."""
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    inherited["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = _FORK.Process(
        target=_be_a_driver, args=(job, list(arguments), {**inherited, **(environment or {})}, str(output), prepare)
    )
    process.start()
    return Driver(process, output)


def ray_here() -> dict[str, str]:
    """The environment in which a driver joins the Ray of this process."""
    import ray

    return {"RAY_ADDRESS": str(ray.get_runtime_context().gcs_address)}


def below(pid: int, title: str) -> list[psutil.Process]:
    """The processes that a process has started, and they, and so on, with this in their titles."""
    found = []
    for process in psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else []:
        try:
            if title in " ".join(process.cmdline()[:1]) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
