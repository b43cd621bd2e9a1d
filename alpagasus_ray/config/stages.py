"""The knobs of `jobs/ingest.py`, `jobs/score.py` and `jobs/generate.py`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from alpagasus_ray.config.base import OPERATIONAL, Name, OneOf, Section, Share, differ
from alpagasus_ray.config.cascade import Cascade
from alpagasus_ray.config.engines import Asking, EngineConfig, Kind
from alpagasus_ray.config.trust import Combine

LONGEST_ANSWER = 1024
"""Tokens, as in the paper (section 3.3)."""


FORMATS: dict[str, str] = {
    "auto": "told by the first record",
    "alpaca": "`instruction`, `input`, `output`",
    "dolly": "`instruction`, `context`, `response`",
    "sharegpt": "`conversations`, a list of turns",
    "messages": "`messages`, a list of turns",
    "oasst": "trees of messages",
    "preference": "`prompt`, `chosen`, `rejected`",
    "prompt_completion": "`prompt`, `completion`",
    "json": "a JSON list",
    "jsonl": "JSON lines",
    "csv": "a table with a header",
    "parquet": "a table",
}
"""How records are laid out, and kinds of files; how each layout is read is in `data/formats.py`."""


def _off(value: Any) -> Any:
    """YAML takes a plain `off` for false."""
    return "off" if value is False else value


class Ingest(Section):
    """`jobs/ingest.py`: read a dataset and write it as examples."""

    stated = frozenset({"source", "name", "format", "columns", "turns", "rows_per_shard", "split"})

    source: str | tuple[str, ...] | None = None
    """What to read: a path, a glob, a list of them, `s3://…`, or `hf:<hub id or saved directory>`."""
    name: Name | None = None
    """First part of every example_id; by default taken from the name of the source."""
    format: Annotated[str, OneOf(FORMATS)] = "auto"
    """How records are laid out; `json`, `jsonl`, `csv` and `parquet` fix the kind of file and leave the layout to `columns`
    or to detection."""
    columns: dict[Literal["instruction", "input", "output", "category", "system"], str] = {}
    """For any other layout: which column holds what, e.g. `{instruction: question, output: answer}`."""
    turns: Literal["conversation", "first", "all"] = "first"
    """Conversations of several exchanges: only the `first` becomes an example; or `all`, each with those before it; or the
    whole `conversation` is one example, judged by its last answer and trained on every answer that may be learned."""
    reasoning: Literal["keep", "drop"] = "keep"
    """The thinking in an answer, as between `<think>` and `</think>`: `keep` it as part of the answer, or `drop` it."""
    rows_per_shard: PositiveInt = 1000
    """Examples in one Parquet file: the unit of work, retry and commit."""
    max_rejected: Annotated[Share, OPERATIONAL] = 0.05
    """Fail when a larger share of the records cannot be examples."""
    split: str | None = None
    """Which split to read: of a dataset on the Hugging Face hub (`train` unless told), or of a directory that holds several."""


class RecordedScale(Section):
    """The scale of ratings that somebody has recorded."""

    min: float = 0.0
    """The lowest score that there can be."""
    max: float = 5.0
    """The highest score that there can be."""

    @model_validator(mode="after")
    def _ordered(self) -> "RecordedScale":
        if self.min >= self.max:
            raise ValueError(f"`min` {self.min:g} is not below `max` {self.max:g}")
        return self


class Judge(EngineConfig):
    """Who rates: an engine and a rubric."""

    where: ClassVar[str] = "score.judge"

    kind: Kind = "api"
    """`api`: an OpenAI-compatible server; `vllm`: a model in the job; `rules`: the offline baseline, no LLM; `recorded`:
    ratings you already have; `distilled`: a small model of a judge that `alpagasus distill` has fitted, named by `model`."""
    rubric: str = "accuracy"
    """What is asked: `accuracy`, `helpfulness`, the same in whole points (`accuracy-integer`, `helpfulness-integer`), `paper`
    (the paper's question, shorter), or the path of your own rubric file."""
    explain: bool = True
    """Let the judge explain its score, as in the paper; `false` ends the reply after the score, for a fraction of the time."""
    constrained: Annotated[Literal["auto", "off", "regex", "json"], BeforeValidator(_off)] = "auto"
    """Let the first line be nothing but a score of the rubric's scale. `regex`: by vLLM, in the job or (as
    `structured_outputs`) on a server; `json`: by the `response_format` of an API, the reply is a JSON object; `auto`: `regex`
    for `vllm`, `off` for `api`."""
    expected: bool = False
    """Record how probable each score was, and their mean, as `expected_score`."""
    max_outside: Share = 0.5
    """With `expected`: a row has no expected score where it was more probable than this that no score of the scale stands at
    its
    place: the rest of the probability says little of what the judge thinks."""
    warn_outside: Annotated[Share, OPERATIONAL] = 0.2
    """With `expected`: tell when that probability is higher than this, in the mean over all rows."""
    ratings: str | None = None
    """For `recorded`: a CSV, JSON, JSONL or Parquet file with `index` or `example_id`, and `score`; or the AlpaGasus
    release format (objects with `triplet`, `review`, `score`)."""
    columns: dict[Literal["index", "example_id", "score"], str] = {}
    """For `recorded`: names of the file's columns where they differ, e.g. `{index: alpaca_index, score: gpt-4o-mini}`."""
    scale: RecordedScale | None = None
    """For `recorded`: the scale of the file's scores, e.g. `{min: 1, max: 6}`; by default the rubric's."""

    @model_validator(mode="after")
    def _needs(self) -> "Judge":
        if self.traits.is_recorded and self.ratings is None:
            raise ValueError("kind `recorded` needs `ratings`: the file that holds them")
        if self.kind == "distilled" and self.model is None:
            raise ValueError("kind `distilled` needs `model`: the name that `distill.name` gave the fitted judge")
        if self.scale is not None and not self.traits.is_recorded:
            raise ValueError(f"`scale` is for kind `recorded`; that of kind `{self.kind}` is its rubric's")
        if self.in_job and self.constrained == "json":
            raise ValueError("kind `vllm` takes `constrained: regex` (its default) or `off`; `json` is for an API")
        if self.in_job and self.mode == "batch":
            raise ValueError("`mode: batch` is for an API; a model in the job is always asked in batches")
        if self.is_remote and self.expected and self.constrained in ("regex", "json"):
            raise ValueError(
                f"`expected` with `constrained: {self.constrained}` would read probabilities that an API has made of the scale "
                "alone; set `constrained: off`"
            )
        return self


class Score(Asking):
    """`jobs/score.py`: rate every example."""

    section: ClassVar[str] = "score"

    name: Name = "judge"
    """Directory under `ratings/`; give another judge another name."""
    judge: Judge = Field(default_factory=Judge)
    """The judge."""
    cascade: Cascade | None = None
    """Ask the judge only where a cheaper one points, e.g. `{calls: 0.4}`; without it every row is asked about."""
    combine: Combine | None = None
    """Instead of a judge: make the ratings of others that the run has, e.g. `{ratings: [a, b, c]}`; asks and costs nothing."""
    reuse: Annotated[list[str], OPERATIONAL] = []
    """Directories of ratings by the same judge, e.g. `[runs/old/ratings/judge]`, whose replies to the same requests are taken
    over: of a dataset that has grown only the new rows are paid for."""
    limit: Annotated[PositiveInt | None, OPERATIONAL] = None
    """A trial: rate only so many examples, drawn from the whole dataset, and stop. Replies are kept, and a full
    run does not ask again."""

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, given: Any) -> Any:
        """With `combine` nobody is asked."""
        if not isinstance(given, dict) or given.get("combine") is None:
            return given
        # an offline judge stands where the judge of this section would: it has no model, no server and no price
        judge = given.get("judge", {"kind": "rules"})
        if (judge.kind if isinstance(judge, Judge) else judge.get("kind")) != "rules":
            raise ValueError("`judge` and `combine` exclude each other: ratings come from a judge, or are made of others")
        return {**given, "judge": judge}


