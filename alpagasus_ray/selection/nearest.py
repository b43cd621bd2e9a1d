"""From a prompt back to the examples that are about the same: plain retrieval over words and pairs of words. Pure.

For a prompt on which an arm loses, this shows which examples like it were chosen, which dropped, and with what scores. Rare
words and pairs weigh more (K. Spärck Jones, 1972, the inverse document frequency); the measure is the cosine of these weights,
each counted once a text. It finds texts that share words, not those that say the same in others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.selection.words import Hashes, ngrams, words

LEAST = 0.1
"""Cosine below which a text is not like another."""

Floats = NDArray[np.float64]


class Near(NamedTuple):
    """An example that is like a prompt."""

    row: int
    cosine: float
    kept: bool
    score: float
    """NaN where it has none."""


def nearest(
    prompts: Sequence[str], rows: Sequence[str], kept: NDArray[np.bool_], scores: Floats, most: int
) -> list[list[Near]]:
    """For each prompt the rows most like it, the most alike first: at most `most` of the kept, and as many of the others."""
    if not prompts or not rows:
        return [[] for _ in prompts]
    cosines = _cosines(prompts, rows)
    return [_both(own, kept, scores, most) for own in cosines]


def _both(cosines: Floats, kept: NDArray[np.bool_], scores: Floats, most: int) -> list[Near]:
    order = np.argsort(-cosines, kind="stable")
    order = order[cosines[order] >= LEAST]
    taken = np.sort(np.concatenate([np.flatnonzero(kept[order])[:most], np.flatnonzero(~kept[order])[:most]]))
    return [Near(row, float(cosines[row]), bool(kept[row]), float(scores[row])) for row in order[taken].tolist()]


def _cosines(prompts: Sequence[str], rows: Sequence[str]) -> Floats:
    """(prompts, rows)"""
    from scipy.sparse import csr_matrix

    grams, owners = _grams([*prompts, *rows])
    known, columns = np.unique(grams, return_inverse=True)
    shared = np.bincount(columns, minlength=len(known))
    weights = np.log(1 + (len(prompts) + len(rows)) / shared)[columns]
    norms = np.sqrt(np.bincount(owners, weights**2, minlength=len(prompts) + len(rows)))
    matrix = csr_matrix((weights / norms[owners], (owners, columns)), shape=(len(norms), len(known)))
    return np.asarray((matrix[: len(prompts)] @ matrix[len(prompts) :].T).todense())


def _grams(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Words and pairs of words of all texts, each once a text, and the text of each."""
    single = words(texts)
    pairs = ngrams(single, 2)
    hashes, owners = np.concatenate([single.hashes, pairs.hashes]), np.concatenate([single.rows, pairs.rows])
    order = np.lexsort((hashes, owners))
    first = np.append(True, (np.diff(owners[order]) != 0) | (hashes[order][1:] != hashes[order][:-1]))[: len(order)]
    return hashes[order][first], owners[order][first]


def in_words(found: Sequence[Near], most: int) -> str:
    """`rows like it: 2 kept, 3 dropped with scores of 3.5 to 4`; `most` is how many `nearest` gives of each at most."""
    dropped = [near.score for near in found if not near.kept]
    known = sorted({score for score in dropped if not np.isnan(score)})
    ends = f" with scores of {known[0]:g} to {known[-1]:g}" if len(known) > 1 else ""
    ends = f" with a score of {known[0]:g}" if len(known) == 1 else ends
    kept, left = (f"{count:,}" + (" or more" if count >= most else "") for count in (len(found) - len(dropped), len(dropped)))
    return f"rows like it: {kept} kept, {left} dropped{ends}"
