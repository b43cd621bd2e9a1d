"""Figures about a judge, each with the number of observations and a 95 percent interval. Pure.

Scores are float arrays in which NaN says that a row has no rating; a pair of arrays is compared on the rows that both rate.
Rows count as independent draws: where one prompt gives several numbers, take their mean first. A figure is None where
there is nothing to compute it from, and has no ends where all observations are the same: no width would look like certainty.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.intervals import CONFIDENCE, interval

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Estimate = dict[str, float | None]
"""`value`, the `low` and `high` end of its 95 percent interval, and `n`, how many observations it rests on."""

Level = Literal["ordinal", "nominal"]
MISSING = -1
"""The code of a rating that is not there."""
FEWEST_FOR_A_FIT = 4


def estimate(n: int, value: float | None, low: float | None = None, high: float | None = None) -> Estimate:
    """A value with its ends; what is not a finite number becomes None."""
    return {**interval(*(None if x is None or not math.isfinite(x) else x for x in (value, low, high))), "n": n}


def within(n: int, value: float, error: float, least: float = -math.inf, most: float = math.inf) -> Estimate:
    """The value with ends one half-width to each side, kept within the range that the figure can have."""
    if not error:
        return estimate(n, value)
    return estimate(n, value, max(value - error, least), min(value + error, most))


def normal_quantile() -> float:
    """How many standard errors lie on either side of a figure within its interval; 1.96 for 95%."""
    from scipy.stats import norm

    return float(norm.ppf((1 + CONFIDENCE) / 2))


def t_quantile(freedom: int) -> float:
    """The same by Student's distribution, for a figure with so many degrees of freedom."""
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def proportion(part: int, whole: int) -> Estimate:
    """A share with the exact interval of Clopper and Pearson (1934): rather too wide, and not empty at 0 and at 1."""
    from statsmodels.stats.proportion import proportion_confint

    if not whole:
        return estimate(0, None)
    return estimate(whole, part / whole, *map(float, proportion_confint(part, whole, 1 - CONFIDENCE, method="beta")))


def mean(values: ArrayLike) -> Estimate:
    """The mean of the values that are there, with Student's interval."""
    known = present(values)
    if len(known) < 2:
        return estimate(len(known), float(known[0]) if len(known) else None)
    return within(len(known), float(known.mean()), t_quantile(len(known) - 1) * float(known.std(ddof=1)) / len(known) ** 0.5)


def ratio(parts: ArrayLike, wholes: ArrayLike) -> Estimate:
    """Sum of the parts by sum of the wholes over independent groups, here both (groups,); `n` counts the wholes.

    The interval is linearised over groups (Cochran, 1977, 6.3): observations of one group may depend on each other.
    """
    part, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    part, whole = part[whole > 0], whole[whole > 0]
    if not len(whole):
        return estimate(0, None)
    value = float(part.sum() / whole.sum())
    if len(whole) < 2:
        return estimate(int(whole.sum()), value)
    # a group counts by how far it lies from the common ratio, large groups more
    residual = part - value * whole
    error = math.sqrt(len(whole) / (len(whole) - 1) * float(residual @ residual)) / float(whole.sum())
    return within(int(whole.sum()), value, t_quantile(len(whole) - 1) * error, 0, 1)


def rank_correlation(first: ArrayLike, second: ArrayLike, given: ArrayLike | None = None) -> Estimate:
    """Spearman's rank correlation, with ties at their mean rank; with `given` the partial one with its ranks taken out.

    The interval is that of Bonett and Wright (2000) on Fisher's scale.
    """
    from scipy.stats import rankdata

    columns = [np.asarray(column, dtype=np.float64) for column in (first, second, *(() if given is None else (given,)))]
    rows = np.column_stack(columns)
    rows = rows[~np.isnan(rows).any(axis=1)]
    # n - 3 for two columns and one less for what is taken out, as on Fisher's scale
    freedom = len(rows) - 1 - rows.shape[1]
    if freedom < 1 or (np.ptp(rows, axis=0) == 0).any():
        return estimate(len(rows), None)
    r = np.corrcoef(rankdata(rows, axis=0), rowvar=False)
    value = float(r[0, 1])
    if given is not None:
        spread = math.sqrt(max((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2), 0))
        value = float(r[0, 1] - r[0, 2] * r[1, 2]) / spread if spread else math.nan
    if not abs(value) < 1:
        return estimate(len(rows), value)
    # Bonett and Wright: ranks are less exact than values, the more the stronger the correlation
    error = normal_quantile() * math.sqrt((1 + value**2 / 2) / freedom)
    return estimate(len(rows), value, math.tanh(math.atanh(value) - error), math.tanh(math.atanh(value) + error))


