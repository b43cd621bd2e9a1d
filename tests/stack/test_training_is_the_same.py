"""A training is the same function whatever carries it out: ZeRO stages, packs, numbers of workers, and a plain PyTorch loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from alpagasus_ray.config import Finetune
from alpagasus_ray.datasets.run import Run
from alpagasus_ray.training import settings
from alpagasus_ray.training.job import order_of
from alpagasus_ray.training.token_files import Tokens
from trainings import run_with_arms, tiny, train

ARMS = ("zero0", "zero2", "zero3", "packed", "padded", "alone", "bf16-0", "bf16-2")


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Arms of the same 300 real examples."""
    return run_with_arms(tmp_path_factory.mktemp("same"), shared / "published_subsets/random_9k.json", 300, ARMS)


def plain(run: Run, arm: str, config: Finetune) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training in plain PyTorch, one example after the other: losses and weights."""
    manifest = run.tokens(arm).finished("finetune")
    tokens, order = Tokens.open(run.tokens(arm), manifest), order_of(config, manifest)
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    losses = []
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
        losses.append(total)
    return losses, model.state_dict()


def weights(run: Run, arm: str) -> dict[str, torch.Tensor]:
    """A trained model's weights, without the vectors of the padding token that it was given."""
    model = AutoModelForCausalLM.from_pretrained(run.model(arm).storage.root, dtype=torch.float32)
    return {
        name: weight[:512] if "embed" in name or "lm_head" in name else weight for name, weight in model.state_dict().items()
    }


def differences(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    return max((left[name] - right[name]).abs().max().item() for name in left)


def gap(left: list[Any], right: list[Any]) -> float:
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def test_every_zero_stage_agrees_with_a_plain_loop(run: Run, shared: Path) -> None:
    found = {}
    for stage in (0, 2, 3):
        config = tiny(shared, steps=20, zero_stage=stage)
        found[stage] = [row["loss"] for row in train(run, f"zero{stage}", config)]
    losses, trained = plain(run, "zero3", tiny(shared, steps=20))
    for stage, curve in found.items():
        assert gap(curve, losses) < 1e-4, stage
        assert differences(weights(run, f"zero{stage}"), trained) < 1e-4, stage
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.long
def test_packed_and_padded_trainings_are_the_same(run: Run, shared: Path) -> None:
    packed = train(run, "packed", tiny(shared, steps=50))
    padded = train(run, "padded", tiny(shared, steps=50, packing=False, micro_batch=3))
    alone = train(run, "alone", tiny(shared, steps=50, workers=1, pack_tokens=300))
    for other in (padded, alone):
        assert gap([row["loss"] for row in packed], [row["loss"] for row in other]) < 1e-4
        assert [row["label_tokens"] for row in packed] == [row["label_tokens"] for row in other]
    for arm in ("padded", "alone"):
        assert differences(weights(run, "packed"), weights(run, arm)) < 1e-3
    assert sum(row["padding"] for row in packed) == 0
    assert sum(row["padding"] for row in padded) > 1000
