"""The doctor on a cluster of two nodes with an autoscaler: what it sees of the nodes, and of the cluster's limits."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoscaled import autoscaled_head
from loopback import JudgeStarter
from ray_head import START_S, Head
from toy_runs import job, toy_run

KEY = "sk-canary-0123456789abcdef"
WORKER = {"resources": {"CPU": 2}, "min_workers": 1, "max_workers": 3}


@pytest.fixture(autouse=True)
def _ray() -> None:
    """In place of the local Ray that the other tests here run on."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder, known = tmp_path_factory.mktemp("autoscaler"), {"NODES_KEY": KEY}
    without = {"include-dashboard": "false"}
    started = autoscaled_head(folder, {"worker": WORKER}, head_cpus=1, idle_minutes=60, environment=known, **without)
    try:
        started.wait_for_start()
        yield started
    finally:
        started.close()


def _doctor(head: Head, run: Path | str, *options: str, **environment: str) -> dict[str, dict[str, Any]]:
    known = {name: value for name, value in head.environment.items() if name.startswith("RAY_")}
    settings = ("--set", "score.judge.kind=rules", "--json")
    done = job("doctor", run, *settings, *options, **{**known, "RAY_ADDRESS": head.address, **environment})
    assert done.stdout, done.stderr
    return {check["name"]: check for check in json.loads(done.stdout.splitlines()[-1])["checks"]}


@pytest.fixture(scope="module")
def two_nodes(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Head:
    """The cluster once its autoscaler has started the node that it always keeps."""
    run = tmp_path_factory.mktemp("run")
    deadline = time.monotonic() + START_S
    while "nodes: 2" not in (found := _doctor(head, run))["cluster"]["detail"]:
        assert time.monotonic() < deadline, found
    return head


def test_actors_may_need_all_that_the_autoscaler_can_start_and_no_more(two_nodes: Head, tmp_path: Path) -> None:
    check = _doctor(two_nodes, tmp_path / "run", "--set", "score.actors=7")["actors"]
    assert check["status"] == "ok", check
    check = _doctor(two_nodes, tmp_path / "run", "--set", "score.actors=8")["actors"]
    assert (check["status"], "score.actors=7" in check["fix"]) == ("problem", True), check


def test_a_run_that_only_the_driver_sees_is_a_problem(two_nodes: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # a path that is another one in every process
    found = _doctor(two_nodes, "/proc/self/cwd/run")
    assert found["storage"]["status"] == "ok"
    assert found["shared storage"]["status"] == "problem"
    assert "all nodes share" in found["shared storage"]["fix"]
    assert not (tmp_path / "run").exists()


def test_a_stage_does_not_begin_where_a_node_does_not_see_the_run(
    two_nodes: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_run(tmp_path, 8)
    monkeypatch.chdir(tmp_path)
    known = {name: value for name, value in two_nodes.environment.items() if name.startswith("RAY_")}
    done = job("score", "/proc/self/cwd/run", "--set", "score.judge.kind=rules", **known, RAY_ADDRESS=two_nodes.address)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "shared storage: 2 of 2 nodes do not see the run, 127.0.0.1 first: it is not there" in done.stderr
    assert "all nodes share" in done.stderr


def test_nodes_that_are_added_have_to_see_a_local_run(two_nodes: Head, tmp_path: Path) -> None:
    found = _doctor(two_nodes, tmp_path / "run")
    assert found["shared storage"]["status"] == "warning"
    assert [found[name]["status"] for name in ("cluster", "actors", "versions")] == ["ok", "ok", "ok"]


@pytest.mark.parametrize(("name", "status"), [("NODES_KEY", "ok"), ("DRIVERS_KEY", "problem")])
def test_a_key_that_nodes_do_not_have_is_a_problem(
    two_nodes: Head, tmp_path: Path, judge: JudgeStarter, name: str, status: str
) -> None:
    judged = {"kind": "api", "model": "toy", "base_url": judge("--key", KEY).base_url, "api_key_env": name}
    options = [part for key, value in judged.items() for part in ("--set", f"score.judge.{key}={value}")]
    found = _doctor(two_nodes, tmp_path / "run", *options, **{name: KEY})
    assert found["key"]["status"] == "ok"
    assert found["keys of nodes"]["status"] == status, found
    if status == "problem":
        assert "2 of 2 nodes have no usable key" in found["keys of nodes"]["detail"]
        assert "neither DRIVERS_KEY nor DRIVERS_KEY_FILE" in found["keys of nodes"]["detail"]
    assert KEY not in json.dumps(found)


def test_nodes_are_not_asked_for_a_key_where_the_server_wants_none(
    two_nodes: Head, tmp_path: Path, judge: JudgeStarter
) -> None:
    judged = {"kind": "api", "model": "toy", "base_url": judge().base_url, "api_key_env": "NOBODYS_KEY"}
    options = [part for key, value in judged.items() for part in ("--set", f"score.judge.{key}={value}")]
    assert "keys of nodes" not in _doctor(two_nodes, tmp_path / "run", *options)
