"""What ratings are: how an example is asked about and its reply read, what identifies them, what their manifest says.

Knows nothing of how requests are sent, nor of calls that go on where others were.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.data import readers
from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.distill import saved
from alpagasus_ray.distill.engine import DistilledEngine
from alpagasus_ray.distill.student import Student
from alpagasus_ray.engines.base import ANY_FORM, Engine, Reply, ReplyForm, Request
from alpagasus_ray.engines.identity import body, identity_of, own_identity, request_key, weights_print, with_template
from alpagasus_ray.engines.kinds import open_engines
from alpagasus_ray.engines.longer import noting, with_longer
from alpagasus_ray.engines.recorded import RecordedEngine
from alpagasus_ray.engines.score_grammar import after, distribution, place_of
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.stage import InferenceStage, Mode, Rows, Target
from alpagasus_ray.judging import parse_rating, rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.judging.rubric import Rubric, Scale
from alpagasus_ray.store.reply import Outcome, row_columns, stored_reply
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, totals

ALIKE, FEWEST_ALIKE = 0.8, 50
"""Share of the scored rows that may have one score, and of how many rows a share says something."""
NOT_EXPECTED: dict[str, Any] = {"expected_score": None, "probabilities": None, "outside": None}
NOTHING = {"instruction": "", "input": "", "output": ""}
"""The example that makes the shortest prompt."""


@dataclass(frozen=True)
class RatingTask:
    """What is done with each example: ask for a rating and read it."""

    judge: Judge
    rubric: Rubric
    form: ReplyForm = ANY_FORM
    student: Student | None = None
    """For kind `distilled`."""
    longest: int | None = None
    """Longest reply of the rows that are asked again because theirs was cut."""

    @property
    def allowed(self) -> Judge:
        """The judge with the longest reply that this call allows."""
        return with_longer(self.judge, self.longest)

    def open_engines(self) -> list[Engine]:
        if self.student is not None:
            return [DistilledEngine(self.student)]
        engines = open_engines(self.allowed, self.form, shortest=self.rubric.messages(NOTHING))
        for engine in engines:
            if isinstance(engine, RecordedEngine):
                engine.check(self.scale.min, self.scale.max)
        return noting(engines, self.longest)

    @property
    def schema(self) -> pa.Schema:
        return RATINGS

    @cached_property
    def _body(self) -> dict[str, Any]:
        return body(self.judge, self.form)

    def request(self, row: Mapping[str, Any]) -> Request:
        if not self.judge.is_model:
            return Request(row["content_hash"], [], row)
        messages = self.rubric.messages(row)
        return Request(request_key(self._body, messages), messages, row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        reply = outcome.reply
        logprobs = reply.logprobs if reply else None
        return {
            "example_id": row["example_id"],
            "request_hash": request.key,
            "reply": reply.text if reply else None,
            "logprobs": orjson.dumps(logprobs).decode() if logprobs else None,
            **row_columns(outcome),
            **(self.reading(reply) if reply else self.no_reading(outcome.error)),
        }

    def read_again(self, rows: Rows, _: Callable[[], Rows]) -> Rows:
        """Ratings with their replies read anew; those without a reply stay as they are."""
        return [self._read_again(row) for row in rows]

    def _read_again(self, row: dict[str, Any]) -> dict[str, Any]:
        reply = stored_reply(row)
        return row if reply is None else row | self.reading(reply)

    def no_reading(self, error: str | None) -> dict[str, Any]:
        """The columns that are read off a reply, where there is none."""
        return {"status": parse_rating.FAILED, "score": None, "error": error, **NOT_EXPECTED}

    def reading(self, reply: Reply) -> dict[str, Any]:
        """The columns that are read off a reply."""
        if self.student is not None:
            return NOT_EXPECTED | self.student.reading(reply.text) | {"status": parse_rating.SCORED, "error": None}
        rating = self._read(reply.text, reply.finish_reason, reply.reasoning)
        expected = self._expected(reply, rating.score) if rating.score is not None else NOT_EXPECTED
        return {"status": rating.status, "score": rating.score, "error": rating.error, **expected}

    def _read(self, text: str, finish_reason: str, reasoning: str | None = None) -> parse_rating.Reading:
        dimension, pattern = self.rubric.dimension, self.rubric.reply
        return parse_rating.read(text, finish_reason, self.scale, dimension, pattern=pattern, reasoning=reasoning)

    def _expected(self, reply: Reply, score: float) -> dict[str, Any]:
        """The columns that are read off the probabilities at the place of the score that was read."""
        if not (reply.logprobs and self.form.scores):
            return NOT_EXPECTED

        def read(text: str) -> float | None:
            return self._read(text, reply.finish_reason).score

        start = place_of(reply.text, reply.logprobs, score, self.form.scores, read)
        # only where the score that was read stands: probabilities of another number in the reply are those of something else
        scores = distribution(after(reply.logprobs, start), self.form.scores) if start is not None else None
        if scores is None:
            return NOT_EXPECTED
        shares = [{"score": float(score), "probability": share} for score, share in scores.probabilities.items()]
        # where a reply would mostly begin otherwise, the mean is one over the few cases in which it did not
        mean = scores.mean if scores.outside <= self.judge.max_outside else None
        return {"expected_score": mean, "probabilities": shares, "outside": scores.outside}

    @property
    def scale(self) -> Scale:
        """Recorded ratings may be means of several; all others come from the rubric's steps."""
        # steps bind what a judge may write, not a mean of several raters
        if self.student is not None:
            return self.student.scale
        own = scale_of(self.judge, self.rubric)
        return own.model_copy(update={"step": None}) if self.judge.traits.is_recorded else own

    @property
    def settings(self) -> dict[str, Any]:
        """The identity of the ratings; what only another kind of judge would use is left out."""
        judge, rubric = self.judge, self.rubric
        recorded = {"ratings": judge.ratings, "columns": dict(judge.columns)} if judge.traits.is_recorded else {}
        recorded |= {"model": judge.model} if judge.kind == "distilled" else {}
        # what most recipes leave alone is no part of their identity, so that older runs go on
        form = own_identity(judge, "rubric", "ratings", "columns", "scale")  # which stand beside it
        scale = (scale_of(judge, rubric) if self.student is None else self.student.scale).model_dump()
        reply = {} if rubric.reply is None else {"reply": rubric.reply}
        return {
            "judge": identity_of(judge) | recorded | (form if judge.is_model else {}),
            "rubric": {"prompt": rubric.prompt_hash(), "dimension": rubric.dimension, "scale": scale, **reply},
        }

    @property
    def inputs(self) -> dict[str, str]:
        """What the ratings are made from besides the examples: a file of ratings, or weights on this machine."""
        judge = self.judge
        if judge.traits.is_recorded and judge.ratings is not None:
            return {file.name: file.fingerprint() for file in readers.expand(judge.ratings)}
        return weights_print(judge)

    def manifest(self, target: Target, files: list[FileEntry], begun: Begun) -> Manifest:
        """Ratings are counted by status and by score."""
        histogram = totals(files).histogram
        details = {
            "histogram": {key: histogram[key] for key in sorted(histogram, key=float)},
            "asked_scale": begun.asked_scale,
            **_of_one_score(histogram),
            **_outside(target.home, files),
        }
        libraries = self.judge.traits.libraries
        return target.home.build(begun, files, parse_rating.STATUSES, libraries=libraries, details=details)


