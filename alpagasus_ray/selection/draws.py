"""Seeded draws that are the same on every machine and in every order of reading: by a keyed hash of each row's id."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


def seeded_hashes(ids: Sequence[str], purpose: str, seed: int) -> Hashes:
    """One number for each id, independent of those for any other purpose or seed."""
    key = f"{purpose}:{seed}".encode()
    digests = b"".join(hashlib.blake2b(example_id.encode(), digest_size=8, key=key).digest() for example_id in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def drawn(ids: Sequence[str], count: int, purpose: str, seed: int) -> Rows:
    """`count` of the rows at random, or all if there are fewer; a larger draw under the same seed begins with the same rows."""
    order: Rows = np.argsort(seeded_hashes(ids, purpose, seed), kind="stable")
    return order[:count]
