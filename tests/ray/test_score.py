"""Scoring through real Ray and real HTTP: every row once, nothing asked twice, mistakes told."""

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

import drivers
from alpagasus_ray.config import Score
from alpagasus_ray.errors import SettingsChanged, StageFailed
from alpagasus_ray.inference.ledger import FLUSH_S
from alpagasus_ray.stages.score import score
from alpagasus_ray.stages.status import status
from loopback import JudgeStarter
from toy_runs import ROOT, api_judge, ids, job, own_job, prompt_hashes, ratings, toy_run

CONCURRENCY = 32
ROWS = 1500


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")


def test_every_row_is_rated_once_with_the_judges_own_score(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 250)
    wanted = [n % 11 / 2 for n in range(250)]
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps(dict(zip(prompt_hashes(run), wanted, strict=True))))
    server = judge("--scores", str(scores))
    manifest = score(Score(judge=api_judge(server.base_url), concurrency=CONCURRENCY), run)
    table = ratings(run)
    assert table["example_id"].to_pylist() == ids(run)
    assert table["score"].to_pylist() == wanted
    assert sorted(server.taken()) == sorted(prompt_hashes(run))
    assert manifest.counts == {"scored": 250}
    counted = {"tokens_in": 75000, "tokens_out": 3000, "tokens_cached": 32000, "attempts": 250, "maybe_billed_twice": 0}
    assert manifest.usage == counted
    assert set(table["attempts"].to_pylist()) == {1}
    assert [entry.name for entry in manifest.files] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    run.ratings("judge").verify(manifest)
    assert run.ratings("judge").storage.names() == ["manifest.json", *(entry.name for entry in manifest.files)]


def test_a_finished_stage_sends_nothing_and_refuses_other_settings(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 60)
    server = judge()
    config = Score(judge=api_judge(server.base_url))
    first = score(config, run)
    assert score(config, run) == first
    assert score(config.model_copy(update={"concurrency": 3}), run) == first
    with pytest.raises(SettingsChanged, match=r"judge\.model: 'toy' there, 'other' now"):
        score(Score(judge=api_judge(server.base_url, model="other")), run)
    with pytest.raises(SettingsChanged, match=r"rubric\.dimension: 'accuracy' there, 'helpfulness' now"):
        score(Score(judge=api_judge(server.base_url, rubric="helpfulness")), run)
    assert len(server.taken()) == 60


def test_a_trial_leaves_no_ratings_and_its_replies_are_not_bought_again(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 250)
    server = judge()
    config = Score(judge=api_judge(server.base_url))
    trial = score(config.model_copy(update={"limit": 130}), run)
    assert (trial.rows, len(server.taken())) == (130, 130)
    assert run.ratings("judge").manifest() is None
    score(config, run)
    assert sorted(server.taken()) == sorted(prompt_hashes(run))


@pytest.mark.parametrize("fault", ["429", "500", "html"])
def test_passing_faults_are_tried_again_and_cost_no_row(tmp_path: Path, judge: JudgeStarter, fault: str) -> None:
    run = toy_run(tmp_path, 100)
    server = judge("--fault", fault, "--fault-every", "5")
    manifest = score(Score(judge=api_judge(server.base_url), concurrency=CONCURRENCY), run)
    assert manifest.counts == {"scored": 100}
    answered = len(server.taken()) - len(server.taken()) // 5
    assert answered == 100
    assert sum(ratings(run)["attempts"].to_pylist()) == len(server.taken())


def test_failed_rows_keep_their_reason_and_are_the_only_ones_asked_again(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 90, rows_per_shard=30)
    broken = judge("--fault", "500", "--fault-every", "10")
    config = Score(judge=api_judge(broken.base_url, max_attempts=1), max_failed=1)
    first = score(config, run)
    assert first.counts == {"scored": 81, "failed": 9}
    failed = [row for row in ratings(run).to_pylist() if row["status"] == "failed"]
    assert {(row["error"], row["score"], row["reply"]) for row in failed} == {("http 500: broken", None, None)}
    sound = judge()
    again = score(Score(judge=api_judge(sound.base_url, other_address=True)), run, "retry-failed")
    assert again.counts == {"scored": 90}
    assert len(sound.taken()) == 9
    assert ratings(run)["example_id"].to_pylist() == ids(run)


def test_rescore_reads_stored_replies_with_another_scale_and_sends_nothing(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 60)
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({key: 8 if n % 2 else 3 for n, key in enumerate(prompt_hashes(run))}))
    server = judge("--scores", str(scores))
    first = score(Score(judge=api_judge(server.base_url)), run)
    assert first.counts == {"scored": 30, "unparsed": 30}
    wider = tmp_path / "wider.yaml"
    shipped = (ROOT / "alpagasus_ray/judging/rubrics/accuracy.yaml").read_text()
    wider.write_text(shipped.replace("max: 5", "max: 10"))
    config = Score(judge=api_judge(server.base_url, rubric=str(wider)))
    again = score(config, run, "rescore")
    assert again.counts == {"scored": 60}
    assert Counter(ratings(run)["score"].to_pylist()) == {8.0: 30, 3.0: 30}
    assert again.usage == first.usage
    assert len(server.taken()) == 60
    other = tmp_path / "other.yaml"
    other.write_text(shipped.replace("You grade training", "You rate training"))
    with pytest.raises(SettingsChanged, match=r"rubric\.prompt"):
        score(Score(judge=api_judge(server.base_url, rubric=str(other))), run, "rescore")


