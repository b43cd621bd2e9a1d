"""A cluster of pools: each stage runs on nodes of its own, which come for it and go after it; what can have no node is told."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.raycluster import placement
from autoscaled import autoscaled_head, nodes_alive
from ray_head import Head
from toy_runs import ROOT, job, toy_run
from trainings import run_with_arms

POOLS = {
    name: {"resources": {"CPU": 2}, "labels": {placement.POOL: name}, "min_workers": 0, "max_workers": 1}
    for name in (placement.CPU, placement.TRAIN)
}
POOLS[placement.GPU] = {"resources": {"CPU": 1, "GPU": 1}, "labels": {placement.POOL: placement.GPU}, "max_workers": 2}
# how many CPUs such a node has is not told, as where a cloud knows it alone
POOLS["odd"] = {"resources": {"memory": 1 << 30}, "labels": {placement.POOL: "odd"}, "min_workers": 0, "max_workers": 1}
RULES = ("--set", "score.judge.kind=rules")
MINUTE = 60


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head that runs no work; nodes without any go after 6 s."""
    folder, labels = tmp_path_factory.mktemp("pools"), f"{placement.POOL}={placement.HEAD}"
    started = autoscaled_head(folder, POOLS, head_cpus=0, idle_minutes=0.1, environment={}, labels=labels)
    try:
        started.wait_for_start()
        started.wait_for("/api/jobs/")
        yield started
    finally:
        started.close()


def there(head: Head) -> set[str]:
    """The pools that nodes are there of."""
    return {node["labels"][placement.POOL] for node in nodes_alive(head)}


@contextmanager
def watched(head: Head) -> Iterator[set[str]]:
    """The pools that there are nodes of at any time while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen.update(there(head))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def driver(head: Head, name: str, run: Path | str, settings: Sequence[str]) -> Any:
    """A job whose driver joins the head's cluster."""
    known = {name: value for name, value in head.environment.items() if name.startswith("RAY_")}
    return job(name, run, *settings, **{**known, "RAY_ADDRESS": head.address})


def until_alone(head: Head) -> None:
    deadline = time.monotonic() + MINUTE
    while there(head) != {placement.HEAD}:
        assert time.monotonic() < deadline, there(head)
        time.sleep(0.5)


def test_scoring_has_nodes_of_its_own_pool_from_zero_and_back(head: Head, shared: Path, tmp_path: Path) -> None:
    run = run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", 32, ("full",)).storage.root
    _scored_on_nodes_of_its_own(head, run)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_every_stage_has_nodes_of_its_own_pool_from_zero_and_back(head: Head, shared: Path, tmp_path: Path) -> None:
    run = run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", 32, ("full",)).storage.root
    _scored_on_nodes_of_its_own(head, run)
    trained = {"model": shared / "tiny_llama", "steps": 2, "workers": 2, "gpu": False, "precision": "float32", "arms": "[full]"}
    placed = {**trained, "max_length": 128, "labels": f"{{{placement.POOL}: {placement.TRAIN}}}"}
    with watched(head) as seen:
        done = driver(head, "finetune", run, [part for key in placed for part in ("--set", f"finetune.{key}={placed[key]}")])
    assert done.returncode == 0, done.stderr
    assert seen == {placement.HEAD, placement.CPU, placement.TRAIN}, "examples are made tokens of in the pool without GPUs"
    until_alone(head)


def _scored_on_nodes_of_its_own(head: Head, run: str) -> None:
    assert there(head) == {placement.HEAD}
    with watched(head) as seen:
        done = driver(head, "score", run, [*RULES, "--set", "score.actors=[1, 2]"])
    assert done.returncode == 0, done.stderr
    assert seen == {placement.HEAD, placement.CPU}
    until_alone(head)


def test_a_pool_asks_for_all_its_gpus_before_any_work_is_done_and_a_node_goes_once_nothing_is_left_for_it(
    head: Head, tmp_path: Path
) -> None:
    run = toy_run(tmp_path, 8, rows_per_shard=2).storage.root
    program = [sys.executable, str(ROOT / "tests/support/growing_pool.py"), run]
    known = {name: value for name, value in head.environment.items() if name.startswith("RAY_")}
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        env={**os.environ, **known, "RAY_ADDRESS": head.address},
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "8"
    until_alone(head)


def refused(head: Head, tmp_path: Path, shared: Path, labels: str) -> tuple[int, str]:
    run = run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", 8, ("full",)).storage.root
    done = driver(head, "score", run, [*RULES, "--set", f"score.labels={labels}"])
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("labels", ["{ray-subcluster: nowhere}", "{zone: here, ray-subcluster: cpu}"])
def test_labels_that_no_node_can_have_are_told_at_once(head: Head, tmp_path: Path, shared: Path, labels: str) -> None:
    code, told = refused(head, tmp_path, shared, labels)
    assert code == 2, told
    assert "score.labels: one process needs 1 CPU and the label" in told
    assert "nor may the autoscaler start one" in told


def test_more_training_workers_than_nodes_can_ever_hold_are_told(head: Head, tmp_path: Path, shared: Path) -> None:
    run = run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", 8, ("full",)).storage.root
    wanted = {"model": shared / "tiny_llama", "gpu": False, "arms": "[full]", "workers": 9}
    done = driver(head, "finetune", run, [part for key in wanted for part in ("--set", f"finetune.{key}={wanted[key]}")])
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "9 processes need 1 CPU and the label ray-subcluster=cpu each" in done.stderr
    assert "it can hold 2 with it" in done.stderr


def test_what_the_autoscaler_says_it_cannot_start_is_told_within_a_minute(head: Head, tmp_path: Path, shared: Path) -> None:
    code, told = refused(head, tmp_path, shared, "{ray-subcluster: odd}")
    assert code == 1, told
    assert "one process needs 1 CPU and the label ray-subcluster=odd of one node" in told
    assert "the autoscaler says that it can start none" in told


@pytest.fixture
def unscaled() -> Iterator[Head]:
    """A head that runs no work, with nobody to start nodes."""
    started = Head("token", **{"num-cpus": 0, "no-monitor": True, "include-dashboard": "false"})
    try:
        started.wait_for_start()
        yield started
    finally:
        started.close()


def test_without_an_autoscaler_nobody_waits_for_a_node_for_ever(unscaled: Head, tmp_path: Path, shared: Path) -> None:
    code, told = refused(unscaled, tmp_path, shared, "{}")
    assert code == 1, told
    assert "one process needs 1 CPU of one node" in told
    assert "no autoscaler is at work that could start one" in told


def test_a_token_that_the_cluster_does_not_take_is_told_with_what_to_look_at(head: Head, tmp_path: Path, shared: Path) -> None:
    run = run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", 8, ("full",)).storage.root
    known = {name: value for name, value in head.environment.items() if name.startswith("RAY_")}
    done = job("score", run, *RULES, **{**known, "RAY_ADDRESS": head.address, "RAY_AUTH_TOKEN": "of-another-cluster"})
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "of-another-cluster" not in done.stderr
