"""The curve of a training: as Parquet and for TensorBoard each step is there once, however often the training went on."""

import struct
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from alpagasus_ray.store.storage import Storage

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (make install)")

from alpagasus_ray.training.curve import Curve, Events, WandB


def row(step: int) -> dict[str, Any]:
    numbers = {"step": step, "epoch": step / 10, "loss": 3.0 - step / 10, "learning_rate": 1e-3, "grad_norm": None, "mfu": None}
    return numbers | {"examples": 4, "tokens": 400, "label_tokens": 200, "padding": 0, "seconds": 0.5, "tokens_per_s": 800.0}


def losses(folder: Path) -> dict[int, float]:
    """Losses by step as TensorBoard reads its files: in order of time, what a later file purges left out."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[int, float] = {}
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == SessionLog.START:
                found = {step: loss for step, loss in found.items() if step < event.step}
            for value in event.summary.value:
                if value.tag == "train/loss":
                    assert event.step not in found
                    found[event.step] = value.simple_value
    return found


def test_a_resumed_curve_has_every_step_once(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    first = Curve(None, [Events(storage, 0)])
    for step in (1, 2):
        first.add(row(step))
    saved = first.parquet()
    first.add(row(3))  # lost with the worker, though TensorBoard may have seen it
    first.close()
    second = Curve(saved, [Events(storage, 2)])
    for step in (3, 4):
        second.add(row(step))
    second.close()
    assert [kept["step"] for kept in second.rows()] == [1, 2, 3, 4]
    assert losses(tmp_path / "tensorboard") == pytest.approx({step: 3.0 - step / 10 for step in (1, 2, 3, 4)})


def test_on_an_object_store_the_files_come_with_each_flush(tmp_path: Path) -> None:
    storage = Storage(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "run")
    (tmp_path / "run/tensorboard").mkdir(parents=True)
    curve = Curve(None, [Events(storage, 0)])
    curve.add(row(1))
    assert not storage.at("tensorboard").names()
    curve.flush()
    assert losses(tmp_path / "run/tensorboard") == pytest.approx({1: 2.9})
    curve.close()


def test_weights_and_biases_sees_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    curve = Curve(None, [WandB("project", "an-id", "arm", {"steps": 2})])
    for step in (1, 2):
        curve.add(row(step))
    curve.close()
    (file,) = tmp_path.glob("wandb/offline-run-*-an-id/*.wandb")
    assert file.stat().st_size > 0
