"""Small real trainings for tests: arms of real Alpaca rows, the tiny model, curves read back."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from alpagasus_ray.config import Arm, Finetune, Ingest, Pick
from alpagasus_ray.datasets.run import Run
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset


def run_with_arms(folder: Path, source: Path, rows: int | None, arms: Iterable[str]) -> Run:
    """A run whose arms all hold the first `rows` records of an Alpaca file."""
    records = json.loads(source.read_text())[:rows]
    (folder / "rows.json").write_text(json.dumps(records))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json"), name="rows"), run)
    pick_subset(Pick(arms=tuple(Arm(name=name, policy="full") for name in arms)), run)
    return run


def tiny(shared: Path, **changes: Any) -> Finetune:
    """A training of the tiny model on two CPU workers that takes seconds."""
    settings = {
        "model": str(shared / "tiny_llama"),
        "global_batch": 16,
        "max_length": 256,
        "pack_tokens": 512,
        "learning_rate": 1e-3,
        "precision": "float32",
        "zero_stage": 3,
        "workers": 2,
        "gpu": False,
        "tensorboard": False,
    }
    return Finetune(**{**settings, **changes})


def curve(run: Run, arm: str) -> list[dict[str, Any]]:
    """A finished training's curve."""
    rows: list[dict[str, Any]] = pq.read_table(run.model(arm).storage.path("curve.parquet")).to_pylist()
    return rows


def train(run: Run, arm: str, config: Finetune) -> list[dict[str, Any]]:
    """Train one arm; the answer is its curve."""
    finetune(config, run, [arm])
    return curve(run, arm)