def slope(response: ArrayLike, predictor: ArrayLike) -> Estimate:
    """Of the least-squares line, with an interval that unequal variances do not narrow (HC3)."""
    from statsmodels.regression.linear_model import OLS

    y, x = both_present(response, predictor)
    if len(y) < FEWEST_FOR_A_FIT or np.ptp(x) == 0 or np.ptp(y) == 0:
        return estimate(len(y), None)
    fit = OLS(y, np.column_stack([np.ones_like(x), x])).fit(cov_type="HC3")
    return within(len(y), float(fit.params[1]), normal_quantile() * float(fit.bse[1]))


def kappa(first: ArrayLike, second: ArrayLike, quadratic: bool = False) -> Estimate:
    """Cohen's kappa (1960); with `quadratic` weights the distance on the scale counts (Cohen, 1968)."""
    from statsmodels.stats.inter_rater import cohens_kappa

    one, other = both_present(first, second)
    scale, codes = coded(np.column_stack([one, other]))
    if len(scale) < 2:
        return estimate(len(one), None)
    if np.ptp(one) == 0 or np.ptp(other) == 0:  # as much as chance gives, whatever the other says
        return estimate(len(one), 0.0)
    table = np.zeros((len(scale), len(scale)))
    np.add.at(table, (codes[:, 0], codes[:, 1]), 1)
    with np.errstate(invalid="ignore"):  # full agreement may leave a variance a little below 0
        result = cohens_kappa(table, weights=scale, wt="quadratic") if quadratic else cohens_kappa(table)
    value, error = float(result.kappa), float(result.std_kappa)
    return _on_fishers_scale(len(one), value, error)


def _on_fishers_scale(n: int, value: float, error: float) -> Estimate:
    """Ends of a figure that cannot pass 1, from its standard error: on the scale of atanh its distribution is less skew."""
    if not error > 0 or not abs(value) < 1 or n < 3:
        return estimate(n, value)
    width = t_quantile(n - 1) * error / (1 - value**2)
    return estimate(n, value, math.tanh(math.atanh(value) - width), math.tanh(math.atanh(value) + width))


def alpha(ratings: ArrayLike, level: Level = "ordinal") -> Estimate:
    """Krippendorff's alpha (2011) of ratings (rows, raters); `n` counts the rows that two or more rated.

    The interval is that of a jackknife over rows; rows of the same ratings are worked out once.
    """
    values = np.asarray(ratings, dtype=np.float64)
    values = values[(~np.isnan(values)).sum(axis=1) > 1]
    scale, codes = coded(values)
    if len(scale) < 2:
        return estimate(len(values), None)
    patterns, counts = np.unique(np.sort(codes, axis=1), axis=0, return_counts=True)
    pairable = coincidences(patterns, len(scale))
    (result,) = jackknife(lambda weights: alpha_of(pairable, weights, level)[:, None], counts)
    return result


def coincidences(patterns: Integers, values: int) -> Floats:
    """How often each two values meet within each pattern of ratings (patterns, raters): (patterns, values, values).

    A pattern of m ratings counts m in all, and nothing where m is below 2.
    """
    each = (patterns[:, :, None] == np.arange(values)).sum(axis=1).astype(np.float64)
    rated = each.sum(axis=1)
    pairs = each[:, :, None] * each[:, None, :] - each[:, :, None] * np.eye(values)
    return np.asarray(pairs / np.maximum(rated - 1, 1)[:, None, None])


