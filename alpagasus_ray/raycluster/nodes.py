"""What a driver can find out about its cluster: what the nodes run, whether they see a file, how many actors it can hold.

Only looks: it asks the autoscaler for nothing, so that no node is started. Ray keeps no autoscaling configuration where a
driver could ask for it, unless the platform reports one; that of `ray up` and `ray start --autoscaling-config` is read on
the head node, that of KubeRay stays unknown.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.errors import UsageError
from alpagasus_ray.raycluster.pool import Pool
from alpagasus_ray.raycluster.ray_internals import reported_limits
from alpagasus_ray.store.run import versions
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.version import PACKAGE, __version__

TIMEOUT_S = 60.0
HEAD = "node:__internal_head__"
MONITORS = ("autoscaler/_private/monitor.py", "autoscaler/v2/monitor.py")
CONFIG = "--autoscaling-config="


class Facts(NamedTuple):
    """What a node says of itself."""

    address: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]
    is_head: bool
    versions: dict[str, str]
    package: str
    """The folder that this package was loaded from."""
    unseen: str | None
    """Why the file in question cannot be seen from there; None where it can."""
    growth: Mapping[str, Any] | None
    """On the head node: the configuration of the autoscaler, empty where it has none; None where it is not known, or on another
    node."""
    keyless: tuple[str, ...]
    """Why keys cannot be read there, never the keys; empty where all can."""


class Silent(NamedTuple):
    """A node that did not answer."""

    address: str
    reason: str


def look(
    storage: Storage | None = None,
    name: str | None = None,
    places: Sequence[EngineConfig] = (),
    labels: Mapping[str, str] | None = None,
) -> list[Facts | Silent]:
    """Ask every node that has these labels, by a task without CPUs; `name` is a file of the storage that all should see, if
    there is one, and `places` are the endpoints whose keys all need."""
    # without CPUs, so that it runs on full nodes too; not retried, as it would be placed on its own node again
    task = ray.remote(num_cpus=0, max_retries=0)(_facts)
    gcs = ray.get_runtime_context().gcs_address
    asked = {}
    for node in alive():
        if not labelled(node["Labels"], labels or {}):
            continue
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        facts = {key: node[key] for key in ("NodeManagerAddress", "Resources", "Labels")}
        asked[task.options(scheduling_strategy=place).remote(facts, storage, name, places, gcs)] = node
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=TIMEOUT_S)
    found = {node["NodeID"]: _answer(ref, node["NodeManagerAddress"], ref in ready) for ref, node in asked.items()}
    left = {node["NodeID"] for node in alive()}
    # one that has gone meanwhile is no trouble: it takes no part
    return [answer for node, answer in found.items() if node in left or isinstance(answer, Facts)]


def alive() -> list[dict[str, Any]]:
    """The nodes of the cluster, as Ray lists them."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def labelled(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node with these labels has all that are wanted."""
    return all(labels.get(name) == value for name, value in wanted.items())


def on_node(resources: Mapping[str, float], labels: Mapping[str, str], pool: Pool) -> int:
    """How many processes of a pool a node can hold."""
    return fitting(resources, pool) if labelled(labels, pool.labels) else 0


