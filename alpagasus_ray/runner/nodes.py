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

import alpagasus_ray
from alpagasus_ray.config import Judge
from alpagasus_ray.datasets.run import versions
from alpagasus_ray.datasets.storage import Storage
from alpagasus_ray.engines.openai_api import NO_KEY, read_key
from alpagasus_ray.errors import UsageError

TIMEOUT_S = 60.0
HEAD = "node:__internal_head__"
MONITORS = ("autoscaler/_private/monitor.py", "autoscaler/v2/monitor.py")
CONFIG = "--autoscaling-config="


class Facts(NamedTuple):
    """What a node says of itself."""

    address: str
    cpus: int
    is_head: bool
    versions: dict[str, str]
    package: str
    """The folder that this package was loaded from."""
    unseen: str | None
    """Why the file in question cannot be seen from there; None where it can."""
    growth: int | None
    """On the head node: the most actors of one CPU after autoscaling; None where that is not known, or on another node."""
    keyless: tuple[str, ...]
    """Why keys cannot be read there, never the keys; empty where all can."""


class Silent(NamedTuple):
    """A node that did not answer."""

    address: str
    reason: str


def look(storage: Storage, name: str | None, places: Sequence[Judge]) -> list[Facts | Silent]:
    """Ask every node, by a task without CPUs; `name` is a file of the storage that all should see, if there is one, and
    `places` are the endpoints whose keys all need."""
    task = ray.remote(num_cpus=0, max_retries=0)(_facts)
    gcs = ray.get_runtime_context().gcs_address
    asked = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            resources = node["Resources"]
            facts = (node["NodeManagerAddress"], int(resources.get("CPU", 0)), HEAD in resources)
            asked[task.options(scheduling_strategy=place).remote(facts, storage, name, places, gcs)] = facts[0]
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=TIMEOUT_S)
    return [_answer(ref, address, ref in ready) for ref, address in asked.items()]


def most_actors(found: Sequence[Facts | Silent]) -> int | None:
    """The most actors of one CPU that the cluster can hold after autoscaling; None where that is not known."""
    from ray._private.state import state

    reported: Mapping[str, int] | None = state.get_max_resources_from_cluster_config()
    if reported is not None:
        return reported.get("CPU", 0)
    growth = next((node.growth for node in found if isinstance(node, Facts) and node.is_head), None)
    present = sum(node.cpus for node in found if isinstance(node, Facts))
    return None if growth is None else max(growth, present)


def _answer(ref: Any, address: str, ready: bool) -> Facts | Silent:
    if not ready:
        return Silent(address, f"no answer in {TIMEOUT_S:g} s")
    try:
        found: Facts = ray.get(ref)
    except ray.exceptions.RayError as error:
        return Silent(address, (str(error).strip().splitlines() or [type(error).__name__])[-1])
    return found


def _facts(node: tuple[str, int, bool], storage: Storage, name: str | None, places: Sequence[Judge], gcs: str) -> Facts:
    """Runs on the node."""
    address, cpus, is_head = node
    here = versions() | {"alpagasus-ray": alpagasus_ray.__version__}
    growth = _growth(cpus, gcs) if is_head else None
    package, unseen = os.path.dirname(alpagasus_ray.__file__), _unseen(storage, name)
    return Facts(address, cpus, is_head, here, package, unseen, growth, _keyless(places))


def _keyless(places: Sequence[Judge]) -> tuple[str, ...]:
    reasons = []
    for place in places:
        name = place.api_key_env
        try:
            if read_key(place) in ("", NO_KEY):
                reasons.append(f"neither {name} nor {name}_FILE holds one")
        except UsageError as error:
            reasons.append(str(error))
    return tuple(dict.fromkeys(reasons))


def _unseen(storage: Storage, name: str | None) -> str | None:
    try:
        return None if name is None or storage.exists(name) else "it is not there"
    except OSError as error:
        return error.strerror or str(error)


def _growth(head_cpus: int, gcs: str) -> int | None:
    """Read the configuration that this cluster's autoscaler was started with; 0 where it was started with none."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                arguments = stream.read().split("\0")
        except OSError:  # a process that has ended meanwhile
            continue
        if any(part.endswith(MONITORS) for part in arguments) and f"--gcs-address={gcs}" in arguments:
            file = next((part.removeprefix(CONFIG) for part in arguments if part.startswith(CONFIG)), None)
            return 0 if file is None else _read_growth(file, head_cpus)
    return None


def _read_growth(file: str, head_cpus: int) -> int | None:
    try:
        with open(os.path.expanduser(file), encoding="utf-8") as stream:
            return largest(yaml.safe_load(stream), head_cpus)
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError):
        return None


def largest(config: Mapping[str, Any], head_cpus: int) -> int | None:
    """Actors of one CPU on the largest cluster that a configuration allows: the head and the best `max_workers` workers.
    None where a kind of node does not say how many CPUs it has."""
    left = config["max_workers"]
    kinds = []
    for name, kind in config["available_node_types"].items():
        count = kind.get("max_workers", 0 if name == config.get("head_node_type") else left)
        kinds.append((kind.get("resources", {}).get("CPU"), count))
    total = head_cpus
    for cpus, count in sorted((kind for kind in kinds if kind[1]), key=lambda kind: -(kind[0] or 0)):
        if cpus is None:
            return None
        total += min(left, count) * int(cpus)
        left -= min(left, count)
    return total
