"""The alternative annotator test: what the hand works out, and judges that are and are not as good as a person."""

import numpy as np
import pytest

import made_judges as made
from alpagasus_ray.evaluation.alternative_annotator import CROWD, alternative_annotator

ITEMS = 100


def _people(random: np.random.Generator, true: np.ndarray, noise: float) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(made.read(random, true, noise))) for name in "wxyz"}


def test_a_judge_as_good_as_the_best_person_may_stand_in_for_all() -> None:
    random = made.rng(0)
    true = made.quality(random, ITEMS)
    result = alternative_annotator(_people(random, true, 1.0), dict(enumerate(made.read(random, true, 0.3))), fit="near")
    assert result["passes"]
    assert result["omega"] == {"value": 1.0, "low": None, "high": None, "n": 4}
    assert result["rho"]["low"] > 0.5
    assert len(result["people"]) == 4


def test_a_judge_that_guesses_may_stand_in_for_nobody() -> None:
    random = made.rng(1)
    true = made.quality(random, ITEMS)
    result = alternative_annotator(_people(random, true, 0.5), dict(enumerate(random.choice(made.SCALE, ITEMS))), fit="near")
    assert result["passes"] is False
    assert result["omega"]["value"] == 0.0
    assert result["rho"]["value"] < 0.6


def test_shares_are_what_the_hand_works_out() -> None:
    # x and y always say a, z always b, and so does the judge: against the others x and y win half, z and the judge tie
    people = {name: dict.fromkeys(range(40), said) for name, said in zip("xyz", "aab", strict=True)}
    result = alternative_annotator(people, dict.fromkeys(range(40), "b"))
    kept = {one["voter"]: (one["judge_keeps"], one["person_keeps"], one["replaceable"]) for one in result["people"]}
    # for x the others say a and b: x and the judge fit one each; for z both say a: neither fits, both keep
    assert kept == {"x": (1.0, 1.0, True), "y": (1.0, 1.0, True), "z": (1.0, 1.0, True)}
    worse = alternative_annotator(people, dict.fromkeys(range(40), "tie"))
    assert [one["judge_keeps"] for one in worse["people"]] == [0.0, 0.0, 1.0]
    assert worse["omega"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert worse["passes"] is False


def test_a_smaller_epsilon_asks_more() -> None:
    random = made.rng(2)
    true = made.quality(random, ITEMS)
    people, judge = _people(random, true, 0.9), dict(enumerate(made.read(random, true, 1.0)))
    experts, crowd = (alternative_annotator(people, judge, "near", epsilon) for epsilon in (0.2, CROWD))
    assert all(one["p"] < other["p"] for one, other in zip(experts["people"], crowd["people"], strict=True))


def test_too_few_people_or_items_have_no_outcome() -> None:
    two = {name: dict.fromkeys(range(50), "a") for name in "xy"}
    result = alternative_annotator({**two, "z": {1: "a"}}, dict.fromkeys(range(50), "a"))
    assert result["passes"] is None
    assert result["left_out"] == ["z"]
    assert "2 people marked 30 items" in result["why_not"]


def test_judges_a_fifth_worse_pass_no_more_often_than_the_level_allows() -> None:
    """The hypothesis at its edge: each person keeps exactly epsilon more items than the judge."""
    passed = 0
    for seed in range(100):
        random = made.rng(seed)
        people = {name: dict.fromkeys(range(60), "a") for name in "xyz"}
        judge = {item: "a" if random.random() < 0.8 else "b" for item in range(60)}
        passed += bool(alternative_annotator(people, judge, epsilon=0.2)["passes"])
    assert passed <= 7
