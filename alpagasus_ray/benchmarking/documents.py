"""The documents of a benchmark, from a prepared folder, a file or the hub; and the folder, prepared on a connected machine.

A prepared folder has a directory for each benchmark with a Parquet file for each split, `test` and, where there are shots,
`shots`; JSON, JSON lines or CSV under these names do as well. Knows nothing of lm-eval and of models.
"""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from alpagasus_ray.benchmarking.task_files import SHOTS, TEST, Benchmark, Hub, TaskFile
from alpagasus_ray.config import digest
from alpagasus_ray.data import readers
from alpagasus_ray.data.readers import HUGGING_FACE, SourceFile
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.store.storage import Storage, resolve

ID, SUBSET = "alpagasus_document", "alpagasus_subset"
"""Columns that are added to each document: its name, and the value of `each`."""
Document = dict[str, Any]


class Documents(NamedTuple):
    """What a benchmark asks."""

    test: list[Document]
    shots: list[Document]
    """Solved examples; empty where there are none, or where lm-eval's own files hold them."""
    source: str
    """Where they are from, for people."""
    fingerprint: str
    """Changes with their content."""


def load(benchmark: Benchmark) -> Documents:
    """The documents of a benchmark that is asked; those of a small variant are drawn from all, the same ones each time. A
    `UsageError` tells of missing splits and columns."""
    file = benchmark.file
    if file.of_lm_eval:  # its documents are lm-eval's own business
        return Documents([], [], "lm-eval's own task", version("lm-eval"))
    splits = _local(benchmark) if benchmark.data and not benchmark.data.startswith(HUGGING_FACE) else _from_hub(benchmark)
    source = benchmark.data or f"{HUGGING_FACE}{file.hub.path if file.hub else benchmark.name}"
    if not splits[TEST]:
        raise UsageError(f"{benchmark.where}: {source} holds no documents")
    _check_columns(benchmark, splits[TEST], source)
    named = [_named(file, number, document) for number, document in enumerate(splits[TEST])]
    _differ(benchmark, named)
    if benchmark.is_tiny and len(named) > file.tiny:
        drawn = sorted(random.Random(file.seed).sample(range(len(named)), file.tiny))  # noqa: S311 - no secret
        named = [named[number] for number in drawn]
    shots = splits.get(SHOTS, [])
    if benchmark.shots and not shots and not file.shots_in:
        raise UsageError(
            f"{benchmark.where}: {benchmark.shots} shots are asked for, and {source} has no solved examples. Put them beside "
            f"the questions as {SHOTS}.jsonl, or say `shots: 0`"
        )
    return Documents(named, shots, source, digest([named, shots]))


def _named(file: TaskFile, number: int, document: Document) -> Document:
    subset = str(document[file.each]) if file.each else ""
    name = str(document[file.id]) if file.id else f"{number:05d}"
    return {**document, SUBSET: subset, ID: f"{subset}/{name}" if subset else name}


def _differ(benchmark: Benchmark, documents: Sequence[Document]) -> None:
    seen: set[str] = set()
    for document in documents:
        if document[ID] in seen:
            raise UsageError(f"{benchmark.where}: two documents are called {document[ID]!r}; `id` is a column of names")
        seen.add(document[ID])


def _check_columns(benchmark: Benchmark, documents: Sequence[Document], source: str) -> None:
    wanted = {
        *benchmark.file.columns,
        *(key for key in (benchmark.file.each, benchmark.file.id, benchmark.file.cluster) if key),
    }
    for number, document in enumerate(documents, 1):
        if missing := sorted(wanted - document.keys()):
            raise UsageError(
                f"{benchmark.where}: document {number} of {source} has no {missing[0]!r}; it has "
                f"{', '.join(map(str, document))}"
            )


# files


