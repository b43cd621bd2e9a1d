"""Task files: what a benchmark asks, where its documents come from, and what its score is.

A file is YAML. Its part `harness` is what lm-eval's own task files hold (prompt, choices, filters, metrics); the rest is ours.
Six come with the package; a user's own has the same form. Imports nothing of lm-eval.
"""

import difflib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from alpagasus_ray.config import digest
from alpagasus_ray.config.bench import BenchTask
from alpagasus_ray.errors import UsageError

TINY = "-tiny"
"""Behind a benchmark's name: its small variant."""
TEST, SHOTS = "test", "shots"
"""The splits of a benchmark as they are called here, and as the files of a prepared folder are named."""
OUTPUTS = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until")
OURS = (
    "task",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "test_split",
    "fewshot_split",
    "num_fewshot",
    "custom_dataset",
)
"""Keys of lm-eval that the rest of a task file says."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Hub(_Strict):
    """A dataset of the Hugging Face hub."""

    path: str
    name: str | None = None
    """Its configuration."""
    names: str | None = None
    """All of its configurations are read; the column of this name says which one a document is of."""
    revision: str | None = None


class Splits(_Strict):
    """What the splits of the hub's dataset are called."""

    test: str = "test"
    shots: str | None = None


class TaskFile(_Strict):
    """One benchmark."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    about: str
    """What it measures, for people."""
    hub: Hub | None = None
    splits: Splits = Splits()
    columns: tuple[str, ...] = ()
    """Columns that every document has to have."""
    id: str | None = None
    """Column that names a document; by default its number is its name."""
    each: str | None = None
    """Column whose values are asked apart, each with shots of its own: MMLU's subject."""
    shots: Annotated[int, Field(ge=0)] = 0
    shots_in: str | None = None
    """Folder of lm-eval's task files that hold the shots, one file for each value of `each`."""
    measure: str
    """The measure that is the score; those of `harness` and their figures are kept besides."""
    reply: str | None = None
    """Name of the filter in `harness` whose reading of the reply counts; by default the first."""
    cluster: str | None = None
    """Column whose equal values make documents depend on each other: a passage that several questions share."""
    code: str | None = None
    """Of a benchmark whose replies are programs: the Jinja template of what is run, from a document's columns and `reply`. It
    is solved where the program ends without an error."""
    needs: tuple[str, ...] = ()
    """Python modules that scoring needs besides lm-eval."""
    nltk: tuple[str, ...] = ()
    """Data of NLTK that scoring needs."""
    tiny: PositiveInt = 100
    """Documents of the small variant."""
    seed: int = 20231
    """Draws them."""
    harness: dict[str, Any]
    """As in a task file of lm-eval: output_type, description, doc_to_text, doc_to_target, metric_list, …"""
    of_lm_eval: bool = False
    """Whether it is one of lm-eval's own tasks, by name."""

    @model_validator(mode="after")
    def _fits(self) -> "TaskFile":
        if not self.of_lm_eval and self.harness.get("output_type") not in OUTPUTS:
            raise ValueError(f"harness.output_type is {self.harness.get('output_type')!r}; it is one of {', '.join(OUTPUTS)}")
        if wrong := [key for key in OURS if key in self.harness]:
            raise ValueError(f"harness.{wrong[0]}: that is said by the keys beside `harness` (name, hub, splits, shots)")
        measures = [one.get("metric") for one in self.harness.get("metric_list") or ()]
        if measures and not self.code and self.measure not in measures:
            raise ValueError(
                f"`measure: {self.measure}` is none of those in harness.metric_list: {', '.join(map(str, measures))}"
            )
        filters = [one.get("name") for one in self.harness.get("filter_list") or ()]
        if self.reply and self.reply not in filters:
            raise ValueError(f"`reply: {self.reply}` is the name of no filter in harness.filter_list")
        if self.shots_in and not self.each:
            raise ValueError("`shots_in` has one file for each value of `each`, which is not given")
        return self

    @property
    def generates(self) -> bool:
        """Whether it only makes text, so that an API can be asked."""
        return bool(self.harness.get("output_type") == "generate_until")

    def identity(self) -> str:
        """Changes with whatever may change a score."""
        return digest(self.model_dump(mode="json", exclude={"about", "hub", "tiny"}))


class Benchmark(BaseModel):
    """A benchmark as a recipe asks for it."""

    model_config = ConfigDict(frozen=True)

    name: str
    """As the recipe has it: the name of its directory."""
    file: TaskFile
    data: str | None
    """Where its documents lie; None: on the hub."""
    shots: int | None
    """None: as many as a task of lm-eval has by itself."""
    is_tiny: bool

    @property
    def where(self) -> str:
        """For messages."""
        return f"bench.tasks {self.name}"


@cache
def built_in() -> dict[str, TaskFile]:
    """The benchmarks that come with the package, by name."""
    files = sorted(resources.files("alpagasus_ray.benchmarking").joinpath("tasks").iterdir(), key=lambda file: file.name)
    read = [_parsed(file.read_text(encoding="utf-8"), file.name) for file in files if file.name.endswith(".yaml")]
    return {file.name: file for file in read}


def load(path: str) -> TaskFile:
    """A task file of a user; a `UsageError` tells what of it is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"bench.tasks, file: {path!r} cannot be read: {reason}") from None
    return _parsed(text, path)


def _parsed(text: str, name: str) -> TaskFile:
    try:
        return TaskFile.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"{name}: {key}: {first['msg']}; docs/benchmarks-of-models.md shows a task file") from None


def resolved(tasks: Iterable[BenchTask], folder: str | None, others: Iterable[str] = ()) -> list[Benchmark]:
    """The benchmarks of a recipe. `others` are the tasks that lm-eval has besides; a name that nobody knows is a `UsageError`
    with the nearest ones."""
    others = set(others)
    return [_resolved(task, folder, others) for task in tasks]


def is_own(task: BenchTask) -> bool:
    """Whether a task comes from a file of this package or of the user."""
    return task.file is not None or task.name.removesuffix(TINY) in built_in()


def _resolved(task: BenchTask, folder: str | None, others: set[str]) -> Benchmark:
    base = task.name.removesuffix(TINY)
    known = built_in()
    if task.file is not None:
        file = load(task.file)
    elif base in known:
        file = known[base]
    elif task.name in others:
        file = TaskFile(name=task.name, about=f"lm-eval's own task {task.name}", measure="", harness={}, of_lm_eval=True)
    else:
        near = difflib.get_close_matches(base, sorted({*known, *others}), n=3, cutoff=0.5)
        hint = f"; the nearest: {', '.join(near)}" if near else ""
        raise UsageError(
            f"bench.tasks: there is no benchmark {task.name!r}{hint}. There are {', '.join(known)}, each with "
            f"{TINY!r} behind it too, every task of lm-eval, and your own by `file`"
        )
    if file.of_lm_eval:
        if task.data is not None:
            raise UsageError(f"bench.tasks {task.name}: lm-eval's own tasks know where their documents are; leave `data` out")
        return Benchmark(name=task.name, file=file, data=None, shots=task.shots, is_tiny=False)
    data = task.data or (f"{folder.rstrip('/')}/{base}" if folder else None)
    if data is None and file.hub is None and not file.of_lm_eval:
        raise UsageError(
            f"bench.tasks {task.name}: there is no `data` for it, and its task file names no dataset of the hub (`hub`); give "
            f"the folder or file with its documents as `data`"
        )
    shots = file.shots if task.shots is None else task.shots
    return Benchmark(name=task.name, file=file, data=data, shots=shots, is_tiny=task.name.endswith(TINY))