def test_a_wrong_key_stops_at_once_with_one_message(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 400)
    server = judge("--key", "right")
    with pytest.raises(StageFailed, match="http 401: the server refuses the key") as error:
        score(Score(judge=api_judge(server.base_url, api_key_env="WRONG_KEY"), concurrency=8), run)
    assert "a-wrong-key" not in str(error.value)
    assert len(server.taken()) == 0


def test_too_many_failures_stop_the_stage_and_say_which_and_why(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 2000)
    server = judge("--fault", "400", "--fault-every", "3", "--latency", "0.05")
    told = (
        r"rows failed, more than score\.max_failed = 0\.1 of 2,000 allows \([\d,]+ x http 400; the commonest: http 400: broken"
    )
    with pytest.raises(StageFailed, match=told):
        score(Score(judge=api_judge(server.base_url), concurrency=8), run)
    assert run.ratings("judge").manifest() is None
    assert len(server.taken()) < 2000


def test_a_request_that_no_row_gets_through_stops_the_stage_after_a_dozen_in_the_servers_words(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    run = toy_run(tmp_path, 2000)
    server = judge("--fault", "400", "--fault-every", "1", "--latency", "0.05")
    with pytest.raises(StageFailed, match="stopped: http 400: broken"):
        score(Score(judge=api_judge(server.base_url)), run)
    assert len(server.taken()) <= 100


def test_a_judge_that_answers_prose_ends_the_job_with_code_1_after_tens_of_replies_and_shows_one(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    run, server = toy_run(tmp_path, 2000), judge("--says", "Let us weigh this with care.", "--latency", "0.05")
    options = [part for key in (f"base_url={server.base_url}", "model=toy") for part in ("--set", f"score.judge.{key}")]
    done = job("score", run.storage.root, *options, "--json")
    assert done.returncode == 1, done.stderr
    told = re.search(r"(\d+) of the first \1 rows have no usable result \(\1 x unparsed\)", done.stderr)
    assert told, done.stderr
    assert (
        "one such reply, as it came:\n---\nLet us weigh this with care.\nThe response does what was asked.\n---" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert 50 <= len(server.taken()) <= 100
    assert run.ratings("judge").manifest() is None


def test_keys_stand_in_no_file_of_the_run(tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("canary-5b1f\n")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("JUDGE_KEY_FILE", str(file))
    run = toy_run(tmp_path, 20)
    server = judge("--key", "canary-5b1f")
    # a process with a Ray of its own: the workers of the tests' Ray were started with another environment
    settings = {"model": "toy", "base_url": server.base_url, "api_key_env": "JUDGE_KEY"}
    options = [part for key, value in settings.items() for part in ("--set", f"score.judge.{key}={value}")]
    done = own_job("score", run.storage.root, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert len(server.taken()) == 20
    written = [path.read_bytes() for path in Path(run.storage.root).rglob("*") if path.is_file()]
    assert not any(b"canary-5b1f" in content for content in [*written, done.stdout.encode(), done.stderr.encode()])


@pytest.mark.parametrize("death", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_a_driver_that_dies_half_way_costs_nothing_twice_beyond_the_bound(
    tmp_path: Path, judge: JudgeStarter, death: signal.Signals
) -> None:
    """With a Ray of its own, whose workers end with it; those that join another one's die in the fault scenarios."""
    run = toy_run(tmp_path, ROWS)
    server = judge("--latency", "0.1")
    settings = {"judge.model": "toy", "judge.base_url": server.base_url, "concurrency": CONCURRENCY}
    options = [part for key, value in settings.items() for part in ("--set", f"score.{key}={value}")]
    driver = drivers.start("score", ["--run", run.storage.root, *options], tmp_path / "driver")
    while len(server.taken()) < ROWS / 2:
        assert driver.is_alive, driver.wait().message
        time.sleep(0.05)
    os.kill(driver.pid, death)
    ended = driver.wait()
    if death is not signal.SIGKILL:
        assert ended.code == 1
        assert "the same command goes on from here" in ended.message
        assert "Traceback" not in ended.message
    _wait_until_quiet(server)
    before = Counter(server.taken())
    assert run.ratings("judge").manifest() is None
    told = status(run)["stages"][-1]
    assert (told["stage"], told["state"], told["of"]) == ("ratings/judge", "unfinished", ROWS)
    received = told["rows"] + told["replies"]
    assert len(before) - CONCURRENCY - CONCURRENCY / 0.1 * (FLUSH_S + 1) <= received <= len(before)
    score(Score(judge=api_judge(server.base_url), concurrency=CONCURRENCY), run)
    assert ratings(run)["example_id"].to_pylist() == ids(run)
    assert set(server.taken()) == set(prompt_hashes(run))
    twice = sum(count - 1 for count in Counter(server.taken()).values())
    assert max(before.values()) == 1
    assert twice <= CONCURRENCY + CONCURRENCY / 0.1 * (FLUSH_S + 1)


def _wait_until_quiet(server: object) -> None:
    """Workers of a killed driver end a moment after it."""
    last = -1
    while last != len(server.taken()):
        last = len(server.taken())
        time.sleep(1.5)
