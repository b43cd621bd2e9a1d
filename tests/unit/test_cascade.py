"""A cascade: how much of the judge's choice it finds for part of the calls, and that it knows how much it missed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from alpaca_rows import alpaca_table, judge_scores

from alpagasus_ray.distill import cascade, student
from alpagasus_ray.distill.cascade import Pool, Settings, State
from alpagasus_ray.errors import UsageError

ALL = np.ones(3000, dtype=bool)
"""Every row that was asked about has a score."""


def _pool(count: int, seed: int = 0) -> Pool:
    return cascade.pool([f"x:{row}" for row in range(count)], seed)


class Made:
    """Rows with five numbers, which a judge's choice follows, and a least squares student of them."""

    def __init__(self, seed: int, count: int = 3000) -> None:
        rng = np.random.default_rng(seed)
        self.facts = np.column_stack([rng.normal(size=(count, 5)), np.ones(count)])
        hidden = self.facts @ rng.normal(size=6) + rng.normal(0, 1.5, count)
        self.keepers = hidden > np.quantile(hidden, 0.82)
        self.pool = _pool(count, seed)

    def refit(self, learnable: np.ndarray) -> np.ndarray:
        weights = np.linalg.lstsq(self.facts[learnable], self.keepers[learnable].astype(float), rcond=None)[0]
        return self.facts @ weights

    def replay(self, calls: float, aim: Any = "keepers") -> State:
        return cascade.replay(self.pool, self.keepers, Settings(calls), self.refit, aim)[-1]


def _recall(state: State, keepers: np.ndarray) -> float:
    return float((cascade.kept(state, keepers) & keepers).sum() / keepers.sum())


def _flips(state: State, keepers: np.ndarray) -> float:
    return float((cascade.kept(state, keepers) != keepers).mean())


def _on_alpaca(table: pa.Table, scores: np.ndarray, calls: float, seed: int) -> list[State]:
    every = student.of_table(table, scores)
    rows = cascade.pool(table["example_id"].to_pylist(), seed)

    def refit(learnable: np.ndarray) -> np.ndarray:
        return student.fit_linear(every.rows(np.flatnonzero(learnable)), 1e-4).of_labels(every)

    return cascade.replay(rows, scores >= 3, Settings(calls), refit)


def test_two_fifths_of_the_calls_find_most_of_the_judges_choice_in_part_of_alpaca(shared: Path) -> None:
    table, scores = alpaca_table(shared).slice(0, 5000), judge_scores(shared)[:5000]
    state = _on_alpaca(table, scores, 0.4, seed=0)[-1]
    assert state.asked.sum() == 2000
    assert _recall(state, scores >= 3) >= 0.75


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_part_of_the_calls_finds_most_of_the_judges_choice_in_alpaca(shared: Path) -> None:
    """Ten seeds on gpt-4o-mini's scores; random finds the share of the calls, longest first .74 and .82."""
    table, scores = alpaca_table(shared), judge_scores(shared)
    for seed in range(10):
        by_calls = {round(state.asked.mean(), 3): _recall(state, scores >= 3) for state in _on_alpaca(table, scores, 0.5, seed)}
        assert by_calls[0.4] >= 0.84
        assert by_calls[0.5] >= 0.9


@pytest.mark.parametrize("aim", ["keepers", "band"])
def test_the_interval_holds_the_truth_in_93_of_100_cascades(aim: str) -> None:
    held = {"recall": 0, "flips": 0}
    for seed in range(100):
        made = Made(seed)
        state = made.replay(0.4, aim)
        truth = {"recall": _recall(state, made.keepers), "flips": _flips(state, made.keepers)}
        for name, estimate in cascade.estimates(state, made.keepers, ALL).items():
            held[name] += estimate["low"] - 1e-6 <= truth[name] <= estimate["high"] + 1e-6
    assert held["recall"] >= 93
    assert held["flips"] >= 93


def test_audit_rows_without_a_score_leave_the_interval_covering_and_the_estimate_right_on_average() -> None:
    held, errors, as_not_kept = 0, [], []
    for seed in range(100):
        made = Made(seed)
        state = made.replay(0.4)
        scored = ~(state.audit & (np.random.default_rng(seed).random(3000) < 0.3))
        seen = made.keepers & scored
        truth = float((cascade.kept(state, seen) & made.keepers).sum() / made.keepers.sum())
        estimate = cascade.estimates(state, seen, scored)["recall"]
        held += estimate["low"] - 1e-6 <= truth <= estimate["high"] + 1e-6
        errors.append(estimate["value"] - truth)
        as_not_kept.append(cascade.estimates(state, seen, ALL)["recall"]["value"] - truth)
    assert held >= 93
    assert abs(np.mean(errors)) < 0.02 < np.mean(as_not_kept)


def test_an_audit_without_any_score_says_that_nothing_is_known() -> None:
    made = Made(8)
    state = made.replay(0.4)
    scored = ~state.audit
    assert cascade.estimates(state, made.keepers & scored, scored)["recall"]["low"] < 0.5
    assert "60 of the 60 rows of the audit have no score" in cascade.in_words(state, made.keepers & scored, scored)


