"""Statistics of comparisons: published counts come out, mirror images match, and nothing is made of nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.evaluation.intervals import Counts, scores, sign_test
from alpagasus_ray.evaluation.length_control import length_controlled
from alpagasus_ray.evaluation.match_rules import Game, Match, Rule, Winner, winner_of
from alpagasus_ray.evaluation.statistics import grouped, summarize

RULES: list[Rule] = ["alpagasus", "fastchat", "mean", "truncated"]
OTHER: dict[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}
PUBLISHED = [  # project page of AlpaGasus, 9k against 52k, 7B and 13B: win, tie, lose, winning score, sign test
    (41, 15, 24, 1.212, 0.046),
    (70, 44, 66, 1.022, 0.80),
    (83, 65, 70, 1.060, 0.33),
    (90, 86, 76, 1.056, 0.31),
    (284, 210, 236, 1.066, 0.039),
    (42, 13, 25, 1.212, 0.050),
    (67, 49, 64, 1.017, 0.86),
    (96, 55, 67, 1.133, 0.028),
    (88, 81, 83, 1.020, 0.76),
    (293, 198, 239, 1.074, 0.022),
]


def _game(score_a: float, score_b: float) -> Game:
    return Game(winner_of(score_a - score_b), score_a, score_b)


GAMES = st.builds(_game, st.sampled_from([7.0, 8.0, 8.5]), st.sampled_from([7.0, 8.0, 8.5]))
WORDS = st.integers(0, 4) | st.integers(0, 300) | st.none()
MATCHES = st.lists(
    st.builds(
        Match,
        prompt_id=st.uuids().map(str),
        test_set=st.sampled_from(["vicuna", "koala"]),
        category=st.none() | st.sampled_from(["math", "writing"]),
        skill=st.none() | st.sampled_from(["art", "code"]),
        difficulty=st.none() | st.integers(1, 10),
        ab=st.none() | GAMES | GAMES,
        ba=st.none() | GAMES | GAMES,
        words_a=WORDS,
        words_b=WORDS,
        length_a=WORDS,
        length_b=WORDS,
    ),
    max_size=40,
)


def _match(number: int, ab: Game | None, ba: Game | None, **more: Any) -> Match:
    return Match(f"p{number}", "toy", None, None, None, ab, ba, None, None)._replace(**more)


def _plain(winners: Sequence[str], **more: Any) -> list[Match]:
    """Matches with the same winner in both orders."""
    games = {"a": _game(9, 8), "b": _game(8, 9), "tie": _game(8, 8)}
    return [_match(i, games[winner], games[winner], **more) for i, winner in enumerate(winners)]


def _turned(match: Match) -> Match:
    """The same prompt with the models' names exchanged."""

    def turned(game: Game | None) -> Game | None:
        return game and Game(OTHER[game.winner], game.score_b, game.score_a)

    swapped = {f"{name}_{side}": getattr(match, f"{name}_{OTHER[side]}") for name in ("words", "length") for side in ("a", "b")}
    return match._replace(ab=turned(match.ba), ba=turned(match.ab), **swapped)


def _cherry(shared: Path, name: str) -> list[Match]:
    records = json.loads((shared / f"verdicts/cherry_gpt4/{name}_wrap_reviews_gpt4.json").read_text())["data"]
    matches = []
    for number, record in enumerate(records):
        (a1, b1), (b2, a2) = (json.loads(record[key]) for key in ("scores", "scores_reverse"))
        words = {f"words_{side}": len(record[key].split()) for side, key in (("a", "Answer1"), ("b", "Answer2"))}
        matches.append(_match(number, _game(a1, b1), _game(a2, b2), test_set=name, **words))
    return matches


def _alpagasus2(shared: Path, name: str) -> list[Match]:
    a, b = "alpagasus2", "alpaca2"
    first, second = (
        {record["question_id"]: record["score"] for record in json.loads((shared / f"verdicts/{a}/{file}.json").read_text())}
        for file in (f"{a}-{b}-{name}", f"{b}-{a}-{name}")
    )
    return [_match(0, _game(*first[key]), _game(*second[key][::-1]), prompt_id=key, test_set=name) for key in first]


