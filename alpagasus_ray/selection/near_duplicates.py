"""Rows that nearly repeat another: MinHash (Broder 1997) in numpy, and the better rated of each such pair.

Two rows are near duplicates if their sets of three-word sequences are alike: if the Jaccard similarity, as their signatures
estimate it, reaches `near`. The estimate is off by .035 (one standard deviation, at .8); what is asked for at .8 may be .75.
Signatures are made shard by shard, rows that share the key of a band are compared, and no text is read again for that.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.selection.words import Grams, Hashes, mixed, ngrams, whole, words

SHINGLE = 3
"""Words of a sequence; a shorter row is one sequence."""
PERMUTATIONS = 128
FOUND = 0.99
"""Share of the pairs exactly as alike as asked for that share a band; more alike ones share one more surely."""
LEADERS = 50
"""Candidates with one key are compared with so many best rated of them: what boilerplate has in common is no quadratic work."""
BLOCK = 2048

Indices = NDArray[np.int64]
Pairs = NDArray[np.int64]
Signatures = NDArray[np.uint32]

_NUMBERS = np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64)
_FACTORS = mixed(_NUMBERS[:PERMUTATIONS]) | np.uint64(1)
_SHIFTS = mixed(_NUMBERS[PERMUTATIONS:])


def near_duplicates(texts: Sequence[str], best_first: Indices, near: float) -> dict[int, int]:
    """For each row that nearly repeats a better one, the best of those that are kept. `best_first` orders all rows."""
    if not len(texts):
        return {}
    signed = np.concatenate([signatures(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)])
    pairs = candidates(band_keys(signed, near), best_first)
    return repeats(similar(signed, pairs, near), best_first)


def signatures(texts: Sequence[str]) -> Signatures:
    """(rows, `PERMUTATIONS`): the smallest hash of each row's sequences under each permutation; all ones for an empty row."""
    grams = sequences(texts)
    smallest = np.full((len(texts), PERMUTATIONS), np.iinfo(np.uint32).max, dtype=np.uint32)
    if not len(grams.rows):
        return smallest
    starts = np.flatnonzero(np.diff(grams.rows, prepend=-1))
    present = grams.rows[starts]
    for number in range(PERMUTATIONS):
        permuted = np.minimum.reduceat(grams.hashes * _FACTORS[number] + _SHIFTS[number], starts)
        smallest[present, number] = permuted >> np.uint64(32)
    return smallest


def sequences(texts: Sequence[str]) -> Grams:
    """The three-word sequences of texts; a text of one or two words is one sequence."""
    single = words(texts)
    grams = ngrams(single, SHINGLE)
    counts = np.bincount(single.rows, minlength=len(texts))
    short = np.flatnonzero((counts > 0) & (counts < SHINGLE))
    hashes = np.concatenate([grams.hashes, whole(single, len(texts))[short]])
    rows = np.concatenate([grams.rows, short])
    order = np.argsort(rows, kind="stable")
    return Grams(hashes[order], rows[order])


def bands(near: float) -> tuple[int, int]:
    """How many bands of how many numbers: as long as possible (few candidates), and `FOUND` of the pairs still share one."""
    for length in range(16, 1, -1):
        count = PERMUTATIONS // length
        if 1 - (1 - near**length) ** count >= FOUND:
            return count, length
    return PERMUTATIONS, 1


def band_keys(rows: Signatures, near: float) -> Hashes:
    """(rows, bands): rows that share a key in any column are candidates; 0 where a row is empty."""
    count, length = bands(near)
    keys = np.empty((len(rows), count), dtype=np.uint64)
    for band in range(count):
        key = np.full(len(rows), band + 1, dtype=np.uint64)
        for column in range(band * length, (band + 1) * length):
            key = mixed(key ^ rows[:, column].astype(np.uint64))
        keys[:, band] = key
    empty = (rows == np.iinfo(np.uint32).max).all(axis=1)
    keys[empty] = 0
    return keys


def candidates(keys: Hashes, best_first: Indices) -> Pairs:
    """(pairs, 2): rows that share a key, the better one first, each pair once and in order."""
    rank = np.empty(len(best_first), dtype=np.int64)
    rank[best_first] = np.arange(len(best_first))
    return of_bands((_of_one_key(band, rank) for band in keys.T), len(keys))


def of_bands(found: Iterable[Pairs], rows: int) -> Pairs:
    """The pairs of several bands of so many rows, each once and in order."""
    numbers = np.empty(0, dtype=np.int64)
    for pairs in found:
        numbers = np.union1d(numbers, _as_numbers(pairs, rows))
    return _as_pairs(numbers, rows)


def _of_one_key(keys: Hashes, rank: Indices) -> Pairs:
    """Rows with the same key: each of the best `LEADERS` with every row after it."""
    order = np.lexsort((rank, keys))
    ranged = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], ranged[1:] != ranged[:-1]]))
    sizes = np.diff(np.append(begins, len(ranged)))
    shared = np.repeat((sizes > 1) & (ranged[begins] != 0), sizes)
    first, at = np.repeat(begins, sizes)[shared], np.flatnonzero(shared)
    found = [np.empty((0, 2), dtype=np.int64)]
    for leader in range(LEADERS):
        behind = at - first > leader
        if not behind.any():
            break
        first, at = first[behind], at[behind]
        found.append(np.column_stack([order[first + leader], order[at]]))
    return np.concatenate(found)


def _as_numbers(pairs: Pairs, rows: int) -> Indices:
    """One number for each pair, in the same order: 8 bytes, and quickly sorted."""
    return np.asarray(pairs[:, 0] * rows + pairs[:, 1])


def _as_pairs(numbers: Indices, rows: int) -> Pairs:
    return np.column_stack(np.divmod(numbers, max(rows, 1)))


def similar(signed: Signatures, pairs: Pairs, near: float) -> Pairs:
    """The pairs of rows that are as alike as `near`: the share of equal numbers in their signatures."""
    kept = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        kept.append(block[(signed[block[:, 0]] == signed[block[:, 1]]).mean(axis=1) >= near])
    return np.concatenate(kept)


def repeats(alike: Pairs, best_first: Indices) -> dict[int, int]:
    """Which rows to drop, and for which better one. From the best row on, a row stays that is like none of those that stay."""
    better: dict[int, list[int]] = defaultdict(list)
    for first, second in alike.tolist():
        better[second].append(first)
    rank = {row: place for place, row in enumerate(best_first.tolist())}
    dropped: dict[int, int] = {}
    for row in sorted(better, key=rank.__getitem__):
        kept = [other for other in better[row] if other not in dropped]
        if kept:
            dropped[row] = min(kept, key=rank.__getitem__)
    return dropped
