"""A training of a race as it is sent to a process, and what comes back. Knows nothing of torch, so the driver loads it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alpagasus_ray.config import Finetune
from alpagasus_ray.training.token_order import TokenOrder


class Proxy(NamedTuple):
    """One training: of an arm, under a seed."""

    arm: str
    seed: int
    key: str
    """Hash of all that its outcome depends on."""
    tokens: pa.RecordBatch
    """What it is trained on, of schema TOKENS."""
    order: TokenOrder
    answers: tuple[int, int] | None = None
    """How many held-out prompts it answers at its end, the first ones, and the tokens of the longest answer."""


class Raced(NamedTuple):
    """What came of a training."""

    arm: str
    seed: int
    key: str
    steps: list[int]
    """(points,) updates after which the losses were measured; the first is 0, the last is all."""
    tokens: list[int]
    """(points,) tokens that were seen by then."""
    label_tokens: int
    epochs: float
    losses: NDArray[np.float64]
    """(points, rows) mean loss over the label tokens of each held-out row."""
    seconds: float
    device: str
    answers: Sequence[str] = ()
    """To the first held-out prompts, where they were asked for."""


Trains = Callable[[Finetune, pa.RecordBatch, int, int | None, Iterable[Proxy]], Iterator[Raced]]
"""From settings, held-out rows, points, how many at once and the trainings to their outcomes, in the order they are ready. A
training is taken when it can begin, and whoever asks for outcomes has those before it by then."""
