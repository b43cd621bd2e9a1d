"""What all benchmarks share: data, a judge on loopback, the memory of our processes, and a results table."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil

from alpagasus_ray.store.run import Run

ROOT = Path(__file__).parents[1]
ALPACA = ROOT.parent / "shared/data/alpaca52k"
RATINGS = ROOT.parent / "shared/data/ratings/alpaca52k_three_llm_scores.csv"
SERVER = ROOT / "tests/support/judge_server.py"
GIB = 2**30


class Server:
    """A judge server on loopback (`tests/support/judge_server.py`)."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen([sys.executable, str(SERVER), *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._root = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.base_url = f"{self._root}/v1"

    def stats(self) -> dict[str, Any]:
        """`taken`, `peak` in flight, and `seconds` from the first request to the last reply."""
        with urllib.request.urlopen(f"{self._root}/stats", timeout=10) as response:
            loaded: dict[str, Any] = json.load(response)
        return loaded

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def copy_examples(run: Run, folder: Path) -> Run:
    """A run with the same examples and nothing else."""
    shutil.copytree(f"{run.storage.root}/examples", folder / "examples")
    return Run.open(str(folder))


@contextmanager
def server(*options: str) -> Iterator[Server]:
    running = Server(*options)
    try:
        yield running
    finally:
        running.close()


class Sampler:
    """Looks at our processes twice a second while its block runs."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.5):
            self.look([me, *me.children(recursive=True)])

    def look(self, processes: Sequence[psutil.Process]) -> None:
        """Take a sample of this process, the first, and of those that it has started."""
        raise NotImplementedError


class PeakMemory(Sampler):
    """Peak of the memory that each of our processes holds for itself (USS), by kind of process."""

    def __init__(self) -> None:
        self.peak: dict[str, int] = {}
        super().__init__()

    def look(self, processes: Sequence[psutil.Process]) -> None:
        for process in processes:
            try:
                name = "driver" if process.pid == os.getpid() else process.name().split("::")[-1]
                self.peak[name] = max(self.peak.get(name, 0), process.memory_full_info().uss)
            except psutil.Error:
                continue

    def of(self, part: str) -> int:
        """Peak in bytes of the processes with `part` in their name."""
        return max((peak for name, peak in self.peak.items() if part in name), default=0)


class Table:
    """Results as Markdown rows; printed as they come."""

    def __init__(self, title: str, *columns: str) -> None:
        self._title, self._columns = title, columns
        self._rows: list[list[str]] = []
        self.lines = [f"### {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        print("\n".join(["", *self.lines]), flush=True)

    def row(self, *cells: object) -> None:
        self._rows.append([str(cell) for cell in cells])
        line = f"| {' | '.join(self._rows[-1])} |"
        self.lines.append(line)
        print(line, flush=True)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; the cells are texts."""
        return {"title": self._title, "columns": list(self._columns), "rows": self._rows}


def machine() -> str:
    """What it was measured on, in words."""
    memory = psutil.virtual_memory().total / GIB
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} {os.uname().machine} cores, {memory:.0f} GiB of memory, no GPU, CPython {python}"


def timed(started: float) -> float:
    return time.monotonic() - started