def _counts(summary: dict[str, Any]) -> list[int]:
    return [summary[key] for key in ("win", "tie", "lose")]


@pytest.mark.parametrize(("win", "tie", "lose", "score", "p"), PUBLISHED)
def test_published_counts_give_their_winning_score_and_sign_test(win: int, tie: int, lose: int, score: float, p: float) -> None:
    summary = summarize(_plain(["a"] * win + ["tie"] * tie + ["b"] * lose), "alpagasus", resamples=1000)
    assert _counts(summary) == [win, tie, lose]
    assert summary["winning_score"]["value"] == pytest.approx(score, abs=0.00051)
    assert summary["sign_test_p"] == pytest.approx(p, abs=0.0051 if p > 0.1 else 0.00055)
    assert summary["win_rate"]["value"] == pytest.approx((win + tie / 2) / (win + tie + lose), abs=1e-6)


@pytest.mark.parametrize(("name", "counts", "percent"), [("vicuna", [44, 15, 21], 104.583), ("koala", [85, 36, 59], 96.341)])
def test_the_reviews_of_cherry_give_its_counts_and_mean_scores(
    shared: Path, name: str, counts: list[int], percent: float
) -> None:
    """On Koala it wins more often and still has the lower mean score: what it loses, it loses by more."""
    summary = summarize(_cherry(shared, name), "alpagasus", resamples=1000)
    assert _counts(summary) == counts
    assert summary["score_ratio"]["games"] == 2 * sum(counts)
    assert summary["score_ratio"]["percent"] == pytest.approx(percent, abs=0.001)
    assert summary["length"]["length_controlled_win_rate"]["why_not"] is None


@pytest.mark.parametrize(
    ("name", "counts", "flipped", "first"), [("koala", [94, 71, 15], 67, 0.37), ("vicuna", [40, 38, 2], 38, 0.28)]
)
def test_the_reviews_of_alpagasus2_give_its_counts_flips_and_slot_bias(
    shared: Path, name: str, counts: list[int], flipped: int, first: float
) -> None:
    summary = summarize(_alpagasus2(shared, name), "truncated", resamples=1000)
    assert _counts(summary) == counts
    position = summary["position"]
    assert position["flipped"] == flipped
    assert position["first_slot_share"] == pytest.approx(first, abs=0.0051)
    assert position["slot_bias_p"] < 0.001


def test_truncation_changes_counts_only_where_half_points_decide(shared: Path) -> None:
    matches = _cherry(shared, "vicuna") + _cherry(shared, "koala")
    assert _counts(summarize(matches, "alpagasus", 10)) == [129, 51, 80]
    assert _counts(summarize(matches, "truncated", 10)) == [129, 52, 79]


@settings(deadline=None)
@given(MATCHES, st.sampled_from(RULES))
def test_the_other_models_report_is_the_mirror_image(matches: list[Match], rule: Rule) -> None:
    here, there = summarize(matches, rule, 500), summarize([_turned(match) for match in matches], rule, 500)
    assert _counts(here) == _counts(there)[::-1]
    for key in ("prompts", "judged", "no_verdict", "sign_test_p", "position"):
        assert here[key] == there[key]
    assert here["length"]["longer_win_share"] == there["length"]["longer_win_share"]
    assert here["length"]["mean_length_a"] == there["length"]["mean_length_b"]
    assert here["length"]["unit"] == there["length"]["unit"]
    _assert_mirrored(here["length"]["length_controlled_win_rate"], there["length"]["length_controlled_win_rate"], 1, 1e-5)
    near = 1e-5 if here["win"] != here["lose"] else 4 / max(here["judged"], 1)  # of equals there is no better side
    _assert_mirrored(here["winning_score"], there["winning_score"], 2, near)
    _assert_mirrored(here["win_rate"], there["win_rate"], 1, near)
    if here["score_ratio"]["percent"]:
        assert here["score_ratio"]["percent"] * there["score_ratio"]["percent"] == pytest.approx(10_000)


