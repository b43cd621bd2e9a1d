"""Small real trainings for tests: arms of real Alpaca rows, the tiny model, curves read back."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from alpagasus_ray.config import Arm, Finetune, Ingest, Pick
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import STATE, Run
from alpagasus_ray.training import heldout, settings
from alpagasus_ray.training.checkpoints import newest
from alpagasus_ray.training.spec import order_of
from alpagasus_ray.training.token_files import Tokens

LIMIT_S = 280
State = dict[str, torch.Tensor]


def run_with_arms(folder: Path, source: Path, rows: int | None, arms: Iterable[str], place: str | None = None) -> Run:
    """A run whose arms all hold the first `rows` records of an Alpaca file; in `folder` unless a place is given."""
    records = json.loads(source.read_text())[:rows]
    (folder / "rows.json").write_text(json.dumps(records))
    run = Run.open(place or str(folder / "run"))
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
    home = run.model(arm).storage
    rows: list[dict[str, Any]] = pq.read_table(home.path("curve.parquet"), filesystem=home.fs).to_pylist()
    return rows


def train(run: Run, arm: str, config: Finetune) -> list[dict[str, Any]]:
    """Train one arm; the answer is its curve."""
    finetune(config, run, [arm])
    return curve(run, arm)


def saved(run: Run, arm: str) -> int:
    """Updates that are in the newest state."""
    mark = newest(run.model(arm).storage.at(STATE))
    return mark.step if mark else 0


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(of: int | None = None) -> list[psutil.Process]:
    """The training workers of this process's Ray, or of another process's."""
    family = psutil.Process(of).children(recursive=True)
    return [process for process in family if "RayTrainWorker" in " ".join(process.cmdline())]


@contextmanager
def in_the_background(config: Finetune, run: Run, arm: str) -> Iterator[None]:
    """A training that goes on while the block runs; the block is left when it has ended, and how it failed is raised."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            finetune(config, run, [arm])
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    training = threading.Thread(target=work)
    training.start()
    try:
        yield
    finally:
        training.join(LIMIT_S)
    assert not training.is_alive()
    if failed:
        raise failed[0]


def losses(rows: list[dict[str, Any]]) -> list[float]:
    """Of the updates of a curve, each of which is there once and in its place."""
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def gap(left: list[float], right: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def plain_training(run: Run, arm: str, config: Finetune) -> tuple[list[float], State]:
    """The same training in plain PyTorch, one example after the other: losses and weights."""
    torch.set_num_threads(1)  # threads that wait for each other are slower than one, where the model is that small
    manifest = run.tokens(arm).finished()
    tokens, order = Tokens.open(run.tokens(arm), manifest), order_of(config, manifest)
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    found = []
    for step in range(order.steps):
        batch = order.batch(step)
        labels, total = tokens.label_tokens[batch].sum(), 0.0
        for index in batch:
            ids, prompt = torch.tensor(tokens.ids(index)).long(), tokens.prompt_tokens[index]
            loss = cross_entropy(model(ids[None]).logits[0, prompt - 1 : -1], ids[prompt:], reduction="sum") / labels
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.param_groups[0]["lr"] = settings.learning_rate(config, step, order.steps)
        optimizer.step()
        optimizer.zero_grad()
        found.append(total)
    return found, model.state_dict()


def plain_heldout(model: Path | str, config: Finetune) -> tuple[float, int]:
    """The held-out loss of a checkpoint in plain PyTorch, one example after the other; and the label tokens."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    held = heldout.read(config)
    assert held is not None
    tokens, total = Tokens([held.tokens]), 0.0
    for index in range(len(tokens)):
        ids, prompt = torch.tensor(tokens.ids(index)).long(), int(tokens.prompt_tokens[index])
        with torch.no_grad():
            total += cross_entropy(loaded(ids[None]).logits[0, prompt - 1 : -1], ids[prompt:], reduction="sum").item()
    labels = int(tokens.label_tokens.sum())
    return total / labels, labels


def weights(model: Path | str) -> State:
    """A trained model's weights, without the vectors of tokens that the tiny model did not have."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return {
        name: weight[:512] if "embed" in name or "lm_head" in name else weight for name, weight in loaded.state_dict().items()
    }


def differences(left: State, right: State) -> float:
    return max((left[name] - right[name]).abs().max().item() for name in left)
