"""The loss in pieces is the loss of whole logits, with its gradients, for a fraction of the memory."""

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from families import VOCABULARY, example, shape
from torch.nn.functional import cross_entropy, linear

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import behaviour, collate, head, model, shapes
from alpagasus_ray.training.head import IGNORED
from toy_runs import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks for it
CLOSE = 1e-5
WHOLE = ("cohere", "granite", "minicpm3")
"""Families that have whole logits: scaled ones, and those nobody has looked at."""
SOME = ("gemma3", "gpt2", "llama", "mixtral", "olmo3", "phi", "qwen2")
"""Of the list: tied, nested, with a bias, of experts, without `logits_to_keep` or with it."""
EXAMPLES = [example(40, seed=1), example(30, seed=2)]


class Padded:
    """A tokenizer that has what the model needs of it."""

    pad_token_id = 0

    def __len__(self) -> int:
        return VOCABULARY


def loaded(kind: str, hf_config: Any = None, **changes: Any) -> model.Loaded:
    told = {"model": kind, "precision": "float32", "max_length": 64, "pack_tokens": 128, "from_scratch": True, **changes}
    torch.manual_seed(0)
    return model.load(Finetune(**told), hf_config or shape(kind), Padded(), on_gpu=False)


def gradients(of: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    of.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad.clone() for name, weight in of.named_parameters() if weight.grad is not None}


def same(kind: str, *, packing: bool, slices: bool | None = None, **changes: Any) -> None:
    """Loss, losses and gradients of pieces so small that there are many, beside those of whole logits."""
    found = loaded(kind, packing=packing, logits="pieces", **changes)
    assert found.head is not None, found.logits
    (batch,) = collate.built(behaviour._Bare(EXAMPLES), [np.arange(2)], None if packing else 0, None)
    told: dict[str, Any] = {"slices": found.slices if slices is None else slices}
    torch.manual_seed(0)  # what dropout leaves out is the same
    whole = collate.loss_sum(found.model, batch, **told)
    expected = gradients(found.model, whole)
    torch.manual_seed(0)
    pieces = collate.loss_sum(found.model, batch, **told, by=found.head)
    assert pieces.item() == pytest.approx(whole.item(), rel=CLOSE)
    got = gradients(found.model, pieces)
    assert got.keys() == expected.keys()
    scale = max(grad.norm().item() for grad in expected.values())
    for name, grad in expected.items():
        assert (got[name] - grad).norm() <= CLOSE * max(grad.norm().item(), 1e-3 * scale), name
    found.model.eval()
    with torch.no_grad():
        each = collate.token_losses(found.model, batch, **told)
        torch.testing.assert_close(
            collate.token_losses(found.model, batch, **told, by=found.head), each, rtol=CLOSE, atol=CLOSE
        )
    assert "forward" not in found.head.layer.__dict__


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "PIECE", 4 * 1000)  # 10 tokens, or 14 entries of the vocabulary


@pytest.mark.parametrize("kind", SOME)
def test_a_family_of_the_list_has_the_loss_and_gradients_of_whole_logits(kind: str) -> None:
    same(kind, packing=False)


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(shapes.HEADS - set(SOME)))
def test_every_family_of_the_list_has_the_loss_and_gradients_of_whole_logits(kind: str) -> None:
    same(kind, packing=False)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_so_it_is_in_packs(kind: str) -> None:
    same(kind, packing=True)
    same(kind, packing=True, slices=False)


def test_adapters_learn_the_same_and_an_output_layer_with_one_has_whole_logits() -> None:
    same("llama", packing=True, lora={"rank": 2, "dropout": 0.0})
    found = loaded("llama", lora={"rank": 2, "targets": ["lm_head", "q_proj"]})
    assert (found.head, found.logits) == (None, "an output layer that is no plain matrix (Linear)")


@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_done_to_logits_elsewhere_leaves_them_whole_with_the_reason(kind: str) -> None:
    found = loaded(kind, packing=False)
    assert found.head is None
    assert found.logits == f"a family ({kind}) whose logits nobody has looked at"
    with pytest.raises(UsageError, match=rf"finetune\.logits = pieces: .*'{kind}' has a family .* set it to auto"):
        loaded(kind, packing=False, logits="pieces")


