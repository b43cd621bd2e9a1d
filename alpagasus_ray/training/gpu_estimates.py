"""How long a training may take where neither its model nor a GPU is at hand: by the size in the model's name and a GPU's peak.

Every number here is an estimate and says so. Knows texts and names; loads no tokenizer, no model and no torch.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from alpagasus_ray.config import Finetune

BYTES_PER_TOKEN, TEMPLATE_TOKENS = 4, 40
"""What tokens are estimated with: bytes of UTF-8, and what Alpaca's template puts around an example."""
OPERATIONS = 6
"""A token's operations for each parameter, forward and backward (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""
SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])", re.IGNORECASE)


class Gpu(NamedTuple):
    """What a GPU can do and may cost."""

    tflops: float
    """Dense 16-bit operations by the data sheet, in 10^12 a second."""
    dollars: tuple[float, float]
    """An hour, least to most: assumed, as public clouds differ by this much; `finetune.price_per_gpu_hour` says yours."""


GPUS = {
    "a100": Gpu(312, (1.0, 5.5)),
    "h100": Gpu(989, (2.0, 12.5)),
    "h200": Gpu(989, (2.5, 14.0)),
    "b200": Gpu(2250, (3.5, 18.0)),
    "l40s": Gpu(362, (0.8, 3.0)),
    "l4": Gpu(121, (0.4, 1.2)),
    "a10g": Gpu(70, (0.5, 1.7)),
}
UTILISATION = (0.25, 0.5)
"""Share of the peak that trainings reach, from the slow to the quick."""


class Rough(NamedTuple):
    """An estimate of one training."""

    minutes: tuple[float, float] | None
    """Least and most; None where it cannot be told."""
    dollars: tuple[float, float] | None
    by: str


def parameters(name: str) -> float | None:
    """How many parameters a model's name says it has: 7e9 for `huggyllama/llama-7b`; None where it says nothing."""
    found = SIZE.findall(name)
    return None if not found else float(found[-1][0]) * {"b": 1e9, "m": 1e6}[found[-1][1].lower()]


def tokens(rows: Iterable[Mapping[str, Any]], max_length: int) -> tuple[int, int]:
    """Rows, and their tokens as they are trained on, estimated."""
    count = total = 0
    for row in rows:
        size = sum(len(row[field].encode()) for field in ("instruction", "input", "output"))
        total += min(max_length, size // BYTES_PER_TOKEN + TEMPLATE_TOKENS)
        count += 1
    return count, total


def estimate(config: Finetune, seen: int, workers: int, gpu: str | None) -> Rough:
    """The training of so many tokens on so many GPUs of a kind in `GPUS`."""
    size = parameters(str(config.model))
    if size is None:
        return Rough(None, None, f"the size of {config.model!r} is not known here, and its name does not say it")
    if gpu is None and config.peak_tflops is None:
        return Rough(None, None, f"name the GPU by --gpu, one of {', '.join(GPUS)}")
    peak = config.peak_tflops if gpu is None else GPUS[gpu].tflops
    assert peak is not None, "one of the two was given"
    work = OPERATIONS * size * seen / (peak * 1e12) / 60
    low, high = (work / share / workers for share in reversed(UTILISATION))
    price = config.price_per_gpu_hour
    each = (price, price) if price is not None else GPUS[gpu].dollars if gpu else None
    dollars = None if each is None else (low * workers / 60 * each[0], high * workers / 60 * each[1])
    shares = " to ".join(f"{share:.0%}" for share in UTILISATION)
    where = f"{gpu or 'finetune.peak_tflops'}, {peak:,g} TFLOPS of which {shares} are assumed to be reached"
    return Rough((low, high), dollars, f"an estimate: {size:,.3g} parameters by the name, {where}")