def _assert_mirrored(here: dict[str, Any], there: dict[str, Any], whole: float, near: float) -> None:
    for ours, theirs in (("value", "value"), ("low", "high"), ("high", "low")):
        if here[ours] is None:
            assert there[theirs] is None
        else:
            assert here[ours] == pytest.approx(whole - there[theirs], abs=near)


@settings(deadline=None)
@given(MATCHES, st.sampled_from(RULES))
def test_every_interval_holds_its_value(matches: list[Match], rule: Rule) -> None:
    summary = summarize(matches, rule, 500)
    for found in (summary["winning_score"], summary["win_rate"], summary["length"]["length_controlled_win_rate"]):
        assert found["low"] is None or found["low"] <= found["value"] <= found["high"]


def test_prompts_that_all_went_one_way_have_no_interval_that_would_look_like_certainty() -> None:
    summary = summarize(_plain(["a"] * 5), "alpagasus", 500)
    assert summary["winning_score"] == {"value": 2.0, "low": None, "high": None}


@settings(deadline=None, max_examples=30)
@given(MATCHES, st.sampled_from(RULES))
def test_groups_add_up_to_the_pooled_counts(matches: list[Match], rule: Rule) -> None:
    groups = grouped(matches, rule, 50)
    (pooled,) = groups["pooled"]
    keys = ("prompts", "judged", "win", "tie", "lose", "no_verdict")
    assert [sum(entry[key] for entry in groups["test_sets"]) for key in keys] == [pooled[key] for key in keys]
    for name, field in (("categories", "category"), ("skills", "skill"), ("difficulties", "difficulty")):
        assert sum(entry["prompts"] for entry in groups[name]) == sum(getattr(match, field) is not None for match in matches)
    json.dumps(groups, allow_nan=False)


@settings(deadline=None)
@given(MATCHES, st.sampled_from(RULES))
def test_prompts_without_a_verdict_change_nothing_but_their_own_count(matches: list[Match], rule: Rule) -> None:
    lost = [
        _match(i, game, None, words_a=9, words_b=99, length_a=50, length_b=500)
        for i, game in enumerate([None, _game(9, 1), _game(1, 9)])
    ]
    before, after = summarize(matches, rule, 100), summarize(matches + lost, rule, 100)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"prompts", "no_verdict"}
    assert after["no_verdict"] == before["no_verdict"] + 3


def test_of_nothing_every_number_is_missing_and_none_is_zero() -> None:
    summary = summarize([_match(0, None, None)], "alpagasus")
    assert summary["judged"] == 0
    missing = [
        summary["winning_score"]["value"],
        summary["win_rate"]["low"],
        summary["sign_test_p"],
        *(summary["position"][key] for key in ("consistency", "flip_rate", "first_slot_share", "slot_bias_p")),
        *(summary["length"][key] for key in ("mean_length_a", "mean_length_b", "longer_win_share")),
        summary["length"]["length_controlled_win_rate"]["value"],
        summary["score_ratio"]["percent"],
        summary["score_ratio"]["by_skill_percent"],
    ]
    assert set(missing) == {None}


