"""The Ray cluster a job runs on: the one it was submitted to, or one of its own on this machine."""

import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
import ray.exceptions

from alpagasus_ray import interrupts
from alpagasus_ray.config import DEBUG, EngineConfig
from alpagasus_ray.errors import UsageError
from alpagasus_ray.raycluster import nodes, placement
from alpagasus_ray.raycluster.pool import Pool, PoolRequest
from alpagasus_ray.terminal import say

CONNECT_S = 5.0
FREE_S = 60.0
"""How long to wait for GPUs that a finished job has used; on a shared cluster others may have taken them."""


def demand(request: PoolRequest, resources: Mapping[str, float]) -> Pool:
    """The processes that do a job on a cluster with these resources."""
    each, engine = Pool(), request.engine
    if not engine.is_model:
        usual = max(1, nodes.fitting(resources, each))
    elif engine.is_remote:
        usual = 1
    else:
        on_gpus = resources.get("GPU", 0) > 0 if engine.vllm.gpu is None else engine.vllm.gpu
        each = Pool(cpus=engine.vllm.cpus, gpus=engine.vllm.tensor_parallel if on_gpus else 0)
        usual = max(1, nodes.fitting(resources, each)) if on_gpus else 1
    number = request.actors or usual
    return each._replace(most=number if isinstance(number, int) else number[1])


def pool(request: PoolRequest) -> Pool:
    """The processes that do a job on this cluster. `UsageError` or `StageFailed` tell of those for which it can never have a
    node."""
    chosen, engine = wanted(request), request.engine
    each = f" and {engine.where}.vllm (cpus, gpu, tensor_parallel)" if engine.in_job else ""
    placement.check(chosen, f"{request.section}.labels{each}")
    return chosen


def wanted(request: PoolRequest) -> Pool:
    """The same, whether or not there can be nodes for them."""
    if request.engine.in_job:
        request = request._replace(engine=_on_gpus_or_not(request))
    labels = placement.labels_of(request.labels, _pool_of(request.engine))
    return demand(request, placement.total(labels))._replace(labels=labels)


def _on_gpus_or_not(request: PoolRequest) -> EngineConfig:
    """The engine with `vllm.gpu` settled."""
    engine = request.engine
    if engine.vllm.gpu is not None:
        return engine
    gpu = placement.may_hold(Pool(gpus=1, labels=placement.labels_of(request.labels, placement.GPU)))
    return engine.model_copy(update={"vllm": engine.vllm.model_copy(update={"gpu": gpu})})


def _pool_of(engine: EngineConfig) -> str:
    return placement.GPU if engine.in_job and engine.vllm.gpu else placement.CPU


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


def connect(address: str = "") -> None:
    """Join the cluster at an address, or that `ray job submit` or `RAY_ADDRESS` names; without one, start a local Ray of our
    own.

    Never joins a cluster merely because one happens to run on this machine. `UsageError` where the one that is named cannot be
    joined, or this process is on another.
    """
    if ray.is_initialized():
        joined = ray.get_runtime_context().gcs_address
        if address and not _same(address, joined):
            raise UsageError(f"ray = {address!r}: this process is on the cluster at {joined}; ray.shutdown() leaves it")
        return
    address = address or address_given()
    say(f"Ray: joins the cluster at {address}" if address else "Ray: is starting on this machine")
    # Ray puts a handler of its own in place of ours, which ends a stage cleanly
    with interrupts.kept(), _quiet():
        if address:
            _join(address)
        else:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _same(address: str, other: str) -> bool:
    """Whether two addresses, `host:port`, are of one place."""
    (host, _, port), (other_host, _, other_port) = address.rpartition(":"), other.rpartition(":")
    try:
        return port == other_port and socket.gethostbyname(host) == socket.gethostbyname(other_host)
    except OSError:
        return False


def _join(address: str) -> None:
    try:
        knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = re.split(r"\n|\. ", str(error).strip())[0] or type(error).__name__
        raise UsageError(
            f"RAY_ADDRESS = {address}: {reason}; see that the cluster runs, with this version of Ray, and that RAY_AUTH_MODE "
            "and the token (RAY_AUTH_TOKEN, or the file at RAY_AUTH_TOKEN_PATH) are those of its nodes"
        ) from None


def knock(address: str) -> None:
    """`OSError` where nobody listens at a cluster's address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), CONNECT_S).close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's C++ part from writing to the terminal: it warns, at the level of an error, of how Ray Data starts every
    actor pool (ray-project/ray#53727), and tells on start that it was told to be quiet. Python's errors still come through."""
    if os.environ.get(DEBUG):
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # the descriptor, not `sys.stderr`: Ray's C++ part writes to the former
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
