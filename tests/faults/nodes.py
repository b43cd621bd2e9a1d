"""Scenarios on a cluster of several nodes, each with processes of its own on this machine: a node is gone from one moment to
the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psutil

from drivers import Driver
from faults.arena import Arena
from faults.findings import Finding, Pace

CONCURRENCY = 8
SETTINGS = {"concurrency": CONCURRENCY}


def node_kills(arena: Arena, rows: int, kills: int) -> Finding:
    """The node that judges is killed with all that runs on it, as a preempted machine is; another one goes on."""
    found, run, server = Finding("a worker node is killed"), arena.toy(rows), arena.judge("--latency", "0.1")
    with _cluster(arena, nodes=kills + 1) as cluster, Pace(server) as pace:
        arena.ray_address = cluster.address
        driver = arena.start(run, server, SETTINGS)
        for kill in range(1, kills + 1):
            if arena.wait(lambda kill=kill: len(server.taken()) > kill * rows // (kills + 2), driver):  # type: ignore[misc]
                found.faults["node killed"] += _kill_judging_node(arena, cluster, driver)
        ended = driver.wait()
    found.ended(ended)
    found.expect(found.faults["node killed"] == kills, "not all nodes were killed before the end")
    found.count(run, server, bound=pace.bound(kills, CONCURRENCY))
    return found


@contextmanager
def _cluster(arena: Arena, nodes: int) -> Iterator[Any]:
    """A head without CPUs, which the driver joins, and nodes with one each; a session folder of its own."""
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {"temp_dir": str(arena.folder / "ray"), "include_dashboard": False}
    # Ray would note this cluster's address where other programs of this machine look for one to join
    with mock.patch("ray._private.utils.write_ray_address"):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **common})
    try:
        for _ in range(nodes):
            cluster.add_node(wait=False, num_cpus=1, **common)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _kill_judging_node(arena: Arena, cluster: Any, driver: Driver) -> int:
    """SIGKILL of everything on the node that has the worker; how many such nodes there were."""
    if not arena.wait(lambda: bool(arena.actors()), driver):
        return 0
    raylet = arena.actors()[0].ppid()
    node = next(node for node in cluster.worker_nodes if any(info.process.pid == raylet for info in _raylets(node)))
    doomed = [process for info in _raylets(node) for process in psutil.Process(info.process.pid).children(recursive=True)]
    cluster.remove_node(node, allow_graceful=False)
    for process in doomed:
        if process.is_running():
            process.kill()
    return 1


def _raylets(node: Any) -> list[Any]:
    return list(node.all_processes["raylet"])
