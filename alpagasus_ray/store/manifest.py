"""A stage's table of contents: the manifest, its files with counts and sums over them, and the versions of what made them."""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from alpagasus_ray.config import digest
from alpagasus_ray.errors import reason_of
from alpagasus_ray.store.lease import shard_of
from alpagasus_ray.store.reply import USAGE
from alpagasus_ray.store.storage import Written


class FileEntry(BaseModel):
    """One file of a stage, as its manifest lists it."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    bytes: int
    sha256: str
    counts: dict[str, int] = {}
    """Rows per outcome."""
    reasons: dict[str, int] = {}
    """Rows per reason why they have no result, in the reason's first words."""
    histogram: dict[str, int] = {}
    """Rows per score, where rows have one."""
    usage: dict[str, float] = {}
    """Sums over the rows of the fields in `USAGE`; absent where no row knows them."""
    models: dict[str, int] = {}
    """Rows per model that has answered, as far as servers name it; the most frequent `MODELS`."""

    @property
    def shard(self) -> str:
        """The shard that it holds: its name, but for the epoch that an object store's parts have in theirs."""
        return shard_of(self.name)


MODELS = 20


def describe(name: str, written: Written, rows: Sequence[Mapping[str, Any]]) -> FileEntry:
    """The entry of a file whose rows have a `status`, and perhaps a `score` and the fields of `USAGE`."""
    known = {field: [row[field] for row in rows if row.get(field) is not None] for field in USAGE}
    return FileEntry(
        name=name,
        rows=len(rows),
        bytes=written.bytes,
        sha256=written.sha256,
        counts=Counter(row["status"] for row in rows),
        reasons=Counter(reason_of(row["error"]) for row in rows if row.get("error")),
        histogram=Counter(f"{row['score']:g}" for row in rows if row.get("score") is not None),
        usage={field: sum(values) for field, values in known.items() if values},
        # bounded: a router may name another snapshot with each reply
        models=dict(Counter(row["model"] for row in rows if row.get("model")).most_common(MODELS)),
    )


class Totals(NamedTuple):
    """Sums over the files of a stage."""

    counts: Counter[str]
    reasons: Counter[str]
    histogram: Counter[str]
    usage: Counter[str]
    models: Counter[str]


def totals(files: Iterable[FileEntry]) -> Totals:
    """What the files hold together."""
    found = Totals(Counter(), Counter(), Counter(), Counter(), Counter())
    for entry in files:
        for name, total in found._asdict().items():
            total.update(getattr(entry, name))  # a Counter adds floats just as well
    return found


PART = "part-"
"""What the names of the files begin with that hold a stage's rows."""


class Manifest(BaseModel):
    """A stage directory's table of contents."""

    model_config = ConfigDict(frozen=True)

    stage: str
    settings: dict[str, Any]
    settings_hash: str
    inputs: dict[str, str]
    """What was read: stage directory or file -> hash of its manifest or fingerprint."""
    files: list[FileEntry]
    rows: int
    counts: dict[str, int] = {}
    usage: dict[str, float] = {}
    seconds: float
    """Wall time of the work, over all calls that it took."""
    versions: dict[str, str]
    details: dict[str, Any] = {}
    """What only this stage has to tell."""

    def __repr__(self) -> str:
        return f"Manifest({self.stage!r}, {self.rows:,} rows, {len(self.files):,} files)"

    def parts(self) -> list[FileEntry]:
        """The files that hold the stage's rows, in order (not what was rejected or dropped)."""
        return [entry for entry in self.files if entry.name.startswith(PART)]

    def content_hash(self) -> str:
        """Identity of the stage's results: settings, inputs and files, but not when or how fast they were made."""
        # no times and no versions: a stage that is made again from the same is the same input for those after it
        return digest([self.settings_hash, self.inputs, [(f.name, f.sha256) for f in self.files]])


class Begun(BaseModel):
    """`stage.json`: what an unfinished stage is being made with."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    seconds: float = 0.0
    """Wall time that earlier calls took."""
    rescoring: bool = False
    """The files are being read again (`--rescore`), so they are a mixture until that is finished."""
    asked_scale: dict[str, Any] = {}
    """Ratings: the scale that the judge was asked to rate on; a `--rescore` may read on another."""
    discarded: dict[str, float] = {}
    """Usage of replies that were given up to ask again."""
    addresses: list[str] = []
    """Where a server was asked."""

    def after(self, seconds: float) -> "Begun":
        """The same after so many more seconds of work."""
        return self.model_copy(update={"seconds": self.seconds + seconds})

    @classmethod
    def of(cls, made: Manifest) -> "Begun":
        """What a finished stage was made with, to go on with it."""
        kept = {key: made.details[key] for key in ("asked_scale", "discarded", "addresses") if key in made.details}
        return cls(settings=made.settings, inputs=made.inputs, seconds=made.seconds, **kept)


LIBRARIES = ("alpagasus-ray", "ray", "pyarrow", "openai", "datasets")


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python and of the `LIBRARIES` and those `more` that are installed, for the manifest of what they made."""
    found = {"python": platform.python_version()}
    for package in (*LIBRARIES, *more):
        try:
            found[package] = metadata.version(package)
        # an install without an extra lacks some of them, and says so by their absence
        except metadata.PackageNotFoundError:
            continue
    return found
