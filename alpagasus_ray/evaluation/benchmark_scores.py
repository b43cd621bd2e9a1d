"""How sure the score of a benchmark is, and the difference between two models that answered the same documents. Pure.

Documents are a sample of those that could have been asked (Miller, arXiv 2411.00640). Where several share a passage they are
not independent, and intervals are over passages.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.evaluation.estimates import Estimate, estimate, mean, proportion, t_quantile, within
from alpagasus_ray.evaluation.intervals import rounded, sign_test, tails

POWER = 0.8
"""How often a difference is to be shown that is called the smallest one."""
RESAMPLES = 10_000
SEED = 0
USUAL_DISAGREEMENT = 0.3
"""Share of documents on which two models differ, where no pair has been measured."""
Floats = NDArray[np.float64]


def score(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """The mean score with its 95% interval: exact for rights and wrongs (Clopper and Pearson), Student's for other figures, and
    over clusters where documents depend on each other."""
    found = np.asarray(values, dtype=np.float64)
    if clusters is not None and len(found):
        error = _clustered_error(found - found.mean(), clusters)
        return within(len(found), float(found.mean()), error, 0.0, 1.0) if error else estimate(len(found), float(found.mean()))
    if len(found) and np.isin(found, (0.0, 1.0)).all():
        return proportion(int(found.sum()), len(found))
    return mean(found)


def _clustered_error(residuals: Floats, clusters: Sequence[Hashable]) -> float:
    """Half the width of the interval of a mean whose observations depend on each other within clusters."""
    _, number = np.unique(np.array([str(one) for one in clusters]), return_inverse=True)
    sums = np.bincount(number, weights=residuals)
    if len(sums) < 2:
        return 0.0
    variance = len(sums) / (len(sums) - 1) * float(sums @ sums) / len(residuals) ** 2
    return t_quantile(len(sums) - 1) * math.sqrt(variance)


def paired(
    first: Mapping[str, float], second: Mapping[str, float], clusters: Mapping[str, Hashable] | None = None
) -> dict[str, Any]:
    """The first model's score minus the second's, over the documents that both have.

    `difference` with its interval is a bootstrap over documents (over clusters where there are some); `p` is McNemar's exact
    test where scores are right or wrong and each document stands for itself, from the `first_only` and `second_only` right, and
    else that of the bootstrap; `smallest` is the difference that so many documents show in 8 of 10 cases, by how these two
    differ.
    """
    names = sorted(first.keys() & second.keys())
    ours, theirs = (np.array([side[name] for name in names], dtype=np.float64) for side in (first, second))
    apart = ours - theirs
    binary = bool(names) and bool(np.isin(ours, (0.0, 1.0)).all() and np.isin(theirs, (0.0, 1.0)).all())
    groups = [clusters[name] if clusters else name for name in names]
    wins, losses = int((apart > 0).sum()), int((apart < 0).sum())
    difference, p = _bootstrap(apart, groups)
    return {
        "documents": len(names),
        "difference": difference,
        "first_only": wins if binary else None,
        "second_only": losses if binary else None,
        "p": rounded(sign_test(wins, losses) if binary and not clusters else p),
        "smallest": smallest(len(names), float(apart.std()) if names else 0.0),
    }


def _bootstrap(apart: Floats, groups: Sequence[Hashable]) -> tuple[Estimate, float | None]:
    """The mean with its interval, and the two-sided p value of its being 0; None where no draw can say."""
    if not len(apart):
        return estimate(0, None), None
    value = float(apart.mean())
    _, number = np.unique(np.array([str(one) for one in groups]), return_inverse=True)
    sums, sizes = np.bincount(number, weights=apart), np.bincount(number)
    if not apart.any():  # no draw can differ, and a width of nothing would look like certainty
        return estimate(len(apart), value), None
    # groups that are alike differ in nothing else: to draw how many there are of each kind is to draw groups, and soon done
    kinds, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    rng, ends = np.random.default_rng(SEED), []
    for _ in range(10):  # a few draws at a time: of scores that are all different there are as many kinds as groups
        drawn = rng.multinomial(len(sums), counts / len(sums), size=RESAMPLES // 10) @ kinds
        ends.append(drawn[:, 0] / drawn[:, 1])
    means = np.concatenate(ends)
    low, high = np.quantile(means, tails())
    beyond = 1 + min(int((means <= 0).sum()), int((means >= 0).sum()))
    return estimate(len(apart), value, float(low), float(high)), min(1.0, 2 * beyond / (len(means) + 1))


def smallest(documents: int, spread: float | None = None) -> float | None:
    """The smallest difference that a comparison over so many documents shows in 8 of 10 cases at the 5% level; `spread` is the
    standard deviation of the differences by document, by default that of models which differ in three documents of ten."""
    from scipy.stats import norm

    if documents < 2:
        return None
    known = math.sqrt(USUAL_DISAGREEMENT) if spread is None else spread
    shown = (float(norm.ppf(0.975)) + float(norm.ppf(POWER))) * known / math.sqrt(documents)
    return rounded(max(shown, 1 / documents))
