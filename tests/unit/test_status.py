"""What `status` tells of a run: from what stages leave behind, finished or not."""

from pathlib import Path

import pyarrow as pa
import pytest

from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.inference import shards
from alpagasus_ray.inference.ledger import Outcome, ledger_of
from alpagasus_ray.stages.status import status
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import STATE, Begun, FileEntry, Manifest, Run, describe, shard_name
from alpagasus_ray.training.checkpoints import WHOLE, CheckpointInfo, name_of
from report_runs import rate, train
from toy_runs import ids, job, summary, toy_run

ROWS, PER_SHARD = 30, 10


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return toy_run(tmp_path, ROWS, PER_SHARD)


def stage_of(run: Run, name: str) -> dict[str, object]:
    found: dict[str, object] = next(stage for stage in status(run)["stages"] if stage["stage"] == name)
    return found


def begin(run: Run) -> None:
    inputs = {"judge/template": "x", "examples": run.examples().finished().content_hash()}
    run.ratings("judge").begin(Begun(settings={}, inputs=inputs, seconds=12.5))


def rated(run: Run, shard: int, cost_usd: float) -> FileEntry:
    """A shard of ratings as workers write it, without its commit record."""
    blank = {**dict.fromkeys(RATINGS.names), "maybe_billed_twice": 0}
    rows = [
        {**blank, "example_id": example, "request_hash": example, "cost_usd": cost_usd, "attempts": 1, **outcome}
        for example, outcome in zip(
            ids(run)[shard * PER_SHARD : (shard + 1) * PER_SHARD],
            [{"status": "failed", "error": "http 400: no"}]
            + [{"status": "scored", "score": 3.0, "reply": "3"}] * (PER_SHARD - 1),
            strict=True,
        )
    ]
    name = shard_name(shard)
    return describe(name, run.ratings("judge").storage.write_table(name, pa.Table.from_pylist(rows, schema=RATINGS)), rows)


def test_a_finished_stage_tells_its_rows_and_what_failed(run: Run) -> None:
    rate(run, [None, *[3.0] * (ROWS - 1)])
    told = stage_of(run, "ratings/judge")
    assert (told["state"], told["rows"], told["of"]) == ("finished", ROWS, ROWS)
    assert told["counts"] == {"scored": ROWS - 1, "failed": 1}
    assert told["dollars"] is None, "nobody knows what it cost"


def test_of_an_unfinished_stage_committed_rows_and_waiting_replies_are_told_and_all_they_cost(run: Run) -> None:
    begin(run)
    home = run.ratings("judge")
    shards.record(home, rated(run, 0, cost_usd=0.5))
    ledger = ledger_of(home, shard_name(1))
    for key in ("a", "b"):
        ledger.add(key, key, Outcome(Reply("4", "stop", 10, 1, 0, 0.25), None, 1, 0.1))
    ledger.add("c", "c", Outcome(None, "timeout", 1, None, 1))
    ledger.flush()
    told = stage_of(run, "ratings/judge")
    assert (told["state"], told["rows"], told["of"], told["replies"]) == ("unfinished", PER_SHARD, ROWS, 2)
    assert (told["counts"], told["reasons"]) == ({"scored": PER_SHARD - 1, "failed": 1}, {"http 400": 1})
    assert told["dollars"] == pytest.approx(0.5 * PER_SHARD + 2 * 0.25)
    assert told["seconds"] == 12.5


def test_what_is_asked_again_has_been_paid_for_all_the_same(run: Run) -> None:
    begin(run)
    rated(run, 0, cost_usd=0.5)  # written, and its commit record taken back
    told = stage_of(run, "ratings/judge")
    assert (told["rows"], told["replies"]) == (0, PER_SHARD - 1)
    assert told["dollars"] == pytest.approx(0.5 * (PER_SHARD - 1))


def test_a_training_is_as_far_as_its_newest_state(run: Run) -> None:
    model = run.model("selected")
    model.begin(Begun(settings={"epochs": 2.0, "steps": None, "global_batch": 8, "seed": 0}, inputs={}, seconds=3.0))
    assert stage_of(run, "models/selected")["of_steps"] is None, "its tokens are not there yet"
    encoded = FileEntry(name="part-00000.arrow", rows=ROWS, bytes=1, sha256="x")
    run.tokens("selected").finish(
        Manifest(stage="tokens", settings={}, settings_hash="x", inputs={}, files=[encoded], rows=ROWS, seconds=1, versions={})
    )
    mark = CheckpointInfo(step=5, workers=2, seconds={"start": 10.0, "train": 30.0})
    model.storage.at(STATE, name_of(5)).write(WHOLE, mark.model_dump_json().encode())
    told = stage_of(run, "models/selected")
    assert (told["steps"], told["of_steps"], told["seconds"]) == (5, 8, 40.0)
    assert [stage["stage"] for stage in status(run)["stages"]] == ["examples", "models/selected"]


def test_the_job_tells_it_in_lines_and_as_json_and_needs_no_recipe(run: Run) -> None:
    rate(run, [None, *[3.0] * (ROWS - 1)])
    train(run, "full", dollars=12.5)
    done = job("status", run.storage.root, "--json")
    assert summary(done)["dollars"] == 12.5
    assert "ratings/judge: finished, 30 rows, 1 failed" in done.stderr
    assert "models/full: finished, 3 updates" in done.stderr
    assert "no driver is at work on it" in done.stderr
    with lock.held(run):
        assert "is at work on it" in job("status", run.storage.root).stdout


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    done = job("status", tmp_path / "none")
    assert (done.returncode, "there is no run at" in done.stderr) == (2, True)
    assert not (tmp_path / "none").exists(), "who only looks leaves nothing"
