"""Adapters: what of them is left out at random, and that they are merged with all their digits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from families import VOCABULARY, shape
from peft.tuners.lora import LoraLayer, ParamWrapper
from transformers import AutoModelForCausalLM

from alpagasus_ray.config import Finetune
from alpagasus_ray.training import finished_model, model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks for it
EXPERTS = ("q_proj", "w1", "w2", "w3")


class Padded:
    """A tokenizer that has what the model needs of it."""

    pad_token_id = 0

    def __len__(self) -> int:
        return VOCABULARY


def loaded(kind: str, **changes: Any) -> model.Loaded:
    config = Finetune(model=kind, max_length=64, from_scratch=True, **changes)
    return model.load(config, shape(kind), Padded(), on_gpu=False)


def shares(found: model.Loaded) -> dict[bool, set[float]]:
    """The dropout of adapters, by whether they are experts'."""
    by_kind: dict[bool, set[float]] = {}
    for layer in found.model.modules():
        if isinstance(layer, LoraLayer):
            dropout = layer.lora_dropout[model.ADAPTER] if model.ADAPTER in layer.lora_dropout else torch.nn.Identity()
            by_kind.setdefault(isinstance(layer, ParamWrapper), set()).add(getattr(dropout, "p", 0.0))
    return by_kind


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")  # peft's own, of fused experts
def test_adapters_of_experts_have_no_dropout_and_the_others_theirs() -> None:
    found = loaded("mixtral", precision="float32", lora={"rank": 2, "dropout": 0.25, "targets": EXPERTS})
    assert shares(found) == {True: {0.0}, False: {0.25}}


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")
def test_adapters_of_experts_are_merged_too(tmp_path: Path) -> None:
    config = Finetune(  # type: ignore[arg-type]
        model="mixtral", max_length=64, from_scratch=True, precision="float32", lora={"rank": 2, "targets": EXPERTS}
    )
    found = model.load(config, shape("mixtral"), Padded(), on_gpu=False)
    found.model.eval()
    with torch.no_grad():
        for weight in found.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) / 3)
    told = {"input_ids": torch.arange(4, 40)[None], "pack_starts": [0, 36], "use_cache": False}
    told |= {"cu_seq_lens_q": torch.tensor([0, 36]), "max_length_q": 36}
    with torch.no_grad():
        expected = found.model(**told).logits
        weights = {name: weight.detach().clone() for name, weight in found.model.state_dict().items()}
        merged, together = finished_model.merged_with(config, found.model, weights)
        merged.save_pretrained(tmp_path, state_dict=together)
        opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        torch.testing.assert_close(opened(input_ids=told["input_ids"]).logits, expected, rtol=1e-4, atol=1e-4)


def test_adapters_without_experts_have_their_dropout_and_say_so() -> None:
    found = loaded("llama", precision="float32", lora={"rank": 2, "dropout": 0.25})
    assert shares(found) == {False: {0.25}}
    assert found.model.peft_config[model.ADAPTER].lora_dropout == 0.25


def test_adapters_are_merged_in_float32() -> None:
    """In bf16 the product of two adapters would be rounded before it is added."""
    config = Finetune(model="llama", max_length=64, from_scratch=True, lora={"rank": 4, "alpha": 12, "dropout": 0.0})  # type: ignore[arg-type]
    found = model.load(config, shape("llama"), Padded(), on_gpu=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in found.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight))
    weights = {name: weight.detach().clone() for name, weight in found.model.state_dict().items()}
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    base, down, up = (weights[f"{stem}.{part}.weight"].float() for part in ("base_layer", "lora_A.default", "lora_B.default"))
    assert weights[f"{stem}.base_layer.weight"].dtype == torch.bfloat16
    expected = (base + 3 * (up @ down)).bfloat16()
    _, merged = finished_model.merged_with(config, found.model, weights)
    assert torch.equal(merged["model.layers.0.self_attn.q_proj.weight"], expected)
    rounded = base.bfloat16() + (up.bfloat16() @ down.bfloat16()) * 3
    assert not torch.equal(rounded, expected)
