"""Trainings, side by side: packed against padded, the training loop against `transformers.Trainer`, arms of the published
sizes, and the layers of LLaMA 7B on a GPU.

On a machine with a GPU `python benchmarks/run.py --only gpu` measures the last, which says on other machines that it did not.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from training_sample import ARM, EXAMPLES, THREADS, TRAINER, VOCABULARY, OutOfMemory, Sample, drawn, process, write_shape

from alpagasus_ray.config import Arm, Finetune, Pick
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from alpagasus_ray.training.spec import order_of
from bench_vllm import TINY, has_gpu
from measure import ROOT, Sampler, Table
from published_arms import CONTROL, LARGE, SELECTED, published_arms

SMALL = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8}
SMALL_NAME = f"a Llama with 4 layers, hidden size 512, vocabulary {VOCABULARY:,}, float32, one thread"
SEVEN = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32_000}
LAYERS = (32, 24, 16, 8)
"""Of LLaMA 7B; the first that is not too large for the GPU is taken."""
COMPUTED = ("forward", "backward", "step")
NICE = 15
"""The priority of Ray's workers, by Ray's default; the Trainer gets the same."""
ARM_EPOCHS = 0.25
PAPER = {"AlpaGasus, 9,229 examples": 9_229, "Alpaca, 52,002 examples": 52_002}
EPOCHS, GPUS, TOKENS_AN_EXAMPLE = 3, 4, 126

Rows = Sequence[Mapping[str, Any]]


def bench_packing(run: Run, work: Path) -> Table:
    """Real tokens a second, the same examples in three ways, an update of each in turn."""
    sample, steps = drawn(run, work / "packing", SMALL), 5
    table = Table(
        f"Packed and padded, {SMALL_NAME}, updates of 32 of {sample.about()}; real tokens, padding is not counted",
        *("update", "packed, tokens/s", "padded to the longest of 16", "padded to 512", "packed / longest", "packed / 512"),
    )
    padded = {"steps": steps, "packing": False, "micro_batch": 16}
    configs = {
        "packed": sample.config(steps=steps),
        "longest": sample.config(**padded),
        "most": sample.config(**padded, pad_to_max=True),
    }
    rows = sample.alone(configs, steps)["rows"]
    for step in range(1, steps):  # the first warms up
        _packing_row(table, str(step), {name: rows[name][step : step + 1] for name in configs})
    later = {name: rows[name][1:] for name in configs}
    _packing_row(table, "all", later)
    _packing_row(table, "all, by seconds of the CPU", later, "cpu")
    return table


def _packing_row(table: Table, name: str, rows: Mapping[str, Rows], clock: str = "whole") -> None:
    packed, longest, most = (_rate(rows[way], clock) for way in ("packed", "longest", "most"))
    rates = [f"{rate:,.0f}" for rate in (packed, longest, most)]
    table.row(name, *rates, f"{packed / longest:.2f}", f"{packed / most:.2f}")


def _rate(rows: Rows, clock: str = "whole") -> float:
    return float(sum(row["tokens"] for row in rows) / sum(row[clock] for row in rows))


def bench_trainer(run: Run, work: Path) -> Table:
    """The loop under Ray Train against `transformers.Trainer`, in turns, and what the loop itself costs."""
    sample, steps = drawn(run, work / "trainer", SMALL), 4
    # without a warm-up, whose first update changes nothing in the Trainer
    plain = sample.config(steps=steps, packing=False, micro_batch=8, warmup=0)
    table = Table(
        f"The training loop and `transformers.Trainer`, {SMALL_NAME}, {steps} updates of 32 of {sample.about()}, 8 at a time, "
        f"padded to the longest; both processes at priority {NICE}",
        *("what", "figure"),
    )
    cpu = []
    for turn in (1, 2):
        theirs = process(TRAINER, _asked(sample, plain), work / "trainer/trainer.json", nice=NICE)
        cpu.append(theirs["cpu"])
        with CpuOfOthers() as others:
            ours, losses, tokens = _under_ray(sample, plain, f"turn-{turn}")
        for name, seconds in (("`transformers.Trainer`", theirs["seconds"]), ("the loop under Ray Train", ours)):
            table.row(f"turn {turn}: {name}", f"{seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")
        table.row(f"turn {turn}: Trainer's time / the loop's", f"{theirs['seconds'] / ours:.3f}")
        table.row(f"turn {turn}: of the CPU beside the worker, while it made updates", others.told(ours))
        gap = max(abs(a - b) for a, b in zip(losses, theirs["losses"], strict=True))
        table.row(f"turn {turn}: largest difference between the losses of an update", f"{gap:.1e}")
    alone = sample.alone({"padded": plain, "packed": sample.config(steps=steps)}, steps)["rows"]
    ours = sum(row["cpu"] for row in alone["padded"])
    table.row("Trainer's seconds of the CPU / those of the loop in a process alone", f"{sum(cpu) / len(cpu) / ours:.3f}")
    for name, rows in alone.items():
        _shares(table, name, rows[1:])
    return table


class CpuOfOthers(Sampler):
    """What this process and Ray's use of the CPU beside the training worker."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, dict[str, float], float]] = []
        super().__init__()

    def look(self, processes: Sequence[psutil.Process]) -> None:
        used, worker = defaultdict[str, float](float), 0.0
        for each in processes:
            try:
                times, name = each.cpu_times(), each.name()
            except psutil.Error:
                continue
            if "RayTrainWorker" in name:
                worker += times.user + times.system
            else:
                used["this driver" if each.pid == os.getpid() else name] += times.user + times.system
        self._samples.append((time.monotonic(), dict(used), worker))

    def told(self, seconds: float) -> str:
        """The most of the last `seconds` of work by the worker, which end when it does."""
        last = max(at for at, _, worker in self._samples if worker)
        inside = [used for at, used, worker in self._samples if worker and last - seconds <= at <= last]
        shares = {name: (inside[-1][name] - inside[0].get(name, 0.0)) / seconds for name in inside[-1]}
        most = sorted(shares.items(), key=lambda each: -each[1])[:5]
        return f"{sum(shares.values()):.1%} of a core: " + ", ".join(f"{name} {share:.1%}" for name, share in most)


