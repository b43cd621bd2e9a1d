"""Whether the nodes of a cluster can work on a run together: they have this package, see the run's storage, and are alike.

Nodes that are there are asked before a stage starts; those that the autoscaler adds later look for themselves (`take_part`).
"""

import platform
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import tenacity

from alpagasus_ray.errors import UsageError
from alpagasus_ray.raycluster import nodes
from alpagasus_ray.raycluster.nodes import Facts, Silent
from alpagasus_ray.store.run import MANIFEST, StageDir, versions
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.version import PACKAGE, __version__

SHARE = "the run must be on storage that all nodes share: s3://…, gs://…, or a directory that is mounted on each"
WAITS = tenacity.wait_exponential(multiplier=0.5, max=4)
ALIKE = "install the same packages on all nodes (requirements.lock)"
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


def take_part(source: StageDir, version: str) -> None:
    """Refuse, in a process that is about to work for a driver, where it cannot (`unfit`): a `UsageError`."""
    reason = unfit(source, version)
    if reason is not None:
        raise UsageError(reason)


def unfit(source: StageDir, version: str) -> str | None:
    """Why the process that asks cannot work on what a finished stage has left, for a driver of this version of the package."""
    if version != __version__:
        return f"{platform.node()}: alpagasus-ray is {__version__}, and the driver's is {version}; {ALIKE}"
    try:
        if not _sees(source):
            return f"{platform.node()} does not see {source.storage.root}; {SHARE}"
    except OSError as error:
        return f"{platform.node()} cannot read {source.storage.root}: {error.strerror or error}; {SHARE}"
    return None


@tenacity.retry(retry=tenacity.retry_if_exception_type(OSError), stop=tenacity.stop_after_attempt(4), wait=WAITS, reraise=True)
def _sees(source: StageDir) -> bool:
    """Tried again, for an object store may be away for a moment."""
    return source.storage.exists(MANIFEST)


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
