"""Ask models benchmarks: questions by lm-eval's rules, replies by the engines of this package, scores per document.

For each model and benchmark there is `benchmarks/<model>/<task>/` with `questions/`, `replies/` and, once all are there, a row
for each document. A model is started once for all of its benchmarks, and a call that was stopped goes on with the replies that
it has.
"""

import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa

from alpagasus_ray import extras
from alpagasus_ray.benchmarking import documents, harness_tasks, lengths, task_files
from alpagasus_ray.benchmarking.harness import Harness, Question
from alpagasus_ray.benchmarking.results import ROWS_PER_SHARD, Entry, finish, questions_of, replies_of
from alpagasus_ray.benchmarking.sandbox import Limits, Sandbox
from alpagasus_ray.benchmarking.task_files import Benchmark
from alpagasus_ray.config import Bench, BenchModel, Generate
from alpagasus_ray.data.readers import HUGGING_FACE
from alpagasus_ray.data.schema import QUESTIONS
from alpagasus_ray.engines.identity import with_template
from alpagasus_ray.engines.prices import BYTES_PER_TOKEN, OVERHEAD_TOKENS, tariff
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.stage import InferenceStage, Target
from alpagasus_ray.inference.tasks.answer import arm_checkpoint
from alpagasus_ray.inference.tasks.benchmark import GOOD, BenchmarkTask
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, shard_name

ASK_BY_CHAT = "A model that was tuned on chats often says nothing to a plain text: `chat: true` at it asks by its chat template"
SAMPLE = 100
"""Documents by which a plan tells what all of them take."""


def bench(
    config: Bench,
    generate: Generate,
    run: Run,
    *,
    again: Sequence[str] = (),
    unsafe_code: bool = False,
    in_process: bool = False,
) -> list[tuple[str, str, Manifest]]:
    """Make `benchmarks/<model>/<task>/` for every model and benchmark; what is made already is left as it is, but for questions
    whose reply has a status of `again`. Whatever can be wrong with one is told before any model is asked. Model, benchmark and
    manifest of each. `in_process` starts no Ray, for models of an API."""
    entries = _entries(config, generate, run)
    made = {entry.home.name: entry.home.made(entry.settings, entry.inputs) for entry in entries}
    for entry in entries:
        if made[entry.home.name] is not None and again and _has(entry, again):
            entry.home.reopen()
            made[entry.home.name] = None
    left = [entry for entry in entries if made[entry.home.name] is None]
    sandbox = _sandbox(config, left, unsafe_code)
    # one for all models: to make the questions of a large benchmark takes a minute
    asked = {entry.benchmark.name: entry for entry in left}
    ready = {name: Harness(entry.benchmark, entry.documents) for name, entry in asked.items()}
    prepared = [(entry, *_asked(config, entry, ready[entry.benchmark.name])) for entry in left]
    for model in {entry.model.name: entry.model for entry in left}.values():
        own = [one for one in prepared if one[0].model.name == model.name]
        stage = replace(_stage(config, model, run, own, again), in_process=in_process)
        replies = _ask(stage, own, BenchmarkTask(model, checkpoint=_checkpoint(model, run)[0]).inputs)
        for (entry, harness, listed), told in zip(own, replies, strict=True):
            made[entry.home.name] = finish(entry, harness, listed, told, sandbox, run)
    return [(entry.model.name, entry.benchmark.name, _there(made[entry.home.name])) for entry in entries]


def problems(config: Bench, generate: Generate) -> list[str]:
    """What of the section cannot be done on this machine, a line for each: before days of other work are spent."""
    if extras.missing("bench"):
        return [f"bench needs lm-eval, not installed here: {extras.advice('bench')}"]
    try:
        benchmarks = benchmarks_of(config)
        models_of(config, generate)
        for one in benchmarks:
            if _is_local(one):
                documents.load(one)
        if written := [one for one in benchmarks if one.file.code]:
            Sandbox.open(Limits(), f"{written[0].where} runs programs that a model has written")
    except UsageError as error:
        return [str(error)]
    return []


