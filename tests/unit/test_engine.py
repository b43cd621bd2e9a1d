"""Under every ZeRO stage the loss in pieces, what is computed again and the fused AdamW train as whole logits do."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from toy_runs import ROOT

UPDATES = """
import json, os, sys
from pathlib import Path
import numpy as np, torch, torch.distributed as dist
from transformers import LlamaConfig
from alpagasus_ray.config import Finetune
from alpagasus_ray.training import behaviour, collate, devices, engine, head, model, native_ops
from families import example
folder, stages, ways = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
place = devices.Place(0, 1, 1, torch.device("cpu"))
devices.choose_accelerator(place)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
head.PIECE = 8000
tokens = behaviour._Bare([example(40, seed=1), example(30, seed=2)])
(batch,) = collate.built(tokens, [np.arange(2)], None, None)
found = {}
for stage in stages:
    for name, changes in ways.items():
        told = {"model": folder, "precision": "float32", "zero_stage": stage, "learning_rate": 1e-2, "gpu": False}
        config = Finetune(**told, max_length=64, from_scratch=True, **changes)
        native_ops.load(config, on_gpu=False)
        hf_config = model.shape(config)
        loaded, made = engine.engine_of(config, hf_config, place, model.ALL, universal=False)
        losses = []
        for _ in range(4):
            loss = collate.loss_sum(made, batch, slices=loaded.slices, by=loaded.head) / 68
            made.backward(loss)
            made.step()
            losses.append(loss.item())
        found[f"{stage} {name}"] = losses
        made.destroy()
print(json.dumps(found))
"""
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"logits": "whole"},
    "pieces": {"logits": "pieces"},
    "attention again": {"logits": "pieces", "gradient_checkpointing": "attention"},
}


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.long)])
def test_losses_of_updates_are_the_same_under_every_zero_stage(shared: Any, tmp_path: Any, tied: bool) -> None:
    """Under ZeRO 3 the output layer's weight is gathered around it alone, and tied to the vectors that tokens are looked up in
    it has gradients of both."""
    shape = json.loads((shared / "tiny_llama/config.json").read_text()) | {"tie_word_embeddings": tied}
    for file in (shared / "tiny_llama").glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(shape))
    stages, ways = ([0, 2, 3], WAYS) if tied else ([3], {name: WAYS[name] for name in ("whole", "pieces")})
    done = subprocess.run(
        [sys.executable, "-c", UPDATES, str(tmp_path), json.dumps(stages), json.dumps(ways)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(stages) * len(ways)
    for name, losses in found.items():
        expected = found[f"{name.partition(' ')[0]} whole"]  # random weights are drawn shard by shard under ZeRO 3
        assert expected[-1] < expected[0] - 0.5
        assert losses == pytest.approx(expected, rel=1e-5), name
