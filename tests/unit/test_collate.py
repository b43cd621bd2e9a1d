"""However an update is cut into micro-batches, its loss and gradients are those of one example after the other."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import attention, collate
from alpagasus_ray.training.schedule import Integers

CLOSE = 1e-5
LENGTHS, PROMPTS = (23, 7, 40, 2, 16), (11, 3, 39, 1, 5)
ALL = np.arange(len(LENGTHS))
PAD = 3


class Toy:
    """Random examples."""

    def __init__(self, seed: int = 0, lengths: tuple[int, ...] = LENGTHS, prompts: tuple[int, ...] = PROMPTS) -> None:
        dice = np.random.default_rng(seed)
        self.lengths, self.prompt_tokens = np.array(lengths), np.array(prompts)
        self._ids = [dice.integers(4, 512, size=length, dtype=np.int32) for length in lengths]

    def ids(self, index: int) -> NDArray[np.int32]:
        return self._ids[index]


@functools.cache
def model(folder: str, kind: str) -> Any:
    """The tiny model, 8 heads that share 4 keys and values."""
    attention.register()
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=kind)
    assert (loaded.config.num_attention_heads, loaded.config.num_key_value_heads) == (8, 4)
    return loaded


@pytest.fixture
def packing(shared: Path) -> Any:
    return model(str(shared / "tiny_llama"), attention.PACKED)


@pytest.fixture
def padding(shared: Path) -> Any:
    return model(str(shared / "tiny_llama"), "sdpa")


def gradients(of: Any, loss: torch.Tensor) -> torch.Tensor:
    of.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([weight.grad.flatten() for weight in of.parameters()])


def one_by_one(of: Any, tokens: Toy) -> tuple[float, torch.Tensor]:
    """The sum of the loss over all label tokens and its gradients, by transformers' own attention and no micro-batch."""
    total = torch.zeros(())
    for index in ALL:
        ids, prompt = torch.tensor(tokens.ids(index)).long(), tokens.prompt_tokens[index]
        total = total + cross_entropy(of(ids[None]).logits[0, prompt - 1 : -1], ids[prompt:], reduction="sum")
    return total.item(), gradients(of, total)


def same(loss: torch.Tensor, found: torch.Tensor, expected: tuple[float, torch.Tensor]) -> None:
    assert loss.item() == pytest.approx(expected[0], rel=CLOSE)
    assert (found - expected[1]).norm() <= CLOSE * expected[1].norm()


# the same function


@pytest.mark.parametrize("slices", [True, False])
@pytest.mark.parametrize("parts", [[ALL], [ALL[:2], ALL[2:]], [ALL[::-1]]], ids=["one pack", "two packs", "turned round"])
def test_packs_have_the_loss_and_gradients_of_one_example_after_the_other(
    packing: Any, padding: Any, slices: bool, parts: list[Integers]
) -> None:
    tokens = Toy()
    built = collate.built(tokens, parts, None, None)
    loss = torch.stack([collate.loss_sum(packing, part, slices=slices) for part in built]).sum()
    same(loss, gradients(packing, loss), one_by_one(padding, tokens))


@pytest.mark.parametrize("slices", [True, False])
@pytest.mark.parametrize("width", [None, 64])
def test_padded_rows_have_the_loss_and_gradients_of_one_example_after_the_other(
    padding: Any, slices: bool, width: int | None
) -> None:
    tokens = Toy()
    built = collate.built(tokens, [ALL[:3], ALL[3:]], PAD, width)
    loss = torch.stack([collate.loss_sum(padding, part, slices=slices) for part in built]).sum()
    same(loss, gradients(padding, loss), one_by_one(padding, tokens))


def test_what_rows_are_padded_with_does_not_matter(padding: Any) -> None:
    tokens = Toy()
    losses = {collate.loss_sum(padding, collate.padded(tokens, ALL, pad), slices=True).item() for pad in (0, 3, 99)}
    assert len(losses) == 1


@pytest.mark.parametrize("pad", [None, PAD])
@pytest.mark.parametrize("slices", [True, False])
def test_a_micro_batch_without_examples_teaches_nothing(packing: Any, padding: Any, pad: int | None, slices: bool) -> None:
    (empty,) = collate.built(Toy(), [ALL[:0]], pad, None)
    of = packing if pad is None else padding
    loss = collate.loss_sum(of, empty, slices=slices)
    assert loss.item() == 0
    assert not gradients(of, loss).any()


