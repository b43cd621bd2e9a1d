"""The Ray cluster a job runs on: the one it was submitted to, or one of its own on this machine."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from alpagasus_ray.config import DEBUG
from alpagasus_ray.errors import UsageError


def cpus() -> int:
    """CPUs of the whole cluster as it stands, at least 1."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))


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
