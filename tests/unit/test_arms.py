"""How trainings compare: every number beside the largest arm's, and null where nobody knows."""

from typing import Any

import pytest

from alpagasus_ray.reporting.training_data import COMPARED, MEASURES, comparison


def took(examples: int, **changes: Any) -> dict[str, Any]:
    """What a training on so many examples took, as its manifest tells it."""
    plain = dict.fromkeys(MEASURES)
    found = {"examples": examples, "steps": examples // 40, "tokens": examples * 500, "minutes": 10 + examples / 100}
    return plain | found | {"training_minutes": examples / 100, "dollars": examples / 1000} | changes


def times(trainings: dict[str, dict[str, Any]], arm: str) -> dict[str, float | None]:
    found: dict[str, float | None]
    (found,) = (entry["times_less_than_largest"] for entry in comparison(trainings)["arms"] if entry["arm"] == arm)
    return found


def test_ratios_are_how_many_times_as_much_the_largest_arm_took() -> None:
    found = times({"selected": took(9229, minutes=14.0), "full": took(52_002, minutes=80.0)}, "selected")
    assert found["examples"] == pytest.approx(52_002 / 9229)
    assert found["minutes"] == pytest.approx(80 / 14)  # the paper's 5.7 times
    assert set(found) == set(COMPARED)


def test_the_largest_arm_is_that_of_most_examples_whatever_it_took() -> None:
    trainings = {"long": took(1000, steps=10_000, minutes=900.0), "full": took(5000, minutes=50.0), "small": took(10)}
    assert comparison(trainings)["largest"] == "full"
    assert times(trainings, "long")["minutes"] == pytest.approx(50 / 900)


def test_the_largest_arm_takes_as_much_as_itself() -> None:
    assert set(times({"selected": took(10), "full": took(500)}, "full").values()) == {1.0}


def test_a_single_arm_is_its_own_largest() -> None:
    found = comparison({"only": took(100)})
    assert found["largest"] == "only"
    assert [entry["arm"] for entry in found["arms"]] == ["only"]
    assert set(found["arms"][0]["times_less_than_largest"].values()) == {1.0}


@pytest.mark.parametrize("unknown", [["selected"], ["full"], ["selected", "full"]])
def test_what_nobody_knows_of_either_arm_has_no_ratio(unknown: list[str]) -> None:
    trainings = {"selected": took(10), "full": took(50)}
    for arm in unknown:
        trainings[arm]["dollars"] = None
    assert times(trainings, "selected")["dollars"] is None
    assert times(trainings, "selected")["tokens"] == 5.0


def test_what_took_nothing_has_no_ratio() -> None:
    assert times({"selected": took(10, training_minutes=0.0), "full": took(50)}, "selected")["training_minutes"] is None


def test_every_arm_is_told_in_the_order_given_with_all_that_is_compared() -> None:
    found = comparison({name: took(size, device="CPU") for name, size in (("b", 3), ("a", 2), ("c", 9))})
    assert [entry["arm"] for entry in found["arms"]] == ["b", "a", "c"]
    for entry in found["arms"]:
        assert set(entry) == {"arm", "times_less_than_largest", "heldout", *MEASURES}
        assert entry["device"] == "CPU"


def test_the_held_out_loss_is_told_and_null_where_none_was_measured() -> None:
    measured = {"loss": 2.5, "examples": 96, "label_tokens": 900, "in_arm": 0, "left_out": 0}
    found = comparison({"selected": took(10, heldout=measured), "full": took(50, heldout=None), "older": took(5)})
    assert [entry["heldout"] for entry in found["arms"]] == [measured, None, None]


def test_without_trainings_there_is_nothing_to_compare() -> None:
    assert comparison({}) == {"largest": None, "arms": []}
