"""A changed byte in what a stage reads is found and named: by the stage, and by `status --verify`."""

from pathlib import Path

import pytest

from alpagasus_ray.config import Judge, Pick, Score
from alpagasus_ray.errors import StageFailed
from alpagasus_ray.inference.spec import Task
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.plan_score import plan
from alpagasus_ray.stages.status import status
from alpagasus_ray.store.run import Run, StageDir
from report_runs import rate
from toy_runs import job, toy_run

PART = "part-00000.parquet"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = toy_run(tmp_path, 6, rows_per_shard=3)
    rate(run, [5.0, 4.5, 4.5, 4.0, 3.0, 2.0])
    return run


def flip(stage: StageDir, name: str = PART) -> None:
    """Change one bit in the middle of a file, as a disk may."""
    content = bytearray(stage.storage.read(name))
    content[len(content) // 2] ^= 1
    stage.storage.write(name, bytes(content))


@pytest.mark.parametrize("stage", ["examples", "ratings/judge"])
def test_a_changed_byte_in_what_pick_reads_is_found_and_named(run: Run, stage: str) -> None:
    flip(StageDir(stage, run.storage.at(*stage.split("/"))))
    with pytest.raises(StageFailed, match=rf"{stage}/{PART} is not the file its manifest lists"):
        pick_subset(Pick(), run)
    assert run.subset("selected").manifest() is None


def test_a_worker_names_a_shard_that_was_changed_and_sends_nothing_of_it(run: Run) -> None:
    entry = run.examples().finished().parts()[1]
    task = Task(entry.name, sha256=entry.sha256)
    assert len(task.read(run.examples())) == 3
    flip(run.examples(), entry.name)
    with pytest.raises(StageFailed, match=rf"{entry.name} is not the file"):
        task.read(run.examples())


def test_a_plan_names_a_shard_that_was_changed(run: Run) -> None:
    flip(run.examples())
    with pytest.raises(StageFailed, match=PART):
        plan(Score(name="other", judge=Judge(model="gpt-4o-mini")), run)


def test_status_finds_every_changed_and_every_missing_file(run: Run) -> None:
    pick_subset(Pick(), run)
    assert status(run, verify=True)["ok"]
    assert "ok" not in status(run)
    flip(run.examples())
    flip(run.ratings("judge"))
    run.subset("selected").storage.delete("subset.json")
    told = status(run, verify=True)
    assert not told["ok"]
    assert [line.partition(run.storage.root + "/")[2].partition(" ")[0] for line in told["damaged"]] == [
        f"examples/{PART}",
        f"ratings/judge/{PART}",
        "subsets/selected/subset.json",
    ]


def test_the_job_names_the_file_and_ends_with_1(run: Run) -> None:
    done = job("status", run.storage.root, "--verify")
    assert (done.returncode, "all of them are as they were written" in done.stdout) == (0, True)
    flip(run.examples())
    done = job("status", run.storage.root, "--verify")
    assert done.returncode == 1
    assert f"examples/{PART} is not the file its manifest lists" in done.stdout
