"""Judges made of chance, whose flaws are known because they were put in: no servers, arrays alone."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.evaluation.match_rules import Game, Match, Winner

Floats = NDArray[np.float64]
Figures = Mapping[str, Mapping[str, Any]]
SCALE = np.arange(6.0)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.25, 0.1)
MANY = 100_000
"""Rows from which the truth is read: its own error is a hundredth of what 200 rows have."""


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([20, seed])


def quality(random: np.random.Generator, rows: int) -> Floats:
    return random.choice(SCALE, size=rows, p=SHARES)


def read(random: np.random.Generator, true: Floats, noise: float = 0.8, bias: Floats | float = 0.0) -> Floats:
    """How a judge scores rows of true quality, on the scale."""
    return np.clip(np.round(true + bias + random.normal(0, noise, len(true))), 0, 5)


def words(random: np.random.Generator, rows: int) -> Floats:
    return np.round(np.exp(random.normal(4, 0.8, rows))) + 1


def match(ab: Winner, ba: Winner, number: int = 0) -> Match:
    return Match(f"p{number}", "toys", None, None, None, Game(ab, None, None), Game(ba, None, None), None, None)


def games(random: np.random.Generator, pairs: int, first: float) -> list[Match]:
    """A judge that takes whatever stands first in a share of the games, says tie in a tenth, and else who is better."""

    def said(better: Winner, shown_first: Winner) -> Winner:
        if random.random() < 0.1:
            return "tie"
        return shown_first if random.random() < first else better

    sides: tuple[Winner, Winner] = ("a", "b")
    better = random.integers(0, 2, pairs)
    return [match(said(sides[b], "a"), said(sides[b], "b"), number) for number, b in enumerate(better)]


def uncovered(make: Callable[[np.random.Generator, int], Figures], rows: int, truth: Mapping[str, float]) -> dict[str, int]:
    """For each figure in how many of 100 seeds its interval misses the truth."""
    missed = dict.fromkeys(truth, 0)
    for seed in range(100):
        figures = make(rng(seed), rows)
        for name, true in truth.items():
            figure = figures[name]
            missed[name] += not (figure["low"] is not None and figure["low"] <= true <= figure["high"])
    return missed


def true_values(make: Callable[[np.random.Generator, int], Figures], rows: int = MANY) -> dict[str, float]:
    return {name: figure["value"] for name, figure in make(rng(12345), rows).items()}
