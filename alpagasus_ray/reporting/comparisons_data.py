"""What judges and people said of the models, as plain values: statistics of each pair, ranking, agreement. Pure.

`verdicts`: an entry for each pair and judge: `judge` (its `compare.name`), `label` (what judged), `voter` (a name that tells it
from the others), `a`, `b`, `same_model`, `test_sets` and `groups` (`evaluation.statistics.grouped`: pooled, test sets,
categories, skills, difficulties). `radars`: `voter`, `a`, `b`, `test_set`, `kind` (`skill`, `category`) and `groups` with
`group`, `judged`, `win_rate`, for groups with at least one verdict. `ranking`: for each judge of more than two models its
`voter` and `evaluation.ranking.bradley_terry`. `agreement`: `evaluation.agreement.agreement`, null with fewer than two voters.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.config import Rule
from alpagasus_ray.evaluation import agreement as agreeing
from alpagasus_ray.evaluation.match_rules import OUTCOMES, Game, Match, Winner, decide
from alpagasus_ray.evaluation.ranking import Result, bradley_terry
from alpagasus_ray.evaluation.statistics import grouped

FEWEST_FOR_A_RADAR = 3
TURNED: Mapping[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}
VOTE_OF: Mapping[str, Winner] = {outcome: winner for winner, outcome in OUTCOMES.items()}


class Judged(NamedTuple):
    """What one judge said of two models, told from the side of `a`."""

    judge: str | None
    """Its `compare.name`."""
    label: str
    """What judged."""
    a: str
    b: str
    test_sets: tuple[str, ...]
    matches: Sequence[Match]
    games: Sequence[Mapping[str, Any]]
    """Each prompt with both answers and both reviews, as `stages.verdicts.games` tells them."""

    @property
    def who(self) -> tuple[str | None, str]:
        return self.judge, self.label


class Settings(NamedTuple):
    """How games become figures."""

    rule: Rule
    resamples: int
    seed: int


def from_the_side_of(arms: Iterable[str], found: Judged) -> Judged:
    """The same with a and b exchanged where only b is one of these."""
    if found.b not in arms or found.a in arms:
        return found
    return found._replace(
        a=found.b,
        b=found.a,
        matches=[_turned_match(match) for match in found.matches],
        games=[_turned_games(row) for row in found.games],
    )


def _turned_match(match: Match) -> Match:
    # the game in which the other model stood first is now `ab`
    return match._replace(ab=_turned(match.ba), ba=_turned(match.ab), words_a=match.words_b, words_b=match.words_a)


def _turned(game: Game | None) -> Game | None:
    return game and Game(TURNED[game.winner], game.score_b, game.score_a)


def _turned_games(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "answer_a": row["answer_b"],
        "answer_b": row["answer_a"],
        "ab": _turned_review(row["ba"]),
        "ba": _turned_review(row["ab"]),
    }


def _turned_review(review: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if review is None:
        return None
    winner = TURNED.get(review["winner"], review["winner"])
    return {**review, "winner": winner, "score_a": review["score_b"], "score_b": review["score_a"]}


def voters(found: Iterable[Judged]) -> dict[tuple[str | None, str], str]:
    """A name for each judge: what judged, and its `compare.name` where that alone tells it from another."""
    who = dict.fromkeys(one.who for one in found)
    labels = Counter(label for _, label in who)
    return {(judge, label): label if labels[label] == 1 else f"{label} ({judge or 'unnamed'})" for judge, label in who}


def verdicts(found: Sequence[Judged], settings: Settings) -> list[dict[str, Any]]:
    names = voters(found)
    return [
        {
            "judge": one.judge,
            "label": one.label,
            "voter": names[one.who],
            "a": one.a,
            "b": one.b,
            "same_model": one.a == one.b,
            "test_sets": list(one.test_sets),
            "groups": grouped(one.matches, settings.rule, resamples=settings.resamples, seed=settings.seed),
        }
        for one in found
    ]


def radars(told: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Win rates by skill and category, of each pair, judge and test set that has some."""
    found = []
    for entry in told:
        for kind, key in (("skill", "skills"), ("category", "categories")):
            for test_set in entry["test_sets"]:
                groups = [
                    {name: group[name] for name in ("group", "judged", "win_rate")}
                    for group in entry["groups"][key]
                    if group["test_set"] == test_set and group["judged"]
                ]
                if len(groups) > 1:
                    pair = {name: entry[name] for name in ("voter", "a", "b")}
                    found.append({**pair, "test_set": test_set, "kind": kind, "groups": groups})
    return found


def ranking(found: Sequence[Judged], settings: Settings) -> list[dict[str, Any]]:
    """Bradley-Terry ratings by each judge of more than two models."""
    names, ranked = voters(found), []
    for who, voter in names.items():
        # older runs may hold a pair in both directions; two models have one result on a prompt
        once = {
            (frozenset((one.a, one.b)), result.prompt_id): result
            for one in reversed(found)
            if one.who == who and one.a != one.b
            for result in _results(one, settings.rule)
        }
        results = list(once.values())
        if len({model for result in results for model in result[:2]}) > 2:
            ranked.append({"voter": voter, **bradley_terry(results, seed=settings.seed)})
    return ranked


def _results(one: Judged, rule: Rule) -> Iterator[Result]:
    for match in one.matches:
        outcome = decide(rule, match)
        if outcome is not None:
            yield Result(one.a, one.b, outcome, f"{match.test_set}/{match.prompt_id}")


def agreement(
    found: Sequence[Judged], settings: Settings, files: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]
) -> dict[str, Any] | None:
    """How far judges and people agree; `found` as the pairs were told to judges, and `files` the rows of each file of votes
    with its name. Votes are read against the pairs as they were told; only then all are brought into one order."""
    told = [one for one in found if one.a != one.b]
    votes = list(_judges_votes(told, voters(found), settings.rule))
    items = [item for one in told for item in _items(one)]
    said = [vote for name, rows in files for vote in agreeing.read_votes(rows, items, name)]
    judges = {(vote.item, vote.voter): vote for vote in agreeing.in_one_order(votes, items)}
    everyone = [*judges.values(), *agreeing.in_one_order(said, items)]
    return agreeing.agreement(everyone) if len({vote.voter for vote in everyone}) > 1 else None


def _items(one: Judged) -> list[agreeing.Comparison]:
    """What is voted on, as the pair was told."""
    return [agreeing.Comparison(match.prompt_id, match.test_set, one.a, one.b) for match in one.matches]


def _judges_votes(found: Iterable[Judged], names: Mapping[tuple[str | None, str], str], rule: Rule) -> Iterator[agreeing.Vote]:
    for one in found:
        for item, match in zip(_items(one), one.matches, strict=True):
            outcome = decide(rule, match)
            if outcome is not None:
                yield agreeing.Vote(item.item, names[one.who], VOTE_OF[outcome])