def test_a_known_family_with_a_cap_or_a_scale_has_whole_logits() -> None:
    capped = loaded("gemma3_text", shape("gemma3_text", final_logit_softcapping=30.0))
    assert capped.logits == "logits that are changed after the output layer (final_logit_softcapping)"
    assert loaded("gemma3_text").head is not None


def test_a_class_of_nobody_knows_has_whole_logits() -> None:
    found = loaded("llama")
    theirs = type("Theirs", (type(found.model),), {"__module__": "transformers_modules.theirs"})
    found.model.__class__ = theirs
    chosen = head.choose(Finetune(model="m"), found.model, on_gpu=False)
    assert chosen == (None, "a class of its own, whose logits nobody has looked at")


def test_small_logits_are_whole_unless_pieces_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    targets = torch.zeros(1, 70, dtype=torch.int64)
    usual, asked = loaded("llama").head, loaded("llama", logits="pieces").head
    assert (head.takes(usual, targets), head.takes(asked, targets), head.takes(None, targets)) == (False, True, False)
    assert head.takes(usual, torch.zeros(1, head.PIECE // 4 // VOCABULARY + 1))
    assert loaded("llama", logits="whole").head is None


def test_liger_is_asked_for_where_it_can_run_alone() -> None:
    with pytest.raises(UsageError, match=r"finetune\.logits = liger needs a GPU and the package liger-kernel"):
        loaded("llama", logits="liger")


def pieces_of(dtype: torch.dtype, **told: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Losses and gradients in pieces, and whole; each loss has a weight of its own, two targets are ignored."""
    torch.manual_seed(1)
    given = [torch.randn(37, 16), torch.randn(101, 16), torch.randn(101)]
    targets = torch.randint(0, 101, (37,))
    targets[[3, 9]] = IGNORED
    upstream = torch.rand(37)
    found = []
    for way in (
        lambda *parts: head.in_pieces(*parts, targets, **told),
        lambda *parts: cross_entropy(linear(*parts).float(), targets, ignore_index=IGNORED, reduction="none"),
    ):
        parts = [part.to(dtype).requires_grad_() for part in given]
        losses = way(*parts)
        (losses * upstream).sum().backward()  # type: ignore[no-untyped-call]
        found.append([losses.detach(), *(part.grad for part in parts)])
    return found[0], found[1]


@pytest.mark.parametrize("piece", [1, 4 * 101 * 5, 4 * 37 * 7, 2**20])
def test_the_size_of_a_piece_changes_nothing(piece: int) -> None:
    for ours, theirs in zip(*pieces_of(torch.float32, piece=piece), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=CLOSE, atol=CLOSE)


def test_in_16_bits_it_is_as_close_as_these_are() -> None:
    for ours, theirs in zip(*pieces_of(torch.bfloat16, piece=500), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("liger_kernel") is None, reason="liger-kernel's kernels need it and a GPU"
)
def test_liger_has_the_same_loss_and_gradients() -> None:
    found = loaded("llama", logits="pieces")
    assert found.head is not None
    there = found.model.cuda()
    (batch,) = collate.built(behaviour._Bare(EXAMPLES), [np.arange(2)], 0, None)
    batch = batch.to(torch.device("cuda"))
    whole = collate.loss_sum(there, batch, slices=True)
    expected = gradients(there, whole)
    fused = collate.loss_sum(there, batch, slices=True, by=found.head._replace(by_liger=True))
    assert fused.item() == pytest.approx(whole.item(), rel=1e-4)
    for name, grad in gradients(there, fused).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-4)


def peak(way: str, *sizes: int) -> dict[str, Any]:
    """What `benchmarks/loss_memory.py` prints."""
    command = [sys.executable, str(ROOT / "benchmarks/loss_memory.py"), way, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.long
def test_pieces_need_a_fraction_of_the_memory_of_whole_logits() -> None:
    """A small form of the measurement in docs/benchmarks.md."""
    logits = 4 * 512 * 100_000
    whole, pieces = peak("whole", 512, 100_000, 16), peak("pieces", 512, 100_000, 16, logits // 8)
    assert whole["peak"] > 2 * logits
    assert pieces["peak"] < whole["peak"] / 3
    assert pieces["loss"] == pytest.approx(whole["loss"], rel=CLOSE)
    assert pieces["norms"] == pytest.approx(whole["norms"], rel=CLOSE)
