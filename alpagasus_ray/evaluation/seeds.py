"""One model against several of one kind, which differ by their seed alone: told as one comparison. Pure.

A prompt is one observation however many seeds there are: the interval draws prompts anew, each with all its games, and
the exact test counts prompts. How far the seeds lie apart is told by the range of their winning scores; three seeds have no
interval.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.evaluation.intervals import Interval, interval, rounded, sign_test, tails
from alpagasus_ray.evaluation.match_rules import Match, Outcome, Rule, decide

POINTS: dict[Outcome, int] = {"win": 1, "tie": 0, "lose": -1}
DRAWS_AT_ONCE = 500
"""Draws of the bootstrap held in memory together."""

Floats = NDArray[np.float64]


def combined(runs: Sequence[Sequence[Match]], rule: Rule, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """What the comparisons with each of the seeds say together, from a's side.

    `prompts` are those of the test sets; `comparisons` one for each prompt and seed, of which `judged` have a verdict and
    `win`, `tie`, `lose` are counted. `winning_score` is the mean over the seeds, with the interval of a percentile bootstrap by
    prompt; `least` and `most` are those of single seeds. `sign_test_p` is the two-sided exact p value of the prompts that a
    wins more often than it loses against those that it loses more often.
    """
    signs, known = _table(runs, rule)
    judged = int(known.sum())
    counts: dict[str, int] = {name: int((known & (signs == points)).sum()) for name, points in POINTS.items()}
    ahead = signs.sum(axis=1)
    each = _score(signs.sum(axis=0), known.sum(axis=0).astype(np.float64))
    # as in `intervals.scores`: where all went one way no draw can differ, and a width of 0 would look like certainty
    is_mixed = max(counts.values()) < judged
    score = _mean(each, *(_ends(signs, known, resamples, seed) if is_mixed else ()))
    half = [None if end is None else end / 2 for end in (score["value"], score["low"], score["high"])]
    return {
        "prompts": len(signs),
        "seeds": len(runs),
        "comparisons": int(known.size),
        "judged": judged,
        **counts,
        "no_verdict": int(known.size) - judged,
        "winning_score": score,
        "win_rate": interval(*half),
        "least": rounded(np.nanmin(each)) if judged else None,
        "most": rounded(np.nanmax(each)) if judged else None,
        "resamples": resamples,
        "sign_test_p": sign_test(int((ahead > 0).sum()), int((ahead < 0).sum())),
    }


def _table(runs: Sequence[Sequence[Match]], rule: Rule) -> tuple[Floats, NDArray[np.bool_]]:
    """Points of a for each prompt and seed (n, k), 0 where there is no verdict, and where there is one (n, k)."""
    prompts = sorted({(match.test_set, match.prompt_id) for run in runs for match in run})
    row = {key: number for number, key in enumerate(prompts)}
    signs = np.zeros((len(prompts), len(runs)))
    known = np.zeros(signs.shape, dtype=np.bool_)
    for column, run in enumerate(runs):
        for match in run:
            outcome = decide(rule, match)
            if outcome is not None:
                at = row[match.test_set, match.prompt_id], column
                signs[at], known[at] = POINTS[outcome], True
    return signs, known


def _score(ahead: Floats, judged: Floats) -> Floats:
    """(W - L) / N + 1 of each; NaN where nothing is judged."""
    return np.asarray(np.divide(ahead, judged, out=np.full(ahead.shape, np.nan), where=judged > 0) + 1)


def _mean(each: Floats, low: float | None = None, high: float | None = None) -> Interval:
    known = each[~np.isnan(each)]
    return interval(float(known.mean()), low, high) if len(known) else interval(None)


def _ends(signs: Floats, known: NDArray[np.bool_], resamples: int, seed: int) -> tuple[float, float]:
    generator, prompts = np.random.default_rng(seed), len(signs)
    drawn = []
    for start in range(0, resamples, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, resamples - start)
        # a prompt is drawn with the games of all its seeds, which are not independent
        weights = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=size)
        scores = _score(weights @ signs, (weights @ known).astype(np.float64))
        # a seed of which no judged prompt was drawn has no score in that draw, and the mean is over the others
        drawn.append(np.nanmean(scores[~np.isnan(scores).all(axis=1)], axis=1))
    low, high = np.quantile(np.concatenate(drawn), tails())
    return float(low), float(high)
