"""Whether the nodes of a cluster can work on a run together: they have this package, see the run's storage, and are alike.

Nodes that are there are asked before a stage starts; those that the autoscaler adds later look for themselves
(`worker_process.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from alpagasus_ray.errors import UsageError
from alpagasus_ray.raycluster import nodes
from alpagasus_ray.raycluster.nodes import Facts, Silent
from alpagasus_ray.raycluster.worker_process import ALIKE, SHARE
from alpagasus_ray.store.run import MANIFEST, StageDir, versions
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.version import PACKAGE, __version__

STRICT = ("python", "ray", "alpagasus-ray")
"""What has to be the same on all nodes; other packages may differ, and a warning says so."""


class Check(NamedTuple):
    """What was found about one thing."""

    name: str
    status: Literal["ok", "warning", "problem"]
    detail: str
    fix: str = ""
    """What to do; empty where all is well."""


def check(source: StageDir, labels: Mapping[str, str]) -> None:
    """Ask the nodes with these labels before any work on what a finished stage has left; a `UsageError` tells of those that
    could not take part."""
    # one node sees its own disk and has its own versions
    if len(nodes.alive()) == 1:
        return
    found = nodes.look(source.storage, MANIFEST, (), labels)
    facts = [node for node in found if isinstance(node, Facts)]
    checks = (answers(found), shared(source.storage, facts, grows=False), same_versions(facts)) if found else ()
    problems = [f"{each.name}: {each.detail}; {each.fix}" for each in checks if each.status == "problem"]
    if problems:
        raise UsageError("the nodes of the cluster cannot do this together:\n  " + "\n  ".join(problems))


def answers(found: Sequence[Facts | Silent]) -> Check:
    silent = [node for node in found if isinstance(node, Silent)]
    if silent:
        first = f"{silent[0].address} first: {silent[0].reason}"
        fix = "submit with --working-dir . so that all nodes have this package, and see that their Ray is the same"
        return Check("cluster", "problem", f"{len(silent)} of {len(found)} nodes cannot run this package, {first}", fix)
    places = {PACKAGE, *(node.package for node in found if isinstance(node, Facts))}
    return Check("cluster", "ok", f"nodes: {len(found)}, this package in {' and '.join(sorted(places)[:3])}")


def shared(storage: Storage, facts: Sequence[Facts], *, grows: bool) -> Check:
    blind = [node for node in facts if node.unseen]
    if blind:
        first = f"{blind[0].address} first: {blind[0].unseen}"
        return Check("shared storage", "problem", f"{len(blind)} of {len(facts)} nodes do not see the run, {first}", SHARE)
    if storage.is_local and grows:
        return Check("shared storage", "warning", "nodes that are added must have the run at the same path", SHARE)
    return Check("shared storage", "ok", f"nodes that see the run: {len(facts)}")


def same_versions(facts: Sequence[Facts]) -> Check:
    here = versions() | {"alpagasus-ray": __version__}
    listed = ", ".join(f"{name} {version}" for name, version in here.items())
    differ = {
        name: f"{name} is {node.versions.get(name, 'missing')} on {node.address}, {here.get(name, 'missing')} here"
        for node in facts
        for name in sorted({*node.versions, *here})
        if node.versions.get(name) != here.get(name)
    }
    # pickles of other versions of these may be read wrongly, or not at all; another pyarrow reads the same files
    grave = [name for name in differ if name in STRICT or any(name not in node.versions for node in facts)]
    if not differ:
        return Check("versions", "ok", listed)
    return Check("versions", "problem" if grave else "warning", "; ".join(differ.values()), ALIKE)
