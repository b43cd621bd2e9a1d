"""What became of a benchmark that a model was asked: a row for each document, and the manifest with the score.

Knows nothing of how models are asked.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from alpagasus_ray.benchmarking import programs
from alpagasus_ray.benchmarking.documents import Documents
from alpagasus_ray.benchmarking.harness import Harness, Question, Scored
from alpagasus_ray.benchmarking.sandbox import Sandbox
from alpagasus_ray.benchmarking.task_files import Benchmark
from alpagasus_ray.config import BenchModel
from alpagasus_ray.data.schema import BENCHMARKS
from alpagasus_ray.evaluation import benchmark_scores
from alpagasus_ray.inference.tasks.benchmark import AGAIN, STATUSES
from alpagasus_ray.pick_inputs import contamination
from alpagasus_ray.store.run import Begun, Manifest, Run, StageDir, describe, shard_name

ROWS_PER_SHARD = 256


@dataclass(frozen=True)
class Entry:
    """One model and one benchmark."""

    model: BenchModel
    benchmark: Benchmark
    documents: Documents
    home: StageDir
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def begun(self) -> Begun:
        return Begun(settings=dict(self.settings), inputs=dict(self.inputs))


def questions_of(home: StageDir) -> StageDir:
    """Where the questions of a benchmark lie."""
    return StageDir(f"{home.name}/questions", home.storage.at("questions"))


def replies_of(home: StageDir) -> StageDir:
    """Where the replies to them lie."""
    return StageDir(f"{home.name}/replies", home.storage.at("replies"))


def finish(entry: Entry, ready: Harness, listed: Manifest, told: Manifest, sandbox: Sandbox | None, run: Run) -> Manifest:
    """Read the replies, score every document, and write the manifest."""
    started = time.monotonic()
    questions, replies = questions_of(entry.home), replies_of(entry.home)
    rows = {row["question_id"]: row for table in replies.tables(told) for row in table.to_pylist()}
    texts, statuses = {}, dict[str, tuple[str, str | None]]()
    for table in questions.tables(listed):
        for asked in table.to_pylist():
            row = rows[asked["question_id"]]
            texts[_question(asked)] = _text(asked, row)
            before = statuses.get(asked["document_id"], (STATUSES[0], None))
            statuses[asked["document_id"]] = max(before, (row["status"], row["error"]), key=lambda one: STATUSES.index(one[0]))
    scored, figures = ready.scored(texts, chat=entry.model.by_messages)
    if sandbox is not None and entry.benchmark.file.code:
        scored = programs.scored(entry.benchmark.file.code, scored, sandbox)
    results = [_row(entry, one, *statuses[one.document_id]) for one in scored]
    files = []
    for number, start in enumerate(range(0, len(results), ROWS_PER_SHARD)):
        part = results[start : start + ROWS_PER_SHARD]
        written = entry.home.storage.write_table(shard_name(number), pa.Table.from_pylist(part, schema=BENCHMARKS))
        files.append(describe(shard_name(number), written, part))
    details = _details(entry, ready, results, figures) | _contamination(entry, scored, run)
    begun = entry.begun.after(told.seconds + time.monotonic() - started)
    manifest = entry.home.build(begun, files, STATUSES, libraries=("lm-eval", *entry.model.traits.libraries), details=details)
    manifest = manifest.model_copy(update={"usage": told.usage})
    entry.home.finish(manifest)
    return manifest


def _question(asked: Mapping[str, Any]) -> Question:
    return Question(asked["kind"], asked["context"], tuple(asked["continuations"]), asked["options"], asked["document_id"])


def _text(asked: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The reply as it is scored. In place of one that is not there stands what can be scored; `_row` counts it as wrong."""
    if row["status"] not in AGAIN and row["reply"] is not None:
        return str(row["reply"])
    return {"generate": "", "rolling": "0.0"}.get(asked["kind"]) or json.dumps([[0.0, False]] * len(asked["continuations"]))


def _row(entry: Entry, one: Scored, status: str, error: str | None) -> dict[str, Any]:
    cluster = entry.benchmark.file.cluster
    lost = status in AGAIN  # a question without a reply never counts as solved
    return {
        "document_id": one.document_id,
        "subset": one.subset,
        "cluster": None if cluster is None else str(one.document[cluster]),
        "status": status,
        "score": 0.0 if lost and one.score is not None else one.score,
        "measures": json.dumps(one.measures, ensure_ascii=False),
        "prediction": None if lost else one.prediction,
        "target": one.target,
        "document": json.dumps(one.document, ensure_ascii=False, default=str),
        "error": error or one.error,
    }


def _details(entry: Entry, ready: Harness, results: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> dict[str, Any]:
    file = entry.benchmark.file
    measured = [row for row in results if row["score"] is not None]
    clusters = [row["cluster"] for row in measured] if file.cluster else None
    return {
        "model": entry.model.model,
        "task": file.name,
        "about": file.about,
        "arm": entry.model.arm,
        "chat": entry.model.by_messages,
        "shots": ready.shots,
        "asked_shots": ready.shots if entry.benchmark.shots is None else entry.benchmark.shots,
        "tiny": entry.benchmark.is_tiny,
        "source": entry.documents.source,
        "measure": file.measure or None,
        "score": benchmark_scores.score([row["score"] for row in measured], clusters),
        "without_reply": sum(row["status"] in AGAIN for row in results),
        "figures": dict(figures),
    }


def _contamination(entry: Entry, scored: Sequence[Scored], run: Run) -> dict[str, Any]:
    """How much of the benchmark the arm was trained on holds."""
    if entry.model.arm is None or run.subset(entry.model.arm).manifest() is None:
        return {}
    asked = [(one.document_id, one.question, one.target) for one in scored]
    return {"contamination": contamination.of_arm(entry.benchmark.name, asked, run.subset(entry.model.arm))}