def _local(benchmark: Benchmark) -> dict[str, list[Document]]:
    """The splits of a folder, or of a file that is all questions."""
    location = benchmark.data or ""
    fs, path = resolve(location)
    kind = fs.get_file_info(path).type
    if kind == pafs.FileType.NotFound:
        base = benchmark.file.name
        raise UsageError(
            f"{benchmark.where}: there are no documents at {location}. On a machine that reaches the hub, `alpagasus bench "
            f"--fetch "
            f"DIR` writes them to DIR/{base}; then set bench.data to DIR"
        )
    if kind == pafs.FileType.File:
        return {TEST: list(_records(benchmark, readers.expand(location, benchmark.where)))}
    names = [name for name in Storage(fs, path).names() if name.partition(".")[0] in (TEST, SHOTS)]
    splits: dict[str, list[Document]] = {TEST: [], SHOTS: []}
    for name in names:
        files = readers.expand(f"{location.rstrip('/')}/{name}", benchmark.where)
        splits[name.partition(".")[0]] += _records(benchmark, files)
    if not any(name.partition(".")[0] == TEST for name in names):
        raise UsageError(f"{benchmark.where}: {location} has no file {TEST}.parquet, {TEST}.jsonl or the like")
    return splits


def _records(benchmark: Benchmark, files: Sequence[SourceFile]) -> Iterator[Document]:
    for file in files:
        for record in readers.records(file):
            if record.data is None:
                raise InputError(file.path, f"record {record.position}", f"{benchmark.where}: {record.problem}")
            yield record.data


# the hub


def _from_hub(benchmark: Benchmark) -> dict[str, list[Document]]:
    hub = benchmark.file.hub
    if benchmark.data:
        hub = Hub(path=benchmark.data.removeprefix(HUGGING_FACE))
    assert hub is not None, "the recipe's tasks are resolved"
    splits = {TEST: benchmark.file.splits.test, SHOTS: benchmark.file.splits.shots}
    return {
        name: _hub_split(benchmark, hub, split) for name, split in splits.items() if split and (benchmark.shots or name == TEST)
    }


def _hub_split(benchmark: Benchmark, hub: Hub, split: str) -> list[Document]:
    import datasets

    try:
        names = datasets.get_dataset_config_names(hub.path, revision=hub.revision) if hub.names else [hub.name]
        rows: list[Document] = []
        for name in names:
            loaded = datasets.load_dataset(hub.path, name, split=split, revision=hub.revision)
            rows += [{**row, **({hub.names: name} if hub.names else {})} for row in loaded]
    except (OSError, ValueError, ConnectionError) as error:
        raise UsageError(
            f"{benchmark.where}: the documents cannot be read from the hub ({hub.path}): {' '.join(str(error).split())[:200]}. "
            "On a machine that reaches it, `alpagasus bench --fetch DIR` prepares a folder; then set bench.data to DIR"
        ) from None
    return rows


# the prepared folder


def fetch(benchmarks: Sequence[Benchmark], folder: str) -> list[dict[str, Any]]:
    """Write the documents of the benchmarks to a folder, from which everything then runs without the hub."""
    storage, written = Storage.open(folder), []
    if own := [one.name for one in benchmarks if one.file.of_lm_eval]:
        raise UsageError(
            f"--fetch: {own[0]} is a task of lm-eval's own, whose documents Hugging Face keeps in its cache (HF_HOME); load it "
            "there once on a connected machine, and copy that"
        )
    if without := [one.name for one in benchmarks if one.file.hub is None]:
        raise UsageError(
            f"--fetch: the task file of {without[0]} names no dataset of the hub (`hub`); there is nothing to fetch"
        )
    for file in {one.file.name: one.file for one in benchmarks}.values():
        whole = Benchmark(name=file.name, file=file, data=None, shots=max(file.shots, 1), is_tiny=False)
        splits = _from_hub(whole)
        for name, rows in splits.items():
            storage.at(file.name).write_table(f"{name}.parquet", pa.Table.from_pylist(rows))
        written.append(
            {
                "task": file.name,
                "documents": {name: len(rows) for name, rows in splits.items()},
                "location": storage.path(file.name),
            }
        )
        _fetch_nltk(file, storage)
    return written


def _fetch_nltk(file: TaskFile, storage: Storage) -> None:
    for name in file.nltk:
        import nltk

        nltk.download(name, download_dir=storage.path("nltk_data"), quiet=True, raise_on_error=True)


def offline(folder: str | None) -> Mapping[str, str]:
    """Environment variables under which no library asks a hub, where the documents come from a folder."""
    if folder is None:
        return {}
    nltk = {"NLTK_DATA": os.path.join(folder, "nltk_data")} if "://" not in folder else {}
    return {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", **nltk}
