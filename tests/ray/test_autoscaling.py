"""A submitted job on a cluster that grows and shrinks: nodes come when they are needed, are lost, and go."""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from autoscaled import autoscaled_head, nodes_alive
from loopback import JudgeStarter
from ray_head import Head
from toy_runs import ids, prompt_hashes, ratings, toy_run

KEY = "sk-canary-autoscaled"
ROWS, IN_FLIGHT, LATENCY_S = 900, 4, 0.4
WORKER = {"resources": {"CPU": 1}, "min_workers": 0, "max_workers": 3}
LIMIT_S = 150


@pytest.fixture(autouse=True)
def _ray() -> None:
    """In place of the local Ray that the other tests here run on."""


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A head that runs no work, and that gives up nodes after some seconds without any."""
    started = autoscaled_head(tmp_path, {"worker": WORKER}, head_cpus=0, idle_minutes=0.1, environment={"OPENAI_API_KEY": KEY})
    try:
        started.wait_for_start()
        started.wait_for("/api/jobs/")
        yield started
    finally:
        started.close()


def alive(head: Head) -> int:
    return len(nodes_alive(head))


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} took more than {LIMIT_S} s"
        time.sleep(0.2)


def lose_a_node(head: Head) -> None:
    """End a node at once, as a cloud takes a spot machine away."""
    raylets = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet" and any(head.address in part for part in process.info["cmdline"] or ())
    ]
    newest = max(raylets, key=lambda process: process.create_time())
    for process in [newest, *newest.children(recursive=True)]:
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nodes_come_are_lost_and_go_and_every_row_is_scored_once(head: Head, judge: JudgeStarter, tmp_path: Path) -> None:
    run, server = toy_run(tmp_path, ROWS, rows_per_shard=30), judge("--latency", str(LATENCY_S), "--key", KEY)
    assert alive(head) == 1
    knobs = {"judge.model": "toy", "judge.base_url": server.base_url, "actors": 2, "concurrency": IN_FLIGHT}
    options = [part for key, value in knobs.items() for part in ("--set", f"score.{key}={value}")]
    entry = ["python", "jobs/score.py", "--run", run.storage.root, *options]
    submitted = head.ray("job", "submit", "--no-wait", "--working-dir", ".", "--", *entry)
    found = re.search(r"raysubmit_\w+", submitted.stdout)
    assert found, submitted.stdout + submitted.stderr
    until(lambda: alive(head) == 3, "growing to three nodes")
    until(lambda: len(server.taken()) > ROWS / 4, "a quarter of the rows")
    before = len(server.taken())
    lose_a_node(head)
    until(lambda: alive(head) == 2, "losing a node")
    until(lambda: alive(head) == 3, "its replacement")
    until(lambda: json.loads(head.get(f"/api/jobs/{found[0]}"))["status"] not in ("PENDING", "RUNNING"), "the job's end")
    log = json.loads(head.get(f"/api/jobs/{found[0]}/logs"))["logs"]
    assert json.loads(head.get(f"/api/jobs/{found[0]}"))["status"] == "SUCCEEDED", log
    assert before < ROWS
    table = ratings(run)
    assert table["example_id"].to_pylist() == ids(run)
    assert set(table["status"].to_pylist()) == {"scored"}
    assert set(server.taken()) == set(prompt_hashes(run))
    twice = sum(count - 1 for count in Counter(server.taken()).values())
    assert twice <= IN_FLIGHT + 2 * IN_FLIGHT / LATENCY_S, "what was in flight on the lost node and two seconds of replies"
    until(lambda: alive(head) == 1, "shrinking to the head alone")
