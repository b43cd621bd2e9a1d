"""What a run holds that a report is made of: its finished stages, and the files in them that are read whole."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alpagasus_ray.reporting.training_data import CurvePoint
from alpagasus_ray.store.run import MANIFEST, Manifest, Run, StageDir
from alpagasus_ray.store.stage_kinds import in_order, kind_of


class AnswerRow(NamedTuple):
    """A model's answer beside the reference; either may be missing."""

    prompt_id: str
    reply: str | None
    reference: str | None


class FinishedStages(NamedTuple):
    """The finished stages of a run."""

    run: Run
    manifests: Mapping[str, Manifest]
    """Of all but the report, by name, in the order of the experiment."""

    def named(self, kind: str) -> dict[str, Manifest]:
        """The manifests of `<kind>/<name>`, by name."""
        return {
            name.partition("/")[2]: manifest
            for name, manifest in self.manifests.items()
            if name.startswith(f"{kind}/") and name.count("/") == 1
        }

    def answers(self) -> dict[tuple[str, str], Manifest]:
        """The manifests of the answers, by model and test set."""
        parts = {tuple(name.split("/")): manifest for name, manifest in self.manifests.items() if name.startswith("answers/")}
        return {(names[1], names[2]): manifest for names, manifest in parts.items() if len(names) == 3}

    def stage(self, name: str) -> StageDir:
        """The directory of a stage, by its name."""
        return StageDir(name, self.run.storage.at(*name.split("/")))

    def inputs(self) -> dict[str, str]:
        """The content hash of every stage, by name."""
        return {name: manifest.content_hash() for name, manifest in self.manifests.items()}


def finished_stages(run: Run) -> FinishedStages:
    """Read the manifests of a run."""
    names = [name.removesuffix(f"/{MANIFEST}") for name in run.storage.all_names() if name.endswith(f"/{MANIFEST}")]
    manifests: dict[str, Manifest] = {}
    for name in sorted((name for name in names if kind_of(name).is_reported), key=in_order):
        manifest = StageDir(name, run.storage.at(*name.split("/"))).manifest()
        if manifest is not None:
            manifests[name] = manifest
    return FinishedStages(run, manifests)


def read_json(stage: StageDir, manifest: Manifest, name: str) -> Any:
    """A JSON file that the manifest lists, or None."""
    return json.loads(stage.storage.read(name)) if any(entry.name == name for entry in manifest.files) else None


def curve_of(stage: StageDir, manifest: Manifest) -> list[CurvePoint]:
    """The training curve, a point for each update; empty where there is none."""
    if not any(entry.name == "curve.parquet" for entry in manifest.files):
        return []
    columns = [field.name for field in fields(CurvePoint)]
    table = pq.read_table(io.BytesIO(stage.storage.read("curve.parquet")), columns=columns)
    return [CurvePoint(**row) for row in table.to_pylist()]


def dropped_tables(stage: StageDir, manifest: Manifest, columns: list[str]) -> Iterator[pa.Table]:
    """Rows that an arm left out, with their reasons."""
    for entry in manifest.files:
        if entry.name.startswith("dropped-"):
            yield stage.table(entry.name, entry.sha256, columns)


def answer_rows(stage: StageDir, manifest: Manifest) -> list[AnswerRow]:
    """Reply and reference of each prompt."""
    return [AnswerRow(**row) for table in stage.tables(manifest, list(AnswerRow._fields)) for row in table.to_pylist()]
