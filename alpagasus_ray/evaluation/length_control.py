"""Whether a comparison was won by length: pure functions over the judged prompts of which both lengths are known."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.evaluation.intervals import CONFIDENCE, interval, rounded, share
from alpagasus_ray.evaluation.match_rules import Match, Outcome

FEWEST_FOR_A_FIT = 10
"""Prompts below which a regression with two parameters says nothing."""
POINTS: dict[Outcome, float] = {"win": 1.0, "tie": 0.5, "lose": 0.0}

Floats = NDArray[np.float64]
Unit = Literal["characters", "words"]


class Fit(NamedTuple):
    """The win rate at equal lengths, or why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why_not: str | None = None


def length_report(judged: Sequence[tuple[Match, Outcome]]) -> dict[str, Any]:
    """Mean lengths in `unit`, who won the prompts with unequal lengths, and the win rate with the lengths' part taken out."""
    unit = unit_of([match for match, _ in judged])
    known = [(both, POINTS[outcome]) for match, outcome in judged if None not in (both := _lengths(match, unit))]
    lengths = np.array([both for both, _ in known], dtype=np.float64).reshape(-1, 2)
    points = np.array([point for _, point in known], dtype=np.float64)
    longer = lengths[:, 0] - lengths[:, 1]
    decided = (points != POINTS["tie"]) & (longer != 0)
    fit = length_controlled(longer, points)
    return {
        "prompts": len(known),
        "unit": unit,
        "mean_length_a": rounded(lengths[:, 0].mean()) if known else None,
        "mean_length_b": rounded(lengths[:, 1].mean()) if known else None,
        "longer_win_share": share(int(((longer > 0) == (points == POINTS["win"]))[decided].sum()), int(decided.sum())),
        "length_controlled_win_rate": {**interval(fit.value, fit.low, fit.high), "why_not": fit.why_not},
    }


def unit_of(matches: Iterable[Match]) -> Unit:
    """What the lengths of these prompts are compared in: characters; words where verdicts of an earlier version, which knew
    no others, are among them."""
    older = any(None in _lengths(match, "characters") and None not in _lengths(match, "words") for match in matches)
    return "words" if older else "characters"


def _lengths(match: Match, unit: Unit) -> tuple[int | None, int | None]:
    """Of a's answer and of b's."""
    return (match.length_a, match.length_b) if unit == "characters" else (match.words_a, match.words_b)


def length_controlled(longer: Floats, points: Floats) -> Fit:
    """What the win rate would be if both models answered at the same length.

    `longer` holds by how much a's answer is the longer, `points` 1, 0.5 or 0 for a win, tie or loss of a; both (n,).
    A logistic regression of the points on tanh(longer / its standard deviation) is read off at a difference of 0, in the
    spirit of AlpacaEval 2 (arXiv 2404.04475; theirs also knows the difficulty of each instruction). The interval stands
    symmetric on the logit scale, from the robust covariance (HC0): a tie is half a point, which a binomial never gives.
    """
    if why_not := _no_fit(longer, points):
        return Fit(why_not=why_not)
    from scipy.special import expit
    from scipy.stats import norm
    from statsmodels.discrete.discrete_model import Logit
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    # at a difference of 0 only the constant is left, which is the win rate at equal length on the logit scale
    design = np.column_stack([np.ones_like(longer), _squashed(longer)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the answer says it
        fit = Logit(points, design).fit(cov_type="HC0", disp=False)
    if not fit.mle_retvals["converged"]:
        return Fit(why_not="the regression did not converge")
    # made on the logit scale and carried over, so that no end of the interval passes 0 or 1
    margin = norm.ppf((1 + CONFIDENCE) / 2) * fit.bse[0]
    low, value, high = expit(fit.params[0] + np.array([-margin, 0, margin]))
    return Fit(float(value), float(low), float(high))


def _no_fit(longer: Floats, points: Floats) -> str | None:
    """Why these points have no regression with finite estimates, in words, or None."""
    if len(points) < FEWEST_FOR_A_FIT:
        return f"{len(points)} judged prompts with both lengths known; it needs {FEWEST_FOR_A_FIT}"
    if np.ptp(points) == 0:
        return "all prompts have the same outcome"
    if np.ptp(longer) == 0:
        return "the difference in length is the same on all prompts"
    gained, missed = longer[points > 0], longer[points < 1]  # a tie is half a success and half a failure
    if gained.min() >= missed.max() or missed.min() >= gained.max():
        return "the length alone tells the outcome of every prompt"
    return None


def _squashed(longer: Floats) -> Floats:
    return np.asarray(np.tanh(longer / longer.std()))
