"""Which rows a trial (`--limit N`) is about: a seeded draw over the whole dataset, so that it tells of all of it.

The first rows of a file are often of one kind. A larger trial holds the rows of every smaller one, whose replies are there.
"""

import hashlib
from collections import defaultdict

import numpy as np

from alpagasus_ray.store.run import Manifest

AT_A_TIME = 4096


def drawn(examples: Manifest, limit: int) -> dict[str, tuple[int, ...]]:
    """Numbers of the drawn rows in each shard, in order; shards of which none was drawn are left out."""
    parts = examples.parts()
    ends = np.cumsum([part.rows for part in parts])
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row in sorted(_numbers(int(ends[-1]) if parts else 0, limit)):
        at = int(np.searchsorted(ends, row, side="right"))
        rows[parts[at].name].append(row - int(ends[at]) + parts[at].rows)
    return {name: tuple(numbers) for name, numbers in rows.items()}


def _numbers(rows: int, limit: int) -> list[int]:
    """So many different numbers below `rows`, the same ones for the same number of rows, those of a smaller limit first."""
    if limit >= rows:
        return list(range(rows))
    seed = int.from_bytes(hashlib.blake2b(b"trial:0", digest_size=8).digest(), "big")
    dice = np.random.Generator(np.random.PCG64(seed))
    # drawn until there are enough, and not shuffled: a smaller limit is the beginning of a larger one, and 100 million row
    # numbers need not be in memory
    chosen: dict[int, None] = {}
    while len(chosen) < limit:
        chosen.update(dict.fromkeys(dice.integers(0, rows, AT_A_TIME).tolist()))
    return list(chosen)[:limit]
