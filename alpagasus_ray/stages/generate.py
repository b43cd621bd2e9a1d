"""Let models answer test sets: every model is started once and answers all of them."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from alpagasus_ray.config import Answerer, Generate, TestSet, digest, identity
from alpagasus_ray.data import prompt_sets, readers
from alpagasus_ray.data.schema import PROMPTS
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import asking
from alpagasus_ray.inference.stage import Several, Target
from alpagasus_ray.stages.answer_task import (
    GOOD,
    UNANSWERED,
    GenerateWork,
    inputs_of,
    manifest_of,
    resolved,
    settings_of,
    weights_of,
)
from alpagasus_ray.stages.reread import Stored, answers_again, read_again
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, shard_name, versions

Mode = Literal["generate", "rescore", "retry-failed"]
ROWS_PER_SHARD = 128
ANSWERS_JSON = "answers.json"


def generate(config: Generate, run: Run, mode: Mode = "generate", again: Sequence[str] = UNANSWERED) -> list[Manifest]:
    """Make `answers/<model>/<test set>/` for every model and test set; those that are made already are left as they are, but
    under `retry-failed` for the prompts with a status of `again`. `rescore` reads the stored replies again and sends nothing.
    One manifest for each, model by model."""
    if not config.models or not config.test_sets:
        missing = "models" if not config.models else "test_sets"
        raise UsageError(
            f"`generate.{missing}` is empty; give e.g. --set 'generate.models=[{{name: base, path: Qwen/Qwen3-8B}}]' "
            "--set 'generate.test_sets=[{name: demo, path: examples/test_set/prompts.jsonl}]'"
        )
    models = [resolved(model, config, run) for model in config.models]
    prompts = {test_set.name: _prompts(test_set, run.prompts(test_set.name)) for test_set in config.test_sets}
    again = again if mode == "retry-failed" else ()
    if mode == "rescore":
        return [manifest for model in models for manifest in _answers_again(config, model, run, prompts)]
    return [manifest for model in models for manifest in _answer(config, model, run, prompts, again)]


def _prompts(test_set: TestSet, stage: StageDir) -> Manifest:
    """Make `prompts/<test set>/`, the test set as all models are asked it."""
    # its files are known by what they hold, wherever they lie
    settings = {"test_set": {key: value for key, value in identity(test_set).items() if key != "path"}}
    found = prompt_sets.load(
        test_set.name, test_set.path, test_set.format, {str(field): key for field, key in test_set.columns.items()}
    )
    inputs = {file.name: file.fingerprint() for file in readers.expand(test_set.path)}
    done = stage.manifest()
    if done is not None:
        stage.same_or_refuse(done, settings, inputs)
        return done
    started = time.monotonic()
    stage.begin(Begun(settings=settings, inputs=inputs))
    files = []
    for number, start in enumerate(range(0, len(found), ROWS_PER_SHARD)):
        rows = [{**prompt._asdict(), "test_set": test_set.name} for prompt in found[start : start + ROWS_PER_SHARD]]
        written = stage.storage.write_table(shard_name(number), pa.Table.from_pylist(rows, schema=PROMPTS))
        files.append(FileEntry(name=shard_name(number), rows=len(rows), **written._asdict()))
    manifest = Manifest(
        stage=stage.name,
        settings=settings,
        settings_hash=digest(settings),
        inputs=inputs,
        files=files,
        rows=len(found),
        seconds=time.monotonic() - started,
        versions=versions(),
        details={"notes": _notes(test_set)},
    )
    stage.finish(manifest)
    return manifest


def _notes(test_set: TestSet) -> list[str]:
    """What of a test set is not asked, in words."""
    turns = prompt_sets.turns_left_out(test_set.name, test_set.path)
    return [f"{test_set.name}: only the first turn is asked; {turns:,} later turns left out"] if turns else []


def _answer(
    config: Generate, model: Answerer, run: Run, prompts: Mapping[str, Manifest], again: Sequence[str]
) -> list[Manifest]:
    """One model's way through all test sets."""
    again = asking.asked_again(model, again) if again else ()
    raised = asking.raised(model, again)
    work = GenerateWork(model, tuple(prompts), weights_of(model, run), config.thoughts == "keep", raised)
    settings = settings_of(model, keeps_thoughts=work.keeps_thoughts)
    several = Several(f"generate {model.name}", config, model, work, settings, run.answers(model.name), raised, GOOD)
    targets = [
        Target(run.answers(model.name, name), run.prompts(name), listed, inputs_of(model, run, name, listed))
        for name, listed in prompts.items()
    ]

    return several.fill(targets, partial(_summed_up, model.name), again)


def _answers_again(config: Generate, model: Answerer, run: Run, prompts: Mapping[str, Manifest]) -> Iterator[Manifest]:
    """One model's replies to all test sets, read again."""
    work = GenerateWork(model, tuple(prompts), weights_of(model, run), config.thoughts == "keep")
    settings = settings_of(model, keeps_thoughts=work.keeps_thoughts)
    for name, listed in prompts.items():
        inputs = inputs_of(model, run, name, listed)
        kept = Stored(run.answers(model.name, name), "generate", settings, inputs, listed, work.schema)
        yield read_again(kept, answers_again(work), partial(_summed_up, model.name))


def _summed_up(model: str, stage: StageDir, files: list[FileEntry], begun: Begun) -> Manifest:
    manifest = manifest_of(stage, files, begun)
    exported = json.dumps(list(_exported(model, stage, files)), indent=2, ensure_ascii=False).encode()
    written = stage.storage.write(ANSWERS_JSON, exported)
    listed = [*files, FileEntry(name=ANSWERS_JSON, rows=manifest.rows, **written._asdict())]
    return manifest.model_copy(update={"files": listed})


def _exported(model: str, stage: StageDir, files: Sequence[FileEntry]) -> Iterator[dict[str, Any]]:
    """The answers as AlpacaEval's outputs, with what else a test set says of a prompt."""
    for entry in files:
        for row in stage.table(entry.name, entry.sha256).to_pylist():
            kept = {key: row[key] for key in ("prompt_id", "category", "skill", "difficulty") if row[key] is not None}
            yield {
                "dataset": row["test_set"],
                **kept,
                "instruction": row["instruction"],
                "input": row["input"],
                "output": row["reply"],
                "generator": model,
            }
