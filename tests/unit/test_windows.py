"""Windows and capped scores in packs: every way to compute them is the same, and each family that is let in is seen to be."""

import itertools
from typing import Any

import pytest
import torch
from families import example, shape
from test_families import config_of, loaded, refusal

from alpagasus_ray.config import Finetune
from alpagasus_ray.training import attention, behaviour, model, shapes, windows
from alpagasus_ray.training.windows import Scores

STARTS = [0, 23, 30, 70]
WINDOW = 8
SOME = ("gemma2", "gemma3_text", "mistral")


def parts(heads: tuple[int, int], width: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, number, STARTS[-1], width, requires_grad=True) for number in (heads[0], heads[1], heads[1])]


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scores: Scores) -> torch.Tensor:
    """All of a pack by one mask, in plain steps."""
    places = torch.arange(STARTS[-1])
    which = torch.bucketize(places, torch.tensor(STARTS[1:]), right=True)
    seen = (which[:, None] == which[None]) & (places[None] <= places[:, None])
    if scores.window is not None:
        seen &= places[None] > places[:, None] - scores.window
    times = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(times, dim=1) for part in (key, value))
    products = query @ key.transpose(2, 3) * scores.scale
    if scores.cap is not None:
        products = scores.cap * torch.tanh(products / scores.cap)
    return (products.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(1, 2)


CASES = [Scores(0.3), Scores(0.3, window=WINDOW), Scores(0.3, cap=1.5), Scores(0.3, 1.5, WINDOW), Scores(0.3, window=100)]


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("scores", CASES)
def test_a_pack_with_windows_and_caps_is_that_of_one_mask(scores: Scores, heads: tuple[int, int]) -> None:
    ours, theirs = parts(heads), parts(heads)
    told = {"scaling": scores.scale, "softcap": scores.cap, "sliding_window": scores.window, "pack_starts": STARTS}
    found, _ = attention.packed(torch.nn.Module(), *ours, None, **told)
    expected = plain(*theirs, scores)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("scores", CASES)
def test_flex_attention_computes_the_same(scores: Scores) -> None:
    """Forward, without a compiler: PyTorch has no backward pass of it on CPUs ("FlexAttention does not support backward on
    CPU")."""
    given = [part.detach() for part in parts((4, 2))]
    found = windows.flexed(*given, torch.tensor(STARTS, dtype=torch.int32), scores, compiled=False)
    torch.testing.assert_close(found, plain(*given, scores), rtol=1e-5, atol=1e-5)


def test_the_mask_of_a_pack_is_made_once_for_all_layers() -> None:
    borders = torch.tensor(STARTS, dtype=torch.int32)
    first, again, other = (windows._mask(borders, STARTS[-1], window) for window in (None, None, WINDOW))
    assert first is again
    assert other is not first


def narrow(kind: str) -> Any:
    """A family's model with a window that examples outgrow."""
    switched = {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
    return shape(kind, sliding_window=WINDOW, **(switched if kind in ("qwen2", "qwen3") else {}))


def same_packed_and_alone(kind: str) -> None:
    config = config_of(kind)
    found = loaded(config, narrow(kind))
    assert found.kind == attention.PACKED
    behaviour.check(config, found, found.model, [example(40, seed=1), example(30, seed=2)], torch.device("cpu"))


@pytest.mark.parametrize("kind", SOME)
def test_a_window_that_examples_outgrow_is_kept_in_a_pack(kind: str) -> None:
    same_packed_and_alone(kind)


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(shapes.WINDOWED - set(SOME)))
def test_so_it_is_in_every_family_of_the_list(kind: str) -> None:
    same_packed_and_alone(kind)


def test_a_family_that_leaves_its_window_to_a_mask_is_refused() -> None:
    assert f"looks back {WINDOW} tokens only" in refusal(config_of("phimoe"), shape("phimoe", sliding_window=WINDOW))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch's kernels for packs in 16 bits need a GPU")
@pytest.mark.parametrize("scores", CASES)
def test_on_a_gpu_the_kernels_compute_the_same(scores: Scores) -> None:
    given = parts((4, 2), width=64)
    borders = torch.tensor(STARTS, dtype=torch.int32, device="cuda")
    longest = max(to - at for at, to in itertools.pairwise(STARTS))
    told = {"scaling": scores.scale, "softcap": scores.cap, "sliding_window": scores.window, "pack_starts": STARTS}
    told |= {"cu_seq_lens_q": borders, "max_length_q": longest}
    found, _ = attention.packed(torch.nn.Module(), *(part.to("cuda", torch.bfloat16) for part in given), None, **told)
    torch.testing.assert_close(found.float().cpu(), plain(*given, scores), rtol=3e-2, atol=3e-2)


def test_the_third_flash_attention_is_taken_where_it_is_installed_on_its_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Finetune(model="m", precision="bf16")
    monkeypatch.setattr(attention, "_is_hopper", lambda: True)
    for installed, expected in ((("flash-attn", "flash-attn-3"), 3), (("flash-attn",), 2), ((), None)):
        monkeypatch.setattr(attention, "_is_installed", lambda name, installed=installed: name in installed)
        found = model.attention_kind(config, on_gpu=True)
        assert found == (f"flash_attention_{expected}" if expected else attention.PACKED)
    monkeypatch.setattr(attention, "_is_hopper", lambda: False)
    monkeypatch.setattr(attention, "_is_installed", lambda name: True)
    assert model.attention_kind(config, on_gpu=True) == "flash_attention_2"