def test_the_bootstrap_is_that_of_drawing_prompts() -> None:
    win, tie, lose = 41, 15, 24
    points = np.repeat([1.0, 0.5, 0.0], [win, tie, lose])
    drawn = points[np.random.default_rng(1).integers(0, 80, (20_000, 80))].mean(axis=1)
    _, rate = scores(Counts(win, tie, lose), 20_000, 0)
    assert [rate["low"], rate["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.008)


def test_the_same_seed_draws_the_same_interval_and_another_seed_another() -> None:
    counts = Counts(284, 210, 236)
    assert scores(counts, 100, 3) == scores(counts, 100, 3) != scores(counts, 100, 4)


def test_position_tells_consistent_flipped_and_half_prompts_apart() -> None:
    a, b, tie = _game(9, 8), _game(8, 9), _game(8, 8)
    games = [(a, a), (tie, tie), (a, b), (b, a), (b, a), (tie, a), (b, tie), (None, b)]
    position = summarize([_match(i, *pair) for i, pair in enumerate(games)], "alpagasus", 10)["position"]
    assert [position[key] for key in ("both_judged", "consistent", "flipped", "half")] == [7, 2, 3, 2]
    # a prompt that a wins in both orders gives one game to each slot; the lone game counts for neither
    assert [position["first_slot_wins"], position["second_slot_wins"]] == [3, 7]
    assert position["first_slot_share"] == 0.3
    assert position["slot_bias_p"] == sign_test(1, 4)


def test_truncation_is_seen_by_position_too() -> None:
    half = [_match(0, _game(8.5, 8), _game(8, 8.5))]
    assert summarize(half, "alpagasus", 10)["position"]["flipped"] == 1
    assert summarize(half, "truncated", 10)["position"]["flipped"] == 0


def test_a_winner_by_length_alone_is_at_parity_once_length_is_controlled() -> None:
    rng = np.random.default_rng(0)
    longer = rng.normal(40, 60, 4000)
    points = (rng.random(4000) < 1 / (1 + np.exp(-1.5 * np.tanh(longer / longer.std())))).astype(float)
    assert points.mean() > 0.6
    fit = length_controlled(longer, points)
    assert fit.value == pytest.approx(0.5, abs=0.03)
    assert fit.low < 0.5 < fit.high


@pytest.mark.parametrize(
    ("longer", "points", "told"),
    [
        ([1.0] * 9, [1.0, 0.0] * 4 + [1.0], "it needs 10"),
        (range(12), [1.0] * 12, "same outcome"),
        ([5.0] * 12, [1.0, 0.0] * 6, "same on all"),
        (range(12), [0.0] * 6 + [1.0] * 6, "length alone"),
        (range(12), [1.0] * 6 + [0.5] + [0.0] * 5, "length alone"),
    ],
)
def test_what_cannot_be_fitted_says_why(longer: Sequence[float], points: list[float], told: str) -> None:
    fit = length_controlled(np.array(longer, dtype=float), np.array(points))
    assert fit.value is fit.low is fit.high is None
    assert told in str(fit.why_not)


def test_longer_wins_counts_decided_prompts_of_unequal_length() -> None:
    lengths = [("a", 9, 3), ("a", 3, 9), ("b", 3, 9), ("b", 5, 5), ("tie", 3, 9), ("a", None, 9)]
    matches = [_plain([winner], words_a=a, words_b=b)[0] for winner, a, b in lengths]
    assert summarize(matches, "alpagasus", 10)["length"]["longer_win_share"] == pytest.approx(2 / 3, abs=1e-6)


def test_score_ratio_is_of_means_and_by_skill_the_mean_of_ratios() -> None:
    matches = [
        _match(0, _game(6, 8), _game(6, 8), skill="math"),
        _match(1, _game(9, 9), _game(9, 9), skill="art"),
        _match(2, _game(9, 9), _game(9, 9), skill="art"),
        _match(3, Game("a", None, None), Game("a", None, None), skill="code"),
        _match(4, _game(1, 10), None),
    ]
    ratio = summarize(matches, "alpagasus", 10)["score_ratio"]
    assert ratio["games"] == 6
    assert ratio["percent"] == pytest.approx(100 * 48 / 52, abs=1e-5)
    assert ratio["by_skill_percent"] == pytest.approx(87.5)
    assert summarize(matches[4:], "alpagasus", 10)["score_ratio"]["by_skill_percent"] is None


def test_groups_stand_by_size_and_difficulties_by_level() -> None:
    many = _plain(["a"] * 3, category="writing", difficulty=10) + _plain(["b"] * 5, category="math", difficulty=2)
    groups = grouped(many, "alpagasus", 10)
    assert [(entry["group"], entry["test_set"], entry["prompts"]) for entry in groups["categories"]] == [
        ("math", "toy", 5),
        ("writing", "toy", 3),
    ]
    assert [entry["group"] for entry in groups["difficulties"]] == ["2", "10"]
    assert groups["skills"] == []
    assert grouped(many, "alpagasus", 5000)["categories"][0]["resamples"] == 2000
