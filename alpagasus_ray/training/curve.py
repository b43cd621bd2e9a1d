"""The training curve: one row an update, kept as Parquet, for TensorBoard and, if wanted, at Weights & Biases.

Rows are part of every state, so that a resumed curve has each step once. Knows nothing of how the numbers come about.
"""

import io
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.util.metrics import Gauge

from alpagasus_ray.data.schema import CURVE
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.storage import Storage

SHOWN = ("loss", "learning_rate", "grad_norm", "tokens_per_s", "mfu")
EVENTS = "tensorboard"


class Curve:
    """The rows so far, and those who watch them grow."""

    def __init__(self, earlier: bytes | None, watchers: "list[Watcher]") -> None:
        self._rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(earlier)).to_pylist() if earlier else []
        self._watchers = watchers

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row of one update (schema CURVE), and show it to those who watch."""
        self._rows.append(dict(row))
        for watcher in self._watchers:
            watcher.add(row)

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, one an update, in order."""
        return self._rows

    def parquet(self) -> bytes:
        """All rows as a Parquet file."""
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._rows, schema=CURVE), sink, compression="zstd")
        return sink.getvalue()

    def flush(self) -> None:
        """Let those who watch write what they hold back."""
        for watcher in self._watchers:
            watcher.flush()

    def measured(self, step: int, loss: float) -> None:
        """The held-out loss after an update (before the first where that is 0)."""
        for watcher in self._watchers:
            watcher.measured(step, loss)

    def saved(self) -> None:
        """A state with all of these rows is whole."""
        for watcher in self._watchers:
            watcher.saved()

    def close(self) -> None:
        """End what those who watch have open; nothing can be added after it."""
        for watcher in self._watchers:
            watcher.close()


class Watcher:
    """Sees every row once, in order; what it may do, it does in a subclass."""

    def add(self, row: Mapping[str, Any]) -> None:
        """A row (schema CURVE) as soon as its update is through."""

    def measured(self, step: int, loss: float) -> None:
        """The held-out loss after `step` updates; before the first where that is 0."""

    def flush(self) -> None:
        """Write what is held back."""

    def saved(self) -> None:
        """A state with all rows so far is whole."""

    def close(self) -> None:
        """The training is over in this process."""


class Events(Watcher):
    """TensorBoard's event files, below `tensorboard/`; what came after `step` was lost with a worker and is purged.

    They are for looking at: what was still on its way when a worker was lost is missing there, not in the Parquet file. On an
    object store a file is written on the node and uploaded when it is whole: each flush ends one and begins another.
    """

    def __init__(self, storage: Storage, step: int) -> None:
        self._storage = storage.at(EVENTS)
        self._spool = None if self._storage.is_local else tempfile.TemporaryDirectory(prefix="alpagasus-events-")
        self._step = step
        self._writer = self._open()

    def _open(self) -> Any:
        from tensorboardX import SummaryWriter

        folder = self._spool.name if self._spool else self._storage.root
        # TensorBoard drops the points from that step on which an earlier file holds
        return SummaryWriter(folder, purge_step=self._step + 1, filename_suffix=f".{self._step}")

    def add(self, row: Mapping[str, Any]) -> None:
        self._step = row["step"]
        for name in SHOWN:
            if row[name] is not None:
                self._writer.add_scalar(f"train/{name}", row[name], row["step"])

    def measured(self, step: int, loss: float) -> None:
        self._writer.add_scalar("heldout/loss", loss, step)

    def flush(self) -> None:
        if self._spool is None:
            self._writer.flush()
            return
        self._upload()
        self._writer = self._open()

    def close(self) -> None:
        if self._spool is None:
            self._writer.close()
            return
        self._upload()
        self._spool.cleanup()

    def _upload(self) -> None:
        assert self._spool is not None
        self._writer.close()  # unlike a flush it waits until all is written
        for name in os.listdir(self._spool.name):
            file = os.path.join(self._spool.name, name)
            self._storage.put(name, file)
            os.unlink(file)


class WandB(Watcher):
    """A run at Weights & Biases, whose id is the training's, so that a resumed one goes on in it."""

    def __init__(self, project: str, identity: str, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ModuleNotFoundError:
            raise UsageError("finetune.wandb needs the package wandb: pip install 'alpagasus-ray[wandb]'") from None
        try:
            self._run = wandb.init(project=project, id=identity, name=name, config=dict(settings), resume="allow")
        except wandb.errors.Error as error:
            raise UsageError(f"finetune.wandb = {project}: {' '.join(str(error).split())[:300]}") from None

    def add(self, row: Mapping[str, Any]) -> None:
        self._run.log({f"train/{name}": row[name] for name in SHOWN if row[name] is not None}, step=row["step"])

    def measured(self, step: int, loss: float) -> None:
        self._run.log({"heldout/loss": loss}, step=step)

    def close(self) -> None:
        self._run.finish()


GAUGES = {
    "step": "Updates that are through",
    "loss": "Mean loss of a label token",
    "tokens_per_s": "Tokens a second",
    "mfu": "Share of the devices' peak, where that is known",
    "steps": "Updates that there will be",
    "state_seconds": "When the newest state was whole, or else the training began; seconds since the epoch",
}
"""What is published as `alpagasus_train_<name>`."""


class Gauges(Watcher):
    """Ray's metrics (docs/metrics.md)."""

    def __init__(self, arm: str, steps: int) -> None:
        self._tags = {"arm": arm}
        self._gauges = {name: Gauge(f"alpagasus_train_{name}", doc, tag_keys=("arm",)) for name, doc in GAUGES.items()}
        self._set({"steps": steps})
        self.saved()

    def add(self, row: Mapping[str, Any]) -> None:
        self._set({name: row[name] for name in GAUGES if row.get(name) is not None})

    def saved(self) -> None:
        self._set({"state_seconds": time.time()})

    def _set(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._gauges[name].set(value, tags=self._tags)
