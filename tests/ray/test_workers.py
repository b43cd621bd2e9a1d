"""Workers and their engines on real Ray: one that dies, what is asked again, which row is set aside; how many there are."""

import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import ray

import toy_engines
from alpagasus_ray.config import Judge, Score
from alpagasus_ray.inference import driver
from alpagasus_ray.inference.spec import AskSpec, Job, Task
from alpagasus_ray.progress import Progress
from alpagasus_ray.raycluster.pool import Pool
from alpagasus_ray.stages.score import score
from loopback import JudgeStarter
from toy_engines import MortalWork
from toy_runs import api_judge, toy_run

ROWS, IN_FLIGHT = 200, 8
REMOTE = AskSpec.of(Score(concurrency=IN_FLIGHT), Judge(max_attempts=3, max_outage_s=60.0))
SPEC = replace(REMOTE, limits=REMOTE.limits._replace(adaptive=False))
"""Replies are kept, and engines in the workers take all at once."""


@pytest.fixture(autouse=True)
def _known_to_workers() -> None:
    """The toys are sent along: the workers' Ray does not look for modules where the tests lie."""
    ray.cloudpickle.register_pickle_by_value(toy_engines)


def test_a_row_that_kills_engines_is_set_aside_after_two_and_no_other_row_is_lost_or_asked_twice(tmp_path: Path) -> None:
    run = toy_run(tmp_path, ROWS, rows_per_shard=50)
    home = run.ratings("judge")
    job = Job(MortalWork("70"), SPEC, run.examples(), home, home.storage)
    tasks = [Task(f"part-{number:05d}.parquet") for number in range(4)]
    with Progress("toy", ROWS) as progress:
        driver.drive([job], tasks, None, progress, lambda _: None)
    assert job.backlog.open([task.shard for task in tasks]) == []
    rows = pa.concat_tables(home.storage.read_table(task.shard) for task in tasks).to_pylist()
    failed = {row["request_hash"]: row["error"] for row in rows if row["status"] == "failed"}
    assert list(failed) == ["70"]
    assert failed["70"].startswith("deadly: 2 workers died while they asked this")
    assert len(rows) == ROWS
    assert all(row["attempts"] <= 1 for row in rows), "an attempt that an engine died over is not counted against the row"


@ray.remote(num_cpus=0)
class Drawer:
    def draw(self) -> str:
        return ray.ObjectID.from_random().hex()


def test_workers_draw_different_ids() -> None:
    """The workers of these tests are forked from one process, whose random state they must not share."""
    drawers = [Drawer.remote() for _ in range(3)]
    assert len(set(ray.get([drawer.draw.remote() for drawer in drawers]))) == len(drawers)


def test_jobs_of_several_places_share_their_workers_though_there_is_no_room_for_most_of_these(tmp_path: Path) -> None:
    jobs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run = toy_run(tmp_path / name, 30, rows_per_shard=10)
        home = run.ratings(name)
        jobs.append(Job(MortalWork("none"), SPEC.on(Pool(60)), run.examples(), home, home.storage))
    tasks = [Task(f"part-{number:05d}.parquet", job=place) for place in (0, 1) for number in range(3)]
    with Progress("toy", 60) as progress:
        driver.drive(jobs, tasks, None, progress, lambda _: None)
    for job in jobs:
        shares = [entry.counts for entry in job.backlog.done()]
        assert shares == [{"scored": 10}] * 3


def test_a_pool_has_as_many_workers_as_it_may_have(tmp_path: Path, judge: JudgeStarter) -> None:
    run, server, seen, over = toy_run(tmp_path, 400, rows_per_shard=20), judge("--latency", "0.5"), set(), threading.Event()

    def count() -> None:
        while not over.wait(0.2):
            actors = ray._private.state.actors().values()
            seen.add(sum(a["State"] == "ALIVE" and a["ActorClassName"].startswith("MapWorker") for a in actors))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        score(Score(judge=api_judge(server.base_url), actors=(1, 2), concurrency=8), run)
    finally:
        over.set()
        counter.join()
    assert max(seen) == 2
    assert len(server.billed()) == 400
