"""The Ray cluster a job runs on: the one it was submitted to, or one of its own on this machine."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray

from alpagasus_ray.config import DEBUG, Asking, EngineConfig
from alpagasus_ray.errors import UsageError
from alpagasus_ray.runner import nodes
from alpagasus_ray.runner.shards import Pool

log = logging.getLogger(__name__)
FREE_S = 60.0
"""How long to wait for GPUs that a finished job has used; on a shared cluster others may have taken them."""


def demand(config: Asking, asked: EngineConfig, resources: Mapping[str, float]) -> Pool:
    """The processes that do a job on a cluster with these resources."""
    each = Pool()
    if not asked.is_model:
        usual = max(1, nodes.fitting(resources, each))
    elif asked.is_remote:
        usual = 1
    else:
        on_gpus = resources.get("GPU", 0) > 0 if asked.vllm.gpu is None else asked.vllm.gpu
        each = Pool(cpus=asked.vllm.cpus, gpus=asked.vllm.tensor_parallel if on_gpus else 0)
        usual = max(1, nodes.fitting(resources, each)) if on_gpus else 1
    number = config.actors or usual
    least, most = (number, number) if isinstance(number, int) else number
    return each._replace(least=least, most=most)


def pool(config: Asking, asked: EngineConfig) -> Pool:
    """The processes that do a job on this cluster. A `UsageError` tells of an engine for which it can never have a node."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if asked.kind == "vllm":
        if asked.vllm.gpu is None and not resources.get("GPU") and may_grow(Pool(gpus=1)):
            asked = asked.model_copy(update={"vllm": asked.vllm.model_copy(update={"gpu": True})})
        found = demand(config, asked, resources)
        _check_fits(asked, found)
        return found
    return demand(config, asked, resources)


def may_grow(each: Pool) -> bool:
    """Whether the autoscaler may start a node for such a process, as far as is known."""
    return (nodes.most_actors(nodes.look(None, None, ()), each) or 0) > 0


def _check_fits(asked: EngineConfig, each: Pool) -> None:
    """Ray would wait for ever for a node that nobody can start."""
    present = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if any(nodes.fitting(resources, each) for resources in present):
        return
    most = nodes.most_actors(nodes.look(None, None, ()), each)
    best = {name: int(max(resources.get(name, 0) for resources in present)) for name in ("CPU", "GPU")}
    needs = f"{each.cpus} CPUs" + (f" and {each.gpus} GPUs" if each.gpus else "")
    if most is None:
        log.warning(
            "waiting for a node with %s: none has that now, and how far this cluster may grow is not to be seen from here",
            needs,
        )
    if most == 0:
        raise UsageError(
            f"{asked.where}.vllm (cpus, gpu, tensor_parallel): an engine needs {needs} of one node. No node of the cluster "
            f"has that, nor may the autoscaler start one; the best has {best['CPU']} CPUs and {best['GPU']} GPUs"
        )


def free() -> dict[str, float]:
    """What of the cluster nobody uses."""
    resources: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return resources


def wait_until(before: Mapping[str, float]) -> None:
    """Wait until as many GPUs are free as there were, and with them their memory: processes take a moment to end."""
    deadline = time.monotonic() + FREE_S
    while free().get("GPU", 0) < before.get("GPU", 0) and time.monotonic() < deadline:
        time.sleep(0.1)


def address_given() -> str:
    """`RAY_ADDRESS`, or nothing; `UsageError` where it is none that a driver can join."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("http"):
        raise UsageError(
            f"RAY_ADDRESS = {address} is the address of the job API, for `ray job submit` only; to run the job here, unset it "
            "or name the cluster's own address, host:6379"
        )
    return address


def connect() -> None:
    """Join the cluster that `ray job submit` or `RAY_ADDRESS` names; without one, start a local Ray of our own.

    Never joins a cluster merely because one happens to run on this machine.
    """
    if ray.is_initialized():
        return
    address = address_given()
    terminated = signal.getsignal(signal.SIGTERM)
    with _quiet():
        if address:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    # Ray has put a handler of its own in place of ours, which ends a stage cleanly
    signal.signal(signal.SIGTERM, terminated or signal.SIG_DFL)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's C++ part from writing to the terminal: it warns, at the level of an error, of how Ray Data starts every
    actor pool (ray-project/ray#53727), and tells on start that it was told to be quiet. Python's errors still come through."""
    if os.environ.get(DEBUG):
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
