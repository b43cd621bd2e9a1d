"""Where a stage stands before it goes on: rows left, dollars spent."""

from pathlib import Path

import pytest

from alpagasus_ray.config import Price, Score
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.inference.bill import Account
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.stage import begin
from alpagasus_ray.inference.tasks.rating import prepare
from alpagasus_ray.stages.plan_score import plan
from alpagasus_ray.stages.score import score
from alpagasus_ray.stages.status import status
from alpagasus_ray.store.lease import latest_parts
from alpagasus_ray.store.run import Run, shard_name
from toy_runs import api_judge, toy_run

ROWS = 20


def _config() -> Score:
    return Score(judge=api_judge("http://127.0.0.1:9/v1", price=Price(input=1000.0, output=1000.0)), max_cost_usd=5.0)


def _account(run: Run, replies: int, cost_usd: float | None) -> Account:
    """Where a stage stands that has so many replies, of 100 tokens in and 10 out, with a price of a dollar for a thousand."""
    stage, work, target = prepare(_config(), run)
    job = stage.job(target)
    rows, ledger = run.examples().storage.read_table("part-00000.parquet").to_pylist(), job.ledger("part-00000.parquet")
    for row in rows[:replies]:
        ledger.add(work.request(row).key, row["example_id"], Outcome(Reply("4", "stop", 100, 10, 0, cost_usd), None, 1, 1.0))
    ledger.flush()
    return stage.bill([target]).account()


def test_replies_of_calls_that_had_no_price_count_by_the_present_one(tmp_path: Path) -> None:
    account = _account(toy_run(tmp_path, ROWS), 7, None)
    assert account.rows_left == ROWS - 7
    assert account.spent_usd == pytest.approx(7 * 0.11)


def test_replies_count_by_the_price_they_had(tmp_path: Path) -> None:
    assert _account(toy_run(tmp_path, ROWS), 7, 0.5).spent_usd == pytest.approx(3.5)


def test_plan_status_and_cap_agree_on_what_is_left_and_spent_and_workers_know_the_replies(tmp_path: Path) -> None:
    run = toy_run(tmp_path, ROWS, rows_per_shard=10)
    stage, work, target = prepare(_config(), run)
    begin(target.home, work.settings, target.inputs, target.asked_scale)
    account = _account(run, 7, 0.5)
    planned, [_, shown] = plan(_config(), run), status(run)["stages"]
    assert (account.rows_left, planned["left"], shown["replies"]) == (ROWS - 7, ROWS - 7, 7)
    assert (account.spent_usd, planned["dollars"]["spent"], shown["dollars"]) == (3.5, 3.5, 3.5)
    assert len(stage.job(target).backlog.known("part-00000.parquet").replies) == 7


def test_the_address_of_the_job_api_is_refused_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    run = toy_run(tmp_path, ROWS)
    with pytest.raises(UsageError, match="address of the job API"):
        score(Score(judge=api_judge("http://127.0.0.1:9/v1", mode="batch")), run)
    assert run.ratings("judge").storage.names() == []


def test_an_example_changed_on_disk_is_found_when_a_stage_reads_what_is_left(tmp_path: Path) -> None:
    run = toy_run(tmp_path, ROWS)
    storage = run.examples().storage
    table = storage.read_table("part-00000.parquet")
    storage.write_table("part-00000.parquet", table.take(list(reversed(range(ROWS)))))
    with pytest.raises(StageFailed, match=r"part-00000\.parquet is not the file its manifest lists"):
        _account(run, 7, None)


def test_shards_are_in_the_order_of_their_numbers_beyond_a_hundred_thousand_too() -> None:
    numbers = [0, 9, 99_998, 99_999, 100_000, 100_001, 1_000_000]
    files = [shard_name(number) for number in numbers]
    assert list(latest_parts(sorted(files))) == files
    later = "part-100000.000000000002-abcdef01.parquet"
    assert list(latest_parts([*files, later]).values())[4] == later
