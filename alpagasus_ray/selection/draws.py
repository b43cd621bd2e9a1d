"""Seeded draws that are the same on every machine and in every order of reading: by a keyed hash of each row's id."""

import hashlib
import itertools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK = 65_536
Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


def seeded_hashes(ids: Collection[str], purpose: str, seed: int) -> Hashes:
    """One number for each id, independent of those for any other purpose or seed."""
    key = f"{purpose}:{seed}".encode()
    every, start, left = np.empty(len(ids), dtype=np.uint64), 0, iter(ids)
    while some := tuple(itertools.islice(left, BLOCK)):  # digests of all ids at once would take five times the memory
        digests = b"".join(hashlib.blake2b(example_id.encode(), digest_size=8, key=key).digest() for example_id in some)
        every[start : start + len(some)] = np.frombuffer(digests, dtype=">u8")
        start += len(some)
    return every


def drawn(ids: Sequence[str], count: int, purpose: str, seed: int) -> Rows:
    """`count` of the rows at random, or all if there are fewer; a larger draw under the same seed begins with the same rows."""
    order: Rows = np.argsort(seeded_hashes(ids, purpose, seed), kind="stable")
    return order[:count]
