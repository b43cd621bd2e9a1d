"""Win rates of a judge corrected by people's votes on some of the prompts. Pure.

A judge's interval over many prompts is narrow around the judge's own mean, which may be far from the people's. Two
corrections use prompts that both have seen, and both widen the interval by what is not known about the judge:

- `ppi`: prediction-powered inference (PPI++, Angelopoulos, Duchi, Zrnic, arXiv 2311.01453) of a mean, power-tuned. It holds
  for any judge; a useless one gets the weight 0, and the people's own mean is left.
- `rogan_gladen`: the prevalence behind a test with known errors (Rogan, Gladen, 1978), with the interval of Lang and Reiczigel
  (2014), which knows the sampling error of sensitivity and specificity as well as that of the rate.

One prompt is one observation: where three people voted on it, its value is their mean.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alpagasus_ray.evaluation.estimates import Estimate, Floats, estimate, mean, normal_quantile, t_quantile, within
from alpagasus_ray.evaluation.match_rules import Winner

JUDGE_ALONE = "This win rate is the judge's alone: no person has voted on these answers."
FEWEST_VOTED = 10
"""Prompts with votes below which nothing is corrected."""
LEAST_INFORMED = 0.1
"""Sensitivity plus specificity less 1, below which a judge says too little about the people's verdict to be inverted."""

POINTS_OF: Mapping[Winner, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}

Points = Mapping[str, float]
"""By prompt, from a's side: 1 for a win, 0.5 for a tie, 0 for a loss, or the mean of several."""


def ppi(people: Floats, judge: Floats, judge_alone: Floats) -> Estimate:
    """The people's mean over all prompts; `weight` is the share of the judge's difference that was used.

    people, judge: (n,) points of the prompts that both have seen. judge_alone: (N,) the judge's of the other prompts.
    """
    n, others = len(people), len(judge_alone)
    if n < 3 or others < 2:
        return {**mean(people), "weight": 0.0}
    everything = np.concatenate([judge, judge_alone])
    variance = float(everything.var(ddof=1))
    covariance = float(np.cov(people, judge)[0, 1])
    # PPI++: the weight with the least variance; kept within 0 and 1, for a judge is not to be used against itself
    weight = min(max(covariance / ((1 + n / others) * variance), 0.0), 1.0) if variance else 0.0
    # the judge's mean over the many prompts, plus what people differ from it by on those that both have seen
    value = float((people - weight * judge).mean() + weight * judge_alone.mean())
    # two values were fitted to the n, the mean and the weight
    error = math.sqrt(float((people - weight * judge).var(ddof=2)) / n + weight**2 * float(judge_alone.var(ddof=1)) / others)
    return {**within(n + others, value, t_quantile(n - 2) * error, 0, 1), "weight": round(weight, 6)}


def rogan_gladen(people: Floats, judge: Floats, judge_alone: Floats) -> dict[str, Any]:
    """The share of prompts that people would call a win, from wins (1) and all else (0), of the same arrays as `ppi`.

    `sensitivity` and `specificity` are the judge's against the people. Without ends, and with `why_not`, where the judge's
    verdict says too little of theirs.
    """
    wins, losses = judge[people > 0.5], judge[people <= 0.5]
    everything = np.concatenate([judge, judge_alone])
    if not len(wins) or not len(losses):
        return {**estimate(len(everything), None), "why_not": "people called all prompts the same"}
    z = normal_quantile()
    # pseudo-counts (Lang and Reiczigel): rates of exactly 0 or 1 in a small sample are not known to be so
    total = len(everything) + z**2
    rate = (float(everything.sum()) + z**2 / 2) / total
    sensitivity, specificity = (float(wins.sum()) + 1) / (len(wins) + 2), (float((1 - losses).sum()) + 1) / (len(losses) + 2)
    informed = sensitivity + specificity - 1
    rates = {"sensitivity": round(float(wins.mean()), 6), "specificity": round(float(1 - losses.mean()), 6)}
    if informed < LEAST_INFORMED:
        return {**estimate(len(everything), None), **rates, "why_not": "the judge's verdict does not depend on the people's"}
    # the value without pseudo-counts, which is the one that is published; they serve the interval alone
    plain = float(np.clip((float(everything.mean()) + rates["specificity"] - 1) / (sum(rates.values()) - 1 or math.nan), 0, 1))
    share = (rate + specificity - 1) / informed
    doubt_wins, doubt_losses = (
        sensitivity * (1 - sensitivity) / len(wins),
        specificity * (1 - specificity) / len(losses),
    )
    shift = 2 * z**2 * (share * doubt_wins - (1 - share) * doubt_losses)
    error = math.sqrt(rate * (1 - rate) / total + share**2 * doubt_wins + (1 - share) ** 2 * doubt_losses) / informed
    low, high = (float(np.clip(share + shift + sign * z * error, 0, 1)) for sign in (-1, 1))
    return {**estimate(len(everything), plain, low, high), **rates, "why_not": None}


def win_rates(judge: Points, people: Points) -> dict[str, Any]:
    """The judge's win rate, the people's, and the people's over all prompts as the judge lets it be guessed.

    `raw`, `people`, `ppi` are of points, a tie being half of one; `rogan_gladen` holds the shares of `win` and `lose`. `note`
    is the sentence that has to stand beside a rate that no person has voted on, else None.
    """
    both = [prompt for prompt in judge if prompt in people]
    rates: dict[str, Any] = {"raw": mean(list(judge.values())), "people": mean(list(people.values()))}
    if len(both) < FEWEST_VOTED:
        few = f"{len(both)} prompts have votes and the judge's verdict; a correction needs {FEWEST_VOTED}"
        return {**rates, "ppi": None, "rogan_gladen": None, "why_not": few, "note": None if people else JUDGE_ALONE}
    voted, judged = np.array([people[prompt] for prompt in both]), np.array([judge[prompt] for prompt in both])
    alone = np.array([points for prompt, points in judge.items() if prompt not in people], dtype=np.float64)
    sides = {
        "win": [np.where(x > 0.5, 1.0, 0.0) for x in (voted, judged, alone)],
        # wins and losses apart: a tie is neither, and the two corrected shares need not add up to one
        "lose": [np.where(x < 0.5, 1.0, 0.0) for x in (voted, judged, alone)],
    }
    corrected = {side: rogan_gladen(*arrays) for side, arrays in sides.items()}
    return {**rates, "ppi": ppi(voted, judged, alone), "rogan_gladen": corrected, "why_not": None, "note": None}
