"""What tests take, told by directory, in seconds of CPU of all processes they start; and where a test is stuck.

A plugin of pytest. `--times FILE` writes the seconds of each directory, of short and of long tests; `--shuffle SEED` runs test
files, and the tests of each, in a random order.
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

LOOK_S = 0.5
LONG_LIMIT_S = 900.0
"""When a long test is ended that says no limit of its own."""
TOLD_BEFORE_S = 10.0
"""So long before a test runs out of its time the stacks of all its processes are printed."""


def _ticks(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return spent.user + spent.system


class Meter(threading.Thread):
    """Adds up the CPU seconds of this process and of all that descend from it, for the test that is on.

    A process is looked at while it lives: the last half second of one may be missed. One whose parent has ended still counts.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.spent: Counter[str] = Counter()
        self.wall: Counter[str] = Counter()
        self._label, self._since, self._due = "", time.monotonic(), float("inf")
        self._known: dict[int, tuple[psutil.Process, float]] = {}
        self._lock = threading.Lock()

    def run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                self._look()
            if time.monotonic() > self._due:
                self._due = float("inf")
                self._tell()

    def enter(self, label: str, limit_s: float) -> None:
        """From now on, what is spent is of this label, and a test is on that ends after so many seconds."""
        with self._lock:
            now = time.monotonic()
            self._due = now + limit_s - TOLD_BEFORE_S if limit_s else float("inf")
            if label == self._label:
                return  # to look at all processes takes milliseconds, which thousands of tests need not spend
            self._look()
            self.wall[self._label] += now - self._since
            self._label, self._since = label, now

    def _look(self) -> None:
        family = {process.pid: process for process in psutil.Process().children(recursive=True)}
        for pid, (process, _) in list(self._known.items()):
            with suppress(psutil.Error):
                if process.is_running():
                    family.setdefault(pid, process)
                    family |= {child.pid: child for child in process.children(recursive=True)} if pid not in family else {}
        family[os.getpid()] = psutil.Process()
        found = {}
        for pid, process in family.items():
            with suppress(psutil.Error):
                before = self._known.get(pid, (process, 0.0))
                now = _ticks(process)
                self.spent[self._label] += max(0.0, now - (before[1] if before[0] == process else 0.0))
                found[pid] = (process, now)
        self._known = found

    def _tell(self) -> None:
        print(f"\n{self._label}: a test is about to run out of its time; what its processes do:", file=sys.stderr)
        for process, _ in list(self._known.values()):
            with suppress(psutil.Error, subprocess.TimeoutExpired):
                if "python" in process.name() or "ray::" in process.name():
                    print(_stacks(process), file=sys.stderr, flush=True)


def _stacks(process: psutil.Process) -> str:
    spy = [str(Path(sys.executable).with_name("py-spy")), "dump", "--pid", str(process.pid)]
    done = subprocess.run(spy, capture_output=True, text=True, timeout=10, check=False)
    return done.stdout or f"{process.pid} {process.cmdline()[:3]}: {done.stderr.strip()[:200]}"


class Timing:
    """The hooks."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._meter = config, Meter()
        self._meter.start()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        own = item.get_closest_marker("timeout")
        limit = own.args[0] if own else float(self._config.getini("timeout"))
        kind = "long" if item.get_closest_marker("long") else "short"
        self._meter.enter(f"{item.path.parent.relative_to(self._config.rootpath)} {kind}", limit)
        yield

    def pytest_sessionfinish(self) -> None:
        self._meter.enter("", 0.0)
        file = self._config.getoption("--times")
        if file:
            found = {"cpu": self._meter.spent, "wall": self._meter.wall}
            seconds = {kind: {label: round(spent, 1) for label, spent in of.items() if label} for kind, of in found.items()}
            Path(file).write_text(json.dumps(seconds))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("seconds by directory")
        for label in sorted(filter(None, self._meter.wall)):
            spent = self._meter.spent[label]
            terminalreporter.write_line(f"{label:<24} {self._meter.wall[label]:8.1f} s   {spent:8.1f} s of CPU")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", help="file to write the seconds by directory to")
    parser.addoption("--shuffle", type=int, help="run files, and the tests of each, in an order drawn with this seed")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Timing(config), "seconds")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_LIMIT_S))
    seed = config.getoption("--shuffle")
    if seed is not None:
        draw = random.Random(seed)
        files = sorted({item.path for item in items})
        place = {path: number for number, path in enumerate(draw.sample(files, len(files)))}
        items.sort(key=lambda item: (place[item.path], draw.random()))
