"""Two games on one prompt, and the rules that make one outcome of them. Pure; knows nothing of judges, replies or files.

A judge sees two models' answers to a prompt twice, each standing first once: game `ab` and game `ba`. Whatever the order,
`a` and `b` name the models. A rule turns the two into win, tie or lose from a's side:

- `alpagasus` (paper, section 4.2): the sign of the sum of both games; two wins, or a win and a tie, win.
- `fastchat` (MT-Bench, arXiv 2306.05685): games that disagree are a tie, a win and a tie among them.
- `mean`: the higher sum of scores over both games wins; nothing where a game has no scores.
- `truncated`: as `alpagasus` with half points cut off first, so that 8.5 to 8 is a tie, as the published counts of
  AlpaGasus2-QLoRA were made; a game without scores keeps its winner.

A prompt of which a game is missing has no verdict under any rule: it is never a tie.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from alpagasus_ray.config import Rule

__all__ = ["Game", "Games", "Match", "MatchRule", "Outcome", "Rule", "Winner", "decide", "played", "winner_of"]

Winner = Literal["a", "b", "tie"]
Outcome = Literal["win", "tie", "lose"]

SIGNS: dict[Winner, int] = {"a": 1, "tie": 0, "b": -1}
OUTCOMES: dict[Winner, Outcome] = {"a": "win", "tie": "tie", "b": "lose"}
EXACT_DECIMALS = 9
"""Scores are decimal numbers: 8.1 + 8.4 and 8.2 + 8.3 are the same sum, whatever their last bits say."""


class Game(NamedTuple):
    """What a judge said of two answers in one order."""

    winner: Winner
    score_a: float | None
    """None, as `score_b`, where the form of the reply has no scores."""
    score_b: float | None


class Match(NamedTuple):
    """One prompt with both games; a game is None where it has no verdict."""

    prompt_id: str
    test_set: str
    category: str | None
    skill: str | None
    difficulty: int | None
    ab: Game | None
    """a's answer stood first."""
    ba: Game | None
    words_a: int | None
    """Words between blanks of a's answer; None where there is none."""
    words_b: int | None
    length_a: int | None = None
    """Characters of a's answer; None where there is none, and in verdicts of earlier versions, which have words alone."""
    length_b: int | None = None


class Games(NamedTuple):
    """Both games of a prompt that has both."""

    ab: Game
    ba: Game


class MatchRule(NamedTuple):
    """How the two games of a prompt become one outcome."""

    outcome: Callable[[Games], Outcome | None]
    """From a's side; None where the games do not say."""
    seen: Callable[[Game], Game] = lambda game: game
    """Each game as the rule sees it."""


def played(rule: Rule, match: Match) -> Games | None:
    """Both games as the rule sees them, or None where one has no verdict."""
    if match.ab is None or match.ba is None:
        return None
    seen = RULES[rule].seen
    return Games(seen(match.ab), seen(match.ba))


def decide(rule: Rule, match: Match) -> Outcome | None:
    """Win, tie or lose for a, or None where the rule finds no verdict."""
    games = played(rule, match)
    return None if games is None else RULES[rule].outcome(games)


def winner_of(difference: float) -> Winner:
    """Who wins by what a is ahead."""
    if difference == 0:
        return "tie"
    return "a" if difference > 0 else "b"


def _by_scores(games: Games) -> Outcome | None:
    difference = 0.0
    for game in games:
        if game.score_a is None or game.score_b is None:
            return None
        difference += game.score_a - game.score_b
    # rounded, as a sum of decimals that should be 0 may be 1e-16 off, and a tie would be won
    return OUTCOMES[winner_of(round(difference, EXACT_DECIMALS))]


def _truncated(game: Game) -> Game:
    if game.score_a is None or game.score_b is None:
        return game
    return game._replace(winner=winner_of(int(game.score_a) - int(game.score_b)))


def _by_winners(games: Games) -> Outcome | None:
    return OUTCOMES[winner_of(SIGNS[games.ab.winner] + SIGNS[games.ba.winner])]


def _if_both_agree(games: Games) -> Outcome | None:
    return OUTCOMES[games.ab.winner] if games.ab.winner == games.ba.winner else "tie"


RULES: dict[str, MatchRule] = {
    "alpagasus": MatchRule(_by_winners),
    "fastchat": MatchRule(_if_both_agree),
    "mean": MatchRule(_by_scores),
    "truncated": MatchRule(_by_winners, seen=_truncated),
}
"""How each rule of `config.compare.RULES` decides."""
