"""Whether a location holds a run; where it holds none, which run was most likely meant. Reads names, opens no file."""

import difflib
import posixpath

from alpagasus_ray.errors import UsageError
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import LOCK, RECIPE, Run
from alpagasus_ray.store.stage_kinds import STAGE_KINDS, kind_name
from alpagasus_ray.store.storage import Storage

FOLDERS = frozenset((*STAGE_KINDS, "benchmarks"))
"""What a run's directories are named."""
SHOWN, LOOKED_AT = 3, 30
"""Runs that a message names; neighbours that are looked at where no name is near."""


def check_exists(run: Run) -> None:
    """Raise a `UsageError` with the nearest names where there is no run."""
    if is_run(run):
        return
    parent, name = posixpath.split(run.storage.root)
    beside = Storage(run.storage.fs, parent)
    names = [other for other in beside.folders() if other != name]
    near = difflib.get_close_matches(name, names, n=LOOKED_AT) or names[:LOOKED_AT]
    runs = [posixpath.join(parent, other) for other in near if is_run(Run(beside.at(other)))][:SHOWN]
    meant = f"Did you mean {' or '.join(runs)}?" if runs else "There is no run beside it either."
    raise UsageError(f"there is no run at {run.storage.root}. {meant} `alpagasus ingest RUN` and `alpagasus run RUN` begin one")


def is_run(run: Run) -> bool:
    """Whether a stage or a recipe is there, or a driver is at work: a first command that was refused has left a lock."""
    if any(kind_name(name) in FOLDERS for name in run.storage.folders()) or run.storage.exists(RECIPE):
        return True
    return run.storage.exists(LOCK) and lock.holder(run) is not None
