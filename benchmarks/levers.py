"""What single levers of a training are worth on a CPU, each beside what it replaces, in one run and without Ray's processes.

    python benchmarks/levers.py

Memory of the loss of 4,096 label tokens over 152,064 entries, AdamW's step, and the seconds of the CPU that the processes of a
training import for before a worker does anything.
"""

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from measure import ROOT, Table

SIZES = (4096, 152_064, 896)
"""Label tokens, vocabulary and hidden size of Qwen2.5 0.5B."""
WEIGHTS = 20_000_000
IMPORTS = {
    "driver and controller, each": "import ray.train.torch",
    "a worker, before Ray Train calls it": "import ray.train.torch, ray.train.v2.api.data_parallel_trainer",
    "a worker, with the loop, DeepSpeed and a model's code": (
        "import ray.train.torch, alpagasus_ray.training.loop, deepspeed, transformers.models.llama.modeling_llama"
    ),
}


def bench_loss() -> None:
    """Whole logits, and pieces of them."""
    table = Table(
        "The loss of {:,} label tokens over a vocabulary of {:,}, hidden size {}, float32".format(*SIZES),
        "way",
        "peak",
        "seconds",
        "loss",
    )
    for way in ("whole", "pieces"):
        command = [sys.executable, str(ROOT / "benchmarks/loss_memory.py"), way, *map(str, SIZES)]
        found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        table.row(way, f"{found['peak'] / 2**20:,.0f} MiB", f"{found['seconds']:.0f}", f"{found['loss']:.4f}")


def bench_adam() -> None:
    """A step over weights of float32, one thread."""
    table = Table(f"AdamW's step over {WEIGHTS / 1e6:.0f} million weights, float32, one thread", "way", "seconds of the CPU")
    torch.set_num_threads(1)
    for name, fused in (("as before", None), ("fused", True)):
        weight = torch.nn.Parameter(torch.zeros(WEIGHTS))
        weight.grad = torch.ones_like(weight)
        adam = torch.optim.AdamW([weight], lr=1e-3, fused=fused)
        seconds = []
        for _ in range(6):
            started = time.process_time()
            adam.step()
            seconds.append(time.process_time() - started)
        table.row(name, f"{min(seconds[1:]):.4f}")


def bench_imports() -> None:
    """The second time, when all files are in memory."""
    table = Table("What is imported before an update", "process", "seconds of the CPU")
    for name, code in IMPORTS.items():
        used = [_cpu_of(code) for _ in range(2)]
        table.row(name, f"{min(used):.2f}")


def _cpu_of(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"DS_ACCELERATOR": "cpu"}, stderr=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    bench_adam()
    bench_imports()
    bench_loss()