def alpha_of(pairable: Floats, weights: Integers, level: Level = "ordinal") -> Floats:
    """Alpha of patterns that occur so often, for each row of weights (n, patterns); NaN where all ratings are equal.

    The same as the package `krippendorff` computes from all rows, which would have to be written out for each of the n.
    """
    values = pairable.shape[1]
    observed = (weights @ pairable.reshape(len(pairable), -1)).reshape(-1, values, values)
    marginals = observed.sum(axis=1)
    # the ordinal distance of two values counts the ratings between their middles
    middles = marginals.cumsum(axis=1) - marginals / 2
    distances = (middles[:, :, None] - middles[:, None, :]) ** 2 if level == "ordinal" else 1 - np.eye(values)[None]
    expected = (marginals[:, :, None] * distances * marginals[:, None, :]).sum(axis=(1, 2))
    disagreeing = (marginals.sum(axis=1) - 1) * (observed * distances).sum(axis=(1, 2))
    return np.asarray(1 - np.divide(disagreeing, expected, out=np.full(len(expected), np.nan), where=expected > 0))


def jackknife(statistic: Callable[[Integers], Floats], counts: Integers) -> list[Estimate]:
    """Estimates of a statistic of weighted patterns, which takes how often each occurs, (n, patterns), and gives (n, figures).

    Leaving out one row gives the same whichever row of a pattern it is: there are as many cases as patterns. The standard error
    is that of Tukey (1958).
    """
    n = int(counts.sum())
    (value,) = statistic(counts[None])
    if n < 3:
        return [estimate(n, float(x)) for x in value]
    # row i of this leaves out one row of pattern i
    without = statistic(counts - np.eye(len(counts), dtype=np.int64))
    with np.errstate(invalid="ignore"):
        # a pattern's term counts as often as it has rows
        errors = np.sqrt((n - 1) / n * (counts @ (without - (counts @ without) / n) ** 2))
    return [_on_fishers_scale(n, float(x), float(error)) for x, error in zip(value, errors, strict=True)]


def auc(good: ArrayLike, bad: ArrayLike) -> Estimate:
    """How often a good row has the higher score than a bad one, ties half; row i of `bad` was made from row i of `good`.

    The variance is that of DeLong (1988) with both placements of a pair taken together (Obuchowski, 1997); ends on the logit
    scale, or those of a share where the two kinds do not overlap.
    """
    high, low = both_present(good, bad)
    n = len(high)
    if n < 2:
        return estimate(n, None)
    # twice the number below plus the ties once: ties count half without a fraction
    above = np.searchsorted(np.sort(low), high, "left") + np.searchsorted(np.sort(low), high, "right")
    below = 2 * n - (np.searchsorted(np.sort(high), low, "left") + np.searchsorted(np.sort(high), low, "right"))
    placements = (above + below) / (2 * n)
    value = float(placements.mean()) / 2
    error = float(placements.std(ddof=1)) / math.sqrt(n)
    if not 0 < value < 1:
        return proportion(round(value) * n, n)
    if not error:
        return estimate(n, value)
    centre, width = math.log(value / (1 - value)), t_quantile(n - 1) * error / (value * (1 - value))
    return estimate(n, value, _logistic(centre - width), _logistic(centre + width))


def _logistic(x: float) -> float:
    from scipy.special import expit

    return float(expit(x))


def present(values: ArrayLike) -> Floats:
    """The values that are known: all but NaN, in order."""
    array = np.asarray(values, dtype=np.float64)
    return np.asarray(array[~np.isnan(array)])


def both_present(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    """The rows of two columns in which both have a value. Raises UsageError for columns of unequal lengths."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise UsageError(f"two columns of ratings have {len(one)} and {len(other)} rows; give both for the same rows")
    known = ~(np.isnan(one) | np.isnan(other))
    return one[known], other[known]


def coded(values: Floats) -> tuple[Floats, Integers]:
    """The values that occur, rising, and the place of each value among them, MISSING for NaN."""
    scale = np.unique(present(values))
    codes = np.searchsorted(scale, values)
    return scale, np.where(np.isnan(values), MISSING, codes).astype(np.int64)


def columns(ratings: Sequence[ArrayLike]) -> Floats:
    """Ratings of several judges as (rows, judges). Raises UsageError where they have unequal numbers of rows."""
    lengths = {len(np.asarray(column)) for column in ratings}
    if len(lengths) > 1:
        raise UsageError(f"the judges rate {sorted(lengths)} rows; give all of them the same rows, NaN where one has no rating")
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in ratings])
