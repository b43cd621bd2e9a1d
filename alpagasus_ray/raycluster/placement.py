"""Where the processes of a stage are put: on which nodes, and whether the cluster has, or can get, a place for one.

Clusters of several pools label their nodes `ray-subcluster`: by that label Ray Data too keeps to a pool, and asks the
autoscaler for nodes of that pool alone. Where the head has it (`ray-subcluster: head`, as in `cluster/`), a stage is put on its
own pool; on other clusters, wherever there is room.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.raycluster import nodes, ray_internals
from alpagasus_ray.raycluster.pool import Pool

log = logging.getLogger(__name__)
POOL, HEAD = "ray-subcluster", "head"
CPU, GPU, TRAIN = "cpu", "gpu-judge", "gpu-train"
"""The pools: all that needs no GPU, models that judge or answer, training."""
PATIENCE_S, LOOK_S = 45.0, 2.0
"""How long the autoscaler has to say that it can start a node, and how often it is asked."""


def labels_of(given: Mapping[str, str] | None, pool: str) -> dict[str, str]:
    """The labels that nodes of a stage have to have: its pool's where the cluster has pools, and those of the recipe. Without a
    pool Ray Data would see none of the nodes that have one."""
    pools = any(node["Labels"].get(POOL) == HEAD for node in nodes.alive())
    return {**({POOL: pool} if pools else {}), **(given or {})}


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
    # to say no would settle for CPUs on a cluster that may grow GPUs, and nobody would notice
    return POOL in pool.labels if known is None else known > 0


def needs(pool: Pool) -> str:
    """What a process of a pool needs of its node, in words."""
    gpus = f" and {pool.gpus} GPU{'s' if pool.gpus > 1 else ''}" if pool.gpus else ""
    labels = f" and the label {' and '.join(f'{name}={value}' for name, value in pool.labels.items())}" if pool.labels else ""
    return f"{pool.cpus} CPU{'s' if pool.cpus > 1 else ''}{gpus}{labels}"


def check(pool: Pool, knobs: str, least: int = 1) -> None:
    """Return where there are nodes for so many processes of the pool, or may be: Ray would wait for ever for those that nobody
    can start. `knobs` says by what in the recipe the need can be changed. `UsageError` where it is known that there can be
    none, `StageFailed` where the autoscaler says so or none is at work, within a minute."""
    if room(pool) >= least:
        return
    known = most(pool)
    if known is None:
        log.warning("waiting for %s: how far this cluster may grow is not to be seen from here", _wanted(pool, least))
        _ask_autoscaler(pool, knobs, least)
    elif known < least:
        raise UsageError(_never(pool, knobs, least, f"nor may the autoscaler start one; it can hold {known} with it"))


def _ask_autoscaler(pool: Pool, knobs: str, least: int) -> None:
    """Ask for the places, and hear what the autoscaler makes of it."""
    deadline = time.monotonic() + PATIENCE_S
    with _asked(pool, least) as place:
        while not place.wait(LOOK_S):
            status = ray_internals.autoscaler_status(LOOK_S)
            if place.id.hex() in status.without_node:
                raise StageFailed(_never(pool, knobs, least, "and the autoscaler says that it can start none"))
            if time.monotonic() > deadline:
                if not status.at_work:
                    raise StageFailed(_never(pool, knobs, least, "and no autoscaler is at work that could start one"))
                log.warning("the autoscaler may yet start one%s", status.failures)
                return


def _wanted(pool: Pool, least: int) -> str:
    return f"one process needs {needs(pool)} of one node" if least == 1 else f"{least} processes need {needs(pool)} each"


def _never(pool: Pool, knobs: str, least: int, reason: str) -> str:
    best = {name: int(max(node["Resources"].get(name, 0) for node in nodes.alive())) for name in ("CPU", "GPU")}
    return (
        f"{knobs}: {_wanted(pool, least)}. The nodes of the cluster have room for {room(pool)}, {reason}; the best has "
        f"{best['CPU']} CPUs and {best['GPU']} GPUs"
    )


@contextmanager
def _asked(pool: Pool, count: int) -> Iterator[PlacementGroup]:
    """Places for so many processes, held while the block runs."""
    # a placement group, for the autoscaler answers one of which it can start no node, where tasks would simply wait
    bundle = {"CPU": float(pool.cpus), **({"GPU": float(pool.gpus)} if pool.gpus else {})}
    place = placement_group([bundle] * count, bundle_label_selector=[dict(pool.labels)] * count if pool.labels else None)
    try:
        yield place
    finally:
        remove_placement_group(place)
