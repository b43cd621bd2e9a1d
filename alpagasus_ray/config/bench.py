"""The knobs of `jobs/bench.py`: which models are asked which benchmarks, where the questions lie, and what is done with long
ones."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from alpagasus_ray.config.base import Name, Section, differ
from alpagasus_ray.config.engines import Asking, EngineConfig

SOURCES = {"path": "vllm", "arm": "vllm", "api": "api"}
"""What a model of a benchmark can be given by, and the kind of engine that each is."""


class BenchModel(EngineConfig):
    """One model that is asked benchmarks: exactly one of `path`, `arm` and `api` says which."""

    where: ClassVar[str] = "bench.models"

    name: Name
    """Directory under `benchmarks/`."""
    path: str | None = None
    """A checkpoint's directory or Hugging Face id; vLLM in the job answers."""
    arm: Name | None = None
    """The checkpoint `models/<arm>/` of this run."""
    api: str | None = None
    """The name of a model that an API knows. It can be asked where a benchmark only makes text: APIs do not tell how probable a
    given answer is."""
    chat: bool = False
    """Ask by the model's chat template, the shots as earlier turns; otherwise as a text that the model goes on with, as
    base models are asked. An API is always asked by messages."""

    @model_validator(mode="before")
    @classmethod
    def _source(cls, given: Any) -> Any:
        """The source says the kind and the model."""
        if not isinstance(given, dict):
            return given
        sources = [key for key in SOURCES if given.get(key) is not None]
        if len(sources) != 1:
            named = " and ".join(f"`{key}`" for key in sources) or "none of them"
            raise ValueError(f"a model has one of `path`, `arm`, `api`; {named} is given")
        (source,) = sources
        if given.get("kind", SOURCES[source]) != SOURCES[source] or given.get("model", given[source]) != given[source]:
            raise ValueError(f"`{source}` says kind and model; leave `kind` and `model` out")
        return {**given, "kind": SOURCES[source], "model": given[source]}

    @model_validator(mode="after")
    def _is_live(self) -> "BenchModel":
        if self.mode == "batch":
            raise ValueError("`mode: batch` is for ratings; benchmarks are asked live")
        return self

    @property
    def by_messages(self) -> bool:
        """Whether questions go to it as chat messages."""
        return self.chat or self.is_remote


class BenchTask(Section):
    """One benchmark."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """`mmlu`, `bbh`, `drop`, `humaneval`, `gsm8k`, `ifeval`; with `-tiny` behind it 100 documents of one, drawn once for all;
    a task of lm-eval by its name; or any name, with `file`."""
    file: str | None = None
    """A task file of your own."""
    data: str | None = None
    """Where its documents lie: a folder with a file for each split, one file, or a dataset of the hub as `hf:<id>`; by default
    in `bench.data`, and without that on the hub."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Solved examples before each question; by default as many as the benchmark usually has."""


def _named(given: Any) -> Any:
    """A name alone is a task."""
    return {"name": given} if isinstance(given, str) else given


class Bench(Asking):
    """`jobs/bench.py`: ask models benchmarks, by lm-eval's rules on the engines of this package."""

    section: ClassVar[str] = "bench"

    models: tuple[BenchModel, ...] = ()
    """The models, e.g. `[{name: selected, arm: selected}, {name: base, path: Qwen/Qwen3-8B}]`; by default those of
    `generate.models` that vLLM runs."""
    tasks: tuple[Annotated[BenchTask, BeforeValidator(_named)], ...] = ()
    """The benchmarks, e.g. `[mmlu, humaneval-tiny, {name: mine, file: mine.yaml, data: mine.jsonl}]`."""
    data: str | None = None
    """A folder that `alpagasus bench --fetch` has prepared: all documents come from there, and the hub is not asked."""
    too_long: Literal["refuse", "fewer_shots", "cut"] = "refuse"
    """Where the questions of a benchmark with their shots are longer than a model's context: `refuse` to ask them; take
    `fewer_shots`, the same for all questions; or `cut` the beginning of those that are too long, as lm-eval does."""
    code_seconds: Annotated[PositiveInt, Field(le=600)] = 10
    """Longest time that a program which a model has written may run, in seconds."""
    code_mib: PositiveInt = 1024
    """Most memory that such a program may take, in MiB."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Bench":
        differ("models", [model.name for model in self.models])
        differ("tasks", [task.name for task in self.tasks])
        return self
