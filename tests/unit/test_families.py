"""Families of models: what packs keep apart is packed, all else is refused with advice that works; by list and by look.

Real models of transformers with random weights, a few layers each.
"""

from typing import Any

import pytest
import torch
from families import POSITIONS, VOCABULARY, example, shape
from torch.nn.functional import scaled_dot_product_attention

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import attention, behaviour, collate, model, shapes

CPU = torch.device("cpu")
EXAMPLES = [example(40, seed=1), example(30, seed=2)]
WINDOW = 16
NO_SDPA = ("gpt_oss", "bloom", "mpt", "gptj")
OTHER_LAYERS = ("lfm2_moe", "llama4_text", "qwen3_5_text", "jamba", "falcon_mamba", "falcon", "stablelm")


class Padded:
    """A tokenizer that has what the model needs of it."""

    pad_token_id = 0

    def __len__(self) -> int:
        return VOCABULARY


def config_of(kind: str, **changes: Any) -> Finetune:
    told = {"model": kind, "precision": "float32", "max_length": 64, "pack_tokens": 128, "from_scratch": True, **changes}
    return Finetune(**told)


def loaded(config: Finetune, hf_config: Any) -> model.Loaded:
    """With weights large enough for a leak to show."""
    found = model.load(config, hf_config, Padded(), on_gpu=False)
    with torch.no_grad():
        for weight in found.model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return found


def look(config: Finetune, hf_config: Any) -> model.Loaded:
    """What the worker does before the first update, and one update's loss and gradients."""
    found = loaded(config, hf_config)
    behaviour.check(config, found, found.model, EXAMPLES, CPU)
    assert found.model.training
    tokens = behaviour._Bare(EXAMPLES)
    pad = None if config.packing else 0
    (batch,) = collate.built(tokens, [torch.arange(2).numpy()], pad, None)
    loss = collate.loss_sum(found.model, batch, slices=found.slices)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert any(weight.grad is not None and weight.grad.any() for weight in found.model.parameters())
    return found


def refusal(config: Finetune, hf_config: Any) -> str:
    with pytest.raises(UsageError) as told:
        model.census(config, hf_config)
    return str(told.value)


# what is packed


@pytest.mark.parametrize(
    "kind", ["qwen2", "qwen3_moe", "mixtral", "olmo3", "gemma3_text", "gemma4_text", "deepseek_v3", "gpt2", "opt", "gpt_neox"]
)
def test_a_family_of_full_attention_is_packed_and_seen_to_be_kept_apart(kind: str) -> None:
    hf_config = shape(kind)
    found = look(config_of(kind), hf_config)
    assert found.kind == attention.PACKED
    assert found.own == "sdpa"


# what is refused, and the advice


@pytest.mark.parametrize("kind", [*OTHER_LAYERS, *NO_SDPA])
def test_what_is_not_known_to_be_kept_apart_is_refused_and_trains_as_advised(kind: str) -> None:
    hf_config = shape(kind)
    told = refusal(config_of(kind), hf_config)
    assert told.startswith("finetune.packing: ")
    assert told.endswith("set finetune.packing: false")
    found = look(config_of(kind, packing=False), hf_config)
    assert found.kind == ("eager" if kind in (*NO_SDPA, "falcon_mamba") else "sdpa")


@pytest.mark.parametrize("kind", NO_SDPA)
def test_an_attention_that_a_class_does_not_have_is_refused_and_eager_computes_as_advised(kind: str) -> None:
    hf_config = shape(kind)
    with pytest.raises(UsageError, match=r"finetune\.attention = sdpa: .* set finetune\.attention: eager"):
        loaded(config_of(kind, packing=False, attention="sdpa"), hf_config)
    assert look(config_of(kind, packing=False, attention="eager"), hf_config).kind == "eager"


def test_flash_attention_is_taken_only_where_a_class_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_is_installed", lambda distribution: True)
    for kind, is_taken in (("llama", True), ("bloom", False)):
        config = config_of(kind, packing=False, precision="bf16")
        census = model.census(config, shape(kind))
        assert census is not None
        assert census.has.flash is is_taken
        found = model.attention_kind(config, on_gpu=True, has=census.has)
        assert found == ("flash_attention_2" if is_taken else "eager")
    asked = config_of("bloom", packing=False, precision="bf16", attention="flash_attention_2")
    with pytest.raises(UsageError, match=r"the class of finetune\.model 'bloom' cannot take it; set it to auto"):
        model.attention_kind(asked, on_gpu=True, has=model.NOTHING)


def test_a_window_of_an_unknown_family_that_examples_outgrow_is_refused_and_one_that_they_do_not_is_packed() -> None:
    narrow = shape("phimoe", sliding_window=WINDOW)
    assert f"looks back {WINDOW} tokens only, fewer than max_length = 64" in refusal(config_of("phimoe"), narrow)
    look(config_of("phimoe", packing=False), narrow)
    look(config_of("phimoe", max_length=WINDOW), shape("phimoe", sliding_window=64))


