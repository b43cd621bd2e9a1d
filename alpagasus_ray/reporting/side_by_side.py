"""Answers side by side with both reviews, for the page: every prompt and every answer is held once. Pure.

The blob is an object: `prompts`, each `[id, test set, category, skill, instruction, input]`; `answers`, a list of texts or
nulls; `comparisons`, each with `a`, `b`, `voter` and `rows`, each `[prompt, answer of a, answer of b, outcome, ab, ba]` where
the first three are numbers in those lists and `ab`, `ba` are null or `[status, winner, score of a, score of b, reply, error]`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.config import Rule
from alpagasus_ray.evaluation.match_rules import decide
from alpagasus_ray.reporting.comparisons_data import Judged, voters

ABOUT = ("prompt_id", "test_set", "category", "skill", "instruction", "input")
REVIEW = ("status", "winner", "score_a", "score_b", "reply", "error")


class _Pool(NamedTuple):
    """Things that are held once, with the number of each."""

    items: list[Any]
    numbers: dict[Any, int]

    def number(self, item: Any) -> int:
        found = self.numbers.setdefault(item, len(self.items))
        if found == len(self.items):
            self.items.append(item)
        return found


class _Pools(NamedTuple):
    prompts: _Pool
    answers: _Pool


def side_by_side(found: Sequence[Judged], rule: Rule, limit: int) -> dict[str, Any]:
    """The blob, with `shown` and `of` rows: the first so many of every comparison that their texts fit into `limit` bytes."""
    pools, names = _Pools(_Pool([], {}), _Pool([], {})), voters(found)
    rows: list[list[list[Any]]] = [[] for _ in found]
    outcomes = [{(match.test_set, match.prompt_id): decide(rule, match) for match in one.matches} for one in found]
    room = limit
    for number in range(max((len(one.games) for one in found), default=0)):
        for one, held, decided in zip(found, rows, outcomes, strict=True):
            if number < len(one.games) and room > 0:
                game = one.games[number]
                room -= _bytes(game)
                held.append(_row(game, decided.get((game["test_set"], game["prompt_id"])), pools))
    told = zip(found, rows, strict=True)
    return {
        "prompts": pools.prompts.items,
        "answers": pools.answers.items,
        "comparisons": [{"a": one.a, "b": one.b, "voter": names[one.who], "rows": held} for one, held in told],
        "shown": sum(map(len, rows)),
        "of": sum(len(one.games) for one in found),
    }


def _row(game: Mapping[str, Any], outcome: str | None, pools: _Pools) -> list[Any]:
    prompt = pools.prompts.number(tuple(game[name] for name in ABOUT))
    answers = [pools.answers.number(game[name]) for name in ("answer_a", "answer_b")]
    reviews = [game[order] and [game[order][name] for name in REVIEW] for order in ("ab", "ba")]
    return [prompt, *answers, outcome, *reviews]


def _bytes(game: Mapping[str, Any]) -> int:
    """About what the texts of a row take."""
    reviews = [review["reply"] for order in ("ab", "ba") if (review := game[order])]
    return sum(len(text or "") for text in (game["instruction"], game["input"], game["answer_a"], game["answer_b"], *reviews))