def fitting(resources: Mapping[str, float], pool: Pool) -> int:
    """How many processes of a pool fit into resources, of a node or of a cluster taken as one, whatever the labels."""
    cpus, gpus = int(resources.get("CPU", 0) // pool.cpus), int(resources.get("GPU", 0))
    return min(cpus, gpus // pool.gpus) if pool.gpus else cpus


def most_actors(found: Sequence[Facts | Silent], pool: Pool) -> int | None:
    """The most processes of a pool that the cluster can hold after autoscaling; None where that is not known."""
    reported = reported_limits()
    if reported is not None:
        return fitting(reported, pool)
    present = sum(on_node(node.resources, node.labels, pool) for node in found if isinstance(node, Facts))
    head = next((node for node in found if isinstance(node, Facts) and node.is_head), None)
    if head is None or head.growth is None:
        return None
    grown = largest(head.growth, on_node(head.resources, head.labels, pool), pool) if head.growth else 0
    return None if grown is None else max(grown, present)


def _answer(ref: Any, address: str, ready: bool) -> Facts | Silent:
    if not ready:
        return Silent(address, f"no answer in {TIMEOUT_S:g} s")
    try:
        found: Facts = ray.get(ref)
    except ray.exceptions.RayError as error:
        return Silent(address, (str(error).strip().splitlines() or [type(error).__name__])[-1])
    return found


def _facts(
    node: Mapping[str, Any],
    storage: Storage | None,
    name: str | None,
    places: Sequence[EngineConfig],
    gcs: str,
) -> Facts:
    """Runs on the node."""
    is_head = HEAD in node["Resources"]
    here = versions() | {"alpagasus-ray": __version__}
    growth = _growth(gcs) if is_head else None
    package, unseen = PACKAGE, _unseen(storage, name)
    told = (node["NodeManagerAddress"], node["Resources"], node["Labels"], is_head)
    return Facts(*told, here, package, unseen, growth, _keyless(places))


def _keyless(places: Sequence[EngineConfig]) -> tuple[str, ...]:
    from alpagasus_ray.engines.openai_api import NO_KEY, read_key

    reasons = []
    for place in places:
        name = place.api_key_env
        try:
            if read_key(place) in ("", NO_KEY):
                reasons.append(f"neither {name} nor {name}_FILE holds one")
        except UsageError as error:
            reasons.append(str(error))
    return tuple(dict.fromkeys(reasons))


def _unseen(storage: Storage | None, name: str | None) -> str | None:
    try:
        return None if storage is None or name is None or storage.exists(name) else "it is not there"
    except OSError as error:
        return error.strerror or str(error)


def _growth(gcs: str) -> Mapping[str, Any] | None:
    """The configuration that this cluster's autoscaler was started with; empty where it was started with none."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                arguments = stream.read().split("\0")
        except OSError:  # a process that has ended meanwhile
            continue
        if any(part.endswith(MONITORS) for part in arguments) and f"--gcs-address={gcs}" in arguments:
            file = next((part.removeprefix(CONFIG) for part in arguments if part.startswith(CONFIG)), None)
            return {} if file is None else _read_growth(file)
    return None


def _read_growth(file: str) -> Mapping[str, Any] | None:
    """What of the configuration tells how far the cluster may grow, without its commands and mounts."""
    try:
        with open(os.path.expanduser(file), encoding="utf-8") as stream:
            config = yaml.safe_load(stream)
        kinds = {
            name: {key: kind[key] for key in ("resources", "labels", "max_workers") if key in kind}
            for name, kind in config["available_node_types"].items()
        }
        head = config.get("head_node_type")
        return {"max_workers": config["max_workers"], "head_node_type": head, "available_node_types": kinds}
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError):
        return None


def largest(config: Mapping[str, Any], on_head: int, pool: Pool) -> int | None:
    """Processes of a pool on the largest cluster that a configuration allows: those on the head, and those on the best
    `max_workers` workers. None where a kind of node does not say what it has."""
    left = config["max_workers"]
    kinds: list[tuple[int | None, int]] = []
    for name, kind in config["available_node_types"].items():
        count = kind.get("max_workers", 0 if name == config.get("head_node_type") else left)
        resources = kind.get("resources", {})
        if labelled(kind.get("labels", {}), pool.labels):
            kinds.append((fitting(resources, pool) if "CPU" in resources else None, count))
    total = on_head
    for each, count in sorted((kind for kind in kinds if kind[1]), key=lambda kind: -(kind[0] or 0)):
        if each is None:
            return None
        total += min(left, count) * each
        left -= min(left, count)
    return total