# no example sees its neighbours


def logits(of: Any, tokens: Toy, examples: Integers) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = of(**collate.packed(tokens, examples).inputs, use_cache=False).logits[0]
    return found


def test_the_logits_of_an_example_do_not_change_with_its_neighbours(packing: Any) -> None:
    tokens, others = Toy(), Toy(seed=1)
    middle = tokens.ids(2)
    others._ids[2] = middle
    before, after = logits(packing, tokens, ALL), logits(packing, others, ALL)
    start = sum(LENGTHS[:2])
    place = slice(start, start + LENGTHS[2])
    assert torch.equal(before[place], after[place])
    assert not torch.equal(before[:start], after[:start])


def test_the_logits_of_an_example_do_not_change_with_its_place(packing: Any, padding: Any) -> None:
    tokens = Toy()
    alone = logits(packing, tokens, ALL[2:3])
    last = logits(packing, tokens, np.array([0, 4, 1, 2]))[-LENGTHS[2] :]
    torch.testing.assert_close(last, alone, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        plain = padding(torch.tensor(tokens.ids(2)).long()[None]).logits[0]
    torch.testing.assert_close(alone, plain, rtol=1e-5, atol=1e-5)


def test_an_example_gets_no_gradient_from_another_ones_loss(packing: Any) -> None:
    tokens = Toy()
    batch = collate.packed(tokens, ALL)
    vectors = packing.get_input_embeddings()(batch.inputs["input_ids"]).detach().requires_grad_()
    told = {name: value for name, value in batch.inputs.items() if name != "input_ids"}
    start = sum(LENGTHS[:2])
    place = slice(start, start + LENGTHS[2])
    packing(inputs_embeds=vectors, use_cache=False, **told).logits[0, place].sum().backward()
    reached = vectors.grad[0].any(dim=1)
    assert reached[place].all()
    assert not reached[:start].any()
    assert not reached[place.stop :].any()


SMALL = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
EXPERTS = {
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 24}
KINDS = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32},
    "mistral": {"num_key_value_heads": 2},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 32, "sliding_window": 512},
    "phi3": {"num_key_value_heads": 4, "pad_token_id": 0},
    "olmo2": {"num_key_value_heads": 4},
    "mixtral": {"num_key_value_heads": 2, **EXPERTS},
    "deepseek_v3": {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, **EXPERTS, **LATENT},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_many_kinds_answer_in_a_pack_as_they_do_alone(kind: str) -> None:
    shape = AutoConfig.for_model(kind)
    shape = AutoConfig.for_model(kind, **{name: size for name, size in (SMALL | KINDS[kind]).items() if hasattr(shape, name)})
    attention.register()
    torch.manual_seed(0)
    of = AutoModelForCausalLM.from_config(shape, attn_implementation=attention.PACKED, dtype=torch.float32).eval()
    alone = AutoModelForCausalLM.from_config(shape, attn_implementation="eager", dtype=torch.float32).eval()
    alone.load_state_dict(of.state_dict())
    tokens = Toy()
    found = logits(of, tokens, ALL).split(LENGTHS)
    for index in ALL:
        with torch.no_grad():
            expected = alone(torch.tensor(tokens.ids(index)).long()[None], use_cache=False).logits[0]
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-5)


# what is built


def test_targets_are_the_response_and_its_end_alone() -> None:
    tokens = Toy()
    told = [tokens.ids(index)[tokens.prompt_tokens[index] :].tolist() for index in ALL]
    pack = collate.packed(tokens, ALL)
    assert pack.targets[0].tolist() == [token for response in told for token in response]
    assert pack.inputs["input_ids"][0, pack.keep + 1].tolist() == pack.targets[0].tolist()
    rows = collate.padded(tokens, ALL, PAD)
    assert [[token for token in row if token != collate.IGNORED] for row in rows.targets.tolist()] == told
    assert collate.label_tokens(tokens, ALL) == sum(len(response) for response in told)


def test_positions_of_a_pack_begin_at_0_in_each_example() -> None:
    pack = collate.packed(Toy(), ALL)
    assert pack.inputs["position_ids"][0].tolist() == [place for length in LENGTHS for place in range(length)]
    assert pack.inputs["cu_seq_lens_q"].tolist() == pack.inputs["pack_starts"] == [0, 23, 30, 70, 72, 88]
    assert pack.inputs["max_length_q"] == 40


