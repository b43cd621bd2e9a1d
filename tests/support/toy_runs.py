"""Small runs for tests: examples from lists, ratings read back, jobs as processes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

import drivers
from alpagasus_ray.config import Ingest, Judge
from alpagasus_ray.judging import rubric
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run
from judge_server import message_hash

ROOT = Path(__file__).parents[2]


def toy_run(folder: Path, rows: int, rows_per_shard: int = 100) -> Run:
    """A run with `rows` small examples, all different."""
    source = folder / "toy.json"
    records = [{"instruction": f"Say the number {n}.", "input": "", "output": f"The number is {n}."} for n in range(rows)]
    source.write_text(json.dumps(records))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(source), rows_per_shard=rows_per_shard), run)
    return run


def ratings(run: Run, name: str = "judge") -> pa.Table:
    """All rows that the manifest of a judge's ratings lists."""
    stage = run.ratings(name)
    return pa.concat_tables(stage.tables(stage.finished()))


def ids(run: Run) -> list[str]:
    """The ids of all examples, in order."""
    stage = run.examples()
    found: list[str] = pa.concat_tables(stage.tables(stage.finished(), ["example_id"]))["example_id"].to_pylist()
    return found


def prompt_hashes(run: Run, name: str = "accuracy") -> list[str]:
    """What a judge server logs for each example, in order."""
    asked = rubric.load(name)
    stage = run.examples()
    rows = (row for table in stage.tables(stage.finished()) for row in table.to_pylist())
    return [message_hash(asked.messages(row)[-1]["content"]) for row in rows]


def api_judge(base_url: str, **changes: Any) -> Judge:
    return Judge(**{"kind": "api", "model": "toy", "base_url": base_url, **changes})


def job(name: str, run: Path | str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a job. Where the tests have a Ray it joins that, forked from a process that is there; else, and where it is told of
    another cluster, it runs as a user runs it."""
    if ray.is_initialized() and "RAY_ADDRESS" not in environment:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--run", str(run), *options]
            ended = drivers.start(name, arguments, Path(folder) / "driver", {**drivers.ray_here(), **environment}).wait()
            return subprocess.CompletedProcess(arguments, ended.code, ended.printed, ended.message)
    return own_job(name, run, *options, **environment)


def own_job(name: str, run: Path | str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a job as a user does: in an interpreter of its own, with a Ray of its own unless the environment says otherwise."""
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--run", str(run), *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=220, check=False)


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a job called with `--json` printed on its last line."""
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded
