"""All that this package takes from Ray without Ray having promised it: one function each, with the reason why.

Another version of Ray may change any of these; `tests/unit/test_ray_internals.py` fails then, and this file alone changes.
Nothing here starts a node or changes a cluster.
"""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import ray

SHOWN = 3
"""So many of the autoscaler's failures to start a node are shown."""


class AutoscalerStatus(NamedTuple):
    """What the autoscaler has told of its last look."""

    at_work: bool
    without_node: frozenset[str]
    """Placement groups, by the hex of their id, for which it can start no nodes."""
    failures: str
    """Starts that failed, in words; empty where none did."""


def autoscaler_status(timeout_s: float) -> AutoscalerStatus:
    """What the autoscaler says of what it was asked for; version 2 tells of every demand, version 1 only that it is at work.

    A placement group that waits says nothing of why: Ray's public state has neither the demands that cannot be met nor whether
    an autoscaler runs, and a stage would wait for ever.
    """
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
    from ray.experimental.internal_kv import _internal_kv_get

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=timeout_s))
    state = reply.autoscaling_state
    # `details` of a demand is the group's id, then its strategy and state
    without = frozenset(demand.details.partition(":")[0] for demand in state.infeasible_gang_resource_requests)
    failed = dict.fromkeys(f"{each.ray_node_type_name}: {each.reason}" for each in state.failed_instance_requests)
    failures = f"; starts that failed: {'; '.join(list(failed)[-SHOWN:])}" if failed else ""
    at_work = bool(state.autoscaler_state_version) or _internal_kv_get(DEBUG_AUTOSCALING_STATUS) is not None
    return AutoscalerStatus(at_work, without, failures)


def reported_limits() -> Mapping[str, int] | None:
    """The most resources that the platform says this cluster may have, by name; None where it says nothing (most do not). Ray
    keeps it for its own scheduling and offers no public way to it."""
    from ray._private.state import state

    limits: Mapping[str, int] | None = state.get_max_resources_from_cluster_config()
    return limits


def resources_here() -> dict[str, float]:
    """The CPUs and GPUs that Ray would find on this machine, by its own rules for containers; public once it is started."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager
    from ray._private.utils import get_num_cpus

    gpus = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return {"CPU": get_num_cpus(override_docker_cpu_warning=True), "GPU": gpus}


def upload_limit() -> int:
    """Bytes from which on Ray refuses a working directory; it does not compress one."""
    from ray._private.runtime_env import packaging

    limit: int = packaging.GCS_STORAGE_MAX_SIZE
    return limit


def visit_upload(root: Path, visit: Callable[[Path], None]) -> None:
    """Visit all files and directories that `ray job submit --working-dir` would send: after `.gitignore`, `.rayignore` and
    Ray's own exceptions, which only Ray's code knows."""
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    quiet = logging.getLogger(f"{__name__}.quiet")
    quiet.setLevel(logging.CRITICAL)
    always = packaging._get_excludes(root, ray_constants.get_runtime_env_default_excludes())  # noqa: SLF001 - no public way
    with_gitignore = os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    packaging._dir_travel(root, [always], visit, include_gitignore=with_gitignore, logger=quiet)  # noqa: SLF001 - no public way