class Answerer(EngineConfig):
    """One model that answers the test sets: exactly one of `path`, `arm`, `api` and `answers` says which."""

    where: ClassVar[str] = "generate.models"

    name: Name
    """Directory under `answers/`."""
    path: str | None = None
    """A checkpoint's directory or Hugging Face id; vLLM in the job answers."""
    arm: Name | None = None
    """The checkpoint `models/<arm>/` of this run."""
    api: str | None = None
    """The name of a model that an API knows."""
    answers: str | None = None
    """A file of answers that exist already, a teacher's for instance: JSON, JSON lines, CSV or Parquet with the answers under
    `output`, `answer`, `text` or `response`, found by `id` (or `prompt_id`, `question_id`) or by the prompt's own text."""
    prompt: Literal["chat", "alpaca"] = "chat"
    """`chat`: the prompt as a user's message, under the model's chat template; `alpaca`: the text that Alpaca's models are
    trained on, with nothing around it."""
    max_tokens: PositiveInt | None = None
    """Longest answer of this model; by default `generate.max_new_tokens`. More than 1,024 only as `max_completion_tokens`
    (`max_tokens_field`), in which an API's models count their reasoning. A null that is written leaves it out of requests."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """By default `generate.temperature`; a null that is written leaves it out of the request."""

    @model_validator(mode="before")
    @classmethod
    def _source(cls, given: Any) -> Any:
        """The source says the kind and the model."""
        if not isinstance(given, dict):
            return given
        sources = [key for key in ("path", "arm", "api", "answers") if given.get(key) is not None]
        if len(sources) != 1:
            said = " and ".join(f"`{key}`" for key in sources) or "none of them"
            raise ValueError(f"a model has one of `path`, `arm`, `api`, `answers`; {said} is given")
        (source,) = sources
        kind = {"path": "vllm", "arm": "vllm", "api": "api", "answers": "recorded"}[source]
        if given.get("kind", kind) != kind or given.get("model", given[source]) != given[source]:
            raise ValueError(f"`{source}` says kind and model; leave `kind` and `model` out")
        return {**given, "kind": kind, "model": given[source]}

    @model_validator(mode="after")
    def _fits(self) -> "Answerer":
        if self.mode == "batch":
            raise ValueError("`mode: batch` is for ratings; answers are asked for live")
        if self.max_tokens_field == "max_tokens" and (self.max_tokens or 0) > LONGEST_ANSWER:
            raise ValueError(
                f"`max_tokens` is {self.max_tokens}, and answers have {LONGEST_ANSWER:,} tokens at most; more only with "
                "`max_tokens_field: max_completion_tokens`, in which a model's reasoning counts"
            )
        return self


class TestSet(Section):
    """Prompts to answer."""

    __test__ = False  # no test, whatever pytest thinks of the name
    stated = frozenset({"name", "format", "columns"})

    name: Name
    """Directory under `answers/<model>/`."""
    path: str
    """File, directory, glob or URI."""
    format: Literal["auto", "vicuna", "koala", "arena_hard", "wizardlm", "self_instruct", "alpaca_eval", "jsonl"] = "auto"
    """Layout of the file; `auto` tells it by the keys of the first record."""
    columns: dict[Literal["id", "instruction", "input", "category", "skill", "difficulty", "reference"], str] = {}
    """For any other layout: which key holds what, e.g. `{instruction: question}`."""


class Generate(Asking):
    """`jobs/generate.py`: let models answer test sets."""

    section: ClassVar[str] = "generate"

    models: tuple[Answerer, ...] = ()
    """The models, e.g. `[{name: selected, arm: selected}, {name: base, path: meta-llama/Llama-2-7b-hf}]`."""
    test_sets: tuple[TestSet, ...] = ()
    """The test sets, e.g. `[{name: vicuna, path: vicuna.jsonl}]`."""
    max_new_tokens: Annotated[int, Field(ge=1, le=LONGEST_ANSWER)] = LONGEST_ANSWER
    """Longest answer, in tokens; the paper's 1,024 are the most (section 3.3)."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling; null leaves it out."""
    seed: int | None = None
    """Seed of the sampling."""
    thoughts: Literal["drop", "keep"] = "drop"
    """What a model thought before its answer (`<think>…</think>` and the like): `drop` takes it off what judges, counts and
    `answers.json` see, and keeps the raw reply beside it; `keep` leaves it in the answer."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Generate":
        for kind, names in (("models", [m.name for m in self.models]), ("test_sets", [t.name for t in self.test_sets])):
            differ(kind, names)
        return self
