"""The Python interface: records in, records with scores out; paid for once; no Ray for small inputs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import alpagasus_ray as ag
from alpagasus_ray.errors import BudgetReached, SettingsChanged, UsageError
from loopback import JudgeStarter

ROWS = [
    {"instruction": f"Name {n} fruits.", "input": "", "output": ", ".join(["apple"] * n), "topic": "odd" if n % 2 else "even"}
    for n in range(1, 21)
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPAGASUS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rate(judge: JudgeStarter) -> Callable[..., ag.Rated]:
    """Rates by a judge on loopback; `rate.server` is that judge."""
    server = judge("--latency", "0.05")

    def call(rows: Any = ROWS, **given: Any) -> ag.Rated:
        return ag.rate(rows, "toy", base_url=server.base_url, **given)

    call.server = server  # type: ignore[attr-defined]
    return call


def test_records_come_back_in_their_order_with_all_their_columns_and_a_score(rate: Callable[..., ag.Rated]) -> None:
    rated = rate()
    assert [{key: row[key] for key in ROWS[0]} for row in rated.to_list()] == ROWS
    assert all(score is not None and 0 <= score <= 5 for score in rated.scores)
    assert sum(rated.histogram().values()) == len(rated) == len(ROWS)
    assert rated.unscored == {}
    table = rated.to_pandas()
    assert list(table["topic"]) == [row["topic"] for row in ROWS]


def test_the_same_rows_are_paid_for_once_by_the_same_judge(rate: Callable[..., ag.Rated]) -> None:
    first = rate()
    again = rate(list(ROWS))
    server = rate.server  # type: ignore[attr-defined]
    assert len(server.taken()) == len(ROWS)
    assert again.scores == first.scores
    rate(rubric="helpfulness")
    assert len(server.taken()) == 2 * len(ROWS)


def test_a_record_without_a_text_has_a_reason_and_no_score(rate: Callable[..., ag.Rated]) -> None:
    rated = rate([*ROWS[:3], {"instruction": "", "input": "", "output": ""}, *ROWS[3:]])
    assert [number for number, score in enumerate(rated.scores) if score is None] == [3]
    [(reason, count)] = rated.unscored.items()
    assert (reason.partition(":")[0], count) == ("no example", 1)
    assert rated.to_list()[4]["output"] == ROWS[3]["output"]


def test_the_best_are_picked_by_number_threshold_or_share_and_per_column(rate: Callable[..., ag.Rated], tmp_path: Path) -> None:
    rated = rate()
    scores = sorted((score for score in rated.scores if score is not None), reverse=True)
    best = rated.pick(top=5)
    assert sorted(best.scores, reverse=True) == scores[:5]
    assert len(rated.pick(share=0.25)) == 5
    assert len(rated.pick(threshold=scores[7])) == sum(score >= scores[7] for score in scores)
    assert sorted(row["topic"] for row in rated.pick(top=3, per="topic").to_list()) == ["even"] * 3 + ["odd"] * 3
    lines = best.to_jsonl(tmp_path / "best.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == best.to_list()
    assert rated.pick(top=5).records == best.records, "the same draw each time"
    wrongs = ({}, {"top": 1, "share": 0.5}, {"top": len(ROWS) + 1}, {"top": -1}, {"share": 1.5}, {"top": 1, "per": "colour"})
    for wrong in wrongs:
        with pytest.raises(UsageError):
            rated.pick(**wrong)  # type: ignore[arg-type]


def test_a_cap_stops_and_the_same_call_goes_on_when_it_is_raised(rate: Callable[..., ag.Rated]) -> None:
    price = {"input": 1000.0, "output": 1000.0}
    with pytest.raises(BudgetReached):
        rate(max_cost_usd=2.0, price=price, concurrency=1)
    server = rate.server  # type: ignore[attr-defined]
    paid = len(server.taken())
    assert 0 < paid < len(ROWS)
    rated = rate(max_cost_usd=1000.0, price=price, concurrency=1)
    assert rated.unscored == {}
    assert len(server.taken()) == len(ROWS)
    assert rated.cost_usd > 0


def test_other_rows_in_the_same_run_are_refused_and_leave_the_first_as_they_were(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = ag.rate(ROWS, run=run, kind="rules")
    with pytest.raises(SettingsChanged):
        ag.rate(ROWS[:3], run=run, kind="rules")
    assert ag.rate(ROWS, run=run, kind="rules").scores == first.scores


def test_what_holds_no_rows_is_refused() -> None:
    for nothing in ([], 5):
        with pytest.raises(UsageError, match="holds no rows"):
            ag.rate(nothing, kind="rules")


def test_a_knob_that_is_none_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match="concurency"):
        ag.rate(ROWS, "toy", concurency=3)
    with pytest.raises(UsageError, match="temperature"):
        ag.rate(ROWS, "toy", temperature="hot")


def test_rating_a_few_rows_starts_no_ray_and_importing_the_package_loads_nothing() -> None:
    code = f"""
import sys
import alpagasus_ray as ag
assert not [name for name in ("ray", "pydantic", "pyarrow", "numpy") if name in sys.modules]
rated = ag.rate({ROWS[:3]!r}, kind="rules")
import ray
print(len(rated), rated.unscored, ray.is_initialized(), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "3 {} False False"