def _asked(sample: Sample, config: Finetune) -> dict[str, Any]:
    """The same for the Trainer: our examples in our order."""
    assert config.steps is not None
    tokens, order = sample.tokens, order_of(config, sample.run.tokens(ARM).finished())
    examples = [int(index) for step in range(config.steps) for index in order.batch(step)]
    return {
        "model": sample.model,
        "examples": [{"ids": tokens.ids(index).tolist(), "prompt": int(tokens.prompt_tokens[index])} for index in examples],
        "micro_batch": config.micro_batch,
        "accumulation": config.global_batch // config.micro_batch,
        "steps": config.steps,
        "learning_rate": config.rate,
        "seed": config.seed,
        "threads": THREADS,
        "folder": f"{sample.run.storage.root}/trainer",
    }


def _under_ray(sample: Sample, config: Finetune, arm: str) -> tuple[float, list[float], int]:
    """A whole training: seconds of its updates, their losses, their tokens."""
    import pyarrow.parquet as pq

    pick_subset(Pick(arms=(Arm(name=arm, policy="random", k=EXAMPLES),)), sample.run)
    (manifest,) = finetune(config, sample.run, [arm])
    losses = pq.read_table(sample.run.model(arm).storage.path("curve.parquet"))["loss"].to_pylist()
    return manifest.details["wall_s"]["train"], losses, manifest.details["tokens"]


def _shares(table: Table, name: str, rows: Rows) -> None:
    """Where the time of updates goes besides forward, backward and step."""
    whole = sum(row["whole"] for row in rows)
    parts = {part: sum(row["parts"][part] for row in rows) / whole for part in rows[0]["parts"]}
    other = 1 - sum(parts.pop(part) for part in COMPUTED)
    table.row(f"the loop alone, {name}: share outside {', '.join(COMPUTED)}", f"{other:.2%}")
    spread = [*parts.items(), ("all else", other - sum(parts.values()))]
    table.row(f"the loop alone, {name}: of that", ", ".join(f"{part} {share:.2%}" for part, share in spread))