def plan(config: Bench, generate: Generate, run: Run) -> dict[str, Any]:
    """What a call would ask, and the dollars that an API charges for it, by a sample of the documents. Nothing is asked, no hub
    either: benchmarks whose documents lie there are `unknown`, and so are the dollars then, as they are without lm-eval."""
    models, told = models_of(config, generate), []
    costs: list[tuple[float | None, float | None]] = []
    for one in benchmarks_of(config):
        left = [model for model in models if run.benchmark(model.name, one.name).manifest() is None]
        size = _size(one, left) if _is_local(one) and left and not extras.missing("bench") else None
        known = {"documents": size.documents, "requests": len(left) * size.requests} if size else {}
        told.append({"benchmark": one.name, "models_left": len(left), "documents": None, "requests": None} | known)
        costs += [_dollars(model, size) for model in left if model.is_remote]
    return {
        "models": [model.name for model in models],
        "benchmarks": told,
        "unknown": [one["benchmark"] for one in told if one["models_left"] and one["documents"] is None],
        "requests": sum(one["requests"] or 0 for one in told),
        "dollars": {"low": _sum(low for low, _ in costs), "high": _sum(high for _, high in costs)},
    }


class Size(NamedTuple):
    """What one model is asked in a benchmark, by a sample of its documents."""

    documents: int
    requests: int
    tokens_in: float
    tokens_out: float
    """At most."""


def _dollars(model: BenchModel, size: Size | None) -> tuple[float | None, float | None]:
    """Least and most that an API charges: a token a reply, or the longest replies."""
    if size is None:
        return None, None
    prices = tariff(model)
    return prices.dollars(size.tokens_in, size.requests), prices.dollars(size.tokens_in, size.tokens_out)


def _sum(costs: Iterable[float | None]) -> float | None:
    """None where one of them is not known."""
    total = 0.0
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return round(total, 6)


def _size(one: Benchmark, models: Sequence[BenchModel]) -> Size:
    held = documents.load(one)
    drawn = random.Random(0).sample(held.test, min(SAMPLE, len(held.test)))  # noqa: S311 - no secret
    ready = Harness(one, held._replace(test=drawn))
    for model in models:
        _refuse_unasked(model, ready)
    questions = ready.questions(chat=False)
    times = len(held.test) / len(drawn)
    size = sum(len(f"{question.context}{''.join(question.continuations)}".encode()) for question in questions)
    longest = sum(json.loads(question.options)["max_tokens"] if question.options else 1 for question in questions)
    asked = round(times * len(questions))
    return Size(len(held.test), asked, times * size / BYTES_PER_TOKEN + asked * OVERHEAD_TOKENS, times * longest)


def _is_local(one: Benchmark) -> bool:
    """Whether its documents are in files."""
    return bool(one.data) and not str(one.data).startswith(HUGGING_FACE)


def benchmarks_of(config: Bench) -> list[Benchmark]:
    """The benchmarks of a recipe; a `UsageError` tells of a name that nobody knows."""
    if not config.tasks:
        raise UsageError("`bench.tasks` is empty; give e.g. --set 'bench.tasks=[mmlu-tiny, humaneval-tiny]'")
    os.environ.update(documents.offline(config.data))
    others = [] if all(task_files.is_own(task) for task in config.tasks) else _of_lm_eval()
    return task_files.resolved(config.tasks, config.data, others)


def _of_lm_eval() -> list[str]:
    extras.require("bench", "bench.tasks: a task of lm-eval")
    return harness_tasks.own_names()


def _there(manifest: Manifest | None) -> Manifest:
    assert manifest is not None, "every entry was finished"
    return manifest


# what is asked


def _entries(config: Bench, generate: Generate, run: Run) -> list[Entry]:
    benchmarks = benchmarks_of(config)
    models = [_resolved(model, run) for model in models_of(config, generate)]
    loaded = {one.name: documents.load(one) for one in benchmarks}
    entries = []
    for model in models:
        asked = BenchmarkTask(model, config.too_long == "cut", *_checkpoint(model, run))
        for one in benchmarks:
            settings = {
                "task": one.file.name,
                "file": one.file.identity(),
                "shots": one.shots,
                "tiny": one.is_tiny,
                "too_long": config.too_long,
                **asked.settings,
            }
            inputs = {"documents": loaded[one.name].fingerprint, **asked.inputs}
            entries.append(Entry(model, one, loaded[one.name], run.benchmark(model.name, one.name), settings, inputs))
    return entries


def models_of(config: Bench, generate: Generate) -> Sequence[BenchModel]:
    """The models that are asked: those of the section, or those of `generate` that vLLM runs."""
    if config.models:
        return config.models
    own = [
        BenchModel.model_validate({"name": one.name, "vllm": one.vllm, **({"arm": one.arm} if one.arm else {"path": one.path})})
        for one in generate.models
        if one.in_job
    ]
    if not own:
        raise UsageError(
            "`bench.models` is empty, and `generate.models` has none that vLLM runs; give e.g. --set "
            "'bench.models=[{name: base, path: Qwen/Qwen3-8B}]'"
        )
    return own


