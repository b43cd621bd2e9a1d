"""What a race may say: the statistics hold what they promise, by simulation."""

import numpy as np
import pytest
from numpy.typing import NDArray

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation import race
from alpagasus_ray.evaluation.intervals import holm
from alpagasus_ray.evaluation.race import Components

Floats = NDArray[np.float64]
RACES, ROWS, DRAWS = 1_000, 120, 1_000
NOISE = 0.0125
"""Standard error of a share of 80% of so many races; of 5% it is 0.007."""
SPREADS = {
    "seeds": Components(seeds=0.02, rows=0.02, rest=0.02),
    "rows": Components(seeds=0.001, rows=0.2, rest=0.05),
    "both": Components(seeds=0.01, rows=0.11, rest=0.1),
}
"""What most of the uncertainty comes from."""


def _races(spread: Components, seeds: int, gain: float = 0.0, skew: bool = False) -> list[tuple[Floats, Floats]]:
    """Arms (seeds, rows) and their controls of many races, which differ by `gain` in truth."""
    generator = np.random.default_rng(seeds)
    found = []
    for _ in range(RACES):
        control = generator.gamma(4, 0.5, size=(1, ROWS)) + generator.normal(0, 0.1, size=(seeds, 1))
        of_rows = generator.exponential(size=(1, ROWS)) - 1 if skew else generator.normal(size=(1, ROWS))
        moved = generator.normal(size=(seeds, 1)) * spread.seeds + of_rows * spread.rows
        found.append((control + moved + generator.normal(size=(seeds, ROWS)) * spread.rest - gain, control))
    return found


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
def test_intervals_hold_the_truth_as_often_as_they_say(spread: Components, seeds: int) -> None:
    for skew in (False, True):
        found = [race.difference(arm, control, DRAWS) for arm, control in _races(spread, seeds, gain=0.01, skew=skew)]
        assert np.mean([one.low <= -0.01 <= one.high for one in found if one.low is not None and one.high is not None]) >= 0.93


def test_a_plain_bootstrap_over_rows_and_three_seeds_would_not() -> None:
    generator, covered = np.random.default_rng(0), []
    for arm, control in _races(SPREADS["seeds"], 3)[:200]:
        rows, seeds = generator.integers(0, ROWS, (200, ROWS)), generator.integers(0, 3, (200, 3))
        paired = arm - control
        drawn = np.array([paired[s][:, r].mean() for s, r in zip(seeds, rows, strict=True)])
        low, high = np.quantile(drawn, [0.025, 0.975])
        covered.append(low <= 0 <= high)
    assert np.mean(covered) < 0.88


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
def test_an_arm_that_is_random_is_rarely_called_different(spread: Components, seeds: int) -> None:
    p_values = [race.difference(arm, control, DRAWS).p for arm, control in _races(spread, seeds)]
    assert np.mean([p is not None and p < 0.05 for p in p_values]) <= 0.05 + NOISE / 2


def test_among_five_arms_that_are_random_rarely_any_is_called_different() -> None:
    found = [race.difference(arm, control, DRAWS).p for arm, control in _races(SPREADS["both"], 5)]
    families = [holm(found[start : start + 5]) for start in range(0, RACES, 5)]
    assert np.mean([any(p is not None and p < 0.05 for p in family) for family in families]) <= 0.05


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
def test_a_gain_of_the_planned_size_is_found_as_often_as_planned(spread: Components, seeds: int) -> None:
    gain = race.smallest_gain(spread, seeds, ROWS)
    assert gain is not None
    found = [race.difference(arm, control, DRAWS) for arm, control in _races(spread, seeds, gain)]
    shown = float(np.mean([one.p is not None and one.p < 0.05 and one.value < 0 for one in found]))
    assert shown >= 0.8 - 2 * NOISE
    assert shown < 0.93, "a plan that asks for far more than is needed"


def test_a_pilot_tells_the_spread_that_there_is() -> None:
    spread = SPREADS["both"]
    found = np.array([race.components(arm, control) for arm, control in _races(spread, 5)])
    assert np.sqrt((found**2).mean(axis=0)) == pytest.approx(np.array(spread), rel=0.15)


def test_more_seeds_and_more_rows_show_smaller_gains() -> None:
    spread = SPREADS["both"]
    gains = [race.smallest_gain(spread, seeds, rows) for seeds, rows in [(3, 100), (5, 100), (5, 400)]]
    assert gains == sorted(gains, key=lambda gain: -(gain or 0))
    assert race.smallest_gain(spread, 1, 100) is None


def test_one_seed_gives_a_value_and_no_interval() -> None:
    assert race.difference(np.array([[1.0, 3.0]]), np.array([[2.0, 2.5]])) == (-0.25, None, None, None, 1, 2)


def test_arms_are_compared_on_the_seeds_that_both_have_and_on_the_same_rows() -> None:
    control = np.arange(12.0).reshape(4, 3)
    assert race.difference(control[:2] - 1, control).seeds == 2
    assert race.difference(control[:2] - 1, control).value == -1
    with pytest.raises(UsageError, match="3 and 2 rows"):
        race.difference(control, control[:, :2])


def test_only_arms_that_are_surely_worse_than_the_best_are_dropped_and_never_a_control() -> None:
    generator = np.random.default_rng(0)
    base = generator.gamma(4, 0.5, size=(1, ROWS))
    means = {"best": 0.0, "near": 0.001, "poor": 0.5, "random": 0.5, "longest": 0.4}
    losses = {arm: base + mean + generator.normal(0, 0.01, size=(3, ROWS)) for arm, mean in means.items()}
    assert race.left_behind(losses, ("random", "longest")) == ["poor"]
    assert race.left_behind({arm: loss[:2] for arm, loss in losses.items()}, ("random", "longest")) == []


def test_places_are_told_by_seed_also_of_an_arm_that_was_dropped() -> None:
    losses = {"a": np.array([[1.0], [3.0]]), "b": np.array([[2.0], [2.0]]), "c": np.array([[3.0]])}
    assert race.places(losses) == {"a": [1, 2], "b": [2, 1], "c": [3, None]}


def test_two_proxies_agree_where_they_rank_alike() -> None:
    small = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert race.rank_agreement(small, {"a": 2.0, "b": 3.0, "c": 5.0, "d": 9.0})["tau"] == 1
    assert race.rank_agreement(small, {"a": 9.0, "b": 5.0, "c": 3.0, "d": 2.0})["tau"] == -1
    assert race.rank_agreement(small, {"a": 1.0, "b": 1.0}) == {"arms": 2, "tau": None, "p": None}


def test_compute_is_matched_where_one_curve_reaches_the_end_of_the_other() -> None:
    tokens, control = np.array([0.0, 50.0, 100.0]), np.array([4.0, 3.0, 2.0])
    lower = np.array([4.0, 2.0, 1.5])
    assert race.matched_compute(tokens, lower, control) == pytest.approx(2.0)
    assert race.matched_compute(tokens, control, lower) == pytest.approx(0.5)
    assert race.matched_compute(tokens, np.array([2.0, 1.5, 1.0]), control) is None


def test_holm_leaves_out_what_has_no_p_value() -> None:
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([0.03, 0.02, 0.9]) == [0.06, 0.06, 0.9]
