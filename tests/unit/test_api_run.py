"""A run in Python: the command's verbs as methods, with the same files, refusals and summaries."""

import json
from pathlib import Path
from typing import Any

import pytest

import alpagasus_ray as ag
from alpagasus_ray import __main__ as command
from alpagasus_ray.api import scorers
from alpagasus_ray.errors import SettingsChanged, UsageError
from alpagasus_ray.store.run import Run

ROWS = [
    {"instruction": f"Name {n} fruits.", "input": "", "output": ", ".join(["apple"] * n), "topic": "odd" if n % 2 else "even"}
    for n in range(1, 13)
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ag.Run:
    """A run with examples, and ratings by rules."""
    monkeypatch.setattr(scorers, "_known", {})
    ag.rate(ROWS, kind="rules", run=tmp_path / "run")
    return ag.Run(tmp_path / "run")


def test_methods_do_what_the_verbs_do_and_give_their_summaries_by_name(
    run: ag.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picked = run.pick(top=5)
    assert [arm["rows"] for arm in picked.table()] == [5, 5]
    assert [row["topic"] in ("odd", "even") for row in picked["selected"].to_list()] == [True] * 5
    again = [f"pick.arms=[{arms}]" for arms in ("{name: selected, policy: top, k: 5}, {name: random, policy: random}",)]
    assert command.main(["pick", str(tmp_path / "run"), "-s", *again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == picked.summary
    report = run.report()
    assert Path(report.page).exists()
    assert report.answer
    status = run.status()
    assert {stage["state"] for stage in status.table()} == {"finished"}
    assert status.driver is None
    assert "ratings/judge: finished" in str(status)
    for shown in (picked, report, status, run):
        assert shown._repr_html_().startswith("<")


def test_what_the_verbs_refuse_the_methods_refuse(run: ag.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean `pick\.duplicates`"):
        run.pick(duplicate="drop")
    with pytest.raises(SettingsChanged):
        ag.Run(tmp_path / "run").ingest(str(tmp_path / "other.json"))
    with pytest.raises(UsageError, match=r"Did you mean .*run\?"):
        ag.Run(tmp_path / "rnu").report()
    with pytest.raises(UsageError, match="give one of them"):
        run.pick(top=1, threshold=2)
    with pytest.raises(UsageError, match="give 'score'"):
        run.plan("sore")


def test_a_plan_says_what_scoring_would_cost_and_sends_nothing(run: ag.Run) -> None:
    price = {"input": 1.0, "output": 1.0}
    planned = ag.Run(run.location, {"score": {"name": "b", "judge": {"model": "toy", "base_url": "http://127.0.0.1:9/v1"}}})
    planned = planned.plan("score")
    assert planned.rows == len(ROWS)
    assert (
        ag.Run(run.location, {"score": {"name": "b", "judge": {"model": "toy", "price": price}}}).plan("score").dollars["low"]
        > 0
    )


def test_what_one_call_has_set_holds_for_the_later_ones(run: ag.Run) -> None:
    run.pick(arms=[{"name": "best", "policy": "top", "k": 3}])
    assert [arm["name"] for arm in run.pick().table()] == ["best"]
    assert [arm["name"] for arm in ag.Run(run.location).pick(threshold=3.0).table()] == ["selected", "random"]


def test_a_scorer_picks_in_a_run_and_each_of_its_versions_has_numbers_of_its_own(run: ag.Run) -> None:
    def number(sign: int) -> Any:
        return lambda record: sign * len(record["output"]) if record["topic"] == "odd" else None

    ag.scorer("size", version=1)(number(1))
    with pytest.raises(Exception, match="have no score"):
        run.pick(top=2, by="size")
    assert _sizes(run.pick(top=2, by="size", max_unscored=0.5)) == [9, 11]
    ag.scorer("size", version=2)(number(-1))
    assert _sizes(run.pick(top=2, by="size")) == [1, 3]
    held = Run.open(run.location)
    assert held.ratings("size-v1").manifest() is not None
    assert held.ratings("size-v2").manifest() is not None
    with pytest.raises(UsageError, match="no scorer has that name"):
        run.pick(top=2, by="sise")


def _sizes(picked: Any) -> list[int]:
    return [row["output"].count("apple") for row in picked["selected"].to_list()]


def test_rows_that_failed_are_asked_again_by_their_status_or_all(run: ag.Run) -> None:
    again = ag.Run(run.location)
    assert again.score(kind="rules", retry_failed=True).counts == {"scored": len(ROWS)}
    with pytest.raises(UsageError, match="no status to ask again for"):
        again.score(kind="rules", retry_failed="lost")
    scored = ag.Run(run.location).score(kind="rules")
    assert sum(scored.histogram().values()) == len(scored.rated) == scored.rows
    assert scored.cost_usd is None
    assert "<svg" in scored._repr_html_()
