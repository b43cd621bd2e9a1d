"""Tasks of lm-eval, from task files and documents, or by the names that lm-eval has for its own."""

import importlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import yaml

from alpagasus_ray.benchmarking.documents import SUBSET, Document, Documents
from alpagasus_ray.benchmarking.task_files import SHOTS, TEST, Benchmark
from alpagasus_ray.errors import UsageError

FUNCTIONS = ("process_docs", "process_results")
"""Keys of a task file that may name a function as `module:function`."""


def own_names() -> list[str]:
    """The tasks, groups and tags that lm-eval has."""
    from lm_eval.tasks import TaskManager

    return list(TaskManager().all_tasks)


def of_lm_eval(benchmark: Benchmark, shots: int | None) -> dict[str, Any]:
    """The tasks that lm-eval has under a name, with their documents from the hub or its cache."""
    from lm_eval.tasks import TaskManager

    with quiet():
        try:
            tasks: dict[str, Any] = TaskManager().load([benchmark.file.name])["tasks"]
        # what a task of others does when it is loaded, nobody knows: it may fetch, import and run
        except Exception as error:  # noqa: BLE001 - whatever a task of lm-eval raises is told as its name's fault
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UsageError(
                f"{benchmark.where}: lm-eval cannot load its task: {reason}. Its documents come from the hub, or from Hugging "
                "Face's own cache (HF_HOME) where they were loaded before"
            ) from None
    for task in tasks.values():
        if task.config.unsafe_code or task.config.doc_to_image or task.config.doc_to_audio:
            raise UsageError(
                f"{benchmark.where}: lm-eval's {task.config.task} runs programs or shows pictures, which is not done"
            )
        if shots is not None:
            task.set_config(key="num_fewshot", value=shots)
    return tasks


def made_of(benchmark: Benchmark, documents: Documents, shots: int) -> dict[str, Any]:
    """One task of lm-eval for each value of `each`, or one alone."""
    from lm_eval.api.task import ConfigurableTask

    file = benchmark.file
    parts: dict[str, list[Document]] = {}
    for document in documents.test:
        parts.setdefault(document[SUBSET], []).append(document)
    tasks = {}
    with quiet():
        for subset, own in parts.items():
            solved = [one for one in documents.shots if not file.each or str(one[file.each]) == subset]
            config = _config(benchmark, own, solved, shots, subset)
            try:
                tasks[config["task"]] = ConfigurableTask(config=config)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise UsageError(f"{benchmark.where}: lm-eval does not take its task file: {reason}") from None
    return tasks


def _config(benchmark: Benchmark, test: list[Document], solved: list[Document], shots: int, subset: str) -> dict[str, Any]:
    import datasets

    file = benchmark.file
    config = {key: _function(benchmark, value) if key in FUNCTIONS else value for key, value in file.harness.items()}
    splits = {TEST: datasets.Dataset.from_list(test)}
    if file.shots_in:
        told = _shots_of_lm_eval(benchmark, subset)
        solved = told["fewshot_config"]["samples"]
        config = {"description": told.get("description", ""), **config}
        config["fewshot_config"] = {"sampler": "first_n", "samples": solved}
    elif shots:
        splits[SHOTS] = datasets.Dataset.from_list(solved) if solved else splits[TEST].select([])
        config["fewshot_split"] = SHOTS
    if shots > len(solved):
        of = f" of {subset}" if subset else ""
        raise UsageError(
            f"{benchmark.where}: {shots} shots are asked for, and there are {len(solved)} solved examples{of} in "
            f"{file.shots_in or documents_of(benchmark)}; say `shots: {len(solved)}`, or add some"
        )
    name = f"{benchmark.name}_{subset}" if subset else benchmark.name
    return {**config, "task": name, "custom_dataset": lambda **_: splits, "test_split": TEST, "num_fewshot": shots}


def documents_of(benchmark: Benchmark) -> str:
    """Where a benchmark's documents are, for messages."""
    return benchmark.data or (benchmark.file.hub.path if benchmark.file.hub else benchmark.name)


def _shots_of_lm_eval(benchmark: Benchmark, subset: str) -> dict[str, Any]:
    """The solved examples that lm-eval's package has for a subset."""
    from importlib import resources

    file = resources.files("lm_eval.tasks").joinpath(f"{benchmark.file.shots_in}/{subset}.yaml")
    try:
        told: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert told["fewshot_config"]["samples"], "a file without shots is of no use"
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        raise UsageError(
            f"{benchmark.where}: lm-eval has no solved examples for {subset!r} ({benchmark.file.shots_in})"
        ) from None
    return told


def _function(benchmark: Benchmark, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    module, _, name = value.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UsageError(f"{benchmark.where}: its task file names the function {value!r}, which cannot be imported") from None


def check_needs(benchmark: Benchmark) -> None:
    from importlib.util import find_spec

    missing = [name for name in benchmark.file.needs if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{benchmark.where} needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )
    if benchmark.file.nltk:
        import nltk

        for name in benchmark.file.nltk:
            try:
                nltk.data.find(f"tokenizers/{name}")
            except LookupError:
                raise UsageError(
                    f"{benchmark.where} needs NLTK's {name}, which is not here: `alpagasus bench --fetch DIR` fetches it with "
                    f"the documents; or python -m nltk.downloader {name}"
                ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval tells at length what it was told, and draws a bar for each subset."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