def _resolved(model: BenchModel, run: Run) -> BenchModel:
    if model.arm is not None:
        model = model.model_copy(update={"model": arm_checkpoint(model.where, model.name, model.arm, run)})
    return with_template(model)


def _checkpoint(model: BenchModel, run: Run) -> tuple[Any, Any]:
    return (None, None) if model.arm is None else (run.model(model.arm), run.weights(model.arm))


def _sandbox(config: Bench, left: Sequence[Entry], unsafe_code: bool) -> Sandbox | None:
    """Where programs that models write are run; a `UsageError` where there is no safe place."""
    written = [entry.benchmark.where for entry in left if entry.benchmark.file.code]
    if not written:
        return None
    limits = Limits(seconds=config.code_seconds, memory_mib=config.code_mib)
    return Sandbox.open(limits, f"{written[0]} runs programs that a model has written", unsafe=unsafe_code)


def _asked(config: Bench, entry: Entry, ready: Harness) -> tuple[Harness, Manifest]:
    """The questions of an entry, written down; told before: what of them the model cannot be asked."""
    _refuse_unasked(entry.model, ready)
    chat = entry.model.by_messages
    ready, questions = lengths.fitting(ready, entry.model, config.too_long)
    home = questions_of(entry.home)
    settings, inputs = {"chat": chat, "shots": ready.shots}, {"documents": entry.documents.fingerprint}
    inputs["task file"] = entry.benchmark.file.identity()
    made = home.made(settings, inputs)
    if made is not None:
        return ready, made
    begun = Begun(settings=settings, inputs=inputs)
    home.begin(begun)
    files = [_written(home, number, part) for number, part in enumerate(_parts(questions))]
    manifest = home.build(begun, files)
    home.finish(manifest)
    return ready, manifest


def _refuse_unasked(model: BenchModel, ready: Harness) -> None:
    """Tell of a benchmark that a model cannot be asked."""
    if model.is_remote and not ready.generates:
        raise UsageError(
            f"{ready.benchmark.where}: it asks how probable given answers are, which an API does not tell, and bench.models "
            f"{model.name} is one ({model.model}). Ask a model in the job, or benchmarks that make text"
        )


def _parts(questions: Sequence[Question]) -> Iterator[list[dict[str, Any]]]:
    rows = [
        {**one._asdict(), "continuations": list(one.continuations), "question_id": f"{one.document_id}#{number}"}
        for number, one in enumerate(questions)
    ]
    yield from (rows[start : start + ROWS_PER_SHARD] for start in range(0, len(rows), ROWS_PER_SHARD))


def _written(home: StageDir, number: int, rows: list[dict[str, Any]]) -> FileEntry:
    written = home.storage.write_table(shard_name(number), pa.Table.from_pylist(rows, schema=QUESTIONS))
    return FileEntry(name=shard_name(number), rows=len(rows), **written._asdict())


# replies


def _has(entry: Entry, again: Sequence[str]) -> bool:
    manifest = replies_of(entry.home).manifest()
    return manifest is not None and any(manifest.counts.get(status) for status in again)


Asked = Sequence[tuple[Entry, Harness, Manifest]]


def _ask(stage: InferenceStage, own: Asked, inputs: Mapping[str, str]) -> list[Manifest]:
    """Replies to all questions of a model; the entries they are for are begun."""
    for entry, _, _ in own:
        if entry.home.begun() is None:
            entry.home.begin(entry.begun)
    return stage.fill([Target.of(replies_of(one.home), questions_of(one.home), listed, inputs) for one, _, listed in own])


def _stage(config: Bench, model: BenchModel, run: Run, own: Asked, again: Sequence[str]) -> InferenceStage:
    """How a model is asked."""
    task = BenchmarkTask(model, config.too_long == "cut", *_checkpoint(model, run))
    longest = max((_longest(questions_of(entry.home), listed) for entry, _, listed in own), default=0)
    # what a cap reserves has to cover the longest reply that a benchmark asks for
    billed = model.model_copy(update={"max_tokens": max(longest, 1)}) if model.is_remote else model
    spec = AskSpec.of(config, billed, good=GOOD, again=again)
    if spec.usable is not None and not model.by_messages:
        spec = replace(spec, usable=spec.usable._replace(advice=ASK_BY_CHAT))
    return InferenceStage(f"bench {model.name}", spec, task, run.benchmark(model.name))


def _longest(home: StageDir, listed: Manifest) -> int:
    told = {text for table in home.tables(listed, ["options"]) for text in table["options"].unique().to_pylist() if text}
    return max((json.loads(text)["max_tokens"] for text in told), default=0)