def test_a_convolution_that_no_list_has_told_of_is_seen_in_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """LFM2's mixtures were packed once, and their losses were off by some thousandths without a word."""
    monkeypatch.setattr(shapes, "why_not_packed", lambda hf_config, max_length: None)
    config, hf_config = config_of("lfm2_moe"), shape("lfm2_moe")
    found = loaded(config, hf_config)
    with pytest.raises(UsageError, match=r"finetune\.packing: an example has the loss .* set finetune\.packing: false"):
        behaviour.check(config, found, found.model, EXAMPLES, CPU)
    assert found.model.config._attn_implementation == attention.PACKED


def test_a_window_that_no_list_has_told_of_is_seen_in_the_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a family leaves its window to a mask, which the model's own attention has and packs have not."""
    monkeypatch.setattr(shapes, "why_not_packed", lambda hf_config, max_length: None)
    config, hf_config = config_of("phimoe"), shape("phimoe", sliding_window=WINDOW)
    found = loaded(config, hf_config)
    with pytest.raises(UsageError, match=r"finetune\.packing: an example has the loss"):
        behaviour.check(config, found, found.model, EXAMPLES, CPU)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_model_that_sees_what_comes_later_is_refused_by_its_configuration(kind: str, packing: bool) -> None:
    assert "is no causal language model" in refusal(config_of(kind, packing=packing), shape(kind))
    causal = shape(kind, is_decoder=True)
    look(config_of(kind, packing=False), causal)


def test_a_model_that_sees_what_comes_later_is_seen_by_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_looks_ahead", lambda text: False)
    config = config_of("bert", packing=False)
    found = loaded(config, shape("bert"))
    with pytest.raises(UsageError, match=r"is no causal language model: what comes later changes what it says before it"):
        behaviour.check(config, found, found.model, EXAMPLES, CPU)


def test_examples_longer_than_the_positions_are_refused_and_train_as_advised() -> None:
    hf_config = shape("gpt2")
    told = refusal(config_of("gpt2", max_length=POSITIONS + 1, pack_tokens=512), hf_config)
    assert f"finetune.max_length = {POSITIONS + 1}" in told
    assert f"set finetune.max_length: {POSITIONS}" in told
    look(config_of("gpt2", max_length=POSITIONS), hf_config)


# text parts that are nested


@pytest.mark.parametrize(("kind", "is_packed"), [("gemma3", True), ("gemma4", True), ("llama4", False), ("qwen3_5", False)])
def test_a_model_whose_text_part_is_nested_trains(kind: str, is_packed: bool) -> None:
    hf_config = shape(kind)
    config = config_of(kind, packing=is_packed)
    if not is_packed:
        assert "set finetune.packing: false" in refusal(config_of(kind), hf_config)
    found = look(config, hf_config)
    census = model.census(config, hf_config)
    assert census is not None
    assert shapes.flops(hf_config, *census[:3]) is not None
    assert model.counted(found.model) == census[:3]


def test_what_sees_is_left_as_it_is_where_only_text_is_learned() -> None:
    found = look(config_of("gemma3"), shape("gemma3"))
    learned = {name for name, weight in found.model.named_parameters() if weight.grad is not None}
    others = [name for name, _ in found.model.named_parameters() if "vision" in name or "projector" in name]
    assert others
    assert not learned & set(others)
    assert not any(weight.requires_grad for name, weight in found.model.named_parameters() if name in others)


# what they cost


def test_of_a_mixture_the_experts_that_a_token_passes_are_counted() -> None:
    hf_config = shape("mixtral")
    census = model.census(config_of("mixtral"), hf_config)
    assert census is not None
    assert census.routed == 2 * 4 * 3 * 64 * 48  # layers, experts, matrices of each
    every = shapes.flops(hf_config, census.parameters, census.trained, 0)
    active = shapes.flops(hf_config, *census[:3])
    assert every is not None
    assert active is not None
    assert every.a_token - active.a_token == 6 * census.routed / 2  # 2 experts of 4
    assert every.a_label == active.a_label


def test_what_cannot_be_counted_stops_nothing() -> None:
    hf_config = shape("falcon_mamba")
    census = model.census(config_of("falcon_mamba", packing=False), hf_config)
    assert census is not None
    assert census.parameters > 0
    assert shapes.flops(hf_config, *census[:3]) is None


def test_a_model_that_cannot_be_built_without_weights_is_loaded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    made = LlamaForCausalLM.__init__

    def looks_at_weights(self: Any, config: Any) -> None:
        made(self, config)
        self.lm_head.weight.sum().item()

    monkeypatch.setattr(LlamaForCausalLM, "__init__", looks_at_weights)
    hf_config = shape("llama")
    assert model.census(config_of("llama"), hf_config) is None
    assert look(config_of("llama"), hf_config).kind == attention.PACKED


# heads of two widths


def test_heads_of_two_widths_are_computed_by_a_kernel_of_one() -> None:
    """Multi-head latent attention: keys of 24, values of 16, as rows of (tokens, heads, width)."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(10, 4, width) for width in (24, 24, 16))

    def kernel(*parts: torch.Tensor) -> torch.Tensor:
        assert len({part.shape[-1] for part in parts}) == 1
        query, key, value = (part.transpose(0, 1)[None] for part in parts)
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=24**-0.5)[0].transpose(0, 1)

    expected = scaled_dot_product_attention(*(part.transpose(0, 1)[None] for part in (query, key, value)), is_causal=True)[
        0
    ].transpose(0, 1)
    torch.testing.assert_close(attention.evened(kernel, query, key, value), expected)
