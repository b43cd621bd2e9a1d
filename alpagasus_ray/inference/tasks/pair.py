"""What games are: how two answers are put side by side, asked about in one order and their review read, what identifies them,
what their manifest says.

Knows nothing of how requests are sent, nor of calls that go on where others were.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from alpagasus_ray.config import PairJudge
from alpagasus_ray.data.schema import VERDICTS
from alpagasus_ray.engines.base import ANY_FORM, Engine, Reply, ReplyForm, Request
from alpagasus_ray.engines.identity import body, identity_of, request_key, weights_print
from alpagasus_ray.engines.kinds import open_engines
from alpagasus_ray.engines.longer import noting, with_longer
from alpagasus_ray.inference.stage import Rows, Target
from alpagasus_ray.judging import parse_verdict
from alpagasus_ray.judging.pair_rubric import PairRubric
from alpagasus_ray.judging.pairs import SHOWN, by_model, lengths
from alpagasus_ray.store.reply import Outcome, row_columns, stored_reply
from alpagasus_ray.store.run import Begun, FileEntry, Manifest

AGAIN = (parse_verdict.UNPARSED, parse_verdict.REFUSED, parse_verdict.TRUNCATED, parse_verdict.FAILED)
"""Statuses of games that have no verdict and might get one if they were asked again."""
GOOD = frozenset({parse_verdict.JUDGED, parse_verdict.UNANSWERED})
"""Statuses that say nothing against the judge."""
NOTHING = {"instruction": "", "input": "", "first": "", "second": "", "reference": None}
"""The pair that makes the shortest prompt."""


@dataclass(frozen=True)
class PairTask:
    """What is done with each game: ask which answer is better, and read the reply."""

    judge: PairJudge
    rubric: PairRubric
    plays_empty: bool = False
    """Whether an empty answer plays like any other; else the game is `unanswered`."""
    longest: int | None = None
    """Longest reply of the games that are asked again because theirs was cut."""
    imported: str | None = None
    """Whose reviews the games were read from, where nobody was asked."""

    def open_engines(self) -> list[Engine]:
        allowed = with_longer(self.judge, self.longest)
        return noting(open_engines(allowed, shortest=self.rubric.messages(NOTHING), pairs=self.rubric.form), self.longest)

    @property
    def schema(self) -> pa.Schema:
        return VERDICTS

    @property
    def form(self) -> ReplyForm:
        return ANY_FORM

    @cached_property
    def _body(self) -> dict[str, Any]:
        return body(self.judge, ANY_FORM)

    def request(self, row: Mapping[str, Any]) -> Request:
        if not self.judge.is_model:
            shown = {**row, **{name: row[name] or "" for name in SHOWN}}
            return Request(f"{row['prompt_id']} {row['order']}", [], shown)
        # without messages nothing is sent, and nothing paid: the game has its reason already
        messages = [] if self._unanswered(row) else self.rubric.messages(row)
        return Request(request_key(self._body, messages), messages, row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        reply = outcome.reply
        return {
            **{name: row[name] for name in ("prompt_id", "test_set", "category", "skill", "difficulty", "order")},
            "request_hash": request.key,
            **self.reading(row, reply, outcome.error),
            **lengths(row),
            "reply": reply.text if reply else None,
            **row_columns(outcome),
        }

    def reading(self, row: Mapping[str, Any], reply: Reply | None, error: str | None) -> dict[str, Any]:
        """The columns that are read off a reply, told by model and no longer by place; `error` says why there is none."""
        if without := self._unanswered(row):
            verdict = parse_verdict.Verdict(parse_verdict.UNANSWERED, error=f"no answer: {' and '.join(without)} has none")
        elif reply is None:
            verdict = parse_verdict.Verdict(parse_verdict.FAILED, error=error)
        else:
            form, scale = self.rubric.form, self.rubric.scale
            verdict = parse_verdict.read(reply.text, reply.finish_reason, form, scale, reasoning=reply.reasoning)
        # a judge speaks of the first and the second; from here on only models have names
        winner = dict(zip(SHOWN, row["order"], strict=True)).get(verdict.winner or "", verdict.winner)
        scores = dict(zip(by_model(row, "score"), (verdict.first, verdict.second), strict=True))
        return {"status": verdict.status, "winner": winner, **scores, "error": verdict.error}

    def _unanswered(self, row: Mapping[str, Any]) -> list[str]:
        """The models that have no answer, or an empty one where those do not play."""
        shown = zip(row["order"], (row[name] for name in SHOWN), strict=True)
        return sorted(model for model, text in shown if text is None or not (self.plays_empty or text.strip()))

    def read_again(self, rows: Rows, source: Callable[[], Rows]) -> Rows:
        """Games with their reviews read anew; `source` are the answers that the judge saw."""
        pairs = source()
        shown = [(pair["prompt_id"], pair["order"]) for pair in pairs]
        assert shown == [(row["prompt_id"], row["order"]) for row in rows], "games are kept in the order of their pairs"
        return [
            row | lengths(pair) | self.reading(pair, stored_reply(row), row["error"])
            for pair, row in zip(pairs, rows, strict=True)
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """The identity of a judge's games, or of imported ones."""
        rubric = {
            "rubric": {"prompt": self.rubric.prompt_hash(), "form": self.rubric.form, "scale": self.rubric.scale.model_dump()}
        }
        if self.imported is not None:
            return {"import": self.imported, **rubric}
        # what is as usual is no part of it, so that older runs go on
        empty = {"empty_answers": "play"} if self.plays_empty else {}
        return {"judge": identity_of(self.judge), **rubric, **empty}

    @property
    def inputs(self) -> dict[str, str]:
        """What games are made from besides the answers: weights on this machine."""
        return weights_print(self.judge)

    def manifest(self, target: Target, files: list[FileEntry], begun: Begun) -> Manifest:
        """Games are counted by status; the manifest says whose they are and who judged."""
        a, b = target.listed.settings["pair"]
        judge = self.judge.model or self.judge.kind if self.imported is None else f"imported ({self.imported})"
        details = {"a": a, "b": b, "test_set": target.home.name.rpartition("/")[2], "judge": judge}
        libraries = self.judge.traits.libraries if self.imported is None else ()
        return target.home.build(begun, files, parse_verdict.STATUSES, libraries=libraries, details=details)
