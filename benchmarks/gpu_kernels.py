"""Sections of `gpu.py` that compare kernels: the loss in pieces with whole logits, attention in packs with that of examples.

What is right is told by the greatest difference beside the greatest value, `gap`; `seconds` are of forward and backward
together; `peak_mib` is the most memory beside what both ways were given.
"""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from alpagasus_ray.training import attention, head, windows
from alpagasus_ray.training.windows import Scores

Row = dict[str, Any]
Tensors = Sequence[torch.Tensor]
TIMES = 3
MIB = 2**20


def device() -> torch.device:
    """The GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def losses(*, tiny: bool) -> Iterator[Row]:
    """The loss of label tokens over a vocabulary, and its gradients, each way beside whole logits."""
    sizes = [(64, 512, 32)] if tiny else [(2048, 32_000, 4096), (4096, 152_064, 3584), (8192, 128_256, 4096)]
    for (tokens, vocabulary, width), dtype in itertools.product(sizes, (torch.float32, torch.bfloat16)):
        torch.manual_seed(0)
        hidden = torch.randn(tokens, width, device=device()).to(dtype).requires_grad_()
        weight = (torch.randn(vocabulary, width, device=device()) / width**0.5).to(dtype).requires_grad_()
        targets = torch.randint(0, vocabulary, (tokens,), device=device())
        ways = {"whole": _whole, "pieces": _pieces} | ({"liger": _liger} if _has_liger() else {})
        told = {"tokens": tokens, "vocabulary": vocabulary, "width": width, "dtype": str(dtype).removeprefix("torch.")}
        expected: Tensors | None = None
        for name, way in ways.items():
            row, found = _timed(functools.partial(way, hidden, weight, targets), (hidden, weight))
            expected = expected or found
            yield {**told, "way": name, **row, **_gaps(("loss", "of hidden", "of weight"), found, expected)}


def _has_liger() -> bool:
    return torch.cuda.is_available() and find_spec("liger_kernel") is not None


def _whole(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(linear(hidden, weight).float(), targets, reduction="sum")


def _pieces(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return head.in_pieces(hidden, weight, None, targets).sum()


def _liger(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    found = liger_fused_linear_cross_entropy(hidden, weight, targets, reduction="sum", accum_dtype=torch.float32)
    assert isinstance(found, torch.Tensor)
    return found


def attentions(*, tiny: bool) -> Iterator[Row]:
    """Packs in bf16 (on a CPU in float32), the kernel for packs beside one example at a time."""
    width, heads = (16, (4, 2)) if tiny else (128, (32, 8))
    lengths = [[40, 23, 1, 64]] if tiny else [[126] * 16 + [1, 32], [512, 1024, 100, 412], [16384], [300] * 54]
    # capped ones last: their kernel is compiled first
    for scores, pack in itertools.product([Scores(0.3), Scores(0.3, window=17), Scores(0.3, cap=30.0)], lengths):
        # capped scores of one example take its square: the longest are left out
        if scores.cap is not None and max(pack) > 4096:
            continue
        yield from _pack(pack, scores, width, heads)


def _pack(pack: list[int], scores: Scores, width: int, heads: tuple[int, int]) -> Iterator[Row]:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    shapes = [(1, number, sum(pack), width) for number in (heads[0], heads[1], heads[1])]
    parts = [torch.randn(shape, device=device()).to(dtype).requires_grad_() for shape in shapes]
    starts = [0, *itertools.accumulate(pack)]
    told: dict[str, Any] = {
        "scaling": scores.scale,
        "softcap": scores.cap,
        "sliding_window": scores.window,
        "pack_starts": starts,
    }
    told |= {"cu_seq_lens_q": torch.tensor(starts, dtype=torch.int32, device=device()), "max_length_q": max(pack)}
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "one at a time": lambda: _one_at_a_time(parts, pack, scores),
        "pack": lambda: attention.packed(torch.nn.Module(), parts[0], parts[1], parts[2], None, **told)[0],
    }
    row = {"examples": len(pack), "tokens": sum(pack), "longest": max(pack), "window": scores.window, "cap": scores.cap}
    expected: Tensors | None = None
    for name, way in ways.items():
        try:
            times, found = _timed(functools.partial(_squared, way), parts)
            answer = way().detach()
        except Exception as error:  # noqa: BLE001 - one kernel that fails is a row, not the end of all
            yield {**row, "way": name, "failed": f"{type(error).__name__}: {error}"[:400]}
            continue
        found = [answer, *found[1:]]
        expected = expected or found
        yield {**row, "way": name, **times, **_gaps(("output", "of query", "of key", "of value"), found, expected)}


def _squared(way: Callable[[], torch.Tensor]) -> torch.Tensor:
    return way().float().square().sum()


def _one_at_a_time(parts: Tensors, pack: list[int], scores: Scores) -> torch.Tensor:
    rows = zip(*(torch.split(part, pack, dim=2) for part in parts), strict=True)
    return torch.cat([windows.of_one(query, key, value, scores, 0.0) for query, key, value in rows], dim=2).transpose(1, 2)


def _timed(way: Callable[[], torch.Tensor], given: Tensors) -> tuple[Row, Tensors]:
    """Seconds and peak of forward and backward; the result, and the gradients of what was given."""
    seconds = []
    peak: float | None = None
    result = torch.zeros(())
    for turn in range(TIMES + 1):  # the first compiles and warms up
        for part in given:
            part.grad = None
        before = _reset_peak()
        wait()
        started = time.perf_counter()
        result = way()
        result.backward()  # type: ignore[no-untyped-call]
        wait()
        seconds += [time.perf_counter() - started] if turn else []
        peak = None if before is None else (torch.cuda.max_memory_allocated() - before) / MIB
    grads = [part.grad.detach().clone() for part in given if part.grad is not None]
    return {"seconds": statistics.median(seconds), "peak_mib": peak}, [result.detach(), *grads]


def _reset_peak() -> int | None:
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _gaps(names: Sequence[str], found: Tensors, expected: Tensors) -> Row:
    """The greatest difference of each, beside the greatest value."""
    return {
        f"gap {name}": float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max().clamp(min=1e-30))
        for name, ours, theirs in zip(names, found, expected, strict=True)
    }
