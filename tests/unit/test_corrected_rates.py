"""Win rates corrected by votes: they hold the people's rate where the judge's own interval does not."""

import numpy as np
import pytest

import made_judges as made
from alpagasus_ray.evaluation.corrected_rates import JUDGE_ALONE, ppi, rogan_gladen, win_rates
from alpagasus_ray.evaluation.estimates import mean

WIN = 0.4
"""The share of prompts that people call a win."""


def _judged(random: np.random.Generator, prompts: int, sensitivity: float = 0.8, specificity: float = 0.7) -> np.ndarray:
    """People's and a judge's wins, (2, prompts)."""
    people = random.random(prompts) < WIN
    judge = np.where(people, random.random(prompts) < sensitivity, random.random(prompts) >= specificity)
    return np.array([people, judge], dtype=float)


def test_both_corrections_hold_the_peoples_rate_in_93_of_100_seeds_and_the_judge_alone_does_not() -> None:
    held = {"ppi": 0, "rogan_gladen": 0, "raw": 0}
    for seed in range(1000):
        people, judge = _judged(made.rng(seed), 600)
        arrays = people[:80], judge[:80], judge[80:]
        for name, figure in (("ppi", ppi(*arrays)), ("rogan_gladen", rogan_gladen(*arrays)), ("raw", mean(judge))):
            held[name] += figure["low"] <= WIN <= figure["high"]
    assert held["ppi"] >= 10 * 93
    assert held["rogan_gladen"] >= 10 * 93
    assert held["raw"] < 10 * 50


def test_a_good_judge_narrows_the_peoples_interval_and_a_useless_one_leaves_it() -> None:
    random = made.rng(0)
    people, judge = _judged(random, 2_000, 0.95, 0.95)
    alone = mean(people[:100])
    helped = ppi(people[:100], judge[:100], judge[100:])
    assert helped["high"] - helped["low"] < 0.7 * (alone["high"] - alone["low"])
    assert helped["weight"] > 0.6
    noise = random.choice([0.0, 1.0], 2_000)
    useless = ppi(people[:100], noise[:100], noise[100:])
    assert useless["weight"] < 0.25
    assert useless["high"] - useless["low"] < 1.05 * (alone["high"] - alone["low"])


def test_rogan_gladen_is_what_the_hand_works_out() -> None:
    # sensitivity 8/10, specificity 7/10, rate 11/20 and in all 0.5: (0.5 + 0.7 - 1) / (0.8 + 0.7 - 1) = 0.4
    people = np.array([1.0] * 10 + [0.0] * 10)
    judge = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 3 + [0.0] * 7)
    rest = np.array([1.0] * 9 + [0.0] * 11)
    figure = rogan_gladen(people, judge, rest)
    assert figure["value"] == pytest.approx(0.4)
    assert (figure["sensitivity"], figure["specificity"]) == (0.8, 0.7)
    assert figure["low"] < 0.4 < figure["high"]


def test_a_judge_whose_verdict_says_nothing_is_not_inverted() -> None:
    people = np.array([1.0, 0.0] * 50)
    figure = rogan_gladen(people, np.ones(100), np.ones(100))
    assert figure["value"] is None
    assert "does not depend" in figure["why_not"]


def test_rates_without_votes_carry_the_sentence_and_no_correction() -> None:
    judge = {f"p{i}": float(i % 2) for i in range(50)}
    alone = win_rates(judge, {})
    assert alone["note"] == JUDGE_ALONE
    assert alone["ppi"] is None
    few = win_rates(judge, {"p1": 1.0})
    assert few["note"] is None
    assert "needs 10" in few["why_not"]
    both = win_rates(judge, {f"p{i}": (i % 2) * 0.5 + 0.25 for i in range(20)})
    assert both["raw"]["n"] == 50
    assert both["people"]["n"] == 20
    assert both["ppi"]["low"] is not None
    assert set(both["rogan_gladen"]) == {"win", "lose"}
