"""What games are: how two answers are put side by side, asked about in one order and their review read; what identifies them.

Knows nothing of how requests are sent, nor of calls that go on where others were.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from alpagasus_ray.config import PairJudge
from alpagasus_ray.data.schema import PAIRS, VERDICTS
from alpagasus_ray.engines.base import ANY_FORM, Engine, Reply, ReplyForm, Request
from alpagasus_ray.engines.kinds import open_engines
from alpagasus_ray.engines.longer import noting, with_longer
from alpagasus_ray.inference import asking, reply_columns
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.judging import parse_verdict
from alpagasus_ray.judging.pair_rubric import PairRubric
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir

ORDERS = ("ab", "ba")
AGAIN = (parse_verdict.UNPARSED, parse_verdict.REFUSED, parse_verdict.TRUNCATED, parse_verdict.FAILED)
"""Statuses of games that have no verdict and might get one if they were asked again."""
GOOD = frozenset({parse_verdict.JUDGED, parse_verdict.UNANSWERED})
"""Statuses that say nothing against the judge."""
NOTHING = {"instruction": "", "input": "", "first": "", "second": "", "reference": None}
"""The pair that makes the shortest prompt."""
SHOWN = ("first", "second")


@dataclass(frozen=True)
class PairWork:
    """What the runner does with each game: ask which answer is better, and read the reply."""

    judge: PairJudge
    rubric: PairRubric
    plays_empty: bool = False
    """Whether an empty answer plays like any other; else the game is `unanswered`."""

    raised: int | None = None
    """Longest reply of the games that are asked again because theirs was cut."""

    def open_engines(self) -> list[Engine]:
        allowed = with_longer(self.judge, self.raised)
        return noting(open_engines(allowed, shortest=self.rubric.messages(NOTHING), pairs=self.rubric.form), self.raised)

    @property
    def schema(self) -> pa.Schema:
        return VERDICTS

    @property
    def form(self) -> ReplyForm:
        return ANY_FORM

    @cached_property
    def _body(self) -> dict[str, Any]:
        return asking.body(self.judge, ANY_FORM)

    def request(self, row: Mapping[str, Any]) -> Request:
        if not self.judge.is_model:
            shown = {**row, **{name: row[name] or "" for name in SHOWN}}
            return Request(f"{row['prompt_id']} {row['order']}", [], shown)
        messages = [] if self._unanswered(row) else self.rubric.messages(row)
        return Request(asking.request_key(self._body, messages), messages, row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        reply = outcome.reply
        return {
            **{name: row[name] for name in ("prompt_id", "test_set", "category", "skill", "difficulty", "order")},
            "request_hash": request.key,
            **self.reading(row, reply, outcome.error),
            **lengths(row),
            "reply": reply.text if reply else None,
            **reply_columns.columns(outcome),
        }

    def reading(self, row: Mapping[str, Any], reply: Reply | None, error: str | None) -> dict[str, Any]:
        """The columns that are read off a reply, told by model and no longer by place; `error` says why there is none."""
        if without := self._unanswered(row):
            found = parse_verdict.Verdict(parse_verdict.UNANSWERED, error=f"no answer: {' and '.join(without)} has none")
        elif reply is None:
            found = parse_verdict.Verdict(parse_verdict.FAILED, error=error)
        else:
            asked = self.rubric
            found = parse_verdict.read(reply.text, reply.finish_reason, asked.form, asked.scale, reasoning=reply.reasoning)
        winner = dict(zip(SHOWN, row["order"], strict=True)).get(found.winner or "", found.winner)
        scores = dict(zip(_by_model(row, "score"), (found.first, found.second), strict=True))
        return {"status": found.status, "winner": winner, **scores, "error": found.error}

    def _unanswered(self, row: Mapping[str, Any]) -> list[str]:
        """The models that have no answer, or an empty one where those do not play."""
        shown = zip(row["order"], (row[name] for name in SHOWN), strict=True)
        return sorted(model for model, text in shown if text is None or not (self.plays_empty or text.strip()))


def _by_model(row: Mapping[str, Any], name: str) -> list[str]:
    """The columns of the model that stands first in this order, and of the other."""
    return [f"{name}_{model}" for model in row["order"]]


def lengths(row: Mapping[str, Any]) -> dict[str, int | None]:
    """How long both answers of a game are: `length_*` in characters, which say it in every script; `words_*`, between blanks,
    for readers of earlier versions."""
    answers: list[str | None] = [row[name] for name in SHOWN]
    characters = [None if answer is None else len(answer) for answer in answers]
    words = [None if answer is None else len(answer.split()) for answer in answers]
    return dict(zip(_by_model(row, "length") + _by_model(row, "words"), characters + words, strict=True))


def both_orders(prompt: Mapping[str, Any], answer_a: str | None, answer_b: str | None) -> list[dict[str, Any]]:
    """The two games of a prompt, as rows of `schema.PAIRS`."""
    common = {name: prompt.get(name) for name in PAIRS.names if name not in ("order", *SHOWN)}
    return [
        {**common, "order": "ab", "first": answer_a, "second": answer_b},
        {**common, "order": "ba", "first": answer_b, "second": answer_a},
    ]


def settings_of(judge: PairJudge, rubric: PairRubric, *, plays_empty: bool = False) -> dict[str, Any]:
    """The identity of a judge's games."""
    # what is as usual is no part of it, so that older runs go on
    empty = {"empty_answers": "play"} if plays_empty else {}
    return {"judge": asking.identity_of(judge), "rubric": rubric_identity(rubric), **empty}


def rubric_identity(rubric: PairRubric) -> dict[str, Any]:
    return {"prompt": rubric.prompt_hash(), "form": rubric.form, "scale": rubric.scale.model_dump()}


def label_of(judge: PairJudge) -> str:
    """What reports call a judge."""
    return judge.model or judge.kind


def manifest_of(pair: tuple[str, str], label: str, stage: StageDir, files: list[FileEntry], begun: Begun) -> Manifest:
    a, b = pair
    local_model = begun.settings.get("judge", {}).get("kind") == "vllm"
    details = {"a": a, "b": b, "test_set": stage.name.rpartition("/")[2], "judge": label}
    return stage.sum_up(begun, files, parse_verdict.STATUSES, local_model=local_model, details=details)
