"""Jobs submitted to a running cluster: a real head on loopback with token authentication, a key that only its nodes know."""

import json
import re
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from alpagasus_ray.store.run import Run
from loopback import JudgeStarter, LoopbackJudge
from ray_head import COMMAND_S, Head
from toy_runs import ids, ratings, toy_run

# made here, not written here: this file goes to the cluster too
CANARY = f"sk-canary-{secrets.token_hex(12)}"
TOKEN = f"token-canary-{secrets.token_hex(12)}"
DECOY = f"decoy-{secrets.token_hex(12)}"
"""A key that is given in the way that the docs warn of."""
CONCURRENCY = 16
MANY = 500
STATES = ("actors", "tasks", "jobs", "workers", "nodes", "runtime_envs", "placement_groups", "objects")


@pytest.fixture(autouse=True)
def _ray() -> None:
    """In place of the local Ray that the other tests here run on."""


class Submitted:
    """A job by its submission."""

    def __init__(self, head: Head, entry: list[str], *options: str) -> None:
        done = head.ray("job", "submit", "--working-dir", ".", *options, "--", *entry)
        found = re.search(r"raysubmit_\w+", done.stdout)
        assert found, done.stdout + done.stderr
        self.head, self.done, self.id = head, done, found[0]

    @property
    def status(self) -> str:
        status: str = json.loads(self.head.get(f"/api/jobs/{self.id}"))["status"]
        return status

    @property
    def log(self) -> str:
        text: str = json.loads(self.head.get(f"/api/jobs/{self.id}/logs"))["logs"]
        return text


class Jobs(NamedTuple):
    """Jobs that ran side by side: one that scores, one whose key is refused, the doctor, and one that was stopped."""

    run: Run
    refused_run: Run
    scored: Submitted
    refused: Submitted
    doctor: Submitted
    halted: "Halted"
    base_url: str


