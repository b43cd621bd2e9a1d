"""What ratings are: how an example is asked about and its reply read, what identifies them, how their manifest sums up.

Knows nothing of how requests are sent, nor of calls that go on where others were.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import orjson
import pyarrow as pa

from alpagasus_ray.config import Judge, Score, digest, identity
from alpagasus_ray.datasets import sources
from alpagasus_ray.datasets.run import Begun, FileEntry, Manifest, StageDir, versions
from alpagasus_ray.datasets.schema import RATINGS
from alpagasus_ray.engines.base import Engine, Request
from alpagasus_ray.engines.choose import open_engines
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.judging import rating
from alpagasus_ray.judging.rubric import Rubric, Scale
from alpagasus_ray.runner.ledger import Outcome

Mode = Literal["score", "rescore", "retry-failed"]


@dataclass(frozen=True)
class ScoreWork:
    """What the runner does with each example: ask for a rating and read it."""

    judge: Judge
    rubric: Rubric

    def open_engines(self) -> list[Engine]:
        return open_engines(self.judge)

    @property
    def schema(self) -> pa.Schema:
        return RATINGS

    @cached_property
    def _body(self) -> dict[str, Any]:
        from alpagasus_ray.engines.openai_api import request_body

        return request_body(self.judge)

    def request(self, row: Mapping[str, Any]) -> Request:
        if self.judge.kind != "api":
            return Request(row["content_hash"], [], row)
        messages = self.rubric.messages(row)
        key = hashlib.blake2b(orjson.dumps([self._body, messages], option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
        return Request(key, messages, row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        reply = outcome.reply
        if reply is None:
            reading = rating.Reading(rating.FAILED, error=outcome.error)
        else:
            reading = rating.read(reply.text, reply.finish_reason, self.scale)
        return {
            "example_id": row["example_id"],
            "request_hash": request.key,
            "status": reading.status,
            "score": reading.score,
            "expected_score": None,
            "reply": reply.text if reply else None,
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

    @property
    def scale(self) -> Scale:
        """Recorded ratings may be means of several; all others come from the rubric's steps."""
        return self.rubric.scale.model_copy(update={"step": None}) if self.judge.kind == "recorded" else self.rubric.scale


def check_model(judge: Judge, mode: Mode) -> None:
    if judge.kind == "api" and judge.model is None and mode != "rescore":
        raise UsageError(
            "`score.judge.model` is not set: name the model that judges, e.g. --set score.judge.model=gpt-4o-mini "
            "(or --set score.judge.kind=rules for the offline baseline)"
        )


def settings_of(config: Score, asked: Rubric) -> dict[str, Any]:
    """The identity of the ratings; what only another kind of judge would use is left out."""
    judge = identity(config.judge)
    used = {"api": {"model", "temperature", "top_p", "max_tokens", "extra"}, "recorded": {"ratings", "columns"}}
    kept = {"kind"} | used.get(config.judge.kind, set())
    scale = asked.scale.model_dump()
    return {
        "judge": {key: value for key, value in judge.items() if key in kept},
        "rubric": {"prompt": asked.prompt_hash(), "dimension": asked.dimension, "scale": scale},
    }


def recorded_inputs(judge: Judge) -> dict[str, str]:
    if judge.kind != "recorded" or judge.ratings is None:
        return {}
    return {file.name: file.fingerprint() for file in sources.expand(judge.ratings)}


def manifest_of(stage: StageDir, files: list[FileEntry], begun: Begun) -> Manifest:
    counts: Counter[str] = Counter()
    histogram: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    usage: Counter[str] = Counter()  # adds floats just as well
    for entry in files:
        counts.update(entry.counts)
        histogram.update(entry.histogram)
        reasons.update(entry.reasons)
        usage.update(entry.usage)
    return Manifest(
        stage=stage.name,
        settings=begun.settings,
        settings_hash=digest(begun.settings),
        inputs=begun.inputs,
        files=files,
        rows=sum(entry.rows for entry in files),
        counts={status: counts[status] for status in rating.STATUSES if counts[status]},
        usage=dict(usage),
        seconds=begun.seconds,
        versions=versions(),
        details={
            "histogram": {key: histogram[key] for key in sorted(histogram, key=float)},
            "reasons": dict(reasons.most_common()),
            "asked_scale": begun.asked_scale,
        },
    )


def check_rows(manifest: Manifest, examples: Manifest) -> None:
    """Rows in = rows out, shard by shard."""
    expected = {entry.name: entry.rows for entry in examples.parts()}
    found = {entry.name: entry.rows for entry in manifest.files}
    if found != expected:
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise StageFailed(f"{manifest.stage}: {len(wrong)} shards do not hold the rows of their input, {wrong[0]} first")
