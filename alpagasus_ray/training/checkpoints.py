"""Checkpoints that a stopped training goes on from: every worker writes its shards; what is not marked as whole does not exist.

`state/step-00000030/` holds DeepSpeed's files and, written last, `whole.json`. A state is removed when a newer one is whole.
On an object store a worker's files pass through a folder of its own on the node. Workers of another number read the state in
DeepSpeed's universal form, which the first of them makes.
"""

import glob
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict

from alpagasus_ray.errors import StageFailed
from alpagasus_ray.store.storage import Storage

WHOLE = "whole.json"
CURVE = "curve.parquet"
UNIVERSAL = "-universal"


class CheckpointInfo(BaseModel):
    """What a whole state says of itself."""

    model_config = ConfigDict(frozen=True)

    step: int
    """Updates that are through."""
    workers: int
    seconds: dict[str, float]
    """What the way there took, by kind of work."""
    heldout: dict[int, float] = {}
    """The held-out loss after so many updates, where it was measured."""


def name_of(step: int) -> str:
    """Directory of the state after so many updates."""
    return f"step-{step:08d}"


def newest(storage: Storage) -> CheckpointInfo | None:
    """The newest whole state below a directory."""
    # steps are written with eight digits, so the last by name is the last by number
    whole = sorted(name for name in storage.all_names() if name.endswith(f"/{WHOLE}") and UNIVERSAL not in name)
    return CheckpointInfo.model_validate_json(storage.read(whole[-1])) if whole else None


@dataclass(frozen=True)
class Checkpoints:
    """The states of one training, as one of its workers sees them."""

    storage: Storage
    rank: int
    workers: int
    keeps_frozen: bool
    """Whether weights that are not trained are part of a state."""
    is_spread: bool
    """Whether every worker has a part of its own (ZeRO 1 to 3)."""

    def save(self, engine: Any, mark: CheckpointInfo, curve: bytes) -> None:
        """Write a state, together with all other workers."""
        name = name_of(mark.step)
        with self._folder() as folder:
            # no `latest` file: which state is the newest is told by what is whole, also after a kill in the middle of a save
            engine.save_checkpoint(folder, tag=name, save_latest=False, exclude_frozen_parameters=not self.keeps_frozen)
            self._keep(os.path.join(folder, name), name)
        _barrier()
        if self.rank == 0:
            self.storage.at(name).write(CURVE, curve)
            # after a barrier, when every worker's shards are written, and after the curve: what has this file is whole
            self.storage.at(name).write(WHOLE, mark.model_dump_json().encode())
            self.drop_all_but(name)
        _barrier()

    def load(self, engine: Any, mark: CheckpointInfo) -> bytes:
        """Take a state over into an engine, together with all other workers; the answer is the curve so far. An engine for
        another number of workers has to be made for the universal form."""
        name = name_of(mark.step) + (UNIVERSAL if self.needs_universal(mark) else "")
        with self._folder() as folder:
            self._fetch(name, folder, everything=self.needs_universal(mark))
            path, _ = engine.load_checkpoint(folder, tag=name, load_module_strict=self.keeps_frozen)
        if path is None:
            raise StageFailed(f"the state {self.storage.path(name)} cannot be read; delete it to train anew")
        return self.storage.at(name_of(mark.step)).read(CURVE)

    def needs_universal(self, mark: CheckpointInfo) -> bool:
        """Whether a state was spread over another number of workers."""
        return self.is_spread and mark.workers != self.workers

    def make_universal(self, mark: CheckpointInfo) -> None:
        """Bring a state into the form that any number of workers reads; the first worker does it."""
        name = name_of(mark.step)
        made = self.storage.at(name + UNIVERSAL)
        if self.rank == 0 and not made.exists(WHOLE):
            # the conversion of an earlier call that was killed
            made.delete_tree()
            with self._folder() as folder:
                self._fetch(name, folder, everything=True)
                _convert(os.path.join(folder, name), os.path.join(folder, name + UNIVERSAL))
                self._keep(os.path.join(folder, name + UNIVERSAL), name + UNIVERSAL)
            made.write(WHOLE, mark.model_dump_json().encode())
        _barrier()

    def drop_all_but(self, name: str) -> None:
        """Remove all other states, torn ones too; the marks go first."""
        others = {path.split("/")[0] for path in self.storage.all_names() if path.startswith("step-")} - {name}
        for other in sorted(others):
            # a state that is half deleted must not look whole
            self.storage.at(other).delete(WHOLE)
            self.storage.at(other).delete_tree()

    @contextmanager
    def _folder(self) -> Iterator[str]:
        """Where DeepSpeed reads and writes."""
        if self.storage.is_local:
            os.makedirs(self.storage.root, exist_ok=True)
            yield self.storage.root
            return
        with tempfile.TemporaryDirectory(prefix="alpagasus-state-") as folder:
            yield folder

    def _keep(self, folder: str, name: str) -> None:
        """Make what this worker has written last."""
        if not os.path.isdir(folder):
            return  # below ZeRO-1 the first worker has it all
        if not self.storage.is_local:
            pafs.copy_files(folder, self.storage.path(name), destination_filesystem=self.storage.fs)
            return
        for file in glob.glob(os.path.join(folder, "**"), recursive=True):
            if os.path.isfile(file):
                with open(file, "rb") as stream:
                    # DeepSpeed does not; without it the mark may be on the disk after a power cut, and the shards not
                    os.fsync(stream.fileno())

    def _fetch(self, name: str, folder: str, *, everything: bool) -> None:
        """Bring a state's files to the node: all, or those that this worker reads."""
        if self.storage.is_local:
            return
        source = self.storage.at(name)
        for file in sorted(source.all_names()):
            # DeepSpeed's names: a worker reads its own shard of the optimizer's states, and what all of them share
            if everything or "_pp_rank_" not in file or f"_pp_rank_{self.rank}_" in file:
                target = os.path.join(folder, name, file)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                pafs.copy_files(source.path(file), target, source_filesystem=source.fs)


def _convert(source: str, target: str) -> None:
    """DeepSpeed's own conversion, in a process of its own: it reads all shards of all workers."""
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", source, "--output_folder", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StageFailed(f"the state {source} cannot be converted for another number of workers: {last}")


def _barrier() -> None:
    import torch.distributed as dist

    dist.barrier()
