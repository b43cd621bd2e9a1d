"""The training curve: one row an update, kept as Parquet, for TensorBoard and, if wanted, at Weights & Biases.

Rows are part of every state, so that a resumed curve has each step once. Knows nothing of how the numbers come about.
"""

import io
import os
import shutil
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.util.metrics import Gauge

from alpagasus_ray.datasets.schema import CURVE
from alpagasus_ray.datasets.storage import Storage

SHOWN = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu")
EVENTS = "tensorboard"


class Curve:
    """The rows so far, and those who watch them grow."""

    def __init__(self, earlier: bytes | None, watchers: "list[Watcher]") -> None:
        self._rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(earlier)).to_pylist() if earlier else []
        self._watchers = watchers

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(dict(row))
        for watcher in self._watchers:
            watcher.add(row)

    def rows(self) -> list[dict[str, Any]]:
        return self._rows

    def parquet(self) -> bytes:
        """All rows as a Parquet file."""
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._rows, schema=CURVE), sink, compression="zstd")
        return sink.getvalue()

    def flush(self) -> None:
        for watcher in self._watchers:
            watcher.flush()

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()


class Watcher:
    """Sees every row once, in order; what it may do, it does in a subclass."""

    def add(self, row: Mapping[str, Any]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Events(Watcher):
    """TensorBoard's event files, below `tensorboard/`; what came after `step` was lost with a worker and is purged."""

    def __init__(self, storage: Storage, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._storage = storage.at(EVENTS)
        self._local = self._storage.is_local
        self._folder = self._storage.root if self._local else f"/tmp/alpagasus-events-{os.getpid()}"  # noqa: S108 - only this process knows it
        self._writer = SummaryWriter(self._folder, purge_step=step + 1, filename_suffix=f".{step}")

    def add(self, row: Mapping[str, Any]) -> None:
        for name in SHOWN:
            if row[name] is not None:
                self._writer.add_scalar(f"train/{name}", row[name], row["step"])

    def flush(self) -> None:
        self._writer.flush()
        if not self._local:
            for name in os.listdir(self._folder):
                with open(os.path.join(self._folder, name), "rb") as source:
                    self._storage.write(name, source.read())

    def close(self) -> None:
        self._writer.close()
        if not self._local:
            self.flush()
            shutil.rmtree(self._folder)


class WandB(Watcher):
    """A run at Weights & Biases, whose id is the training's, so that a resumed one goes on in it."""

    def __init__(self, project: str, identity: str, name: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(project=project, id=identity, name=name, config=dict(settings), resume="allow")

    def add(self, row: Mapping[str, Any]) -> None:
        self._run.log({f"train/{name}": row[name] for name in SHOWN if row[name] is not None}, step=row["step"])

    def close(self) -> None:
        self._run.finish()


class Gauges(Watcher):
    """Ray's metrics (docs/metrics.md)."""

    def __init__(self, arm: str) -> None:
        self._tags = {"arm": arm}
        names = {"step": "Updates that are through", "loss": "Mean loss of a label token", "tokens_per_s": "Tokens a second"}
        self._gauges = {name: Gauge(f"alpagasus_train_{name}", doc, tag_keys=("arm",)) for name, doc in names.items()}

    def add(self, row: Mapping[str, Any]) -> None:
        for name, gauge in self._gauges.items():
            gauge.set(row[name], tags=self._tags)
