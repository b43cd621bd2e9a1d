"""A judge's ratings corrected by those of similar rows, in the manner of DS2 (Pang et al., arXiv 2410.10877). Pure.

Rows close to each other tend to deserve the same score. From how often a judge gives unequal scores to a row and its two
nearest neighbours follows its transition matrix, the chance of each score for each true one, without any true score: the three
are read as three ratings of one thing by the same judge. The matrix says how many rows of each score are probably wrong; in
each score the rows that fit their neighbours least are taken to be those, and get the score that the neighbours, weighted by
similarity and corrected by the matrix, make most probable. All other rows keep theirs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.dawid_skene import dawid_skene
from alpagasus_ray.evaluation.estimates import Floats, Integers, coded

NEIGHBOURS = 10
ROWS_AT_ONCE = 2_000
"""Rows whose distances to all others are held in memory together."""


class Smoothed(NamedTuple):
    """`score` (rows,), `changed` (rows,), and the judge's transition matrix (true score, given score) on `scale`."""

    score: Floats
    changed: NDArray[np.bool_]
    transition: Floats
    scale: Floats


def nearest(vectors: Floats, k: int = NEIGHBOURS) -> tuple[Integers, Floats]:
    """The k most similar other rows of each row by cosine, nearest first, and their similarities, both (rows, k)."""
    from sklearn.neighbors import NearestNeighbors

    if len(vectors) <= k:
        raise UsageError(f"{len(vectors)} rows have no {k} neighbours each; smooth over more rows, or with a smaller k")
    index = NearestNeighbors(n_neighbors=k + 1, metric="cosine", algorithm="brute").fit(vectors)
    places, similarities = [], []
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        distances, rows = index.kneighbors(vectors[start : start + ROWS_AT_ONCE])
        own = rows == np.arange(start, start + len(rows))[:, None]
        own[~own.any(axis=1), -1] = True  # of many copies of a row the row itself may not be among the nearest
        places.append(rows[~own].reshape(len(rows), k))
        similarities.append(1 - distances[~own].reshape(len(rows), k))
    return np.concatenate(places).astype(np.int64), np.concatenate(similarities)


def smooth(scores: Floats, neighbours: Integers, similarities: Floats | None = None) -> Smoothed:
    """Scores with the probably wrong ones replaced.

    scores: (rows,), NaN where a row has none: it stays so and says nothing about others. neighbours: (rows, k) from 2 on, rows
    by number. similarities: (rows, k) weights of at least 0, equal by default. Raises UsageError for other shapes.
    """
    if neighbours.ndim != 2 or len(neighbours) != len(scores) or neighbours.shape[1] < 2:
        raise UsageError(f"neighbours {neighbours.shape} of {len(scores)} rows; give (rows, k) with k of 2 or more")
    scale, codes = coded(scores)
    if len(scale) < 2:
        return Smoothed(scores.copy(), np.zeros(len(scores), dtype=np.bool_), np.eye(len(scale)), scale)
    rated = codes >= 0
    # a row and its two nearest: three readings are the fewest from which a confusion matrix follows without any truth
    triples = np.column_stack([codes, codes[neighbours[:, :2]]])[rated]
    model = dawid_skene(triples, len(scale), alike=True)
    transition, prior = model.confusion[0], model.prior
    beliefs = _beliefs(codes, neighbours, similarities, transition, prior)
    wrong = _probably_wrong(codes, beliefs, transition, prior)
    curated = scores.copy()
    curated[wrong] = scale[beliefs[wrong].argmax(axis=1)]
    return Smoothed(curated, rated & (curated != scores), transition, scale)


def _beliefs(codes: Integers, neighbours: Integers, similarities: Floats | None, transition: Floats, prior: Floats) -> Floats:
    """How probable each true score of a row is by what the judge gave its neighbours, (rows, values)."""
    weights = np.ones(neighbours.shape) if similarities is None else np.clip(similarities, 0, None)
    given = codes[neighbours]
    joint = prior[:, None] * transition
    true_of_given = (joint / joint.sum(axis=0)).T  # (given, true)
    known = np.where(given >= 0, weights, 0.0)
    total = known.sum(axis=1, keepdims=True)
    beliefs = np.einsum("rk,rkt->rt", known, true_of_given[given])
    return np.asarray(np.divide(beliefs, total, out=np.tile(prior, (len(codes), 1)), where=total > 0))


def _probably_wrong(codes: Integers, beliefs: Floats, transition: Floats, prior: Floats) -> Integers:
    """Row numbers: of each score as many as the matrix takes to be wrong, those first that the neighbours believe in least."""
    joint = prior[:, None] * transition
    right = np.diag(joint) / joint.sum(axis=0)
    rows = []
    for code, share in enumerate(right):
        members = np.flatnonzero(codes == code)
        believed = beliefs[members, code]
        chosen = members[np.argsort(believed, kind="stable")[: round((1 - share) * len(members))]]
        # the matrix says how many are wrong; of those the ones whose neighbours agree with them stay
        rows.append(chosen[beliefs[chosen].argmax(axis=1) != code])
    return np.concatenate(rows)
