"""Where the processes of a stage are put: on which nodes, and whether the cluster has, or can get, a place for one.

Clusters of several pools label their nodes `ray-subcluster`: by that label Ray Data too keeps to a pool, and asks the
autoscaler for nodes of that pool alone. Where the head has it (`ray-subcluster: head`, as in `cluster/`), a stage is put on its
own pool; on other clusters, wherever there is room.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.runner import nodes
from alpagasus_ray.runner.shards import Pool

log = logging.getLogger(__name__)
POOL, HEAD = "ray-subcluster", "head"
CPU, GPU, TRAIN = "cpu", "gpu-judge", "gpu-train"
"""The pools: all that needs no GPU, models that judge or answer, training."""
PATIENCE_S, LOOK_S = 45.0, 2.0
"""How long the autoscaler has to say that it can start a node, and how often it is asked."""
SHOWN = 3
"""So many of its failures to start a node are shown."""


def labels_of(given: Mapping[str, str] | None, pool: str) -> dict[str, str]:
    """The labels that nodes of a stage have to have: those of the recipe, or its pool's where the cluster has pools."""
    if given is not None:
        return dict(given)
    return {POOL: pool} if any(node["Labels"].get(POOL) == HEAD for node in nodes.alive()) else {}


def total(labels: Mapping[str, str]) -> dict[str, float]:
    """The CPUs and GPUs of the nodes that have these labels."""
    chosen = [node["Resources"] for node in nodes.alive() if nodes.labelled(node["Labels"], labels)]
    return {name: sum(resources.get(name, 0) for resources in chosen) for name in ("CPU", "GPU")}


def room(pool: Pool) -> int:
    """How many processes of a pool the present nodes could hold, were they idle."""
    return sum(nodes.on_node(node["Resources"], node["Labels"], pool) for node in nodes.alive())


def most(pool: Pool) -> int | None:
    """The most processes of a pool that the cluster can hold after autoscaling; None where that is not known."""
    return nodes.most_actors(nodes.look(), pool)


def may_hold(pool: Pool) -> bool:
    """Whether a node has room for such a process, or the autoscaler may start one that has. Where that is not known, a cluster
    of pools is taken to have this one too; `check` hears it where it has not."""
    if room(pool):
        return True
    known = most(pool)
    return bool(pool.labels) if known is None else known > 0


def needs(pool: Pool) -> str:
    """What a process of a pool needs of its node, in words."""
    gpus = f" and {pool.gpus} GPU{'s' if pool.gpus > 1 else ''}" if pool.gpus else ""
    labels = f" and the label {' and '.join(f'{name}={value}' for name, value in pool.labels.items())}" if pool.labels else ""
    return f"{pool.cpus} CPU{'s' if pool.cpus > 1 else ''}{gpus}{labels}"


def check(pool: Pool, knobs: str) -> None:
    """Return where there is a node for a process of the pool, or may be one: Ray would wait for ever for one that nobody can
    start. `knobs` says by what in the recipe the need can be changed. `UsageError` where it is known that there can be none,
    `StageFailed` where the autoscaler says so or none is at work, within a minute."""
    if room(pool):
        return
    known = most(pool)
    if known == 0:
        raise UsageError(_never(pool, knobs, "nor may the autoscaler start one"))
    if known is None:
        log.warning("waiting for a node with %s: how far this cluster may grow is not to be seen from here", needs(pool))
        _ask_autoscaler(pool, knobs)


def _ask_autoscaler(pool: Pool, knobs: str) -> None:
    """Ask for a place, and hear what the autoscaler makes of it."""
    deadline = time.monotonic() + PATIENCE_S
    with _asked(pool) as place:
        while not place.wait(LOOK_S):
            said = _autoscaler()
            if place.id.hex() in said.without_node:
                raise StageFailed(_never(pool, knobs, "and the autoscaler says that it can start none"))
            if time.monotonic() > deadline:
                if not said.at_work:
                    raise StageFailed(_never(pool, knobs, "and no autoscaler is at work that could start one"))
                log.warning("the autoscaler may yet start one%s", said.failures)
                return


def _never(pool: Pool, knobs: str, reason: str) -> str:
    best = {name: int(max(node["Resources"].get(name, 0) for node in nodes.alive())) for name in ("CPU", "GPU")}
    return (
        f"{knobs}: one process needs {needs(pool)} of one node. No node of the cluster has that, {reason}; the best has "
        f"{best['CPU']} CPUs and {best['GPU']} GPUs"
    )


@contextmanager
def _asked(pool: Pool) -> Iterator[PlacementGroup]:
    """A place for one process, held while the block runs."""
    bundle = {"CPU": float(pool.cpus), **({"GPU": float(pool.gpus)} if pool.gpus else {})}
    place = placement_group([bundle], bundle_label_selector=[dict(pool.labels)] if pool.labels else None)
    try:
        yield place
    finally:
        remove_placement_group(place)


class _Said(NamedTuple):
    """What the autoscaler has told of its last look."""

    at_work: bool
    without_node: frozenset[str]
    """Placement groups for which it can start no nodes."""
    failures: str


def _autoscaler() -> _Said:
    """Version 2 tells of every demand, version 1 only that it is at work."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]
    from ray.experimental.internal_kv import _internal_kv_get

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=LOOK_S))
    state = reply.autoscaling_state
    # `details` of a demand is the group's id, then its strategy and state
    without = frozenset(demand.details.partition(":")[0] for demand in state.infeasible_gang_resource_requests)
    failed = dict.fromkeys(f"{each.ray_node_type_name}: {each.reason}" for each in state.failed_instance_requests)
    failures = f"; starts that failed: {'; '.join(list(failed)[-SHOWN:])}" if failed else ""
    return _Said(
        bool(state.autoscaler_state_version) or _internal_kv_get(DEBUG_AUTOSCALING_STATUS) is not None, without, failures
    )
