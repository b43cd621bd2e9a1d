"""Budgets, shares and cuts of categories: exact, and refused with the way out where they cannot be held."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.errors import UsageError
from alpagasus_ray.selection.budgets import Budget, above_thresholds, by_shares, portions, rows_of_share, within

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(LENGTHS, st.integers(0, 300), st.integers(0, 40))
def test_a_budget_takes_the_longest_beginning_of_the_order_that_it_holds(lengths: list[int], most: int, rows: int) -> None:
    tokens = np.array(lengths)
    order = np.arange(len(lengths))[::-1]
    taken = within(order, tokens, Budget(rows, most))
    assert taken.tolist() == order[: len(taken)].tolist()
    assert tokens[taken].sum() <= most
    assert len(taken) <= rows
    if len(taken) < min(rows, len(order)):
        assert tokens[order[: len(taken) + 1]].sum() > most


@given(st.integers(0, 1000), st.lists(st.floats(0.01, 5), min_size=1, max_size=12))
def test_portions_add_up_and_none_is_off_by_one(total: int, weights: list[float]) -> None:
    parts = portions(total, weights)
    assert sum(parts) == total
    assert all(abs(part - total * weight / sum(weights)) < 1 + 1e-6 for part, weight in zip(parts, weights, strict=True))


def test_equal_remainders_go_to_the_earlier() -> None:
    assert portions(2, [1, 1, 1, 1]) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("share", "rows", "taken"), [(0.1, 52002, 5200), (0.5, 3, 2), (0.001, 10, 1), (1, 7, 7), (0, 7, 0), (0.5, 0, 0)]
)
def test_a_share_is_rounded_and_never_nothing(share: float, rows: int, taken: int) -> None:
    assert rows_of_share(share, rows) == taken


GROUPS = ["code"] * 10 + ["chat"] * 20 + ["rest", ""] * 5
ORDER = np.arange(40)[::-1]
TOKENS = np.full(40, 3)


def _groups(rows: np.ndarray) -> dict[str, int]:
    return {name: [GROUPS[row] for row in rows].count(name) for name in ("code", "chat", "rest", "")}


def test_each_group_has_its_share_and_the_others_what_is_left_best_first() -> None:
    rows = by_shares(ORDER, GROUPS, {"code": 0.5, "chat": 0.3}, TOKENS, Budget(rows=10))
    assert _groups(rows) == {"code": 5, "chat": 3, "rest": 1, "": 1}
    assert sorted(rows[:5]) == [5, 6, 7, 8, 9]


def test_shares_of_a_token_budget_are_counted_in_tokens() -> None:
    tokens = np.where(np.arange(40) < 10, 6, 3)
    rows = by_shares(ORDER, GROUPS, {"code": 0.5, "chat": 0.5}, tokens, Budget(tokens=60))
    assert _groups(rows) == {"code": 5, "chat": 10, "rest": 0, "": 0}


def test_of_shares_of_rows_and_of_tokens_the_one_reached_first_holds() -> None:
    rows = by_shares(ORDER, GROUPS, {"code": 0.5, "chat": 0.5}, TOKENS, Budget(rows=10, tokens=90))
    assert _groups(rows) == {"code": 5, "chat": 5, "rest": 0, "": 0}
    rows = by_shares(ORDER, GROUPS, {"code": 0.5, "chat": 0.5}, TOKENS, Budget(rows=20, tokens=24))
    assert _groups(rows) == {"code": 4, "chat": 4, "rest": 0, "": 0}
    with pytest.raises(UsageError, match=r"'code' 0\.5 of 90 tokens, which is 45, and there are 30; take at most 60 tokens"):
        by_shares(ORDER, GROUPS, {"code": 0.5, "chat": 0.5}, TOKENS, Budget(rows=30, tokens=90))


@pytest.mark.parametrize(
    ("shares", "budget", "message"),
    [
        ({"maths": 0.5}, Budget(rows=10), "names 'maths', which no row has; there are: chat, code, rest"),
        ({"code": 0.7, "chat": 0.7}, Budget(rows=10), "add up to 1.4"),
        (
            {"code": 0.5, "chat": 0.5},
            Budget(rows=30),
            r"'code' 0\.5 of 30 rows, which is 15, and there are 10; take at most 20 rows",
        ),
        ({"code": 0.5, "chat": 0.5}, Budget(), "neither `k`, `share` nor `tokens`"),
    ],
)
def test_shares_that_cannot_be_held_are_refused(shares: dict[str, float], budget: Budget, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        by_shares(ORDER, GROUPS, shares, TOKENS, budget)


def test_each_category_has_its_own_cut_and_no_score_reaches_none() -> None:
    score = np.array([4.0, 3.5, 4.0, np.nan, 4.5])
    kept = above_thresholds(score, ["code", "code", "chat", "code", ""], {"code": 3.5}, 4.5)
    assert kept.tolist() == [True, True, False, False, True]
    with pytest.raises(UsageError, match="names category 'maths'"):
        above_thresholds(score, ["code"] * 5, {"maths": 3}, 4.5)