def test_estimates_are_right_on_average() -> None:
    """Neither too hopeful nor too dark: over many cascades the mean estimate is the mean truth."""
    errors = []
    for seed in range(40):
        made = Made(seed)
        state = made.replay(0.4)
        errors.append(cascade.estimates(state, made.keepers, ALL)["recall"]["value"] - _recall(state, made.keepers))
    assert abs(np.mean(errors)) < 0.02


@pytest.mark.parametrize("aim", ["keepers", "band"])
def test_estimates_look_at_no_row_that_was_not_asked_about(aim: str) -> None:
    made = Made(1)
    state = made.replay(0.3, aim)
    other = np.where(state.asked, made.keepers, ~made.keepers)
    assert cascade.estimates(state, other, ALL) == cascade.estimates(state, made.keepers, ALL)


def test_a_cascade_asks_exactly_its_calls_and_no_row_twice() -> None:
    made = Made(2)
    for calls in (0.15, 0.4, 1.0):
        assert made.replay(calls).asked.sum() == round(calls * 3000)
        assert made.replay(calls, "band").asked.sum() == round(calls * 3000)


def test_nothing_is_missed_where_all_rows_are_asked_about() -> None:
    made = Made(3)
    estimate = cascade.estimates(made.replay(1.0), made.keepers, ALL)
    assert estimate["recall"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert estimate["flips"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_best_first_finds_more_than_the_share_of_calls_and_a_band_flips_fewer_rows() -> None:
    made = Made(4)
    assert _recall(made.replay(0.4), made.keepers) > 0.7
    best, band = made.replay(0.2), made.replay(0.2, "band")
    assert _flips(band, made.keepers) < min(_flips(best, made.keepers), made.keepers.mean() / 2)


def test_a_student_never_learns_from_the_audit() -> None:
    made = Made(5)
    seen = []

    def refit(learnable: np.ndarray) -> np.ndarray:
        seen.append(learnable.copy())
        return made.refit(learnable)

    state = cascade.replay(made.pool, made.keepers, Settings(0.5), refit)[-1]
    assert len(seen) > 3
    assert not any((flags & state.audit).any() for flags in seen)


def test_a_worker_comes_to_the_same_rows_from_the_written_rounds_of_its_shard_alone() -> None:
    made = Made(6)
    rounds, scores, state = [], [], cascade.beginning(made.pool)
    turns = cascade.opening(made.pool, Settings(0.4))
    while turns:
        for turn in turns:
            known = made.refit(cascade.learnable(state)) if turn.kind == "best" else np.zeros(3000)
            state = cascade.advance(made.pool, state, turn, known)
            rounds.append(turn)
            scores.append(known)
        following = cascade.best_round(made.pool, state, made.refit(cascade.learnable(state)), Settings(0.4))
        turns = [] if following is None else [following]
    assert [turn.kind for turn in rounds[:3]] == ["audit", "labels", "best"]
    shard = slice(500, 800)
    own = Pool(made.pool.draws[shard], made.pool.ties[shard])
    again = cascade.beginning(own)
    for turn, known in zip(cascade.from_json(cascade.to_json(rounds)), scores, strict=True):
        again = cascade.advance(own, again, turn, known[shard])
    assert [flags.tolist() for flags in again] == [flags[shard].tolist() for flags in state]


def test_rows_of_equal_score_are_asked_in_an_order_that_favours_nobody() -> None:
    """A cheap judge that knows nothing: what is asked is a random part, and the audit says so."""
    rows = _pool(4000)
    keepers = np.random.default_rng(0).random(4000) < 0.2
    state = cascade.replay(rows, keepers, Settings(0.4, labels=0), lambda learnable: np.zeros(4000))[-1]
    assert state.asked.sum() == 1600
    audit = state.reached[state.audit].mean()
    assert abs(audit - 0.4) < 0.15
    assert abs(_recall(state, keepers) - 0.4) < 0.05


def test_rows_without_a_cheap_score_are_asked_about_last_and_never_kept_unasked() -> None:
    made = Made(8)
    unknown = np.arange(3000) % 10 == 0
    states = cascade.replay(made.pool, made.keepers, Settings(0.6), lambda rows: np.where(unknown, np.nan, made.refit(rows)))
    assert states[-1].asked.sum() == 1800
    assert not (states[-1].reached & unknown).any()
    band = cascade.replay(
        made.pool, made.keepers, Settings(0.4), lambda rows: np.where(unknown, np.nan, made.facts[:, 0]), "band"
    )
    assert not (band[-1].accepted & unknown).any()
    every = cascade.replay(made.pool, made.keepers, Settings(1.0), lambda rows: np.where(unknown, np.nan, made.refit(rows)))
    assert every[-1].asked.all()


def test_the_line_for_people_has_both_estimates_with_their_limits() -> None:
    made = Made(7)
    line = cascade.in_words(made.replay(1.0), made.keepers, ALL)
    assert "asked about 3,000 of 3,000 rows (100%)" in line
    assert "found 100.0% (100.0% to 100.0%)" in line


def test_too_few_calls_are_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"score\.cascade: calls = 0\.05 .*raise `calls`"):
        cascade.opening(_pool(1000), Settings(0.05))
