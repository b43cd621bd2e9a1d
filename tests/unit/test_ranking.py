"""Bradley-Terry ratings: true strengths are found again, and what has no rating or no common scale is told."""

from typing import Any

import numpy as np
import pytest

from alpagasus_ray.evaluation.ranking import Result, bradley_terry


def _results(a: str, b: str, win: int, tie: int, lose: int) -> list[Result]:
    outcomes = ["win"] * win + ["tie"] * tie + ["lose"] * lose
    return [Result(a, b, outcome, f"p{i}") for i, outcome in enumerate(outcomes)]


def _ratings(ranked: dict[str, Any]) -> dict[str, float]:
    return {entry["model"]: entry["rating"] for entry in ranked["models"]}


def test_two_models_stand_as_far_apart_as_their_win_rate_says() -> None:
    ranked = bradley_terry(_results("x", "y", 60, 20, 20), resamples=50)
    ratings = _ratings(ranked)
    assert ratings["x"] - ratings["y"] == pytest.approx(400 * np.log10(70 / 30), abs=0.1)  # a tie is half a win
    assert ratings["x"] + ratings["y"] == pytest.approx(2000, abs=1e-3)
    assert ranked["connected"]
    assert not ranked["ridge"]


def test_strengths_that_games_were_drawn_from_are_found_again() -> None:
    rng, true = np.random.default_rng(0), {"w": 1150.0, "x": 1050.0, "y": 950.0, "z": 850.0}
    results = [
        Result(a, b, "win" if rng.random() < 1 / (1 + 10 ** ((true[b] - true[a]) / 400)) else "lose", f"p{i}")
        for i in range(600)
        for a, b in (("w", "x"), ("x", "y"), ("y", "z"), ("w", "z"))
    ]
    ranked = bradley_terry(results, resamples=50)
    assert [entry["model"] for entry in ranked["models"]] == list(true)
    for entry in ranked["models"]:
        assert entry["rating"] == pytest.approx(true[entry["model"]], abs=40)
        assert entry["low"] < entry["rating"] < entry["high"]


def test_who_is_named_first_and_in_which_order_results_come_does_not_matter() -> None:
    results = _results("x", "y", 6, 2, 3) + _results("y", "z", 5, 1, 4)
    flip = {"win": "lose", "tie": "tie", "lose": "win"}
    other = [Result(b, a, flip[outcome], prompt) for a, b, outcome, prompt in reversed(results)]
    assert bradley_terry(other, resamples=20) == bradley_terry(results, resamples=20)


def test_a_model_that_lost_everything_gets_a_finite_rating_and_the_ridge_is_told() -> None:
    ranked = bradley_terry(_results("x", "y", 30, 0, 0) + _results("x", "z", 10, 0, 10), resamples=20)
    ratings = _ratings(ranked)
    assert ranked["ridge"]
    assert ratings["y"] < ratings["z"] < ratings["x"] + 1
    assert ratings["x"] - ratings["y"] < 1500


def test_models_that_never_met_are_not_put_on_one_scale() -> None:
    ranked = bradley_terry(_results("x", "y", 6, 0, 3) + _results("u", "v", 5, 0, 5), resamples=20)
    assert ranked["components"] == [["u", "v"], ["x", "y"]]
    assert not ranked["connected"]
    assert _ratings(ranked)["u"] == pytest.approx(1000)


def test_without_results_there_are_no_ratings() -> None:
    assert bradley_terry([])["models"] == []


def _intervals(ranked: dict[str, Any]) -> dict[str, bool]:
    assert all((entry["low"] is None) == (entry["high"] is None) for entry in ranked["models"])
    return {entry["model"]: entry["low"] is not None for entry in ranked["models"]}


def test_a_rating_that_needed_the_prior_has_no_interval_and_others_keep_theirs() -> None:
    won = _results("x", "y", 30, 0, 0) + _results("x", "z", 10, 0, 10)
    apart = [result._replace(prompt_id=f"other {result.prompt_id}") for result in _results("u", "v", 12, 0, 9)]
    ranked = bradley_terry(won + apart, resamples=50)
    assert _intervals(ranked) == {"u": True, "v": True, "x": False, "y": False, "z": False}
    assert set(ranked["no_interval"]) == {"x", "y", "z"}


def test_where_the_draws_need_the_prior_there_is_no_interval_though_the_fit_is_free_of_it() -> None:
    ranked = bradley_terry(_results("x", "y", 29, 0, 1), resamples=200)
    assert not ranked["ridge"]
    assert _intervals(ranked) == {"x": False, "y": False}
    assert bradley_terry(_results("x", "y", 24, 0, 6), resamples=200)["no_interval"] == []
