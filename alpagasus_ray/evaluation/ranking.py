"""One scale for several models from their pairwise outcomes: Bradley-Terry ratings. Pure; knows nothing of judges or files.

A model with rating r beats one with rating s with probability 1 / (1 + 10 ** ((s - r) / 400)), as in chess. The ratings are
the most likely ones given all outcomes, a tie counting half a win for each (as FastChat counts it for the Chatbot Arena,
arXiv 2403.04132). Only models that have met, directly or through others, are on one scale: each such component has the mean
1000, and ratings of two components cannot be compared.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.evaluation.intervals import rounded, tails
from alpagasus_ray.evaluation.length_control import POINTS
from alpagasus_ray.evaluation.match_rules import Outcome

ELO = 400 / np.log(10)
"""Elo points of one unit on the logit scale."""
MEAN = 1000
WEAK = 10.0
"""Inverse strength of the ridge where one is needed: a prior of sqrt(10) logits, about 550 Elo points, on each rating."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Result(NamedTuple):
    """One prompt's outcome between two models, from a's side."""

    model_a: str
    model_b: str
    outcome: Outcome
    prompt_id: str
    """Tells prompts apart, those of different test sets too."""


class Tally(NamedTuple):
    """Points by who met whom: k directed pairs, n prompts."""

    pairs: Indices
    """(k, 2): the model that scored and the other one, as numbers."""
    points: Floats
    """(n, k)."""


def bradley_terry(results: Iterable[Result], seed: int = 0, resamples: int = 200) -> dict[str, Any]:
    """Ratings with 95 percent percentile intervals of a bootstrap by prompt, best first, component by component.

    A model that won, or lost, everything against the others has no finite rating: there a weak ridge, a prior, pulls the
    ratings of its component together, and `ridge` is true. Such ratings have no interval (`low` and `high` are None), as it
    would be that of the prior; nor have those of a component that needs the prior in more draws than lie beyond one end of
    the interval. `no_interval` names the models without one.
    """
    results = list(results)
    models = sorted({name for result in results for name in (result.model_a, result.model_b)})
    tally = _tally(results, models)
    component = _components(tally.pairs, len(models), "weak")
    ratings, needed = _ratings(tally, tally.points.sum(axis=0), component)
    low, high = _ends(tally, component, resamples, seed) if models else (ratings, ratings)
    bare = needed | np.isnan(low)
    met = np.array([sum(name in result[:2] for result in results) for name in models], dtype=int)
    names = [[models[i] for i in np.flatnonzero(component == c)] for c in range(component.max(initial=-1) + 1)]
    order = np.lexsort((-ratings, component))
    return {
        "models": [
            {
                "model": models[i],
                "component": int(component[i]),
                "rating": rounded(ratings[i]),
                "low": None if bare[i] else rounded(low[i]),
                "high": None if bare[i] else rounded(high[i]),
                "results": int(met[i]),
            }
            for i in order
        ],
        "components": names,
        "connected": len(names) <= 1,
        "ridge": bool(needed.any()),
        "no_interval": [models[i] for i in order if bare[i]],
        "prompts": len(tally.points),
        "resamples": resamples,
    }


def _tally(results: Sequence[Result], models: Sequence[str]) -> Tally:
    number = {name: i for i, name in enumerate(models)}
    row = {prompt: i for i, prompt in enumerate(sorted({result.prompt_id for result in results}))}
    met = {tuple(sorted(result[:2])) for result in results}
    column = {pair: i for i, pair in enumerate(sorted(met | {(b, a) for a, b in met}))}
    points = np.zeros((len(row), len(column)))
    for a, b, outcome, prompt in results:
        points[row[prompt], column[a, b]] += POINTS[outcome]
        points[row[prompt], column[b, a]] += 1 - POINTS[outcome]
    pairs = np.array([[number[a], number[b]] for a, b in column], dtype=np.int64).reshape(-1, 2)
    return Tally(pairs, points)


def _ends(tally: Tally, component: Indices, resamples: int, seed: int) -> Floats:
    """Both ends of the interval of each rating, (2, models); NaN where the prior would make them."""
    from threadpoolctl import threadpool_limits

    prompts = len(tally.points)
    # prompts are drawn and not results: those of one prompt lean together, and would make intervals too narrow
    weights = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    with threadpool_limits(1):  # threads cost a fit this small many times its own time
        draws = [_ratings(tally, drawn, component) for drawn in weights @ tally.points]
    ends = np.quantile([ratings for ratings, _ in draws], tails(), axis=0)
    by_prior = np.mean([needed for _, needed in draws], axis=0)
    return np.where(by_prior > tails()[0], np.nan, ends)


def _ratings(tally: Tally, points: Floats, component: Indices) -> tuple[Floats, Flags]:
    """Elo ratings (m,) from the points of each directed pair (k,), and whose (m,) component needed the ridge."""
    ratings = np.full(len(component), float(MEAN))
    needed = np.zeros(len(component), dtype=np.bool_)
    scored = _components(tally.pairs[points > 0], len(component), "strong")
    for c in range(component.max(initial=-1) + 1):
        members = np.flatnonzero(component == c)
        # Ford (1957): finite ratings need a chain of wins from every model to every other
        separated = len(set(scored[members])) > 1
        here = np.isin(tally.pairs[:, 0], members) & (points > 0)
        if here.any():  # a draw of the bootstrap may miss a whole component
            pairs = np.eye(len(component))[:, members][tally.pairs[here]]
            strength = _fit(pairs[:, 0] - pairs[:, 1], points[here], WEAK if separated else np.inf)
            # outcomes tell differences alone; the mean of a component is set
            ratings[members] += ELO * (strength - strength.mean())
        needed[members] = separated
    return ratings, needed


def _fit(design: Floats, points: Floats, weakness: float) -> Floats:
    """Most likely strengths in logits (m,), from rows (k, m) with 1 for who scored the points (k,) and -1 for the other."""
    from sklearn.linear_model import LogisticRegression

    # each result as seen from both sides: the classifier wants examples of both classes
    both = np.concatenate([design, -design]), np.repeat([1, 0], len(points)), np.tile(points, 2) / 2
    model = LogisticRegression(fit_intercept=False, C=weakness, tol=1e-8, max_iter=1000).fit(*both)
    return np.asarray(model.coef_[0])


def _components(pairs: Indices, models: int, connection: str) -> Indices:
    """Number of the component that each model (m,) is in, for directed pairs (k, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not models:
        return np.empty(0, dtype=np.int64)
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(models, models))
    return np.asarray(connected_components(graph, directed=True, connection=connection)[1], dtype=np.int64)
