"""Let models answer test sets: every model is started once and answers all of them."""

import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from alpagasus_ray.config import Answerer, Generate, TestSet, identity
from alpagasus_ray.data import prompt_sets, readers
from alpagasus_ray.data.schema import PROMPTS
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.reread import read_again
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.stage import InferenceStage, Mode, Target
from alpagasus_ray.inference.tasks.answer import GOOD, UNANSWERED, AnswerTask, resolved
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, shard_name

ROWS_PER_SHARD = 128


def generate(config: Generate, run: Run, mode: Mode = "fill", again: Sequence[str] = UNANSWERED) -> list[Manifest]:
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
    manifests = []
    # one model after the other: a GPU holds one, and a cap is per model
    for model in models:
        stage, targets = _stage(config, model, run, prompts, again if mode == "retry-failed" else ())
        if mode == "rescore":
            manifests += [read_again(stage.task, target) for target in targets]
        else:
            manifests += stage.fill(targets)
    return manifests


def _prompts(test_set: TestSet, stage: StageDir) -> Manifest:
    """Make `prompts/<test set>/`, the test set as all models are asked it."""
    # its files are known by what they hold, wherever they lie
    settings = {"test_set": {key: value for key, value in identity(test_set).items() if key != "path"}}
    prompts = prompt_sets.load(
        test_set.name, test_set.path, test_set.format, {str(field): key for field, key in test_set.columns.items()}
    )
    inputs = {file.name: file.fingerprint() for file in readers.expand(test_set.path)}
    done = stage.made(settings, inputs)
    if done is not None:
        return done
    started = time.monotonic()
    begun = Begun(settings=settings, inputs=inputs)
    stage.begin(begun)
    files = []
    for number, start in enumerate(range(0, len(prompts), ROWS_PER_SHARD)):
        rows = [{**prompt._asdict(), "test_set": test_set.name} for prompt in prompts[start : start + ROWS_PER_SHARD]]
        written = stage.storage.write_table(shard_name(number), pa.Table.from_pylist(rows, schema=PROMPTS))
        files.append(FileEntry(name=shard_name(number), rows=len(rows), **written._asdict()))
    manifest = stage.build(begun.after(time.monotonic() - started), files, details={"notes": _notes(test_set)})
    stage.finish(manifest)
    return manifest


def _notes(test_set: TestSet) -> list[str]:
    """What of a test set is not asked, in words."""
    turns = prompt_sets.turns_left_out(test_set.name, test_set.path)
    return [f"{test_set.name}: only the first turn is asked; {turns:,} later turns left out"] if turns else []


def _stage(
    config: Generate, model: Answerer, run: Run, prompts: Mapping[str, Manifest], again: Sequence[str]
) -> tuple[InferenceStage, list[Target]]:
    """One model's way through all test sets."""
    spec = AskSpec.of(config, model, good=GOOD, again=again)
    checkpoint = None if model.arm is None else run.model(model.arm)
    weights = None if model.arm is None else run.weights(model.arm)
    task = AnswerTask(model, tuple(prompts), checkpoint, weights, config.thoughts == "keep", spec.longest)
    targets = [
        Target.of(run.answers(model.name, name), run.prompts(name), listed, task.inputs(name))
        for name, listed in prompts.items()
    ]
    return InferenceStage(f"generate {model.name}", spec, task, run.answers(model.name)), targets
