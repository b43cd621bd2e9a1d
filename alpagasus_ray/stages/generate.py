"""Let models answer test sets: every model is started once and answers all of them."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from alpagasus_ray.config import Answerer, Generate, TestSet, digest, identity
from alpagasus_ray.datasets import sources
from alpagasus_ray.datasets.run import Begun, FileEntry, Manifest, Run, StageDir, shard_name, versions
from alpagasus_ray.datasets.schema import PROMPTS
from alpagasus_ray.engines.prices import tariff
from alpagasus_ray.errors import BudgetReached, StageFailed, UsageError
from alpagasus_ray.evaluation import test_sets
from alpagasus_ray.stages import asking
from alpagasus_ray.stages.answers import FAILED, GenerateWork, inputs_of, manifest_of, resolved, settings_of, weights_of

if TYPE_CHECKING:
    from alpagasus_ray.runner import shards

Mode = Literal["generate", "retry-failed"]
ROWS_PER_SHARD = 128
ANSWERS_JSON = "answers.json"


def generate(config: Generate, run: Run, mode: Mode = "generate") -> list[Manifest]:
    """Make `answers/<model>/<test set>/` for every model and test set; those that are made already are left as they are, but
    for what failed in them under `retry-failed`. One manifest for each, model by model."""
    if not config.models or not config.test_sets:
        missing = "models" if not config.models else "test_sets"
        raise UsageError(
            f"`generate.{missing}` is empty; give e.g. --set 'generate.models=[{{name: base, path: Qwen/Qwen3-8B}}]' "
            "--set 'generate.test_sets=[{name: demo, path: examples/test_set/prompts.jsonl}]'"
        )
    models = [resolved(model, config, run) for model in config.models]
    prompts = {test_set.name: _prompts(test_set, run.prompts(test_set.name)) for test_set in config.test_sets}
    manifests: list[Manifest] = []
    for model in models:
        manifests += _Model(config, model, run, prompts).answer(mode)
    return manifests


def _prompts(test_set: TestSet, stage: StageDir) -> Manifest:
    """Make `prompts/<test set>/`, the test set as all models are asked it."""
    # its files are known by what they hold, wherever they lie
    settings = {"test_set": {key: value for key, value in identity(test_set).items() if key != "path"}}
    found = test_sets.load(
        test_set.name, test_set.path, test_set.format, {str(field): key for field, key in test_set.columns.items()}
    )
    inputs = {file.name: file.fingerprint() for file in sources.expand(test_set.path)}
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
    )
    stage.finish(manifest)
    return manifest


class _Model:
    """One model's way through all test sets."""

    def __init__(self, config: Generate, model: Answerer, run: Run, prompts: Mapping[str, Manifest]) -> None:
        self._config, self._model, self._run, self._prompts = config, model, run, prompts
        self._settings = settings_of(model)
        self._work = GenerateWork(model, tuple(prompts), weights_of(model, run))
        self._finished_usd = 0.0

    def answer(self, mode: Mode) -> list[Manifest]:
        done = {name: self._finished(name, mode) for name in self._prompts}
        left = [name for name, manifest in done.items() if manifest is None]
        self._finished_usd = sum(manifest.usage.get("cost_usd", 0.0) for manifest in done.values() if manifest)
        if left:
            self._ask(left)
        return [manifest or self._finish(name) for name, manifest in done.items()]

    def _home(self, test_set: str) -> StageDir:
        return self._run.answers(self._model.name, test_set)

    def _inputs(self, test_set: str) -> dict[str, str]:
        return inputs_of(self._model, self._run, test_set, self._prompts[test_set])

    def _finished(self, test_set: str, mode: Mode) -> Manifest | None:
        stage = self._home(test_set)
        done = stage.manifest()
        if done is None:
            return None
        stage.same_or_refuse(done, self._settings, self._inputs(test_set))
        if mode == "generate" or not done.counts.get(FAILED):
            stage.tidy()
            return done
        asking.reopen_failed(stage, done)
        return None

    def _ask(self, names: Sequence[str]) -> None:
        # imported here: to look at finished answers no Ray is needed
        from alpagasus_ray.runner import cluster, shards

        cluster.address_given()
        asking.check_engine(self._model, self._work)
        parts = [asking.Part(self._job(name), self._prompts[name]) for name in names]
        asking.check_cap(self._config, self._model, parts[0].job.tariff)
        begun = [asking.begin(self._home(name), self._settings, self._inputs(name)) for name in names]
        tasks: list[shards.Task] = []
        for number, part in enumerate(parts):
            shards.take_back(part.job, FAILED)
            tasks += [shards.Task(name, job=number) for name in shards.missing(part.job, part.shards())]
        if not tasks:
            return
        seconds, rows = self._drive(parts, tasks), sum(part.source.rows for part in parts)
        for part, earlier in zip(parts, begun, strict=True):
            share = seconds * part.source.rows / rows
            part.job.home.begin(earlier.model_copy(update={"seconds": earlier.seconds + share}))

    def _drive(self, parts: "Sequence[asking.Part]", tasks: "Sequence[shards.Task]") -> float:
        """Do the tasks; the answer is the seconds they took, the start of Ray left out."""
        from alpagasus_ray.runner import cluster, drive
        from alpagasus_ray.runner.progress import Progress

        home = self._run.answers(self._model.name)
        bill = asking.Bill(home.name, home.storage, parts, self._finished_usd)
        cap = asking.cap(self._config, bill)
        cluster.connect()
        pool = cluster.pool(self._config, self._model)
        jobs = [replace(part.job, pool=pool, terms=part.job.terms._replace(workers=pool.most)) for part in parts]
        rows = [{entry.name: entry.rows for entry in part.source.parts()} for part in parts]
        hopeless = asking.hopeless(self._config, self._model, sum(part.source.rows for part in parts))
        started = time.monotonic()
        try:
            with Progress(f"generate {self._model.name}", sum(rows[task.job][task.shard] for task in tasks)) as progress:
                drive.drive(jobs, tasks, cap, progress, hopeless)
        except BudgetReached:
            raise asking.at_the_cap(self._config, bill) from None
        return time.monotonic() - started

    def _job(self, test_set: str) -> "shards.Job":
        from alpagasus_ray.runner import shards

        home = self._home(test_set)
        return shards.Job(
            self._work,
            source=self._run.prompts(test_set),
            home=home,
            output=home.storage,
            terms=asking.terms(self._config, self._model),
            tariff=tariff(self._model),
            max_attempts=self._model.max_attempts,
            paid=self._model.is_model,
        )

    def _finish(self, test_set: str) -> Manifest:
        from alpagasus_ray.runner import shards

        stage, prompts = self._home(test_set), self._prompts[test_set]
        begun = stage.begun()
        assert begun is not None, "it was begun in this call"
        files = shards.committed(stage)
        manifest = manifest_of(stage, files, begun)
        asking.check_rows(manifest, prompts)
        failed = manifest.counts.get(FAILED, 0)
        reason = asking.too_many_failed(self._config, self._model, manifest.rows, failed, manifest.details["reasons"])
        if reason is not None:
            raise StageFailed(f"{stage.name}: {reason}. The same command asks again for those")
        exported = stage.storage.write(
            ANSWERS_JSON, json.dumps(list(self._exported(stage, files)), indent=2, ensure_ascii=False).encode()
        )
        listed = [*files, FileEntry(name=ANSWERS_JSON, rows=manifest.rows, **exported._asdict())]
        manifest = manifest.model_copy(update={"files": listed})
        stage.finish(manifest)
        return manifest

    def _exported(self, stage: StageDir, files: Sequence[FileEntry]) -> Iterator[dict[str, Any]]:
        """The answers as AlpacaEval's outputs, with what else a test set says of a prompt."""
        for entry in files:
            for row in stage.storage.read_table(entry.name).to_pylist():
                kept = {key: row[key] for key in ("prompt_id", "category", "skill", "difficulty") if row[key] is not None}
                yield {
                    "dataset": row["test_set"],
                    **kept,
                    "instruction": row["instruction"],
                    "input": row["input"],
                    "output": row["reply"],
                    "generator": self._model.name,
                }