def bench_arms(run: Run, work: Path) -> Table:
    """Arms of the published sizes by `jobs/finetune.py`: what it saves to train on less."""
    del run
    folder = work / "arms"
    folder.mkdir()
    made = published_arms(folder, TINY.parent)
    table = Table(
        f"Arms by `jobs/finetune.py`, {ARM_EPOCHS:g} epochs of each, 2 CPU workers, ZeRO-3, 260 thousand parameters, float32",
        *("arm", "examples", "updates", "tokens", "training minutes", "minutes", "examples, less by", "training time, less by"),
    )
    settings = {"model": str(TINY), "arms": [LARGE, SELECTED, CONTROL], "epochs": ARM_EPOCHS, "zero_stage": 3, "workers": 2}
    settings |= {"gpu": False, "precision": "float32", "max_length": 1024, "pack_tokens": 4096, "tensorboard": False}
    command = [sys.executable, str(ROOT / "jobs/finetune.py"), "--run", made.storage.root, "--json"]
    for key, value in settings.items():
        command += ["--set", f"finetune.{key}={json.dumps(value)}"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    for arm in json.loads(made.storage.read("models/comparison.json"))["arms"]:
        less = arm["times_less_than_largest"]
        counts = [f"{arm[name]:,}" for name in ("examples", "steps", "tokens")]
        times = [f"{arm[name]:.2f}" for name in ("training_minutes", "minutes")]
        table.row(arm["arm"], *counts, *times, f"{less['examples']:.2f}", f"{less['training_minutes']:.2f}")
    return table


def bench_gpu(run: Run, work: Path) -> Table:
    """The layers of LLaMA 7B on one GPU, and what that says of the published trainings."""
    table = Table("The layers of LLaMA 7B, random weights, bf16, packs of 2,048 tokens, one GPU", "what", "figure")
    if not has_gpu():
        table.row("not measured", "this machine has no GPU")
        return table
    sample, warm, updates = drawn(run, work / "gpu", SEVEN), 3, 20
    config = sample.config(steps=warm + updates, global_batch=128, precision="bf16", gpu=True)
    for layers in LAYERS:
        write_shape(sample.model, {**SEVEN, "num_hidden_layers": layers})
        try:
            found = sample.alone({"gpu": config}, warm + updates, on_gpu=True)
        except OutOfMemory:
            table.row(f"{layers} layers", "do not fit")
            continue
        name = f"{found['parameters']['gpu'] / 1e9:.2f} billion parameters"
        table.row(f"{layers} of 32 layers, {name}, AdamW on all of them", found["device"])
        _gpu_rows(table, sample, config, found["rows"]["gpu"][warm:])
        break
    return table


def _gpu_rows(table: Table, sample: Sample, config: Finetune, rows: Rows) -> None:
    """Rates, and by them the paper's trainings."""
    from alpagasus_ray.training import model, shapes

    seconds = sum(row["whole"] for row in rows)
    table.row(f"real tokens/s, {len(rows)} updates of 128 of {sample.about()}", f"{_rate(rows):,.0f}")
    if any(row["mfu"] is None for row in rows):
        table.row("MFU", "unknown: nobody has said what this GPU can do (alpagasus_ray/training/devices.py)")
        return
    done = sum(row["mfu"] * row["seconds"] for row in rows) / seconds
    table.row("MFU (llm-foundry, 7B on H100s: 46%, 10,643 tokens/s a GPU; the floor is 35%)", f"{done:.1%}")
    write_shape(sample.model, {**SEVEN, "num_hidden_layers": LAYERS[0]})
    hf_config = model.shape(config)
    parameters, trained = model.sizes(config, hf_config)
    work = shapes.flops(hf_config, parameters, trained)
    assert work is not None, "a Llama's configuration says all that is counted"
    lengths = sample.tokens.lengths
    labels, squares = sample.tokens.label_tokens.sum() / lengths.sum(), (lengths**2).sum() / lengths.sum()
    each = work.a_token + work.a_label * labels + work.a_square * squares
    speed = done * _peak(config)  # operations a second
    table.row("tokens/s of all 32 layers at this MFU", f"{speed / each:,.0f}")
    for name, examples in PAPER.items():
        minutes = examples * EPOCHS * TOKENS_AN_EXAMPLE * each / (speed * GPUS) / 60
        table.row(
            f"predicted, not measured: {name}, {EPOCHS} epochs, {TOKENS_AN_EXAMPLE} tokens each, {GPUS} GPUs at this MFU",
            f"{minutes:.1f} minutes",
        )


def _peak(config: Finetune) -> float:
    import torch

    from alpagasus_ray.training import devices

    peak = devices.peak_flops(config, torch.device("cuda", 0))
    assert peak is not None
    return peak
