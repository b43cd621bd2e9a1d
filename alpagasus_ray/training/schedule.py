"""Which examples make an update, and how a worker computes it: as packs of tokens or as padded rows.

The examples of an update depend on nothing but their number, the batch size and the seed, so that a training on two workers
and one resumed on eight see the same. Knows lengths, not tokens; knows nothing of torch.
"""

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """The examples of every update: one shuffle an epoch, one after the other, cut into batches across their borders."""

    examples: int
    global_batch: int
    seed: int
    seen: int
    """Examples that the whole training sees, repeats counted; the last batch may be smaller than the others."""

    @classmethod
    def of(cls, examples: int, global_batch: int, seed: int, *, epochs: float | None, steps: int | None) -> "Order":
        """So many epochs (3 unless told), or so many steps."""
        # counted in examples and not in updates: a last batch that is smaller loses no example and repeats none
        seen = steps * global_batch if steps is not None else max(1, round(examples * (3 if epochs is None else epochs)))
        return cls(examples, global_batch, seed, seen)

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        return math.ceil(self.seen / self.global_batch)

    def batch(self, step: int) -> Integers:
        """Indices of the examples of an update; updates are counted from 0."""
        start, stop = step * self.global_batch, min((step + 1) * self.global_batch, self.seen)
        parts = []
        while start < stop:
            # a batch may hold the end of one epoch and the beginning of the next, so that all but the last are of one size
            epoch, at = divmod(start, self.examples)
            part = self._shuffled(epoch)[at : at + stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)

    def epoch(self, step: int) -> float:
        """Epochs that are through after an update."""
        return min((step + 1) * self.global_batch, self.seen) / self.examples

    def _shuffled(self, epoch: int) -> Integers:
        # from the seed and the epoch's number alone, not from a generator's state: a training that goes on needs no state of it
        return np.random.default_rng([self.seed, epoch]).permutation(self.examples)


def packs(batch: Integers, lengths: Integers, capacity: int, workers: int) -> list[list[Integers]]:
    """Packs of an update: for each worker as many, of at most `capacity` tokens, and of much the same size.

    `batch` holds indices into `lengths`; no length is above `capacity`. The longest example goes first, into the emptiest pack
    (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969), with one more pack a worker until all fit. Where there
    are fewer examples than packs, some are empty.
    """
    sizes = lengths[batch]
    # a stable sort, for workers make the same packs each by itself
    longest_first = np.argsort(-sizes, kind="stable")
    each = max(1, math.ceil(int(sizes.sum()) / (capacity * workers)))
    bins = _filled(sizes, longest_first, each * workers, capacity)
    # ends at the latest with a pack for each example, as none is longer than a pack
    while bins is None:
        each += 1
        bins = _filled(sizes, longest_first, each * workers, capacity)
    # every worker has as many packs, empty ones too: with sharded weights each forward pass is one that all make together
    return [[batch[bins[slot]] for slot in range(worker, each * workers, workers)] for worker in range(workers)]


def _filled(sizes: Integers, longest_first: Integers, count: int, capacity: int) -> list[list[int]] | None:
    """`count` bins with the places of what is in them; None where one would hold too much."""
    bins: list[list[int]] = [[] for _ in range(count)]
    emptiest = [(0, slot) for slot in range(count)]
    for place in longest_first.tolist():
        held, slot = emptiest[0]
        held += int(sizes[place])
        if held > capacity:
            return None
        bins[slot].append(place)
        heapq.heapreplace(emptiest, (held, slot))
    return bins


def rows(batch: Integers, micro_batch: int, workers: int) -> list[list[Integers]]:
    """Padded micro-batches of an update: for each worker as many, of at most `micro_batch` examples, in the batch's order.
    Where there are too few examples some are empty."""
    # dealt out like cards: the first worker never has fewer than another, so its share says how many micro-batches there are
    shares = [batch[worker::workers] for worker in range(workers)]
    each = math.ceil(len(shares[0]) / micro_batch)
    return [[share[at * micro_batch : (at + 1) * micro_batch] for at in range(each)] for share in shares]


def occupied(micro_batches: Sequence[Integers], lengths: Integers, pad_to: int | None = None) -> int:
    """Places that micro-batches take as padded rows: their longest example, or `pad_to`, times their examples."""
    return sum(len(part) * (pad_to or int(lengths[part].max())) for part in micro_batches if len(part))


def starts(lengths: Integers) -> list[int]:
    """Where in a pack each of its examples begins, and at the end where the last one ends."""
    return [0, *itertools.accumulate(lengths.tolist())]
