"""Answers side by side with both reviews, for the page: every prompt and every answer is held once. Pure.

The classes are the JSON that the page's script reads; `report.json` has only how much there is of it.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple

from alpagasus_ray.config import Rule
from alpagasus_ray.evaluation.match_rules import decide
from alpagasus_ray.reporting.answers_data import Answers
from alpagasus_ray.reporting.comparisons_data import PairGames, voters
from alpagasus_ray.reporting.like_rows import Key, LikeRows

ABOUT = ("prompt_id", "test_set", "category", "skill", "instruction", "input", "reference")
REVIEW = ("status", "winner", "score_a", "score_b", "reply", "error")


@dataclass(frozen=True)
class PairRows:
    """The prompts of one pair and judge."""

    a: str
    b: str
    voter: str
    rows: Sequence[Sequence[Any]]
    """Each `[prompt, answer of a, answer of b, outcome, ab, ba]`: the first three are numbers in `SideBySide`'s lists; `ab` and
    `ba` are null or `[status, winner, score of a, score of b, reply, error]`."""
    explains: bool
    """Whether `a` is the model of the report's arm, so that `SideBySide.like` is about what it lost."""


@dataclass(frozen=True)
class SideBySide:
    """All that is shown side by side."""

    prompts: Sequence[Sequence[str | None]]
    """Each `[id, test set, category, skill, instruction, input, reference]`."""
    answers: Sequence[str | None]
    comparisons: Sequence[PairRows]
    others: Mapping[str, Mapping[str, int]]
    """Of each model that no pair has: the number of its answer by the number of the prompt."""
    like: Mapping[str, LikeRows]
    """By the number of a prompt that the report's arm has lost: the rows of the dataset that are like it."""
    shown: int
    of: int
    """How many rows there are, shown or not."""


class Explained(NamedTuple):
    """What the report's arm has lost, and why that may be."""

    models: AbstractSet[str]
    """Those of the report's arm."""
    like: Mapping[Key, LikeRows]


NOTHING = Explained(frozenset(), {})


class _Pool(NamedTuple):
    """Things that are held once, with the number of each."""

    items: list[Any]
    numbers: dict[Any, int]

    def number(self, item: Any) -> int:
        known = self.numbers.setdefault(item, len(self.items))
        if known == len(self.items):
            self.items.append(item)
        return known


class _Pools(NamedTuple):
    prompts: _Pool
    answers: _Pool


def side_by_side(
    pairs: Sequence[PairGames], rule: Rule, limit: int, answers: Sequence[Answers] = (), about: Explained = NOTHING
) -> SideBySide:
    """The first so many rows of every pair that their texts fit into `limit` bytes; `answers` are those of all models."""
    pools, names = _Pools(_Pool([], {}), _Pool([], {})), voters(pairs)
    rows: list[list[list[Any]]] = [[] for _ in pairs]
    outcomes = [{(match.test_set, match.prompt_id): decide(rule, match) for match in pair.matches} for pair in pairs]
    room = limit
    # row by row over all pairs, so that a large one leaves room for the others
    for number in range(max((len(pair.games) for pair in pairs), default=0)):
        for pair, members, outcome_of in zip(pairs, rows, outcomes, strict=True):
            if number < len(pair.games) and room > 0:
                game = pair.games[number]
                room -= _bytes(game)
                members.append(_row(game, outcome_of.get((game["test_set"], game["prompt_id"])), pools))
    others = _others(answers, {name for pair in pairs for name in (pair.a, pair.b)}, pools, room)
    return SideBySide(
        prompts=pools.prompts.items,
        answers=pools.answers.items,
        comparisons=[
            PairRows(pair.a, pair.b, names[pair.who], members, pair.a in about.models)
            for pair, members in zip(pairs, rows, strict=True)
        ],
        others=others,
        like={
            str(number): about.like[key]
            for number, prompt in enumerate(pools.prompts.items)
            if (key := (prompt[1], prompt[0])) in about.like
        },
        shown=sum(map(len, rows)),
        of=sum(len(pair.games) for pair in pairs),
    )


def _row(game: Mapping[str, Any], outcome: str | None, pools: _Pools) -> list[Any]:
    prompt = pools.prompts.number(tuple(game[name] for name in ABOUT))
    answers = [pools.answers.number(game[name]) for name in ("answer_a", "answer_b")]
    reviews = [game[order] and [game[order][name] for name in REVIEW] for order in ("ab", "ba")]
    return [prompt, *answers, outcome, *reviews]


def _others(answers: Sequence[Answers], compared: AbstractSet[str], pools: _Pools, room: int) -> dict[str, dict[str, int]]:
    """Answers of models that no pair has, to prompts that are shown, as far as there is room."""
    numbers = {(prompt[1], prompt[0]): number for number, prompt in enumerate(pools.prompts.items)}
    held: dict[str, dict[str, int]] = {}
    for entry in answers:
        for row in entry.rows if entry.model not in compared else ():
            number = numbers.get((entry.test_set, row.prompt_id))
            room -= len(row.reply or "") if number is not None else 0
            if number is not None and room > 0:
                held.setdefault(entry.model, {})[str(number)] = pools.answers.number(row.reply)
    return held


def _bytes(game: Mapping[str, Any]) -> int:
    """About what the texts of a row take."""
    reviews = [review["reply"] for order in ("ab", "ba") if (review := game[order])]
    return sum(len(text or "") for text in (game["instruction"], game["input"], game["answer_a"], game["answer_b"], *reviews))