class Halted(NamedTuple):
    """A job that was stopped while it scored."""

    run: Run
    server: LoopbackJudge
    command: list[str]
    job: Submitted
    stop: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    started = Head(TOKEN, CANARY, **{"num-cpus": 4})
    try:
        for path in ("/api/version", "/api/jobs/"):
            started.wait_for(path)
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def jobs(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folders = [tmp_path_factory.mktemp(name) for name in ("scored", "refused", "halted", "servers")]
    runs = [toy_run(folder, rows, 20) for folder, rows in zip(folders[:3], (60, 20, MANY), strict=True)]
    start = JudgeStarter(folders[3])
    mine, another, slow = start("--key", CANARY), start("--key", "another"), start("--key", CANARY, "--latency", "0.3")
    leaky = json.dumps({"env_vars": {"OTHER_API_KEY": DECOY}})
    doctor = _job("doctor", runs[0], mine.base_url, "--json")
    with ThreadPoolExecutor() as pool:
        scored = pool.submit(Submitted, head, _job("score", runs[0], mine.base_url))
        refused = pool.submit(Submitted, head, _job("score", runs[1], another.base_url))
        halted = pool.submit(_halt, head, runs[2], slow)
        looked = pool.submit(Submitted, head, doctor, "--runtime-env-json", leaky)
        yield Jobs(*runs[:2], scored.result(), refused.result(), looked.result(), halted.result(), mine.base_url)
    for server in start.servers:
        server.close()


def _halt(head: Head, run: Run, server: LoopbackJudge) -> Halted:
    command = _job("score", run, server.base_url)
    job = Submitted(head, command, "--no-wait")
    deadline = time.monotonic() + COMMAND_S
    while len(server.taken()) < 30:
        assert time.monotonic() < deadline, job.log
        time.sleep(0.05)
    # on a busy machine the command takes its time; a job of half a minute does not run out meanwhile
    server.control(latency=1.0)
    return Halted(run, server, command, job, head.ray("job", "stop", job.id))


@pytest.fixture(scope="module")
def texts(head: Head, jobs: Jobs) -> dict[str, str]:
    """All that the jobs have left anywhere, by where it stands."""
    submitted = (jobs.scored, jobs.refused, jobs.doctor, jobs.halted.job)
    found = {f"{job.id} {name}": getattr(job.done, name) for job in submitted for name in ("stdout", "stderr")}
    logs = head.ray("job", "logs", jobs.scored.id)
    found["ray job logs"] = logs.stdout + logs.stderr
    paths = ["/api/jobs/", "/nodes?view=summary", "/api/cluster_status"]
    paths += [f"/api/jobs/{job.id}{part}" for job in submitted for part in ("", "/logs")]
    paths += [f"/api/v0/{state}?detail=True&limit=10000" for state in STATES]
    found |= {path: head.get(path) for path in paths}
    roots = [head.folder / "ray", *(Path(run.storage.root) for run in (jobs.run, jobs.refused_run, jobs.halted.run))]
    for path in [head.log, *(path for root in roots for path in root.rglob("*"))]:
        if path.is_file():
            # columns of Parquet are compressed
            rows = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else ""
            found[str(path)] = path.read_bytes().decode("utf-8", "replace") + rows
    return found


def _job(name: str, run: Run, base_url: str, *options: str) -> list[str]:
    knobs = {"judge.model": "toy", "judge.base_url": base_url, "concurrency": CONCURRENCY}
    settings = [text for knob, value in knobs.items() for text in ("--set", f"score.{knob}={value}")]
    return ["python", f"jobs/{name}.py", "--run", run.storage.root, *settings, *options]


def _where(texts: dict[str, str], text: str) -> list[str]:
    return [place for place, content in texts.items() if text in content]


def test_without_the_token_the_job_api_answers_401(head: Head) -> None:
    for path in ("/api/jobs/", "/api/v0/tasks"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            head.get(path, with_token=False)
        assert refused.value.code == 401


def test_a_submitted_job_scores_all_rows(jobs: Jobs) -> None:
    assert jobs.scored.status == "SUCCEEDED", jobs.scored.log
    assert ratings(jobs.run)["example_id"].to_pylist() == ids(jobs.run)
    assert set(ratings(jobs.run)["status"].to_pylist()) == {"scored"}


def test_a_job_whose_key_is_refused_fails_and_says_so(jobs: Jobs) -> None:
    assert (jobs.refused.done.returncode, jobs.refused.status) == (1, "FAILED")
    assert "refuses the key in OPENAI_API_KEY (http 401)" in jobs.refused.log
    assert "Traceback" not in jobs.refused.log


def test_neither_the_key_nor_the_token_stands_in_any_file_log_or_answer(jobs: Jobs, texts: dict[str, str]) -> None:
    # the search reaches logs, answers, outputs and compressed rows
    for known, least in ((jobs.scored.id, 10), (jobs.base_url, 5), ("refuses the key", 3), ("Say the number 7.", 1)):
        assert len(_where(texts, known)) >= least, known
    assert len(texts) > 200
    assert _where(texts, CANARY) == []
    assert _where(texts, TOKEN) == []


def test_a_key_in_the_runtime_environment_is_shown_by_the_job_api(texts: dict[str, str]) -> None:
    assert "/api/jobs/" in _where(texts, DECOY)


def test_the_doctor_sees_the_cluster_and_the_package_that_came_with_the_job(jobs: Jobs) -> None:
    assert jobs.doctor.status == "SUCCEEDED", jobs.doctor.log
    line = next(line for line in jobs.doctor.log.splitlines() if line.startswith('{"checks"'))
    found = {check["name"]: check for check in json.loads(line)["checks"]}
    assert {name: check["status"] for name, check in found.items() if name != "price"} == dict.fromkeys(
        ("key", "model", "storage", "cluster", "keys of nodes", "shared storage", "actors", "versions"), "ok"
    )
    # one place, for the driver and for the tasks on the nodes
    assert re.fullmatch(r"nodes: 1, this package in \S+/working_dir_files/\S+", found["cluster"]["detail"])


def test_a_stopped_job_ends_cleanly(jobs: Jobs) -> None:
    halted = jobs.halted
    assert (halted.stop.returncode, halted.job.status) == (0, "STOPPED"), halted.stop.stderr
    assert "every reply received so far is kept" in halted.job.log
    assert "Traceback" not in halted.job.log
    assert 30 <= len(halted.server.taken()) < MANY


def test_the_same_command_after_a_stop_goes_on(head: Head, jobs: Jobs) -> None:
    halted = jobs.halted
    halted.server.control(latency=0.0)
    again = Submitted(head, halted.command)
    assert again.status == "SUCCEEDED", again.log
    assert ratings(halted.run)["example_id"].to_pylist() == ids(halted.run)
    twice = sum(count - 1 for count in Counter(halted.server.taken()).values())
    # those in flight, and the replies of the 2 s before they are written down
    assert twice <= CONCURRENCY + 2 * CONCURRENCY / 0.3
