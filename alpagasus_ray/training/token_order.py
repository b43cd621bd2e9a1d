"""Which examples make an update where arms are to see equally many tokens in equally many updates. Knows lengths alone."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alpagasus_ray.errors import UsageError
from alpagasus_ray.training.schedule import Integers


@dataclass(frozen=True)
class TokenOrder:
    """The examples of every update: one shuffle an epoch, one after the other, cut into `steps` parts of equally many tokens.

    An example belongs to the update in whose part it begins, so what is seen in all is `tokens`, and at most one example more.
    Raises `UsageError` where an update would be smaller than the longest example: some would have none.
    """

    lengths: Integers
    """(examples,) tokens of each."""
    tokens: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        longest = int(self.lengths.max())
        if self.tokens < longest * self.steps:
            raise UsageError(
                f"{self.tokens:,} tokens in {self.steps:,} updates are {self.tokens // self.steps:,} an update, and an example "
                f"has {longest:,}; give fewer race.steps (at most {max(1, self.tokens // longest):,}) or more race.tokens"
            )

    @cached_property
    def _sequence(self) -> tuple[Integers, Integers]:
        """The examples in the order in which they are seen, and the update of each."""
        each = int(self.lengths.sum())
        epochs = -(-self.tokens // each)
        shuffles = [np.random.default_rng([self.seed, epoch]).permutation(len(self.lengths)) for epoch in range(epochs)]
        seen = np.concatenate(shuffles)
        begins = np.cumsum(self.lengths[seen]) - self.lengths[seen]
        seen, begins = seen[begins < self.tokens], begins[begins < self.tokens]
        return seen, begins * self.steps // self.tokens

    def batch(self, step: int) -> Integers:
        """Indices of the examples of an update; updates are counted from 0."""
        seen, updates = self._sequence
        return seen[np.searchsorted(updates, step) : np.searchsorted(updates, step + 1)]

    def epoch(self, step: int) -> float:
        """Epochs that are through after an update."""
        return float(np.searchsorted(self._sequence[1], step + 1)) / len(self.lengths)

    def seen(self, step: int) -> int:
        """Tokens that are through after so many updates."""
        seen, updates = self._sequence
        return int(self.lengths[seen[: np.searchsorted(updates, step)]].sum())
