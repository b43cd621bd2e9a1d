"""Whole stages through a batch API: the same ratings as live at half the price, and nothing paid twice whoever dies."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import drivers
from alpagasus_ray.batch_api.journal import BATCHES, JOURNAL, Page
from alpagasus_ray.config import Score
from alpagasus_ray.errors import BudgetReached
from alpagasus_ray.inference.budget import at_most_spent
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from loopback import JudgeStarter, LoopbackJudge
from toy_runs import api_judge, ids, prompt_hashes, ratings, toy_run

PRICE = {"input": 1.0, "output": 4.0}
ROW_USD = (300 * 1.0 + 12 * 4.0) / 1e6
"""What a reply of the server costs when it is asked for live."""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")


def _config(server: LoopbackJudge, mode: str = "batch", batch: dict[str, Any] | None = None, **knobs: Any) -> Score:
    judge = {"mode": mode, "price": PRICE, "batch": {"poll_s": 0.05, **(batch or {})}, **knobs.pop("judge", {})}
    return Score(judge=api_judge(server.base_url, **judge), **knobs)


def _start(folder: Path, run: Run, server: LoopbackJudge, **batch: Any) -> drivers.Driver:
    """The job in a process of its own, in batch mode."""
    settings = {"model": "toy", "base_url": server.base_url, "mode": "batch", "price": PRICE, "batch": batch}
    arguments = ["--run", run.storage.root, "--set", "score.max_cost_usd=1"]
    arguments += [option for key, value in settings.items() for option in ("--set", f"score.judge.{key}={json.dumps(value)}")]
    return drivers.start("score", arguments, folder / f"driver-{time.monotonic_ns()}", drivers.ray_here())


def _wait_for_a_batch(driver: drivers.Driver, server: LoopbackJudge, run: Run, noted: bool) -> None:
    folder = run.ratings("judge").storage.at(BATCHES)
    while not server.stats()["batches"] or (
        noted and not any(entry.batch_id for entry in Page.model_validate_json(folder.read(JOURNAL)).entries)
    ):
        assert driver.is_alive, driver.wait().message
        time.sleep(0.05)


def test_ratings_are_those_of_live_requests_at_half_the_price(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 120, rows_per_shard=50)
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({key: n % 11 / 2 for n, key in enumerate(prompt_hashes(run))}))
    server = judge("--scores", str(scores), "--batch-seconds", "0.2")
    live = score(_config(server, "live", name="live"), run)
    batched = score(_config(server, batch={"max_requests": 45}), run)
    columns = ["example_id", "request_hash", "status", "score", "reply", "attempts", "tokens_in"]
    assert ratings(run).select(columns) == ratings(run, "live").select(columns)
    assert batched.counts == live.counts == {"scored": 120}
    assert live.usage["cost_usd"] == pytest.approx(120 * ROW_USD)
    assert batched.usage["cost_usd"] == pytest.approx(live.usage["cost_usd"] / 2)
    assert set(Counter(server.taken()).values()) == {2}
    assert server.stats()["batches"] == 3
    left = [path.name for path in Path(run.ratings("judge").storage.root).iterdir()]
    assert sorted(left) == ["manifest.json", *(entry.name for entry in batched.files)]


def test_drivers_killed_before_they_know_of_their_batch_and_while_it_is_under_way_pay_nothing_twice(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    run = toy_run(tmp_path, 90, rows_per_shard=30)
    server = judge("--batch-seconds", "4", "--batch-faults", json.dumps({"lost_reply": 1}))
    first = _start(tmp_path, run, server, poll_s=60, max_requests=60)  # it waits so long before it looks for the batch
    _wait_for_a_batch(first, server, run, noted=False)
    first.kill()
    second = _start(tmp_path, run, server, poll_s=0.5, max_requests=60)
    _wait_for_a_batch(second, server, run, noted=True)
    second.kill()
    server.control(batch_seconds=0.2)
    manifest = score(_config(server, max_cost_usd=1.0), run)
    assert ratings(run)["example_id"].to_pylist() == ids(run)
    assert sorted(server.taken()) == sorted(prompt_hashes(run))
    assert manifest.usage["cost_usd"] == pytest.approx(90 * ROW_USD / 2)
    assert at_most_spent(run.ratings("judge").storage) == pytest.approx(90 * ROW_USD / 2)


def test_live_and_batch_take_turns_on_one_run_and_batches_under_way_are_collected_first(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    run = toy_run(tmp_path, 120, rows_per_shard=30)
    server = judge("--batch-seconds", "5")
    score(_config(server, "live", limit=30), run)
    driver = _start(tmp_path, run, server, max_requests=40, in_flight=1)
    _wait_for_a_batch(driver, server, run, noted=True)
    server.control(batch_seconds=0.1)
    driver.terminate()
    code, message, *_ = driver.wait()
    assert code == 1
    assert f"interrupted. Batches that go on at {server.base_url}: 1, with 40 requests. The same command collects" in message
    assert "Traceback" not in message
    manifest = score(_config(server, "live"), run)
    assert sorted(server.taken()) == sorted(prompt_hashes(run))
    assert manifest.counts == {"scored": 120}
    assert manifest.usage["cost_usd"] == pytest.approx((30 + 40 / 2 + 50) * ROW_USD)
    assert (server.stats()["batches"], server.stats()["answered"]) == (1, 80)


def test_spending_stops_at_the_cap_and_goes_on_when_it_is_raised(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 100, rows_per_shard=25)
    server = judge("--batch-seconds", "0.05")
    cap = 50 * ROW_USD / 2
    with pytest.raises(BudgetReached, match="stopped at the budget") as reached:
        score(_config(server, max_cost_usd=cap), run)
    assert reached.value.exit_code == 3
    report = reached.value.report or {}
    assert report["spent_usd"] == pytest.approx(len(server.billed()) * ROW_USD / 2)
    assert 40 < len(server.billed()) <= 50
    assert report["rows_left"] == 100 - len(server.billed())
    manifest = score(_config(server, max_cost_usd=100 * cap), run)
    assert manifest.usage["cost_usd"] == pytest.approx(2 * cap)
    assert sorted(server.billed()) == sorted(prompt_hashes(run))


def test_rows_that_no_batch_could_answer_are_failed_with_its_reason_and_asked_again_later(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    run = toy_run(tmp_path, 40, rows_per_shard=20)
    faults = [{"row_status": 400, "match": "number 7.", "batches": 2}, {"row_status": 500, "match": "number 9.", "batches": 2}]
    server = judge("--batch-seconds", "0.05", "--batch-faults", json.dumps(faults))
    config = _config(server, judge={"max_attempts": 2}, max_failed=1.0)
    assert score(config, run).counts == {"scored": 38, "failed": 2}
    failed = [row for row in ratings(run).to_pylist() if row["status"] == "failed"]
    told = [(row["error"], row["attempts"], row["maybe_billed_twice"]) for row in failed]
    assert told == [("http 400: broken", 1, 0), ("http 500: broken", 2, 2)]
    assert score(config, run, "retry-failed").counts == {"scored": 40}
    assert Counter(Counter(server.taken()).values()) == {1: 38, 2: 1, 3: 1}
