"""What judges and people say of the models: statistics of each pair, ranking, agreement. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from alpagasus_ray.config import Rule
from alpagasus_ray.evaluation import agreement as votes
from alpagasus_ray.evaluation.match_rules import OUTCOMES, Game, Match, Winner, decide
from alpagasus_ray.evaluation.ranking import Result, bradley_terry
from alpagasus_ray.evaluation.statistics import grouped
from alpagasus_ray.reporting.measures import Agreement, BradleyTerry, Entry, Groups, Interval, read

TURNED: Mapping[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}
VOTE_OF: Mapping[str, Winner] = {outcome: winner for winner, outcome in OUTCOMES.items()}


class PairGames(NamedTuple):
    """The games of two models before one judge, from the side of `a`."""

    judge: str | None
    """Its `compare.name`."""
    label: str
    """What the judge is: a model's name, `rules`, `imported (…)`."""
    a: str
    b: str
    test_sets: tuple[str, ...]
    matches: Sequence[Match]
    games: Sequence[Mapping[str, Any]]
    """Each prompt with both answers and both reviews, as `verdicts.games` gives them."""

    @property
    def who(self) -> tuple[str | None, str]:
        """The judge, as `voters` knows it."""
        return self.judge, self.label


@dataclass(frozen=True)
class StatisticsSettings(Entry):
    """How games become numbers."""

    rule: Rule
    resamples: int
    seed: int


@dataclass(frozen=True)
class PairEntry(Entry):
    """Statistics of one pair of models by one judge."""

    judge: str | None
    """Its `compare.name`."""
    label: str
    """What the judge is."""
    voter: str
    """A name of the judge that no other has."""
    a: str
    b: str
    same_model: bool
    test_sets: Sequence[str]
    groups: Groups


@dataclass(frozen=True)
class RadarGroup(Entry):
    """One ray of a radar."""

    group: str
    judged: int
    win_rate: Interval


@dataclass(frozen=True)
class Radar(Entry):
    """Win rates of a pair by skill or category, of groups with a verdict at least."""

    voter: str
    a: str
    b: str
    test_set: str
    kind: str
    """`skill` or `category`."""
    groups: Sequence[RadarGroup]


@dataclass(frozen=True)
class Voter(Entry):
    """Whose opinion an entry is."""

    voter: str


@dataclass(frozen=True)
class Ranking(BradleyTerry, Voter):
    """Ratings of more than two models by one judge."""


def from_the_side_of(arms: Iterable[str], pair: PairGames) -> PairGames:
    """The same with a and b exchanged where only b is one of these."""
    if pair.b not in arms or pair.a in arms:
        return pair
    return pair._replace(
        a=pair.b,
        b=pair.a,
        matches=[_turned_match(match) for match in pair.matches],
        games=[_turned_games(row) for row in pair.games],
    )


def _turned_match(match: Match) -> Match:
    return match._replace(
        ab=_turned(match.ba),  # the game in which the other model stood first
        ba=_turned(match.ab),
        words_a=match.words_b,
        words_b=match.words_a,
        length_a=match.length_b,
        length_b=match.length_a,
    )


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


def voters(pairs: Iterable[PairGames]) -> dict[tuple[str | None, str], str]:
    """A name for each judge: what it is, and its `compare.name` where another is the same."""
    judges = dict.fromkeys(pair.who for pair in pairs)
    labels = Counter(label for _, label in judges)
    return {(judge, label): label if labels[label] == 1 else f"{label} ({judge or 'unnamed'})" for judge, label in judges}


def pair_statistics(pairs: Sequence[PairGames], settings: StatisticsSettings) -> list[PairEntry]:
    """An entry for each pair and judge."""
    names = voters(pairs)
    return [
        PairEntry(
            judge=pair.judge,
            label=pair.label,
            voter=names[pair.who],
            a=pair.a,
            b=pair.b,
            same_model=pair.a == pair.b,
            test_sets=list(pair.test_sets),
            groups=read(Groups, grouped(pair.matches, settings.rule, resamples=settings.resamples, seed=settings.seed)),
        )
        for pair in pairs
    ]


def radars(pairs: Iterable[PairEntry]) -> list[Radar]:
    """Win rates by skill and category, of each pair, judge and test set that has some."""
    charts = []
    for pair in pairs:
        for kind, members in (("skill", pair.groups.skills), ("category", pair.groups.categories)):
            for test_set in pair.test_sets:
                groups = [
                    RadarGroup(group.group, group.judged, group.win_rate)
                    for group in members
                    if group.test_set == test_set and group.judged
                ]
                if len(groups) > 1:
                    charts.append(Radar(pair.voter, pair.a, pair.b, test_set, kind, groups))
    return charts


def ranking(pairs: Sequence[PairGames], settings: StatisticsSettings) -> list[Ranking]:
    """Bradley-Terry ratings by each judge of more than two models."""
    ranked = []
    for who, voter in voters(pairs).items():
        # older runs may hold a pair in both directions; two models have one result on a prompt
        once = {
            (frozenset((pair.a, pair.b)), result.prompt_id): result
            for pair in reversed(pairs)
            if pair.who == who and pair.a != pair.b
            for result in _results(pair, settings.rule)
        }
        results = list(once.values())
        if len({model for result in results for model in result[:2]}) > 2:
            ranked.append(read(Ranking, bradley_terry(results, seed=settings.seed), voter=voter))
    return ranked


def _results(pair: PairGames, rule: Rule) -> Iterator[Result]:
    for match in pair.matches:
        outcome = decide(rule, match)
        if outcome is not None:
            yield Result(pair.a, pair.b, outcome, f"{match.test_set}/{match.prompt_id}")


def agreement(
    pairs: Sequence[PairGames],
    settings: StatisticsSettings,
    files: Iterable[tuple[str, Sequence[Mapping[str, Any]]]],
) -> Agreement | None:
    """How far judges and people agree; None with fewer than two voters. `files` has the rows of each file of votes with its
    name.

    A person's vote for `a` means the first model of `compare.pairs`. So votes are read against the pairs in that order, as
    `pairs` has them; only then all are brought into one order.
    """
    pairs = [pair for pair in pairs if pair.a != pair.b]
    items = [item for pair in pairs for item in _items(pair)]
    by_people = [vote for name, rows in files for vote in votes.read_votes(rows, items, name)]
    by_judges = votes.in_one_order(_judges_votes(pairs, voters(pairs), settings.rule), items)
    # a judge that was asked about a pair in both directions has one vote on it
    once = {(vote.item, vote.voter): vote for vote in by_judges}
    everyone = [*once.values(), *votes.in_one_order(by_people, items)]
    return read(Agreement, votes.agreement(everyone)) if len({vote.voter for vote in everyone}) > 1 else None


def _items(pair: PairGames) -> list[votes.Comparison]:
    """What is voted on."""
    return [votes.Comparison(match.prompt_id, match.test_set, pair.a, pair.b) for match in pair.matches]


def _judges_votes(pairs: Iterable[PairGames], names: Mapping[tuple[str | None, str], str], rule: Rule) -> Iterator[votes.Vote]:
    for pair in pairs:
        for item, match in zip(_items(pair), pair.matches, strict=True):
            outcome = decide(rule, match)
            if outcome is not None:
                yield votes.Vote(item.item, names[pair.who], VOTE_OF[outcome])