def test_rows_are_as_wide_as_the_longest_or_as_they_are_told() -> None:
    assert collate.padded(Toy(), ALL[:2], PAD).inputs["input_ids"].shape == (2, 23)
    assert collate.padded(Toy(), ALL[:2], PAD, 64).inputs["input_ids"].shape == (2, 64)
    assert collate.padded(Toy(), ALL[:2], PAD, 64).inputs["attention_mask"].sum() == 23 + 7


def test_a_micro_batch_is_moved_as_a_whole() -> None:
    moved = collate.packed(Toy(), ALL).to(torch.device("meta"))
    tensors = [value for value in (*moved.inputs.values(), moved.keep, moved.targets) if isinstance(value, torch.Tensor)]
    assert {value.device.type for value in tensors} == {"meta"}
    assert moved.inputs["pack_starts"] == [0, 23, 30, 70, 72, 88]


# attention beside a dense mask


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    heads=st.sampled_from([(4, 4), (4, 2), (8, 1)]),
    scale=st.sampled_from([None, 0.3]),
)
def test_packed_attention_is_that_of_a_block_diagonal_mask(
    lengths: list[int], heads: tuple[int, int], scale: float | None
) -> None:
    total, starts = sum(lengths), [0, *np.cumsum(lengths).tolist()]
    torch.manual_seed(total)
    shapes = [(1, number, total, 16) for number in (heads[0], heads[1], heads[1])]
    ours = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    dense = [part.detach().clone().requires_grad_() for part in ours]
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (document[:, None] == document[None]).tril()
    expected = scaled_dot_product_attention(*dense, attn_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2)
    found, weights = attention.packed(torch.nn.Module().eval(), *ours, None, scaling=scale, pack_starts=starts)
    assert weights is None
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_dropout_is_for_training_alone() -> None:
    query = torch.randn(1, 2, 9, 8)
    told = {"pack_starts": [0, 4, 9], "dropout": 0.5}
    still, moving = torch.nn.Module().eval(), torch.nn.Module().train()
    first, second = (attention.packed(still, query, query, query, None, **told)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, attention.packed(moving, query, query, query, None, **told)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch's kernel for rows of different lengths needs a GPU")
def test_on_a_gpu_one_kernel_does_the_same_for_the_whole_pack() -> None:
    parts = [torch.randn(1, heads, sum(LENGTHS), 64) for heads in (8, 4, 4)]
    starts = [0, *np.cumsum(LENGTHS).tolist()]
    told = {"pack_starts": starts, "max_length_q": max(LENGTHS), "scaling": 0.2}
    expected, _ = attention.packed(torch.nn.Module(), *parts, None, **told)
    borders = torch.tensor(starts, dtype=torch.int32, device="cuda")
    there = [part.to("cuda", torch.bfloat16) for part in parts]
    found, _ = attention.packed(torch.nn.Module(), *there, None, **told, cu_seq_lens_q=borders)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({}, "is not told where the examples of a pack begin"),
        ({"pack_starts": [0, 9], "is_causal": False}, "is not causal"),
        ({"pack_starts": [0, 9], "s_aux": torch.zeros(2)}, "is told of 's_aux'"),
        ({"pack_starts": [0, 9], "position_bias": torch.zeros(2)}, "is told of 'position_bias'"),
    ],
)
def test_an_attention_that_is_more_than_causal_is_refused_with_the_knob(told: dict[str, Any], word: str) -> None:
    query = torch.randn(1, 2, 9, 8)
    with pytest.raises(UsageError, match=word) as refusal:
        attention.packed(torch.nn.Module(), query, query, query, attention_mask=None, **told)
    assert "set finetune.packing: false" in str(refusal.value)


def test_a_window_that_no_example_fills_is_no_hindrance() -> None:
    query = torch.randn(1, 2, 9, 8)
    told = {"pack_starts": [0, 4, 9], "max_length_q": 5, "sliding_window": 5, "s_aux": None, "softcap": None}
    plain, _ = attention.packed(torch.nn.Module(), query, query, query, None, pack_starts=[0, 4, 9])
    assert torch.equal(attention.packed(torch.nn.Module(), query, query, query, None, **told)[0], plain)
