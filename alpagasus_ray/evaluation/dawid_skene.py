"""True values behind several raters of unequal quality: the model of Dawid and Skene (1979) on an ordered scale, by EM. Pure.

A row has one true value of the scale; each rater reads it through a confusion matrix of its own, independently of the others
once the true value is known. EM takes turns: how probable is each true value of each row, given the matrices; which matrices
and which prior make the ratings most probable, given that. Rows with the same ratings are worked out once, so that 52,002
rows of three raters are some two hundred patterns.

The scale is ordered in two places: a rater starts with confusions that fall off with the distance on the scale, and keeps them
as a weak prior, so that a value hardly ever used is not read as anything at all; the result is the median of the row's
probabilities, which a small chance of a far value does not move.
"""

from typing import NamedTuple

import numpy as np

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.estimates import MISSING, Floats, Integers

ROUNDS = 500
TOLERANCE = 1e-7
PRIOR_ROWS = 4.0
"""Made-up rows for each true value that a rater's confusions start from."""


class DawidSkene(NamedTuple):
    """A fitted model: `prior` (values,), `confusion` (raters, true value, rating) and the probability of each true value of
    each row, `posterior` (rows, values)."""

    prior: Floats
    confusion: Floats
    posterior: Floats
    rounds: int

    def medians(self) -> Integers:
        """The most probable half: the lowest value at which half of a row's probability is reached, (rows,)."""
        return np.asarray((self.posterior.cumsum(axis=1) < 0.5 - 1e-9).sum(axis=1), dtype=np.int64)


def dawid_skene(codes: Integers, values: int, alike: bool = False) -> DawidSkene:
    """Fits the model to ratings (rows, raters) as places on a scale of so many values, MISSING where there is none.

    `alike` gives all raters one confusion matrix, as for three readings by the same judge. Raises UsageError for fewer than two
    raters or values: one rater can be right or wrong everywhere.
    """
    if codes.ndim != 2 or codes.shape[1] < 2 or values < 2:
        raise UsageError("dawid-skene needs two raters or more, and ratings of two values or more; use one rater as it is")
    patterns, of_row, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    seen = patterns[:, :, None] == np.arange(values)  # (patterns, raters, values)
    near = np.exp(-np.abs(np.subtract.outer(np.arange(values), np.arange(values))).astype(np.float64))
    near /= near.sum(axis=1, keepdims=True)
    confusion = np.repeat(near[None], codes.shape[1], axis=0)
    prior = np.full(values, 1 / values)
    posterior = _posterior(seen, prior, confusion)
    rounds = 0
    for rounds in range(1, ROUNDS + 1):  # noqa: B007
        prior, confusion = _matrices(seen, counts, posterior, PRIOR_ROWS * near, alike=alike)
        before, posterior = posterior, _posterior(seen, prior, confusion)
        if np.abs(posterior - before).max() < TOLERANCE:
            break
    return DawidSkene(prior, confusion, posterior[of_row.reshape(-1)], rounds)


def _posterior(seen: np.ndarray, prior: Floats, confusion: Floats) -> Floats:
    """How probable each true value is for each pattern, (patterns, values); a missing rating says nothing."""
    # in logarithms: the product over many raters would underflow; a missing rating is a row of zeros and adds nothing
    logs = np.log(prior) + np.einsum("prk,rtk->pt", seen, np.log(confusion))
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _matrices(seen: np.ndarray, counts: Integers, posterior: Floats, made_up: Floats, *, alike: bool) -> tuple[Floats, Floats]:
    weights = counts[:, None] * posterior
    # one made-up row spread over the scale, so that no value becomes impossible, whose logarithm would be minus infinity
    prior = (weights.sum(axis=0) + 1 / posterior.shape[1]) / (counts.sum() + 1)
    read = np.einsum("pt,prk->rtk", weights, seen)
    if alike:
        # readings of one judge share their errors' pattern, and are the more observations of it
        read = np.repeat(read.sum(axis=0, keepdims=True), len(read), axis=0)
    confusion = read + made_up
    return np.asarray(prior), np.asarray(confusion / confusion.sum(axis=2, keepdims=True))


def codes_of(values: Floats, scale: Floats) -> Integers:
    """The places of values (any shape) on a rising scale; MISSING for NaN. Raises UsageError for a value that is not on it."""
    places = np.searchsorted(scale, values).clip(max=len(scale) - 1)
    known = ~np.isnan(values)
    if (scale[places[known]] != values[known]).any():
        odd = values[known][scale[places[known]] != values[known]][0]
        raise UsageError(f"the rating {odd:g} is not on the scale {', '.join(f'{x:g}' for x in scale)}")
    return np.where(known, places, MISSING).astype(np.int64)
