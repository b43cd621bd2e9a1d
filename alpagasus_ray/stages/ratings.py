"""What ratings are: how an example is asked about and its reply read, what identifies them, how their manifest sums up.

Knows nothing of how requests are sent, nor of calls that go on where others were.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import orjson
import pyarrow as pa

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.datasets import sources
from alpagasus_ray.datasets.run import Begun, FileEntry, Manifest, StageDir, totals
from alpagasus_ray.datasets.schema import RATINGS
from alpagasus_ray.engines.base import ANY_FORM, Engine, ReplyForm, Request, Tree
from alpagasus_ray.engines.choose import open_engines
from alpagasus_ray.engines.recorded import RecordedEngine
from alpagasus_ray.engines.scores import distribution
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging import rating
from alpagasus_ray.judging.rubric import Rubric, Scale
from alpagasus_ray.runner.ledger import Outcome
from alpagasus_ray.stages import asking

Mode = Literal["score", "rescore", "retry-failed"]
FORM = ("explain", "constrained", "expected")
"""Knobs of the judge that say what form its replies have."""
NOTHING = {"instruction": "", "input": "", "output": ""}
"""The example that makes the shortest prompt."""


@dataclass(frozen=True)
class ScoreWork:
    """What the runner does with each example: ask for a rating and read it."""

    judge: Judge
    rubric: Rubric
    form: ReplyForm = ANY_FORM

    def open_engines(self) -> list[Engine]:
        engines = open_engines(self.judge, self.form, shortest=self.rubric.messages(NOTHING))
        for engine in engines:
            if isinstance(engine, RecordedEngine):
                engine.check(self.scale.min, self.scale.max)
        return engines

    @property
    def schema(self) -> pa.Schema:
        return RATINGS

    @cached_property
    def _body(self) -> dict[str, Any]:
        return asking.body(self.judge, self.form)

    def request(self, row: Mapping[str, Any]) -> Request:
        if not self.judge.is_model:
            return Request(row["content_hash"], [], row)
        messages = self.rubric.messages(row)
        return Request(asking.request_key(self._body, messages), messages, row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        reply = outcome.reply
        if reply is None:
            reading = rating.Reading(rating.FAILED, error=outcome.error)
        else:
            reading = rating.read(reply.text, reply.finish_reason, self.scale)
        logprobs = reply.logprobs if reply else None
        return {
            "example_id": row["example_id"],
            "request_hash": request.key,
            "status": reading.status,
            "score": reading.score,
            **self.expected(logprobs),
            "reply": reply.text if reply else None,
            "logprobs": orjson.dumps(logprobs).decode() if logprobs else None,
            "finish_reason": reply.finish_reason if reply else None,
            "tokens_in": reply.tokens_in if reply else None,
            "tokens_out": reply.tokens_out if reply else None,
            "tokens_cached": reply.tokens_cached if reply else None,
            "cost_usd": reply.cost_usd if reply else None,
            "latency_s": outcome.latency_s,
            "attempts": outcome.attempts,
            "maybe_billed_twice": outcome.maybe_billed_twice,
            "error": reading.error,
        }

    def expected(self, logprobs: Tree | None) -> dict[str, Any]:
        """The columns that are read off the probabilities of a reply's first tokens."""
        found = distribution(logprobs, self.form.scores) if logprobs and self.form.scores else None
        if found is None:
            return {"expected_score": None, "probabilities": None, "outside": None}
        shares = [{"score": float(score), "probability": share} for score, share in found.probabilities.items()]
        return {"expected_score": found.mean, "probabilities": shares, "outside": found.outside}

    @property
    def scale(self) -> Scale:
        """Recorded ratings may be means of several; all others come from the rubric's steps."""
        own = scale_of(self.judge, self.rubric)
        return own.model_copy(update={"step": None}) if self.judge.kind == "recorded" else own


def scale_of(judge: Judge, asked: Rubric) -> Scale:
    """The scale of the ratings: the rubric's, but for recorded ones that name theirs."""
    if judge.scale is None:
        return asked.scale
    return Scale(min=judge.scale.min, max=judge.scale.max, step=None)


def check_model(judge: Judge, mode: Mode) -> None:
    if not judge.is_model or judge.model is not None or mode == "rescore":
        return
    if judge.kind == "vllm":
        raise UsageError(
            "`score.judge.model` is not set: give the model that judges, a Hugging Face id or a checkpoint's directory, e.g. "
            "--set score.judge.model=Qwen/Qwen2.5-7B-Instruct"
        )
    raise UsageError(
        "`score.judge.model` is not set: name the model that judges, e.g. --set score.judge.model=gpt-4o-mini "
        "(or --set score.judge.kind=rules for the offline baseline)"
    )


def settings_of(config: Score, asked: Rubric) -> dict[str, Any]:
    """The identity of the ratings; what only another kind of judge would use is left out."""
    judge = config.judge
    recorded = {"ratings": judge.ratings, "columns": dict(judge.columns)} if judge.kind == "recorded" else {}
    # what most recipes leave alone is no part of their identity, so that older runs go on
    form = {key: getattr(judge, key) for key in FORM if getattr(judge, key) != Judge.model_fields[key].default}
    scale = scale_of(judge, asked).model_dump()
    return {
        "judge": asking.identity_of(judge) | recorded | (form if judge.is_model else {}),
        "rubric": {"prompt": asked.prompt_hash(), "dimension": asked.dimension, "scale": scale},
    }


def inputs_of(judge: Judge) -> dict[str, str]:
    """What the ratings are made from besides the examples: a file of ratings, or weights on this machine."""
    if judge.kind == "recorded" and judge.ratings is not None:
        return {file.name: file.fingerprint() for file in sources.expand(judge.ratings)}
    return asking.weights_print(judge)


def manifest_of(stage: StageDir, files: list[FileEntry], begun: Begun) -> Manifest:
    histogram = totals(files).histogram
    details = {
        "histogram": {key: histogram[key] for key in sorted(histogram, key=float)},
        "asked_scale": begun.asked_scale,
    }
    local_model = begun.settings["judge"]["kind"] == "vllm"
    return stage.sum_up(begun, files, rating.STATUSES, local_model=local_model, details=details)
