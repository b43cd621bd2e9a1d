"""A fitted judge in its run: where it lies, and what results depend on that are made with it."""

import io
from typing import NamedTuple

from alpagasus_ray.distill import student
from alpagasus_ray.distill.student import Student
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import Run

MODEL, FIT = "model.npz", "fit.json"


class Saved(NamedTuple):
    """A fitted judge, read from a run."""

    student: Student
    inputs: dict[str, str]
    """By which results name it: its directory, and the hash of its manifest."""


def of_run(run: Run, name: str) -> Saved:
    """Read `judges/<name>/` of a run. `UsageError` where there is none, `StageFailed` where a file of it was changed."""
    home = run.judge(name)
    manifest = home.manifest()
    if manifest is None:
        raise UsageError(f"score.judge.model: this run has no distilled judge {name!r}; make it by `alpagasus distill RUN`")
    home.verify(manifest)
    content = home.storage.read(MODEL)
    return Saved(student.load(io.BytesIO(content), home.storage.path(MODEL)), {home.name: manifest.content_hash()})
