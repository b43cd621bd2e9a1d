"""Drivers that are stopped and go on, on a real S3 server: never two payers, never a part overwritten."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import held_driver
import pytest

from alpagasus_ray.config import Ingest
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run
from toy_runs import ratings

ROWS = 120
PATIENCE_S = 60.0
Starter = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts drivers; whatever is left of their process groups ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(location: str) -> subprocess.Popen[str]:
        command = [sys.executable, held_driver.__file__, location, str(tmp_path / "paid")]
        path = os.pathsep.join([str(Path(held_driver.__file__).parent), os.environ.get("PYTHONPATH", "")])
        started.append(
            subprocess.Popen(
                command, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "PYTHONPATH": path}
            )
        )
        return started[-1]

    yield begin
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            process.wait()


def payers(log: Path) -> list[str]:
    """The driver in whose name each row was paid for, in order."""
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@pytest.mark.parametrize("stopped", ["the driver", "the driver and its worker"])
def test_of_a_driver_that_is_stopped_and_one_that_takes_over_never_both_pay(
    bucket: str, tmp_path: Path, start: Starter, stopped: str
) -> None:
    location, log = f"{bucket}/held-{len(stopped)}", tmp_path / "paid"
    (tmp_path / "rows.jsonl").write_text("\n".join(f'{{"instruction": "{n}", "output": "b"}}' for n in range(ROWS)))
    run = Run.open(location)
    ingest(Ingest(source=str(tmp_path / "rows.jsonl"), rows_per_shard=5), run)
    first = start(location)
    until(lambda: len(payers(log)) > 12)
    signal_to = os.kill if stopped == "the driver" else os.killpg
    signal_to(first.pid, signal.SIGSTOP)
    second = start(location)
    until(lambda: len(set(payers(log))) > 1)
    before = run.ratings("judge").storage.all_names()
    signal_to(first.pid, signal.SIGCONT)
    assert first.stderr is not None
    told = first.stderr.read()
    assert (first.wait(), second.wait()) == (1, 0)
    assert "this driver has lost" in told
    assert "Traceback" not in told
    paid = payers(log)
    one, other = dict.fromkeys(paid)
    assert paid == sorted(paid, key=[one, other].index), "the first one paid again after the second had begun"
    stage = run.ratings("judge")
    manifest = stage.finished()
    stage.verify(manifest)
    assert ratings(run).num_rows == ROWS
    assert before & {entry.name for entry in manifest.files}, "what the first one has committed in time counts"
    assert run.storage.names() == []
