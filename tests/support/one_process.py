"""A worker's whole training in this process: the real loop and DeepSpeed, a group of one, no Ray Train."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist

from alpagasus_ray.config import Finetune, digest
from alpagasus_ray.store.run import Begun, Manifest, Run
from alpagasus_ray.training import devices, heldout, loop, token_files
from alpagasus_ray.training.arms import settings_of
from alpagasus_ray.training.devices import Place
from alpagasus_ray.training.spec import Stopped, Trained, Training
from alpagasus_ray.training.status import _StatusActor

ALONE = Place(0, 1, 1, torch.device("cpu"))


@contextmanager
def group_of_one() -> Iterator[None]:
    """What Ray Train sets up for a single worker. The group itself stays until this process ends, as DeepSpeed keeps the first
    that it has seen."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    before = {name: os.environ.get(name) for name in (*told, "DS_ACCELERATOR", "OMP_NUM_THREADS")}
    os.environ |= {**told, "DS_ACCELERATOR": "cpu"}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def tokens_of(config: Finetune, run: Run, arm: str) -> Manifest:
    """The arm as tokens, encoded here."""
    source, target = run.subset(arm), run.tokens(arm)
    subset = source.finished()
    begun = Begun(settings=token_files.token_settings(config), inputs={source.name: subset.content_hash()})
    target.begin(begun)
    files = [entry for part in subset.parts() for entry in token_files.encode_shard(config, source, target, part.name)]
    manifest = token_files._summed_up(target, files, begun)
    target.finish(manifest)
    return manifest


def training_of(config: Finetune, run: Run, arm: str) -> Training:
    """What a worker is told."""
    held = heldout.read(config)
    watch: Any = _StatusActor()
    key = digest(settings_of(config))
    return Training(
        config, arm, run.model(arm), run.tokens(arm), tokens_of(config, run, arm), key, 0.0, watch, held and held.tokens
    )


def trained(training: Training, monkeypatch: pytest.MonkeyPatch) -> Trained | Stopped | None:
    """What the first worker has to tell; Ray Train's own calls, which need its controller, are left out."""
    import ray.train

    monkeypatch.setattr(devices, "here", lambda config: ALONE)
    monkeypatch.setattr(ray.train, "report", lambda metrics: None)
    monkeypatch.setattr(loop, "LOOK_S", float("inf"))
    return loop.train(training)
