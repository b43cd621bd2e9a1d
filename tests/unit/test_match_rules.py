"""Two games make one outcome: the rules, on toys and on published reviews."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.evaluation.match_rules import Game, Match, Rule, Winner, decide, played, winner_of

RULES: list[Rule] = ["alpagasus", "fastchat", "mean", "truncated"]
WINNERS: list[Winner] = ["a", "b", "tie"]
MIRROR = {"win": "lose", "tie": "tie", "lose": "win", None: None, "a": "b", "b": "a"}
SCORES = st.sampled_from([1.0, 7.0, 8.0, 8.1, 8.5, 8.9, 10.0])


def _match(ab: Game | None, ba: Game | None) -> Match:
    return Match("p", "t", None, None, None, ab, ba, None, None)


def _game(winner: Winner) -> Game:
    return Game(winner, None, None)


def _scored(score_a: float, score_b: float) -> Game:
    return Game(winner_of(score_a - score_b), score_a, score_b)


@pytest.mark.parametrize(
    ("games", "alpagasus", "fastchat"),
    [
        (("a", "a"), "win", "win"),
        (("a", "tie"), "win", "tie"),
        (("tie", "tie"), "tie", "tie"),
        (("a", "b"), "tie", "tie"),
        (("tie", "b"), "lose", "tie"),
        (("b", "b"), "lose", "lose"),
    ],
)
def test_rules_by_winner_are_those_of_their_papers_in_either_order(
    games: tuple[Winner, Winner], alpagasus: str, fastchat: str
) -> None:
    for first, second in (games, games[::-1]):
        match = _match(_game(first), _game(second))
        assert (decide("alpagasus", match), decide("fastchat", match)) == (alpagasus, fastchat)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("games", [(None, None), (_scored(9, 1), None), (None, _scored(8, 8))])
def test_a_missing_game_leaves_no_verdict_and_never_a_tie(rule: Rule, games: tuple[Game | None, Game | None]) -> None:
    assert decide(rule, _match(*games)) is None
    assert played(rule, _match(*games)) is None


@pytest.mark.parametrize("rule", RULES)
@given(scores=st.tuples(SCORES, SCORES, SCORES, SCORES))
def test_seen_from_the_other_side_every_outcome_is_its_mirror_image(rule: Rule, scores: tuple[float, ...]) -> None:
    a1, b1, a2, b2 = scores
    here, there = _match(_scored(a1, b1), _scored(a2, b2)), _match(_scored(b2, a2), _scored(b1, a1))
    assert decide(rule, there) == MIRROR[decide(rule, here)]


@pytest.mark.parametrize(
    ("games", "outcome"),
    [((9, 8, 7, 7.5), "win"), ((9, 8, 7, 9), "lose"), ((9, 8, 7, 8), "tie"), ((8.1, 8.2, 8.4, 8.3), "tie")],
)
def test_mean_goes_by_the_sum_of_all_scores(games: tuple[float, ...], outcome: str) -> None:
    assert decide("mean", _match(_scored(*games[:2]), _scored(*games[2:]))) == outcome


def test_mean_says_nothing_where_a_game_has_no_scores() -> None:
    assert decide("mean", _match(_scored(9, 8), _game("a"))) is None


def test_truncated_cuts_half_points_off_and_keeps_winners_without_scores() -> None:
    assert decide("alpagasus", _match(_scored(8.5, 8), _scored(8, 8))) == "win"
    assert decide("truncated", _match(_scored(8.5, 8), _scored(8, 8))) == "tie"
    assert decide("truncated", _match(_scored(9, 8.5), _scored(8, 8))) == "win"
    for first, second in product(WINNERS, WINNERS):
        match = _match(_game(first), _game(second))
        assert decide("truncated", match) == decide("alpagasus", match)
