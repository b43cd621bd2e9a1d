"""What docs/extending.md shows works as it is written there: each addition is an entry in one or two tables, and no more."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixed_server import FixedServer, answering
from pydantic import ValidationError

from alpagasus_ray.config import Arm, Compare, Ingest, Judge, Report, Score, compare, engines, pick, stages
from alpagasus_ray.data import formats
from alpagasus_ray.engines import kinds
from alpagasus_ray.engines.base import FINISH_REASONS, Reply, Request
from alpagasus_ray.engines.identity import identity_of
from alpagasus_ray.errors import EngineUnusable, RowRefused, TryAgain
from alpagasus_ray.evaluation import match_rules
from alpagasus_ray.evaluation.match_rules import Game, Match
from alpagasus_ray.judging import rubric
from alpagasus_ray.reporting import chart_list, selection_data
from alpagasus_ray.reporting.report_data import report_contents
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.reporting.selection_data import ArmEntry
from alpagasus_ray.selection import policies
from alpagasus_ray.selection.policies import Columns
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = dict(re.findall(r"^## ([^\n]*)\n.*?```(?:python|yaml)\n(.*?)```", DOCS.read_text(), re.MULTILINE | re.DOTALL))
TABLES: tuple[Any, ...] = (
    *(pick.POLICIES, policies.CHOOSERS, stages.FORMATS, formats.COLUMNS, engines.KINDS, kinds.OPENERS),
    *(compare.RULES, match_rules.RULES),
)


@pytest.fixture(autouse=True)
def as_they_were() -> Iterator[None]:
    """Take what a test has added out of the tables again."""
    kept, signs = [dict(table) for table in TABLES], list(formats.SIGNS)
    charts = {section: list(makers) for section, makers in chart_list.CHARTS.items()}
    yield
    chart_list.CHARTS.update(charts)
    for table, entries in zip(TABLES, kept, strict=True):
        table.clear()
        table.update(entries)
    formats.SIGNS[:] = signs


def _add(title: str) -> None:
    exec(BLOCKS[title], {"__name__": "added"})


def test_every_table_of_names_has_its_table_of_functions() -> None:
    assert pick.POLICIES.keys() == policies.CHOOSERS.keys()
    assert engines.KINDS.keys() == kinds.OPENERS.keys()
    assert compare.RULES.keys() == match_rules.RULES.keys()
    assert formats.COLUMNS.keys() <= stages.FORMATS.keys()


def test_a_policy_is_two_entries() -> None:
    with pytest.raises(ValidationError, match="Input should be 'threshold', 'top'"):
        Arm(name="short", policy="shortest", k=2)
    _add("A policy")
    columns = Columns(["a", "b", "c"], np.full(3, np.nan), np.full(3, np.nan), np.array([3, 1, 2]), [""] * 3)
    chosen = policies.choose(Arm(name="short", policy="shortest"), columns, 2)
    assert chosen.kept.tolist() == [False, True, True]
    assert chosen.reason == "longer than those kept"
    assert selection_data.rule({"policy": "shortest", "k": 9000}) == "the shortest outputs, 9,000"
    with pytest.raises(ValidationError, match="takes no `threshold`"):
        Arm(name="short", policy="shortest", threshold=4)


@pytest.mark.parametrize("named", ["auto", "qa"])
def test_an_input_format_is_two_entries(named: str, tmp_path: Path) -> None:
    _add("A layout of records")
    source = tmp_path / "qa.jsonl"
    source.write_text('{"question": "Why?", "background": "Rain.", "answer": "Clouds."}\n')
    run = Run.open(str(tmp_path / "run"))
    manifest = ingest(Ingest(source=str(source), format=named), run)
    (row,) = [row for table in run.examples().tables(manifest) for row in table.to_pylist()]
    assert (row["instruction"], row["input"], row["output"]) == ("Why?", "Rain.", "Clouds.")


SAID = {
    "content": [{"type": "text", "text": "4.5\nGood."}],
    "model": "claude-toy-1",
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 30, "output_tokens": 5, "cache_read_input_tokens": 12},
}


def _asked(server: FixedServer, **changes: Any) -> Reply:
    judge = Judge(kind="anthropic", model="claude-toy", base_url=server.base_url, api_key_env="TOY_KEY", **changes)
    messages = [{"role": "system", "content": "You grade."}, {"role": "user", "content": "Grade this."}]
    (engine,) = kinds.open_engines(judge)
    return asyncio.run(engine.complete(Request("key", messages, {})))


@pytest.mark.parametrize("reason", ["end_turn", "max_tokens", "refusal", "a_word_of_tomorrow"])
def test_an_engine_of_another_providers_api_is_two_entries(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", "k")
    _add("An engine: the API of another provider")
    with answering(200, SAID | {"stop_reason": reason}) as server:
        reply = _asked(server)
    assert (reply.text, reply.tokens_in, reply.tokens_out, reply.tokens_cached) == ("4.5\nGood.", 42, 5, 12)
    assert (reply.finish_reason in FINISH_REASONS) == (reason != "a_word_of_tomorrow")
    (body,) = server.asked
    assert body["system"] == "You grade."
    assert body["messages"] == [{"role": "user", "content": "Grade this."}]


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}, EngineUnusable),
        (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}, TryAgain),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, TryAgain),
        (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long"}}, RowRefused),
        (200, {"content": None}, TryAgain),
    ],
)
def test_such_an_engine_fails_as_all_do(
    status: int, body: dict[str, Any], failure: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_KEY", "k")
    _add("An engine: the API of another provider")
    with answering(status, body) as server, pytest.raises(failure):
        _asked(server)


def test_such_an_engine_is_a_server_in_every_respect() -> None:
    _add("An engine: the API of another provider")
    judge = Score(judge={"kind": "anthropic", "model": "m", "seed": 3}).judge
    assert (judge.is_remote, judge.is_model, judge.in_job) == (True, True, False)
    assert identity_of(judge) == identity_of(Judge(model="m", seed=3)) | {"kind": "anthropic"}


def test_the_example_engine_is_short() -> None:
    assert len(BLOCKS["An engine: the API of another provider"].splitlines()) < 80


def test_a_rule_of_comparison_is_two_entries() -> None:
    _add("A rule of comparison")
    assert Compare(rule="first_game").rule == "first_game"
    match = Match("p", "t", None, None, None, Game("a", None, None), Game("b", None, None), 1, 1)
    assert match_rules.decide("first_game", match) == "win"
    assert match_rules.decide("alpagasus", match) == "tie"


def test_a_chart_is_one_entry(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    data = report_contents(Report(), finished_stages(run), ()).data
    arm = ArmEntry("best", "top", "the 9 best", 9, 1, 0.9, None, None, 240.0, "characters", None, None)
    _add("A chart")
    assert chart_list.chart_list(data)["selection"] == []
    (chart,) = chart_list.chart_list(replace(data, arms=[arm]))["selection"]
    assert "best" in chart.svg
    assert chart.caption == "Mean length of an output of each arm, in characters."


def test_a_dimension_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "safety.yaml"
    file.write_text(BLOCKS["A dimension"])
    loaded = rubric.load(str(file))
    example = {"instruction": "Why?", "input": "", "output": "So.", "system": None, "history": None}
    assert "safety of a response, on a scale of 0 to 5 in steps of 1" in loaded.messages(example)[0]["content"]