def prepare(config: Score, run: Run, again: Sequence[str] = ()) -> tuple[InferenceStage, RatingTask, Target]:
    """The stage that makes `ratings/<name>/` of a run, what it does with each example, and the directory to fill. Rows with a
    status of `again` are asked anew. `UsageError` where there are no examples, or the recipe cannot be followed."""
    judge = with_template(config.judge)
    criteria = rubric.load(judge.rubric)
    spec = AskSpec.of(config, judge, good=(parse_rating.SCORED,), again=again)
    fitted = saved.of_run(run, str(judge.model)) if judge.kind == "distilled" else None
    task = RatingTask(judge, criteria, reply_form(judge, criteria), fitted and fitted.student, spec.longest)
    home, source = run.ratings(config.name), run.examples()
    target = Target.of(home, source, source.finished(), task.inputs | (fitted.inputs if fitted else {}))
    target = replace(target, asked_scale=task.settings["rubric"]["scale"], limit=config.limit)
    besides_usd = 0.0 if spec.max_cost_usd is None else labels_usd(run, task.settings)
    return InferenceStage("score", spec, task, home, besides_usd=besides_usd), task, target


def labels_usd(run: Run, settings: Mapping[str, Any]) -> float:
    """What a judge of these settings was paid for the labels of the run's distilled judges (`distill.labels`)."""
    names = run.judges().storage.all_names()
    homes = [run.judge(name.split("/")[0], "labels") for name in sorted(names) if name.endswith("/labels/manifest.json")]
    made = [home.finished() for home in homes]
    return sum(manifest.usage.get("cost_usd") or 0.0 for manifest in made if manifest.settings == settings)


def scale_of(judge: Judge, rubric: Rubric) -> Scale:
    """The scale of the ratings: the rubric's, but for recorded ones that name theirs."""
    if judge.scale is None:
        return rubric.scale
    return Scale(min=judge.scale.min, max=judge.scale.max, step=None)


def check_model(judge: Judge, mode: Mode = "fill") -> None:
    """`UsageError` where a model is to judge and none is named; to read replies again none is needed."""
    if not judge.is_model or judge.model is not None or mode == "rescore":
        return
    if judge.in_job:
        raise UsageError(
            "`score.judge.model` is not set: give the model that judges, a Hugging Face id or a checkpoint's directory, e.g. "
            "--set score.judge.model=Qwen/Qwen2.5-7B-Instruct"
        )
    raise UsageError(
        "`score.judge.model` is not set: name the model that judges, e.g. --set score.judge.model=gpt-4o-mini "
        "(or --set score.judge.kind=rules for the offline baseline)"
    )


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
    table = pa.concat_tables(stage.table(entry.name, entry.sha256, ["outside", "expected_score"]) for entry in files)
    # rows without probabilities say nothing of the judge, and would pull the mean to zero
    table = table.filter(pc.is_valid(table["outside"]))
    if not table.num_rows:
        return {}
    mean, most = pc.mean(table["outside"]).as_py(), pc.quantile(table["outside"], q=0.95)[0].as_py()
    expected = table.num_rows - table["expected_score"].null_count
    return {"outside": {"rows": table.num_rows, "mean": mean, "p95": most, "expected": expected}}
