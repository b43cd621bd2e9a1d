"""What ratings are: how an example is asked about and its reply read, what identifies them, how their manifest sums up.

Knows nothing of how requests are sent, nor of calls that go on where others were.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.data import readers
from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.engines.base import ANY_FORM, Engine, Reply, ReplyForm, Request
from alpagasus_ray.engines.identity import own_identity
from alpagasus_ray.engines.kinds import open_engines
from alpagasus_ray.engines.longer import noting, with_longer
from alpagasus_ray.engines.recorded import RecordedEngine
from alpagasus_ray.engines.score_grammar import after, distribution, place_of
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import asking, reply_columns
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.judging import parse_rating
from alpagasus_ray.judging.rubric import Rubric, Scale
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir, totals

Mode = Literal["score", "rescore", "retry-failed"]
ALIKE, FEWEST_ALIKE = 0.8, 50
"""Share of the scored rows that may have one score, and of how many rows a share says something."""
NOT_EXPECTED: dict[str, Any] = {"expected_score": None, "probabilities": None, "outside": None}
NOTHING = {"instruction": "", "input": "", "output": ""}
"""The example that makes the shortest prompt."""


@dataclass(frozen=True)
class ScoreWork:
    """What the runner does with each example: ask for a rating and read it."""

    judge: Judge
    rubric: Rubric
    form: ReplyForm = ANY_FORM
    raised: int | None = None
    """Longest reply of the rows that are asked again because theirs was cut."""

    @property
    def allowed(self) -> Judge:
        """The judge with the longest reply that this call allows."""
        return with_longer(self.judge, self.raised)

    def open_engines(self) -> list[Engine]:
        engines = open_engines(self.allowed, self.form, shortest=self.rubric.messages(NOTHING))
        for engine in engines:
            if isinstance(engine, RecordedEngine):
                engine.check(self.scale.min, self.scale.max)
        return noting(engines, self.raised)

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
        logprobs = reply.logprobs if reply else None
        return {
            "example_id": row["example_id"],
            "request_hash": request.key,
            "reply": reply.text if reply else None,
            "logprobs": orjson.dumps(logprobs).decode() if logprobs else None,
            **reply_columns.columns(outcome),
            **(self.reading(reply) if reply else self.no_reading(outcome.error)),
        }

    def no_reading(self, error: str | None) -> dict[str, Any]:
        """The columns that are read off a reply, where there is none."""
        return {"status": parse_rating.FAILED, "score": None, "error": error, **NOT_EXPECTED}

    def reading(self, reply: Reply) -> dict[str, Any]:
        """The columns that are read off a reply."""
        found = self._read(reply.text, reply.finish_reason, reply.reasoning)
        expected = self._expected(reply, found.score) if found.score is not None else NOT_EXPECTED
        return {"status": found.status, "score": found.score, "error": found.error, **expected}

    def _read(self, text: str, finish_reason: str, reasoning: str | None = None) -> parse_rating.Reading:
        asked = self.rubric
        return parse_rating.read(text, finish_reason, self.scale, asked.dimension, pattern=asked.reply, reasoning=reasoning)

    def _expected(self, reply: Reply, score: float) -> dict[str, Any]:
        """The columns that are read off the probabilities at the place of the score that was read."""
        if not (reply.logprobs and self.form.scores):
            return NOT_EXPECTED

        def read(text: str) -> float | None:
            return self._read(text, reply.finish_reason).score

        place = place_of(reply.text, reply.logprobs, score, self.form.scores, read)
        found = distribution(after(reply.logprobs, place), self.form.scores) if place is not None else None
        if found is None:
            return NOT_EXPECTED
        shares = [{"score": float(score), "probability": share} for score, share in found.probabilities.items()]
        mean = found.mean if found.outside <= self.judge.max_outside else None
        return {"expected_score": mean, "probabilities": shares, "outside": found.outside}

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
    form = own_identity(judge, "rubric", "ratings", "columns", "scale")  # which stand beside it
    scale = scale_of(judge, asked).model_dump()
    reply = {} if asked.reply is None else {"reply": asked.reply}
    return {
        "judge": asking.identity_of(judge) | recorded | (form if judge.is_model else {}),
        "rubric": {"prompt": asked.prompt_hash(), "dimension": asked.dimension, "scale": scale, **reply},
    }


def inputs_of(judge: Judge) -> dict[str, str]:
    """What the ratings are made from besides the examples: a file of ratings, or weights on this machine."""
    if judge.kind == "recorded" and judge.ratings is not None:
        return {file.name: file.fingerprint() for file in readers.expand(judge.ratings)}
    return asking.weights_print(judge)


def manifest_of(stage: StageDir, files: list[FileEntry], begun: Begun) -> Manifest:
    histogram = totals(files).histogram
    details = {
        "histogram": {key: histogram[key] for key in sorted(histogram, key=float)},
        "asked_scale": begun.asked_scale,
        **_of_one_score(histogram),
        **_outside(stage, files),
    }
    local_model = begun.settings["judge"]["kind"] == "vllm"
    return stage.sum_up(begun, files, parse_rating.STATUSES, local_model=local_model, details=details)


def _of_one_score(histogram: Mapping[str, int]) -> dict[str, Any]:
    """The score that more than `ALIKE` of the scored rows have: such a judge tells them hardly apart."""
    rows = sum(histogram.values())
    score, count = max(histogram.items(), key=lambda item: item[1], default=("", 0))
    if rows < FEWEST_ALIKE or count <= ALIKE * rows:
        return {}
    return {"one_score": {"score": float(score), "share": count / rows}}


def _outside(stage: StageDir, files: list[FileEntry]) -> dict[str, Any]:
    """How probable it was that no score of the scale stands where the score was read: its mean and 95th percentile over the
    rows that tell it, and how many of these have an expected score."""
    if not files:
        return {}
    told = pa.concat_tables(stage.table(entry.name, entry.sha256, ["outside", "expected_score"]) for entry in files)
    told = told.filter(pc.is_valid(told["outside"]))
    if not told.num_rows:
        return {}
    mean, most = pc.mean(told["outside"]).as_py(), pc.quantile(told["outside"], q=0.95)[0].as_py()
    expected = told.num_rows - told["expected_score"].null_count
    return {"outside": {"rows": told.num_rows, "mean": mean, "p95": most, "expected": expected}}
