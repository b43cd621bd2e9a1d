"""The Ray cluster a job runs on: the one it was submitted to, or one of its own on this machine."""

import logging
import os

import ray


def cpus() -> int:
    """CPUs of the whole cluster as it stands, at least 1."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))


def connect() -> None:
    """Join the cluster that `ray job submit` or `RAY_ADDRESS` names; without one, start a local Ray of our own.

    Never joins a cluster merely because one happens to run on this machine.
    """
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        # Ray's C++ part warns on stderr about choices that Ray Data makes; errors of ours come as exceptions
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
