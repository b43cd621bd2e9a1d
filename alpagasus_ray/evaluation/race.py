"""Whether an arm of a race differs from a control, and by how much: pure functions over losses.

Losses are (seeds, rows): the mean loss over the label tokens of each held-out row, after the training of each seed. Arms are
compared seed by seed and row by row; a difference is arm minus control, so below 0 the arm is better.

Two things could have come out otherwise: which rows were held out, and the seeds (what a random arm drew, in which order an arm
was seen). A bootstrap over both (A. B. Owen, "The pigeonhole bootstrap", 2007) is too narrow for three to five seeds: their
resampled spread is short by (n - 1) / n, and so few values have no tails (T. Hesterberg, "What teachers should know about the
bootstrap", 2014, arXiv 1411.5279). So rows are resampled, their spread widened by n / (n - 1), and the part of the seeds is
drawn from Student's distribution with seeds - 1 degrees of freedom; the sum of both is the solution of Behrens and Fisher,
which is rather too wide. What is left of one row under one seed is counted in both parts, which is rather too wide as well.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.intervals import LEVEL, tails

Floats = NDArray[np.float64]
DRAWS = 4_000
FEWEST_TO_DROP = 3
"""Seeds before an arm may be dropped: of two the interval is so wide that it drops none."""


class Difference(NamedTuple):
    """A mean difference of losses, the ends of its 95 percent interval and its two-sided p; these are None with one seed."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    rows: int


class Components(NamedTuple):
    """Standard deviations of paired differences: between seeds, between rows, and what is left of one row under one seed."""

    seeds: float
    rows: float
    rest: float


def difference(arm: Floats, control: Floats, draws: int = DRAWS) -> Difference:
    """Arm minus control, both (seeds, rows), over the seeds that both have; rows are the same and in the same order."""
    paired = _paired(arm, control)
    seeds, rows = paired.shape
    value = float(paired.mean())
    if seeds < 2 or rows < 2:
        return Difference(value, None, None, None, seeds, rows)
    by_row, by_seed = paired.mean(axis=0), paired.mean(axis=1)
    weights, students = _draws(seeds, rows, draws)
    of_rows = (weights @ (by_row - value)) * math.sqrt(rows / (rows - 1))
    drawn = value + of_rows + students * (float(by_seed.std(ddof=1)) / math.sqrt(seeds))
    low, high = np.quantile(drawn, tails())
    beyond = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * beyond / (draws + 1)), seeds, rows)


def _paired(arm: Floats, control: Floats) -> Floats:
    if arm.shape[1] != control.shape[1]:
        raise UsageError(f"two arms were measured on {arm.shape[1]} and {control.shape[1]} rows; give both the same rows")
    seeds = min(len(arm), len(control))
    return np.asarray(arm[:seeds] - control[:seeds])


@lru_cache(maxsize=16)
def _draws(seeds: int, rows: int, draws: int) -> tuple[Floats, Floats]:
    """Shares of the rows in each draw (draws, rows), and as many values of Student's distribution, one from each part of equal
    probability, in an order that has nothing to do with the rows. The same at every call, so that results are."""
    from scipy.stats import t

    generator = np.random.default_rng([seeds, rows, draws])
    weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=draws) / rows
    students = t.ppf((generator.permutation(draws) + 0.5) / draws, seeds - 1)
    return weights, np.asarray(students)


def left_behind(losses: Mapping[str, Floats], protected: Sequence[str]) -> list[str]:
    """Arms that need no further seed: the interval of their difference to the best arm lies above 0. Never a protected one."""
    best = min(losses, key=lambda arm: float(losses[arm].mean()))
    return [arm for arm in losses if arm != best and arm not in protected and _is_behind(losses[arm], losses[best])]


def _is_behind(arm: Floats, best: Floats) -> bool:
    against = difference(arm, best)
    return against.seeds >= FEWEST_TO_DROP and against.low is not None and against.low > 0


def places(losses: Mapping[str, Floats]) -> dict[str, list[int | None]]:
    """The place of each arm under each seed, 1 for the lowest mean loss; None where it was no longer trained. Arms that were
    dropped take part under the seeds that they have."""
    most = max(len(found) for found in losses.values())
    found: dict[str, list[int | None]] = {arm: [None] * most for arm in losses}
    for seed in range(most):
        there = sorted((float(loss[seed].mean()), arm) for arm, loss in losses.items() if seed < len(loss))
        for place, (_, arm) in enumerate(there, 1):
            found[arm][seed] = place
    return found


