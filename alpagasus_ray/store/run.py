"""A run: one directory that holds every stage of one experiment. The only module that knows path names.

A stage directory holds its files, `stage.json` while it is being made (the settings it is made with) and `manifest.json`,
written last: what is not in a manifest does not exist. Readers open what a manifest lists, never a glob.
"""

import difflib
import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alpagasus_ray.config import digest
from alpagasus_ray.errors import SettingsChanged, StageFailed, UsageError
from alpagasus_ray.store.lease import shard_of
from alpagasus_ray.store.manifest import MODELS, PART, Begun, FileEntry, Manifest, Totals, describe, totals, versions
from alpagasus_ray.store.reply import USAGE
from alpagasus_ray.store.stage_kinds import kind_of
from alpagasus_ray.store.storage import Storage

__all__ = [
    "CHECKPOINT",
    "DONE",
    "LEDGER",
    "LOCK",
    "MANIFEST",
    "MODELS",
    "RECIPE",
    "STAGE",
    "STATE",
    "TRIAL",
    "USAGE",
    "Begun",
    "FileEntry",
    "Manifest",
    "Run",
    "StageDir",
    "Totals",
    "describe",
    "differences",
    "shard_name",
    "totals",
    "versions",
    "versus",
]

MANIFEST = "manifest.json"
STAGE = "stage.json"
LOCK = "run.lock"
RECIPE = "recipe.yaml"
DONE, LEDGER, TRIAL, STATE = "done", "ledger", "trial", "state"
"""Directories of an unfinished stage: a commit record for each shard that is done, the replies of the others, trials; of a
training the states that it can go on from."""
NEAR = 3
"""So many stages of a near name are named where one is not there."""
CHECKPOINT = "checkpoint"
"""Detail of a model's manifest: the directory that another trainer has written it to."""


def shard_name(number: int, prefix: str = "part") -> str:
    """`part-00012.parquet`: the same name for the same shard at every stage."""
    return f"{prefix}-{number:05d}.parquet"


