"""What questions of benchmarks are: how one is asked and its reply kept, what identifies replies, what their manifest says.

Knows nothing of lm-eval, which makes the questions and reads the replies.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from alpagasus_ray.config import BenchModel
from alpagasus_ray.data.schema import BENCHMARK_REPLIES
from alpagasus_ray.engines.base import ANY_FORM, LENGTH, Engine, Message, Reply, ReplyForm, Request, Wanted
from alpagasus_ray.engines.identity import body, identity_of, request_key, weights_print
from alpagasus_ray.engines.kinds import open_engines
from alpagasus_ray.engines.weights import at_hand
from alpagasus_ray.inference.stage import Rows, Target
from alpagasus_ray.judging.cleaning import Visible, nothing_to_read, visible
from alpagasus_ray.store.reply import Outcome, row_columns, stored_reply
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir
from alpagasus_ray.store.storage import Storage

ANSWERED, EMPTY, TRUNCATED, REFUSED, FAILED = "answered", "empty", "truncated", "refused", "failed"
STATUSES = (ANSWERED, EMPTY, TRUNCATED, REFUSED, FAILED)
GOOD = frozenset({ANSWERED, TRUNCATED})
"""Statuses of replies that say nothing against the model."""
AGAIN = (REFUSED, FAILED)
"""Statuses of questions that have no reply and might get one if they were asked again."""
GENERATE, SCORE, ROLLING = "generate", "score", "rolling"


@dataclass(frozen=True)
class BenchmarkTask:
    """What is done with each question: ask the model, keep what it says."""

    model: BenchModel
    cut: bool = False
    """Whether questions that are too long lose their beginning."""
    checkpoint: StageDir | None = None
    """That of this run's arm, where the model is one."""
    weights: Storage | None = None
    """Where its files lie."""

    def open_engines(self) -> list[Engine]:
        return open_engines(at_hand(self.model, self.weights))

    @property
    def schema(self) -> pa.Schema:
        return BENCHMARK_REPLIES

    @property
    def form(self) -> ReplyForm:
        return ANY_FORM

    @cached_property
    def _body(self) -> dict[str, Any]:
        return body(self._anywhere, ANY_FORM)

    @property
    def _anywhere(self) -> BenchModel:
        """The model with a name that holds wherever the run lies."""
        return self.model if self.model.arm is None else self.model.model_copy(update={"model": f"models/{self.model.arm}"})

    def request(self, row: Mapping[str, Any]) -> Request:
        wanted = self._wanted(row)
        messages: list[Message] = (
            json.loads(row["context"]) if self.model.by_messages else [{"role": "user", "content": row["context"]}]
        )
        return Request(request_key({**self._body, "wanted": wanted._asdict()}, messages), messages, row, wanted)

    def _wanted(self, row: Mapping[str, Any]) -> Wanted:
        plain = not self.model.by_messages
        if row["kind"] != GENERATE:
            return Wanted(plain, continuations=tuple(row["continuations"]), rolling=row["kind"] == ROLLING, cut=self.cut)
        options = json.loads(row["options"])
        return Wanted(plain, **{**options, "stop": tuple(options["stop"])}, cut=self.cut)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        reply = outcome.reply
        return {
            "question_id": row["question_id"],
            "document_id": row["document_id"],
            "request_hash": request.key,
            **row_columns(outcome),
            **self.reading(row["kind"], reply, outcome.error),
        }

    def reading(self, kind: str, reply: Reply | None, error: str | None) -> dict[str, Any]:
        """The columns that are read off a reply; `error` says why there is none."""
        if reply is None:
            return {"status": FAILED, "reply": None, "raw": None, "error": error}
        # thoughts are no part of an answer; a text that a base model goes on with has none
        seen = visible(reply.text) if kind == GENERATE and self.model.by_messages else Visible(reply.text)
        raw = {"raw": None if seen.text == reply.text else reply.text}
        nothing = nothing_to_read(seen, reply.finish_reason, reply.reasoning)
        if nothing is None:
            return {
                "status": TRUNCATED if reply.finish_reason == LENGTH else ANSWERED,
                "reply": seen.text,
                "error": None,
                **raw,
            }
        return {"status": nothing.status, "reply": seen.text, "error": nothing.error, **raw}

    def read_again(self, rows: Rows, source: Callable[[], Rows]) -> Rows:
        """Replies read anew."""
        kinds = {row["question_id"]: row["kind"] for row in source()}
        return [row | self.reading(kinds[row["question_id"]], stored_reply(row), row["error"]) for row in rows]

    @property
    def settings(self) -> dict[str, Any]:
        """The identity of a model's replies."""
        return {"model": identity_of(self._anywhere), "chat": self.model.by_messages, **({"cut": True} if self.cut else {})}

    @property
    def inputs(self) -> dict[str, str]:
        """What replies are made from besides the questions: the checkpoint."""
        if self.checkpoint is None:
            return weights_print(self.model)
        trained = self.checkpoint.manifest()
        return {self.checkpoint.name: trained.content_hash() if trained else "a checkpoint without a manifest"}

    def manifest(self, target: Target, files: list[FileEntry], begun: Begun) -> Manifest:
        """Replies are counted by status."""
        return target.home.build(begun, files, STATUSES, libraries=self.model.traits.libraries)
