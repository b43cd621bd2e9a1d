"""Selection policies: exact, deterministic, independent of the order of reading."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.config import Arm
from alpagasus_ray.errors import UsageError
from alpagasus_ray.selection.policies import Choice, Columns, choose

SCORES = st.lists(st.sampled_from([0.0, 2.5, 4.0, 4.5, 5.0, float("nan")]), min_size=1, max_size=60)


def _columns(scores: list[float], expected: list[float] | None = None, category: list[str] | None = None) -> Columns:
    count = len(scores)
    return Columns(
        ids=[f"x:{row:05d}" for row in range(count)],
        score=np.array(scores),
        expected=np.array(expected or [np.nan] * count),
        length=np.arange(count) % 7,
        category=category or [""] * count,
    )


def _kept(choice: Choice) -> list[int]:
    return np.flatnonzero(choice.kept).tolist()


@given(SCORES, st.sampled_from([0.0, 2.5, 4.5, 5.0]))
def test_threshold_keeps_exactly_the_rows_at_or_above_it(scores: list[float], tau: float) -> None:
    choice = choose(Arm(name="a", policy="threshold", threshold=tau), _columns(scores), None)
    assert _kept(choice) == [row for row, score in enumerate(scores) if score >= tau]


@given(SCORES, st.integers(0, 5), st.data())
def test_top_keeps_exactly_k_and_no_dropped_row_scores_higher(scores: list[float], seed: int, data: st.DataObject) -> None:
    scored = [score for score in scores if score == score]
    if not scored:
        return
    k = data.draw(st.integers(1, len(scored)))
    kept = _kept(choose(Arm(name="a", policy="top", k=k, seed=seed), _columns(scores), None))
    assert len(kept) == k
    dropped = [scores[row] for row in range(len(scores)) if row not in kept and scores[row] == scores[row]]
    assert not dropped or max(dropped) <= min(scores[row] for row in kept)


@pytest.mark.parametrize("policy", ["top", "random", "longest", "lowest"])
def test_the_same_examples_are_chosen_in_any_order_of_reading(policy: str) -> None:
    columns = _columns([4.0, 4.5, 4.5, 3.0, 4.5, 4.0, 4.5, 2.0] * 5)
    arm = Arm(name="a", policy=policy, k=11, seed=3)
    shuffled = np.random.default_rng(0).permutation(len(columns.ids))
    other = Columns([columns.ids[i] for i in shuffled], *(column[shuffled] for column in columns[1:4]), columns.category)
    first = {columns.ids[row] for row in _kept(choose(arm, columns, None))}
    assert {other.ids[row] for row in _kept(choose(arm, other, None))} == first


def test_ties_go_by_expected_score_before_the_hash() -> None:
    columns = _columns([4.0] * 6, expected=[3.9, 4.1, 4.0, 4.3, 3.8, 4.2])
    assert _kept(choose(Arm(name="a", policy="top", k=3), columns, None)) == [1, 3, 5]


@pytest.mark.parametrize("policy", ["top", "random"])
def test_another_seed_decides_ties_and_draws_otherwise(policy: str) -> None:
    columns = _columns([4.0] * 200)
    drawn = [_kept(choose(Arm(name="a", policy=policy, k=50, seed=seed), columns, None)) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_seeded_draws_are_the_same_on_every_machine() -> None:
    """The very rows: a change here changes everybody's published subsets."""
    assert _kept(choose(Arm(name="a", policy="random", k=5), _columns([1.0] * 100), None)) == RANDOM_5_OF_100


RANDOM_5_OF_100 = [5, 9, 21, 29, 98]


@pytest.mark.parametrize("policy", ["random", "longest", "lowest"])
def test_controls_take_the_size_of_the_leading_arm(policy: str) -> None:
    assert choose(Arm(name="c", policy=policy), _columns([4.0] * 9), 4).kept.sum() == 4


def test_longest_and_lowest_keep_what_their_names_say() -> None:
    columns = _columns([float(row % 5) for row in range(14)])
    assert set(columns.length[_kept(choose(Arm(name="c", policy="longest", k=4), columns, None))]) == {5, 6}
    assert set(columns.score[_kept(choose(Arm(name="c", policy="lowest", k=3), columns, None))]) == {0.0}


def test_full_keeps_even_what_has_no_score() -> None:
    assert choose(Arm(name="f", policy="full"), _columns([np.nan, 3.0]), None).kept.all()


def test_floors_are_met_from_the_best_of_the_category_and_count_within_k() -> None:
    columns = _columns([5.0] * 8 + [1.0, 2.0, 3.0], category=["writing"] * 8 + ["coding"] * 3)
    top = choose(Arm(name="a", policy="top", k=6, floors={"coding": 2}), columns, None)
    assert [row for row in _kept(top) if row >= 8] == [9, 10]
    assert top.kept.sum() == 6
    cut = choose(Arm(name="a", policy="threshold", threshold=4.5, floors={"coding": 1}), columns, None)
    assert _kept(cut) == [*range(8), 10]


def test_an_unknown_category_in_floors_is_told_which_there_are() -> None:
    with pytest.raises(UsageError, match="coding, writing"):
        choose(Arm(name="a", policy="top", k=1, floors={"code": 1}), _columns([1.0, 2.0], category=["coding", "writing"]), None)


@pytest.mark.parametrize(("policy", "told"), [("top", "only 2"), ("lowest", "only 2"), ("random", "only 3")])
def test_more_than_there_is_cannot_be_asked_for(policy: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        choose(Arm(name="a", policy=policy, k=9), _columns([1.0, 2.0, np.nan]), None)


def test_a_control_without_size_or_leader_is_refused() -> None:
    with pytest.raises(UsageError, match="no `k`"):
        choose(Arm(name="c", policy="random"), _columns([1.0]), None)
