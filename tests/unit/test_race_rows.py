"""What a race trains on and measures on: equal tokens, nothing held out, random arms drawn anew."""

import numpy as np
import pytest

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation import race_table
from alpagasus_ray.evaluation.race_table import ArmResult, HeldSet
from alpagasus_ray.reporting.terminal_race import agreement_lines
from alpagasus_ray.selection.apart import Text, too_near
from alpagasus_ray.training.token_order import TokenOrder

LONG = "the quick brown fox jumps over the lazy dog while seven wise wizards watch from the old stone wall by the river"


@pytest.mark.parametrize("longest", [20, 90])
def test_arms_see_equally_many_tokens_in_equally_many_updates_however_long_their_examples(longest: int) -> None:
    lengths = np.random.default_rng(longest).integers(5, longest, 57)
    order = TokenOrder(lengths, tokens=7 * int(lengths.sum()) // 2, steps=20, seed=3)
    batches = [order.batch(step) for step in range(order.steps)]
    seen = np.concatenate(batches)
    assert order.tokens <= lengths[seen].sum() < order.tokens + longest
    assert all(abs(int(lengths[batch].sum()) - order.tokens / order.steps) < longest for batch in batches)
    assert {3, 4} == set(np.bincount(seen).tolist()), "three and a half epochs"
    assert order.seen(order.steps) == lengths[seen].sum()
    assert order.epoch(order.steps - 1) == len(seen) / len(lengths)
    other = TokenOrder(lengths, order.tokens, order.steps, seed=4)
    assert other.batch(0).tolist() != batches[0].tolist()


def test_updates_smaller_than_an_example_are_refused_with_the_most_that_there_can_be() -> None:
    with pytest.raises(UsageError, match=r"at most 3\)"):
        TokenOrder(np.array([10, 30]), tokens=100, steps=4, seed=0)


def test_rows_that_are_held_out_or_nearly_so_are_found_and_others_are_not() -> None:
    held = [Text("Name a river.", f"Name a river. {LONG}")]
    rows = [
        Text("Name a  river.", "Name a river. Another answer"),
        Text("Name one river.", f"Name one river. {LONG}"),
        Text("Name a lake.", "Name a lake. Como"),
    ]
    assert too_near(held, rows, 0.6) == [0, 1]
    assert too_near(held, rows, 1.0) == [0]
    assert too_near([], rows, 0.8) == []


def _arm(policy: str, gain: float, seeds: int = 3, points: int = 3) -> ArmResult:
    generator = np.random.default_rng([seeds, *policy.encode()])
    base = np.random.default_rng(0).gamma(4, 0.5, 60)
    losses = base + generator.normal(0, 0.01, (seeds, 60)) - gain
    curve = np.linspace(float(base.mean()) + 1, float(losses.mean()), points)
    facts = {"dropped": False, "choosing_usd": 0.0, "choosing_seconds": 0.0, "ratings": None}
    return ArmResult(policy, 100, 0, {"heldout": losses}, curve, np.linspace(0, 1000, points), facts)


SETS = [HeldSet("heldout", 60, 0, ["a"] * 30 + ["b"] * 28 + ["c"] * 2)]


def test_an_arm_that_is_better_is_named_with_its_gain_and_the_tokens_that_random_would_need() -> None:
    arms = {"best": _arm("top", 0.25), "random": _arm("random", 0), "long": _arm("longest", 0.1)}
    found = race_table.table(arms, SETS, matched=True)
    assert found["best"] == "best"
    assert found["beats_random"] == ["best", "long"]
    against = found["arms"][0]["against"]
    assert against["random"]["word"] == against["longest"]["word"] == "better"
    assert against["random"]["times_the_tokens"] == pytest.approx(1.25, abs=0.01)
    assert [one["category"] for one in against["random"]["categories"]] == ["a", "b"], "two rows are no category"
    assert found["answer"].startswith("best beats random by 0.2")
    assert "random needs 1.2 times the tokens for the same loss; longest is beaten too." in found["answer"]


def test_that_nothing_beats_random_is_an_answer_like_any_other() -> None:
    arms = {"best": _arm("top", 0.0001), "random": _arm("random", 0), "worse": _arm("lowest", -0.3)}
    found = race_table.table(arms, SETS, matched=True)
    assert found["answer"] == "Nothing beats random here: of 2 other arms none has a held-out loss that is surely lower."
    assert {entry["arm"]: entry["against"].get("random", {}).get("word") for entry in found["arms"]} == {
        "best": "no difference shown",
        "random": None,
        "worse": "worse",
    }


def test_one_seed_concludes_nothing() -> None:
    found = race_table.table({"best": _arm("top", 0.5, 1), "random": _arm("random", 0, 1)}, SETS, matched=True)
    assert found["beats_random"] == []
    assert found["answer"] == "One seed tells no arm from another: train at least three."


def test_random_and_longest_are_trained_to_the_end_whatever_comes_out() -> None:
    policies = {"best": "top", "random": "random", "again": "random", "long": "longest", "all": "full"}
    assert race_table.controls(policies) == {"random": "random", "longest": "long", "full": "all"}
    assert race_table.protected(policies) == ["random", "long"]


def test_between_two_points_of_a_curve_nothing_is_told_of_tokens() -> None:
    arms = {"best": _arm("top", 0.25, points=2), "random": _arm("random", 0, points=2)}
    found = race_table.table(arms, SETS, matched=True)
    assert found["arms"][0]["against"]["random"]["times_the_tokens"] is None
    assert "times the tokens" not in found["answer"]


def test_two_models_are_held_against_each_other_on_the_arms_whose_rows_both_raced() -> None:
    arms = {"best": _arm("top", 0.25), "random": _arm("random", 0), "long": _arm("longest", 0.1), "low": _arm("lowest", -0.2)}
    small = race_table.table(arms, SETS, matched=True) | {"model": "small", "subsets": dict.fromkeys(arms, "a")}
    assert race_table.agreement(small, small | {"model": "large"})["tau"] == 1
    again = small | {"model": "large", "subsets": {"best": "b", "random": "a", "long": "a"}}
    assert race_table.agreement(small, again) == {"model": "large", "arms": 2, "tau": None, "p": None}
    assert race_table.agreement(small, small | {"decides": "another set"})["arms"] == 0
    told = small | {"other_models": [race_table.agreement(small, small | {"model": "large"})]}
    (line,) = agreement_lines(told)
    assert line.startswith("small and large rank 4 arms with an agreement")
    assert list(agreement_lines(small)) == []