@dataclass(frozen=True)
class StageDir:
    """One stage's directory inside a run; it can be sent to workers."""

    name: str
    storage: Storage

    def __repr__(self) -> str:
        return f"StageDir({self.storage.path('').rstrip('/')!r})"

    def manifest(self) -> Manifest | None:
        """The table of contents, or None while the stage is not finished."""
        if not self.storage.exists(MANIFEST):
            return None
        return Manifest.model_validate_json(self.storage.read(MANIFEST))

    def finished(self) -> Manifest:
        """The manifest of a stage that must be there; a `UsageError` says which command makes it, or which was meant."""
        manifest = self.manifest()
        if manifest is None:
            raise UsageError(f"{self.name}/ is not finished in this run; {self.how_to_make()}")
        return manifest

    def how_to_make(self) -> str:
        """For messages: a finished stage beside it whose name is near, and the command that makes this one."""
        first = f"run `alpagasus {kind_of(self.name).verb} RUN` first"
        kind, _, name = self.name.rpartition("/")
        beside = Storage(self.storage.fs, posixpath.dirname(self.storage.root))
        near = difflib.get_close_matches(name, beside.folders() if kind else (), n=NEAR)
        made = [f"{kind}/{other}/" for other in near if other != name and beside.at(other).exists(MANIFEST)]
        return f"did you mean {' or '.join(made)}? If not, {first}" if made else first

    def begun(self) -> Begun | None:
        """What an earlier, unfinished call was making."""
        if not self.storage.exists(STAGE):
            return None
        return Begun.model_validate_json(self.storage.read(STAGE))

    def begin(self, begun: Begun) -> None:
        """Record what the stage is being made with, before any of its files."""
        self.storage.write(STAGE, begun.model_dump_json(indent=2).encode())

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest: from here on the stage exists, and holds all that its making left elsewhere."""
        # from this write on the stage exists; a crash before `tidy` is through leaves only what nobody reads
        self.storage.write(MANIFEST, manifest.model_dump_json(indent=2).encode())
        self.tidy(manifest)

    def tidy(self, manifest: Manifest | None = None) -> None:
        """Remove what a finished stage does not need; also where the call that finished it was killed before it could."""
        if self.storage.exists(STAGE):
            if manifest is not None:
                self._remove_other_epochs(manifest)
            # after the manifest: until then the replies in ledgers and the commit records are all there is
            for name in (DONE, LEDGER, TRIAL, STATE):
                self.storage.at(name).delete_tree()
            self.storage.delete(STAGE)  # last: it says that there may be something left

    def _remove_other_epochs(self, manifest: Manifest) -> None:
        """Parts that an earlier holder of the run's lock has left, in place of which a later one has made its own."""
        listed = {entry.name for entry in manifest.files}
        replaced = {entry.shard for entry in manifest.files if entry.shard != entry.name}
        for name in self.storage.names() if replaced else ():
            if name not in listed and shard_of(name) in replaced:
                self.storage.delete(name)

    def made(self, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> Manifest | None:
        """The manifest of a stage that is finished, or None; `SettingsChanged` where it was made otherwise."""
        manifest = self.manifest()
        if manifest is not None:
            self.same_or_refuse(manifest, settings, inputs)
        return manifest

    def build(
        self,
        begun: Begun,
        files: list[FileEntry],
        statuses: Sequence[str] = (),
        *,
        libraries: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """The manifest of files that were made with what was `begun`, by these `libraries` besides those of every stage. Where
        rows have a status they are counted, in the order of `statuses`; of servers that were asked it says what they used and
        who answered. A stage that knows `rows` or `counts` by other means puts them into a copy."""
        sums = totals(files)
        recorded: dict[str, Any] = {"reasons": dict(sums.reasons.most_common())} if statuses else {}
        recorded |= {"discarded": begun.discarded} if begun.discarded else {}
        recorded |= {"addresses": begun.addresses} if begun.addresses else {}
        recorded |= {"models": dict(sums.models.most_common(MODELS))} if sums.models else {}
        sums.usage.update(begun.discarded)  # a Counter adds floats just as well
        return Manifest(
            stage=self.name,
            settings=begun.settings,
            settings_hash=digest(begun.settings),
            inputs=begun.inputs,
            files=files,
            rows=sum(entry.rows for entry in files if entry.name.startswith(PART)),
            counts={status: sums.counts[status] for status in statuses if sums.counts[status]},
            usage=dict(sums.usage),
            seconds=begun.seconds,
            versions=versions(libraries),
            details={**recorded, **(details or {})},
        )

    def reopen(self) -> None:
        """Take the manifest away: the stage is unfinished again, its files stay."""
        self.storage.delete(MANIFEST)

    def same_or_refuse(self, made: Manifest | Begun, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        """Refuse to go on over results that were made with other settings or from other inputs."""
        changed = differences(made.settings, settings)
        changed += [
            f"{key}: {made.inputs.get(key)} there, {inputs.get(key)} now (its content has changed)"
            for key in sorted({*made.inputs, *inputs})
            if made.inputs.get(key) != inputs.get(key)
        ]
        if changed:
            lines = "\n  ".join(changed)
            raise SettingsChanged(
                f"{self.name}/ in this run was made with other settings, and results never mix:\n  {lines}\n"
                f"Go back to those settings, use another run or name, or delete {self.storage.root} to make it anew."
            )

    def tables(self, manifest: Manifest, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The listed `part-` files in order, one table at a time, each compared with its checksum."""
        for entry in manifest.parts():
            yield self.table(entry.name, entry.sha256, columns)

    def table(self, name: str, sha256: str | None, columns: list[str] | None = None) -> pa.Table:
        """One file as it was written, by its checksum where that is known; a `StageFailed` names the file that was changed."""
        if not sha256:  # a trial's files have none
            return self.storage.read_table(name, columns)
        try:
            # read once, for the checksum and for the table: between two reads another process may have changed the file
            content = self.storage.read(name)
        except FileNotFoundError:
            raise StageFailed(self._missing(name)) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StageFailed(self._changed(name))
        # as `Storage.read_table` does
        return pq.read_table(pa.BufferReader(content), columns=columns, pre_buffer=False, partitioning=None)

    def verify(self, manifest: Manifest) -> None:
        """Compare every listed file with its checksum; a `StageFailed` names the first that differs."""
        for problem in self.damaged(manifest):
            raise StageFailed(problem)

    def damaged(self, manifest: Manifest) -> Iterator[str]:
        """One line for each listed file that is missing, or is not as it was written."""
        for entry in manifest.files:
            if not self.storage.exists(entry.name):
                yield self._missing(entry.name)
            elif self.storage.checksum(entry.name) != entry.sha256:
                yield self._changed(entry.name)

    def _missing(self, name: str) -> str:
        return f"{self.storage.path(name)} is listed in the manifest and is missing"

    def _changed(self, name: str) -> str:
        return f"{self.storage.path(name)} is not the file its manifest lists (checksum differs)"


@dataclass(frozen=True)
class Run:
    """The directory of one experiment."""

    storage: Storage

    def __repr__(self) -> str:
        return f"Run({self.storage.path('').rstrip('/')!r})"

    @classmethod
    def open(cls, location: str) -> "Run":
        return cls(Storage.open(location))

    def _stage(self, *names: str) -> StageDir:
        return StageDir("/".join(names), self.storage.at(*names))

    def examples(self) -> StageDir:
        return self._stage("examples")

    def ratings(self, name: str) -> StageDir:
        return self._stage("ratings", name)

    def rated(self) -> list[StageDir]:
        """All directories of ratings, finished or not, by name."""
        prefix = "ratings/"
        paths = (name.split("/") for name in self.storage.all_names() if name.startswith(prefix))
        return [self.ratings(name) for name in sorted({parts[1] for parts in paths if len(parts) > 2})]

    def subset(self, arm: str) -> StageDir:
        return self._stage("subsets", arm)

    def model(self, arm: str) -> StageDir:
        return self._stage("models", arm)

    def weights(self, arm: str) -> Storage:
        """Where the checkpoint of an arm lies: in the run, or where another trainer has written it."""
        made = self.model(arm).manifest()
        elsewhere = made.details.get(CHECKPOINT) if made else None
        return Storage.open(elsewhere) if elsewhere else self.model(arm).storage

    def tokens(self, arm: str) -> StageDir:
        """An arm as its model is trained on it."""
        return self._stage("models", arm, "tokens")

    def trainer(self, name: str, arm: str) -> StageDir:
        """An arm as another trainer is given it."""
        return self._stage("trainers", name, arm)

    def prompts(self, test_set: str) -> StageDir:
        return self._stage("prompts", test_set)

    def answers(self, model: str, *test_set: str) -> StageDir:
        """The answers to one test set; without one, the directory of all that the model has."""
        return self._stage("answers", model, *test_set)

    def pairs(self, a: str, b: str, test_set: str) -> StageDir:
        """Two models' answers side by side, as judges see them."""
        return self._stage("pairs", versus(a, b), test_set)

    def verdicts(self, name: str | None, *pair_and_test_set: str) -> StageDir:
        """A judge's games of two models on one test set; without these, the directory of all of them."""
        return self._stage(f"verdicts-{name}" if name else "verdicts", *pair_and_test_set)

    def probes(self, judge: str, what: str) -> StageDir:
        """Rows that a judge is asked about to see how far it can be trusted."""
        return self._stage("probes", judge, what)

    def judges(self) -> StageDir:
        """The cards of all judges."""
        return self._stage("judges")

    def judge(self, name: str, *part: str) -> StageDir:
        """What belongs to one judge: what it said of its probes, what it was fitted on."""
        return self._stage("judges", name, *part)

    def people(self, study: str) -> StageDir:
        """A human study."""
        return self._stage("people", study)

    def benchmark(self, model: str, *task: str) -> StageDir:
        """A model's results in one benchmark; without one, the directory of all that the model has."""
        return self._stage("benchmarks", model, *task)

    def race(self) -> StageDir:
        return self._stage("race")

    def report(self) -> StageDir:
        return self._stage("report")


def versus(a: str, b: str) -> str:
    """Directory of a pair."""
    return f"{a}-vs-{b}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each setting that differs, nested keys joined by dots."""
    lines = []
    for key in sorted({*old, *new}):
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += differences(before, now, f"{prefix}{key}.")
        elif before != now:
            lines.append(f"{prefix}{key}: {before!r} there, {now!r} now")
    return lines