def rank_agreement(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float | int | None]:
    """How alike two proxies rank the arms that both raced: Kendall's tau with its exact p; None with fewer than 3 arms."""
    from scipy.stats import kendalltau

    both = [arm for arm in first if arm in second]
    if len(both) < 3:
        return {"arms": len(both), "tau": None, "p": None}
    result = kendalltau([first[arm] for arm in both], [second[arm] for arm in both])
    known = math.isfinite(result.statistic)
    return {
        "arms": len(both),
        "tau": float(result.statistic) if known else None,
        "p": float(result.pvalue) if known else None,
    }


def matched_compute(tokens: Floats, arm: Floats, control: Floats) -> float | None:
    """How many times the arm's tokens the control needs for the same loss, from their curves over the same tokens (points,).

    Where the arm ends lower: all tokens by those after which the arm is where the control ends. Where it ends higher: tokens
    after which the control is where the arm ends, by all. None where the side that is ahead began as low as the other ends.
    """
    ahead, behind = (arm, control) if arm[-1] <= control[-1] else (control, arm)
    reached = tokens_to_reach(tokens, ahead, float(behind[-1]))
    if not reached:
        return None
    times = float(tokens[-1]) / reached
    return times if ahead is arm else 1 / times


def tokens_to_reach(tokens: Floats, losses: Floats, target: float) -> float | None:
    """Tokens after which a curve first is at or below a loss, between two points on the line through both; None if it never
    is, 0 where it begins there."""
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return None
    at = int(below[0])
    if at == 0:
        return float(tokens[0])
    share = (losses[at - 1] - target) / (losses[at - 1] - losses[at])
    return float(tokens[at - 1] + share * (tokens[at] - tokens[at - 1]))


def components(arm: Floats, control: Floats) -> Components:
    """From a pilot of at least two seeds: the parts of the spread, by the mean squares of a two-way table without repeats."""
    paired = _paired(arm, control)
    seeds, rows = paired.shape
    if seeds < 2 or rows < 2:
        raise UsageError(f"a pilot of {seeds} seeds and {rows} rows tells no spread; train at least 2 seeds on at least 2 rows")
    by_seed, by_row = paired.mean(axis=1), paired.mean(axis=0)
    left = paired - by_seed[:, None] - by_row[None] + paired.mean()
    rest = float((left**2).sum()) / ((seeds - 1) * (rows - 1))
    of_seeds = max(0.0, float(by_seed.var(ddof=1)) - rest / rows)
    of_rows = max(0.0, float(by_row.var(ddof=1)) - rest / seeds)
    return Components(math.sqrt(of_seeds), math.sqrt(of_rows), math.sqrt(rest))


def power(gain: float, spread: Components, seeds: int, rows: int, arms: int = 1) -> float:
    """How probably a race shows a true difference of this size, with the strictest threshold that Holm asks of `arms` arms.

    The width of an interval depends on the spread that the seeds happen to show, so it is averaged over that.
    """
    from scipy.stats import norm

    if seeds < 2:
        return 0.0
    both = spread.rest**2 / (seeds * rows)
    of_seeds, of_rows = spread.seeds**2 / seeds + both, spread.rows**2 / rows + both
    true_error = math.sqrt(max(of_seeds + of_rows - both, 1e-300))
    width = _widths(seeds, arms, round(math.log(max(of_seeds, 1e-300) / max(of_rows, 1e-300)), 6)) * math.sqrt(of_rows)
    return float(np.mean(norm.cdf((abs(gain) - width) / true_error) + norm.cdf((-abs(gain) - width) / true_error)))


@lru_cache(maxsize=64)
def _widths(seeds: int, arms: int, log_ratio: float) -> Floats:
    """Half widths of `difference` for 200 equally probable spreads that the seeds may show, in standard errors of the rows;
    `log_ratio` is that of the seeds' part of the variance to the rows'."""
    from scipy.stats import chi2, norm, t

    generator = np.random.default_rng(0)
    chances = (np.arange(DRAWS) + 0.5) / DRAWS
    of_rows, students = norm.ppf(generator.permutation(chances)), t.ppf(generator.permutation(chances), seeds - 1)
    shown = np.sqrt(np.exp(log_ratio) * chi2.ppf((np.arange(200) + 0.5) / 200, seeds - 1) / (seeds - 1))
    return np.asarray([np.quantile(np.abs(of_rows + students * one), 1 - LEVEL / arms) for one in shown])


def smallest_gain(spread: Components, seeds: int, rows: int, arms: int = 1, wanted: float = 0.8) -> float | None:
    """The smallest true difference of losses that so many seeds and rows show with a probability of `wanted`; None with one
    seed, which shows none."""
    if seeds < 2:
        return None
    low, high = 0.0, max(spread) or 1e-9
    while power(high, spread, seeds, rows, arms) < wanted:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, spread, seeds, rows, arms) >= wanted else (middle, high)
    return high
