"""What is estimated of activations is what autograd keeps, and `auto` follows from it with a reason."""

from typing import Any

import numpy as np
import pytest
import torch
from families import example, shape
from test_head import Padded, gradients

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import behaviour, collate, memory, model, shapes

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
LLAMA = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 16}
SEVEN = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "head_dim": 128}
SEVEN |= {"num_key_value_heads": 32, "vocab_size": 32_000}
COUNTS = (6_738_415_616, 6_738_415_616)
TOKENS = 96


def loaded(**changes: Any) -> model.Loaded:
    told = {"model": "llama", "precision": "float32", "max_length": 128, "from_scratch": True, **changes}
    torch.manual_seed(0)
    return model.load(Finetune(**told), shape("llama", **LLAMA), Padded(), on_gpu=False)


def kept(found: model.Loaded) -> int:
    """Bytes that autograd keeps of a forward pass of `TOKENS` tokens, weights and the output layer not among them."""
    weights = {weight.data_ptr() for weight in found.model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = collate.packed(behaviour._Bare([example(TOKENS)]), np.arange(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = found.model.model(**batch.inputs, use_cache=False)
    assert out.last_hidden_state.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize(("precision", "wide"), [("float32", 4), ("bf16", 2)])
def test_the_activations_that_are_estimated_are_those_that_are_kept(precision: str, wide: int) -> None:
    hf_config = shape("llama", **LLAMA)
    for kind in ("none", "attention"):
        expected = memory.bytes_a_token(hf_config, wide, kind)
        assert expected is not None
        found = kept(loaded(precision=precision, gradient_checkpointing=kind)) / TOKENS
        # of the attention that is computed again one layer's is there at a time, in the backward pass
        each = memory.layer(hf_config, wide)
        assert each is not None
        assert found == pytest.approx(expected - (each.attention if kind == "attention" else 0), rel=0.2), kind


def test_of_what_is_computed_again_the_input_of_each_layer_is_kept() -> None:
    found, whole = (kept(loaded(gradient_checkpointing=kind)) for kind in ("full", "none"))
    assert found < whole / 8


@pytest.mark.parametrize("kind", ["attention", "full"])
def test_what_is_computed_again_has_the_same_gradients(kind: str) -> None:
    (batch,) = collate.built(behaviour._Bare([example(40), example(20)]), [np.arange(2)], None, None)
    expected, got = (
        gradients(found.model, collate.loss_sum(found.model, batch, slices=True))
        for found in (loaded(gradient_checkpointing="none"), loaded(gradient_checkpointing=kind))
    )
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(got[name], grad, rtol=1e-5, atol=1e-6)


def test_a_model_without_a_part_that_is_attention_is_told_what_to_set() -> None:
    config = Finetune(model="m", precision="float32", packing=False, from_scratch=True, gradient_checkpointing="attention")
    with pytest.raises(UsageError, match=r"have no part that is called self_attn, .* set it to full or none"):
        model.load(config, shape("falcon_mamba"), Padded(), on_gpu=False)


def settled(free: float | None, workers: int = 4, **changes: Any) -> memory.Settled:
    told = {"model": "m", "pack_tokens": "auto", **changes}
    return memory.settled(Finetune(**told), shape("llama", **SEVEN), COUNTS, free, workers)


def test_packs_are_as_large_as_the_memory_and_the_reason_says_so() -> None:
    config, why = settled(80 * 2**30)
    assert isinstance(config.pack_tokens, int)
    assert config.pack_tokens % memory.GRANULE == 0
    each = memory.bytes_a_token(shape("llama", **SEVEN), 2, config.gradient_checkpointing)
    assert each is not None
    assert config.pack_tokens * each < (80 - 37.7) * 2**30
    assert why.startswith(
        f"gradient_checkpointing = {config.gradient_checkpointing}, pack_tokens = {config.pack_tokens:,}: 80.0 "
    )
    assert "states take 37.7" in why


def test_more_is_computed_again_the_less_memory_there_is() -> None:
    kinds = [settled(free * 2**30)[0].gradient_checkpointing for free in (141, 90, 60, 44)]
    assert kinds == sorted(kinds, key=memory.KINDS.index)
    assert (kinds[0], kinds[-1]) == ("none", "full")
    sizes = [settled(free * 2**30, gradient_checkpointing="none")[0].pack_tokens for free in (141, 90, 60, 44)]
    assert sizes == sorted(sizes, reverse=True)  # type: ignore[type-var]


def test_a_pack_holds_the_longest_example_whatever_the_memory() -> None:
    config, _ = settled(39 * 2**30, max_length=1024)
    assert (config.pack_tokens, config.gradient_checkpointing) == (1024, "full")


def test_what_is_said_is_not_changed() -> None:
    config, why = settled(80 * 2**30, pack_tokens=4096, gradient_checkpointing="full")
    assert (config.pack_tokens, config.gradient_checkpointing, why) == (4096, "full", "")
    config, _ = settled(80 * 2**30, gradient_checkpointing="attention")
    assert config.gradient_checkpointing == "attention"


def test_whole_logits_need_smaller_packs() -> None:
    usual, whole = (settled(48 * 2**30, gradient_checkpointing="full", logits=way)[0].pack_tokens for way in ("auto", "whole"))
    assert isinstance(usual, int)
    assert isinstance(whole, int)
    assert whole < usual


def test_on_a_cpu_and_of_unknown_models_it_is_what_it_was() -> None:
    for config, why in (settled(None), memory.settled(Finetune(model="m"), shape("falcon_mamba"), COUNTS, 2**40, 1)):
        assert (config.least_pack, config.gradient_checkpointing) == (2048, "none")
        assert why.startswith("gradient_checkpointing = none")


def test_a_recipe_of_before_means_what_it_meant() -> None:
    for said, kind in ((True, "full"), (False, "none"), ("auto", "auto")):
        assert Finetune(gradient_checkpointing=said).gradient_checkpointing == kind  # type: ignore[arg-type]
    assert Finetune(pack_tokens="auto", max_length=4096).least_pack == 4096


def test_heads_that_have_whole_logits_are_known_by_their_configuration() -> None:
    assert shapes.why_whole_logits(shape("llama")) is None
    assert shapes.why_whole_logits(shape("granite")) is not None
