"""A plan tells what a call would do, from a run as a call may have left it, and touches nothing."""

import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray import cli, commands
from alpagasus_ray.batch_api.journal import Entry, Item, Journal
from alpagasus_ray.config import Endpoint, Ingest, Judge, Price, Score, digest
from alpagasus_ray.engines import tokens
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.errors import SettingsChanged, UsageError
from alpagasus_ray.inference.backlog import Backlog
from alpagasus_ray.inference.budget import Budget
from alpagasus_ray.inference.coordinator import Cap
from alpagasus_ray.inference.ledger import Ledger, Outcome
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.inference.trial import drawn
from alpagasus_ray.judging import rubric
from alpagasus_ray.reporting import terminal, terminal_plan
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.plan_score import SAMPLE, evenly, plan
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import DONE, LEDGER, Begun, Manifest, Run, StageDir, describe
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.terminal import spelled
from toy_runs import ROOT, toy_run

MODEL = "gpt-4o-mini"
# every byte is a token
TINY = tiktoken.Encoding("tiny", pat_str=r"\w+|\W+", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={})
REPLY = Reply("4\nGood.", tokens_in=300, tokens_out=10, cost_usd=0.5)


@pytest.fixture(autouse=True)
def _tiny_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "encoding_for_model", {MODEL: TINY}.__getitem__)


def _score(limit: int | None = None, **judge: Any) -> Score:
    return Score(judge=Judge(**{"model": MODEL, **judge}), limit=limit)


def _work(config: Score) -> RatingTask:
    return RatingTask(config.judge, rubric.load(config.judge.rubric))


def _rows(run: Run, shard: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.examples().storage.read_table(shard).to_pylist()
    return rows


def _begin(run: Run, config: Score, **changes: Any) -> StageDir:
    """The stage as a call leaves it that was stopped at its beginning."""
    stage, settings = run.ratings(config.name), _work(config).settings
    inputs = {"examples": run.examples().finished().content_hash()}
    stage.begin(Begun(settings=settings, inputs=inputs, asked_scale=settings["rubric"]["scale"], **changes))
    return stage


def _answer(run: Run, config: Score, shard: str, places: Sequence[int], latency_s: float = 2.0) -> None:
    """Replies to these rows of a shard, in its ledger."""
    rows, ledger = _rows(run, shard), Ledger(run.ratings(config.name).storage.at(LEDGER, shard.removesuffix(".parquet")))
    for place in places:
        ledger.add(_work(config).request(rows[place]).key, rows[place]["example_id"], Outcome(REPLY, None, 1, latency_s))
    ledger.flush()


def _commit(run: Run, config: Score, shard: str, failed: Sequence[int] = ()) -> None:
    """A whole output shard with its commit record; the rows at `failed` have no reply."""
    work, stage = _work(config), run.ratings(config.name)
    outcomes = [
        Outcome(None, "http 500: broken", 6, None) if n in failed else Outcome(REPLY, None, 1, 2.0)
        for n in range(len(_rows(run, shard)))
    ]
    results = [work.result(row, work.request(row), end) for row, end in zip(_rows(run, shard), outcomes, strict=True)]
    written = stage.storage.write_table(shard, pa.Table.from_pylist(results, schema=work.schema))
    entry = describe(shard, written, results)
    stage.storage.at(DONE).write(f"{shard}.json", entry.model_dump_json().encode())


def _finish(run: Run, config: Score, **changes: Any) -> None:
    begun = _begin(run, config).begun()
    assert begun is not None
    made = {"settings": begun.settings, "settings_hash": digest(begun.settings), "inputs": begun.inputs, **changes}
    run.ratings(config.name).finish(Manifest(stage="ratings/judge", files=[], rows=0, seconds=0, versions={}, **made))


def _prompts(run: Run, config: Score) -> list[list[dict[str, str]]]:
    stage, work = run.examples(), _work(config)
    return [work.request(row).messages for part in stage.finished().parts() for row in _rows(run, part.name)]


def test_everything_is_left_of_a_run_that_was_never_scored(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 60, rows_per_shard=25), _score()
    found = plan(config, run)
    lengths = tokens.counter(config.judge).lengths(_prompts(run, config))
    assert (found["rows"], found["left"], found["requests"]) == (60, 60, 60)
    assert found["tokens"] == {
        "counted_by": "tiktoken tiny",
        "estimate": False,
        "sampled": 60,
        "in_each": round(sum(lengths) / 60, 2),
        "margin": 0.0,
        "in": pytest.approx(sum(lengths), abs=1),
        "out_low": 2 * 60,
        "out_high": 256 * 60,
        "longest_reply": 256,
    }
    dollars = found["dollars"]
    assert dollars["low"] == pytest.approx((sum(lengths) * 0.15 + 120 * 0.6) / 1e6, rel=1e-3)
    assert dollars["high"] == pytest.approx((sum(lengths) * 0.15 + 256 * 60 * 0.6) / 1e6, rel=1e-3)
    assert (dollars["spent"], dollars["price"]["source"][:6]) == (0.0, "listed")


def test_the_prompt_shown_is_the_first_that_would_be_sent(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 30, rows_per_shard=10), _score()
    assert plan(config, run)["prompt"] == _prompts(run, config)[0]
    _begin(run, config)
    _commit(run, config, "part-00000.parquet")
    _answer(run, config, "part-00001.parquet", [0, 1])
    found = plan(config, run)
    assert found["prompt"] == _prompts(run, config)[12]
    assert found["hashes"]["request"] == _work(config).request(_rows(run, "part-00001.parquet")[2]).key


def test_rows_with_a_reply_are_not_left_and_rows_that_failed_are(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 40, rows_per_shard=10), _score()
    _begin(run, config)
    _commit(run, config, "part-00000.parquet")
    _commit(run, config, "part-00001.parquet", failed=[3, 5])
    _answer(run, config, "part-00002.parquet", range(9))
    found = plan(config, run)
    assert (found["left"], found["requests"]) == (2 + 1 + 10, 2 + 1 + 10)
    assert found["replies"] == {"count": 27, "tokens_in": 300, "tokens_out": 10, "cost_usd": 0.5, "latency_s": 2.0}
    assert found["dollars"]["spent"] == 27 * 0.5


def test_a_trial_is_planned_alone_and_what_was_spent_elsewhere_still_counts(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 40, rows_per_shard=10), _score(limit=15)
    _begin(run, config)
    of_trial = drawn(run.examples().finished(), 15)
    assert (of_trial["part-00000.parquet"], 7 in of_trial["part-00001.parquet"]) == ((5, 8), True)
    _answer(run, config, "part-00000.parquet", [5, 8])
    _answer(run, config, "part-00001.parquet", [4, 7])
    _answer(run, config, "part-00003.parquet", [2])
    found = plan(config, run)
    assert (found["rows"], found["left"]) == (40, 15 - 3)
    assert (found["replies"]["count"], found["dollars"]["spent"]) == (5, 2.5)


def test_rows_with_the_same_prompt_in_one_shard_are_one_request(tmp_path: Path) -> None:
    source = tmp_path / "same.json"
    source.write_text(json.dumps([{"instruction": "a", "input": "", "output": str(n % 3)} for n in range(10)]))
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=str(source), rows_per_shard=5), run)
    found = plan(_score(), run)
    assert (found["left"], found["requests"]) == (10, 6)
    _begin(run, _score())
    _answer(run, _score(), "part-00001.parquet", [0])
    found = plan(_score(), run)
    assert (found["left"], found["requests"]) == (5 + 3, 3 + 2)


def test_a_finished_stage_leaves_nothing_to_ask(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 20, rows_per_shard=10), _score(model="toy")
    _finish(run, config, counts={"scored": 17, "failed": 3})
    found = plan(config.model_copy(update={"max_cost_usd": 1.0}), run)
    assert (found["left"], found["requests"], found["prompt"]) == (0, 0, None)
    assert (found["tokens"]["in"], found["tokens"]["out_low"], found["tokens"]["out_high"]) == (0, 0, 0)
    assert found["minutes"] == {"least": None, "bound_by": None}
    assert found["notes"][:2] == [
        "the stage is finished: a call returns at once",
        "3 rows have no score; --retry-failed asks for them again",
    ]


@pytest.mark.parametrize("leave", [_begin, _finish])
def test_changed_settings_are_refused_as_by_the_call_itself(tmp_path: Path, leave: Any) -> None:
    run = toy_run(tmp_path, 5)
    leave(run, _score())
    with pytest.raises(SettingsChanged, match=rf"judge\.model: '{MODEL}' there, 'other' now"):
        plan(_score(model="other"), run)
    assert plan(_score(timeout_s=1), run)["hashes"]["settings"] == digest(_work(_score()).settings)


def test_what_the_call_would_refuse_for_other_reasons_is_refused_too(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 5)
    with pytest.raises(UsageError, match=r"`score\.judge\.model` is not set"):
        plan(_score(model=None), run)
    with pytest.raises(UsageError, match="examples/ is not finished"):
        plan(_score(), Run.open(str(tmp_path / "nothing")))
    with pytest.raises(UsageError, match=r"`score\.max_cost_usd` = 1 cannot be kept"):
        plan(_score(model="other").model_copy(update={"max_cost_usd": 1.0}), run)
    _begin(run, _score(), rescoring=True)
    with pytest.raises(UsageError, match="a --rescore of ratings/judge was interrupted"):
        plan(_score(), run)


def test_known_replies_tell_how_long_the_others_will_be(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 30), _score()
    _begin(run, config)
    _answer(run, config, "part-00000.parquet", range(10))
    found = plan(config, run)
    assert (found["tokens"]["out_low"], found["tokens"]["out_high"]) == (20 * 10, 20 * 256)


def test_replies_without_a_longest_length_have_no_most_they_can_cost(tmp_path: Path) -> None:
    found = plan(_score(max_tokens=None), toy_run(tmp_path, 5))
    assert (found["tokens"]["out_high"], found["dollars"]["high"]) == (None, None)
    assert found["dollars"]["low"] > 0
    assert "score.judge.max_tokens is null: nothing bounds what a reply can cost" in found["notes"]


def test_an_unknown_price_is_null_and_the_way_to_give_one_is_told(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 5)
    found = plan(_score(base_url="http://localhost:8000/v1"), run)
    assert (found["dollars"]["low"], found["dollars"]["high"], found["dollars"]["price"]) == (None, None, None)
    assert found["notes"][0].startswith(f"no price is known for {MODEL} at localhost; give one")
    assert "score.judge.price={input: 0.15, output: 0.6}" in found["notes"][0]
    given_price = plan(_score(base_url="http://localhost:8000/v1", price=Price(input=1, output=0)), run)
    assert given_price["dollars"]["low"] == pytest.approx(given_price["tokens"]["in"] / 1e6, rel=1e-3)
    assert given_price["dollars"]["price"]["source"] == "score.judge.price"


def test_replies_of_which_none_tells_its_cost_leave_unknown_what_was_spent(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 5), _score(base_url="http://localhost:8000/v1")
    ledger = Ledger(_begin(run, config).storage.at(LEDGER, "part-00000"))
    key = _work(config).request(_rows(run, "part-00000.parquet")[0]).key
    ledger.add(key, "toy:0", Outcome(REPLY._replace(cost_usd=None), None, 1, 1.0))
    ledger.flush()
    assert plan(config, run)["dollars"]["spent"] is None


def test_the_batch_api_halves_the_dollars_and_takes_up_to_a_day(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 5)
    live, batch = plan(_score(), run), plan(_score(mode="batch").model_copy(update={"requests_per_minute": 1.0}), run)
    assert batch["dollars"]["high"] == pytest.approx(live["dollars"]["high"] / 2, abs=1e-6)
    assert batch["minutes"] == {"least": None, "bound_by": None}
    assert "through the batch API: up to 24 hours per round" in batch["notes"]


@pytest.mark.parametrize(("share_of_high", "reached"), [(1.01, None), (0.5, 50)])
def test_a_cap_is_enough_or_reached_after_so_many_requests(tmp_path: Path, share_of_high: float, reached: int | None) -> None:
    run = toy_run(tmp_path, 100)
    high = plan(_score(), run)["dollars"]["high"]
    capped = plan(_score().model_copy(update={"max_cost_usd": share_of_high * high}), run)
    assert capped["dollars"]["cap_reached_after"]["high"] == (reached and pytest.approx(reached, abs=1))


def test_what_was_spent_is_gone_from_the_cap(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 100), _score().model_copy(update={"max_cost_usd": 5.0})
    _begin(run, config)
    _answer(run, config, "part-00000.parquet", range(9))
    assert plan(config, run)["dollars"]["cap_reached_after"] == {"low": None, "high": None}
    _answer(run, config, "part-00000.parquet", [9])
    assert plan(config, run)["dollars"]["cap_reached_after"] == {"low": 0, "high": 0}


def test_what_a_killed_call_may_have_spent_counts_as_spent(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 10), _score().model_copy(update={"max_cost_usd": 8.0})
    stage = _begin(run, config)
    _answer(run, config, "part-00000.parquet", [0])
    assert Budget(stage.storage, 8.0, 0.5).lend("a driver that ended here", 6.0, 0.1) == 6.0
    found = plan(config, run)["dollars"]
    assert found["spent"] >= 6.5
    assert found["cap_reached_after"] == {"low": None, "high": None}


def _send(journal: Journal, run: Run, config: Score, places: Sequence[int], usd: float, **known: str) -> None:
    """A batch of rows of the first shard, as a call leaves it under way."""
    shard, number = "part-00000.parquet", journal.next_number
    rows = [_rows(run, shard)[place] for place in places]
    items = [Item(_work(config).request(row).key, shard, row["example_id"], usd / len(places)) for row in rows]
    entry = Entry(number=number, token=f"t{number}", address="http://there/v1", requests=len(items), usd=usd)
    journal.note(journal.open(entry, {item.key: item for item in items}), **known)


def test_requests_under_way_in_batches_are_not_left_to_ask(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, config = toy_run(tmp_path, 40, rows_per_shard=20), _score(mode="batch")
    journal = Journal(_begin(run, config).storage, None)
    _answer(run, config, "part-00000.parquet", [0])
    _send(journal, run, config, range(1, 9), 1.0, input_file_id="file-1", batch_id="batch_1")
    _send(journal, run, config, range(9, 12), 1.0, input_file_id="file-2")
    _send(journal, run, config, range(12, 15), 1.0)  # of which nothing can have reached the provider
    before = _tree(tmp_path)
    found = plan(config, run)
    assert _tree(tmp_path) == before
    assert found["under_way"] == {"requests": 11, "batches": 2}
    assert (found["left"], found["requests"]) == (8 + 20, 8 + 20)
    assert found["prompt"] == _prompts(run, config)[12]
    assert "  11 requests are under way in 2 batches; a call collects what they bring" in _told(found, capfd)


def test_a_batch_that_is_collected_while_the_plan_is_made_is_not_under_way(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 10), _score(mode="batch")
    journal = Journal(_begin(run, config).storage, None)
    _send(journal, run, config, range(4), 1.0, batch_id="batch_1")
    run.ratings("judge").storage.at("batches").delete("00001.parquet")
    assert plan(config, run)["under_way"] == {"requests": 0, "batches": 0}


def test_what_is_reserved_for_batches_is_told_as_spent_and_does_not_reach_the_cap(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 100), _score(mode="batch").model_copy(update={"max_cost_usd": 10.0})
    stage = _begin(run, config)
    _send(Journal(stage.storage, Cap(stage.storage, 10.0, 1.0)), run, config, range(50), 9.0, batch_id="batch_1")
    found = plan(config, run)
    assert found["left"] == 50
    assert found["dollars"]["spent"] == pytest.approx(10.0)
    assert found["dollars"]["cap_reached_after"] == {"low": None, "high": None}
    assert "what is spent includes 9 dollars, the most that the requests under way can cost" in found["notes"]
    # 1 is spent for good; what is left of the cap is enough for 50 and 25 of 50 requests at their highest
    high = found["dollars"]["high"]
    Journal(stage.storage, Cap(stage.storage, 10.0, 0.0))
    tight = plan(config.model_copy(update={"max_cost_usd": 1.0 + 1.5 * high}), run)["dollars"]["cap_reached_after"]
    assert (tight["low"], tight["high"]) == (None, pytest.approx(25, abs=1))


def test_the_tightest_limit_decides_the_least_time(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 100), _score()
    assert plan(config, run)["minutes"] == {"least": None, "bound_by": None}
    assert any("how long it takes is not known" in note for note in plan(config, run)["notes"])
    limited = config.model_copy(update={"requests_per_minute": 10.0, "tokens_per_minute": 1e9})
    assert plan(limited, run)["minutes"] == {"least": 10.0, "bound_by": "score.requests_per_minute"}
    few_tokens = plan(config.model_copy(update={"requests_per_minute": 1e9, "tokens_per_minute": 1000.0}), run)
    load = few_tokens["tokens"]["in"] + few_tokens["tokens"]["out_low"]
    assert few_tokens["minutes"] == {"least": pytest.approx(load / 1000, abs=0.01), "bound_by": "score.tokens_per_minute"}
    _begin(run, config)
    _answer(run, config, "part-00000.parquet", range(40), latency_s=60.0)
    slow = config.model_copy(update={"concurrency": 6, "actors": 9})
    assert plan(slow, run)["minutes"] == {"least": 10.0, "bound_by": "score.concurrency"}  # one shard is one actor's


def test_limits_hold_for_each_endpoint_and_one_without_a_limit_bounds_nothing(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 100)
    limited = {"requests_per_minute": 10.0}
    own, fast = Endpoint(), Endpoint(requests_per_minute=40)
    assert plan(_score(endpoints=(own, fast)).model_copy(update=limited), run)["minutes"]["least"] == 2.0
    assert plan(_score(endpoints=(own, fast)), run)["minutes"]["least"] is None


def test_judges_that_ask_nobody_cost_nothing_and_have_no_prompt(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 30, rows_per_shard=10)
    config = Score(judge=Judge(kind="rules"))
    _begin(run, config)
    _commit(run, config, "part-00001.parquet")
    found = plan(config, run)
    assert (found["left"], found["requests"], found["prompt"]) == (20, 0, None)
    assert not {"dollars", "tokens", "minutes"} & found.keys()
    of_trial = drawn(run.examples().finished(), 12)
    assert plan(config.model_copy(update={"limit": 12}), run)["left"] == 12 - len(of_trial["part-00001.parquet"]) < 12
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("index,score\n0,4\n")
    recorded = Score(name="mine", judge=Judge(kind="recorded", ratings=str(ratings)))
    assert (plan(recorded, run)["left"], plan(recorded, run)["prompt"]) == (30, None)


class Vanishing(Storage):
    """Storage whose ledgers are gone between the look at their names and the reading."""

    def at(self, *names: str) -> "Vanishing":
        return Vanishing(self.fs, super().at(*names).root)

    def read(self, name: str) -> bytes:
        self.delete_tree()
        return super().read(name)


def test_a_shard_that_a_driver_commits_meanwhile_is_read_from_its_output(tmp_path: Path) -> None:
    run, config = toy_run(tmp_path, 10), _score()
    stage = _begin(run, config)
    _answer(run, config, "part-00000.parquet", range(4))
    _commit(run, config, "part-00000.parquet")
    vanishing = StageDir(stage.name, Vanishing(stage.storage.fs, stage.storage.root))
    assert len(Backlog(vanishing).known("part-00000.parquet").replies) == 10


@given(st.integers(0, 100_000), st.integers(1, 300))
def test_the_sample_is_evenly_spread(total: int, most: int) -> None:
    places = evenly(total, most)
    assert len(places) == min(total, most)
    assert places[:1] == ([0] if total else [])
    gaps = {after - before for before, after in zip(places, [*places[1:], total], strict=False)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_sampled_tokens_tell_those_of_all_real_rows(alpaca: str, shared: Path, tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    first = min(Path(alpaca).parent.glob("*.json"))
    (tmp_path / "first.json").write_text(json.dumps(json.loads(first.read_text())[:600]))
    ingest(Ingest(source=str(tmp_path / "first.json"), rows_per_shard=100), run)
    config = _score(tokenizer=str(shared / "tiny_llama"))
    found = plan(config, run)["tokens"]
    every = tokens.counter(config.judge).lengths(_prompts(run, config))
    assert found["sampled"] == SAMPLE < len(every)
    assert found["in"] == pytest.approx(sum(every), rel=0.04)
    # the margin it states is that of a mean over so many
    spread = math.sqrt(sum((length - sum(every) / len(every)) ** 2 for length in every) / len(every))
    assert found["margin"] == pytest.approx(2 * spread / math.sqrt(SAMPLE) / (sum(every) / len(every)), rel=0.35)


def _tree(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def _handler_of_this_process() -> Iterator[None]:
    """`cli.main` takes over SIGTERM; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_handler_of_this_process")
def test_a_plan_writes_nothing_and_looks_at_a_run_that_a_driver_works_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = toy_run(tmp_path, 30)
    arguments = ["--run", run.storage.root, "--set", f"score.judge.model={MODEL}", "--plan", "--json", "--limit", "7"]
    before = _tree(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(commands.SCORE, arguments)
    assert (end.value.code, _tree(tmp_path)) == (0, before)
    with lock.held(run):
        before = _tree(tmp_path)
        with pytest.raises(SystemExit) as end:
            cli.main(commands.SCORE, arguments)
        assert (end.value.code, _tree(tmp_path)) == (0, before)
    told = capfd.readouterr()
    assert [json.loads(line)["left"] for line in told.out.splitlines()] == [7, 7]
    assert "plan of ratings/judge: 7 of 30 rows left to ask, a trial with 7 drawn from all; nothing was sent" in told.err


@pytest.mark.usefixtures("_handler_of_this_process")
@pytest.mark.parametrize("other", ["rescore", "retry-failed"])
def test_a_plan_is_of_an_ordinary_call(tmp_path: Path, capfd: pytest.CaptureFixture[str], other: str) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(commands.SCORE, ["--run", toy_run(tmp_path, 3).storage.root, "--plan", f"--{other}"])
    assert end.value.code == 2
    assert f"--{other} and --plan exclude each other" in capfd.readouterr().err


def test_a_plan_sends_nothing_needs_no_key_and_starts_no_ray(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 30)
    program = f"""
import runpy, sys
try:
    runpy.run_path("{ROOT}/jobs/score.py", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
print([name for name in ("ray", "transformers", "torch", "datasets") if name in sys.modules])
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        arguments = ["--run", run.storage.root, "--plan", "--set", f"score.judge.base_url={address}"]
        command = [sys.executable, "-c", program, *arguments, "--set", "score.judge.model=toy"]
        vocabulary = {"TIKTOKEN_CACHE_DIR": str(tmp_path / "none"), "HTTPS_PROXY": "http://127.0.0.1:9"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | vocabulary)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (done.stdout.splitlines()[-1], done.returncode) == ("[]", 0), done.stderr
    assert "counted by an estimate, 4 bytes" in done.stdout


def _told(found: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> list[str]:
    terminal.show(found, sys.stderr)
    return capfd.readouterr().err.splitlines()


def test_a_person_reads_who_counted_what_it_costs_and_the_prompt_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, config = toy_run(tmp_path, 300), _score().model_copy(update={"requests_per_minute": 100.0, "max_cost_usd": 1.0})
    found = plan(config, run)
    lines = _told(found, capfd)
    assert "    counted by tiktoken tiny" in lines
    assert f"  tokens out: 600 (the score alone) to {256 * 300:,} (each 256)" in lines
    assert f"  dollars: {found['dollars']['low']:.4f} to {found['dollars']['high']:.4f}; 0.00 spent so far" in lines
    assert "    score.max_cost_usd=1 is enough" in lines
    assert "  minutes: at least 3.0, bound by score.requests_per_minute" in lines
    assert "\n".join(lines).endswith("--- user ---\n" + _prompts(run, config)[0][1]["content"])


def test_a_person_reads_what_the_replies_so_far_were_like(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, config = toy_run(tmp_path, 30), _score()
    _begin(run, config)
    _answer(run, config, "part-00000.parquet", range(10))
    lines = _told(plan(config, run), capfd)
    assert "  requests: 20; 10 replies so far, 300 tokens in, 10 out, 2.00 s on average" in lines
    assert "  tokens out: 200 (10.0 a reply, as so far) to 5,120 (each 256)" in lines


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (None, None, "is enough"),
        (None, 40, "may be reached, after about 40 of 100 requests"),
        (70, 40, "is reached after about 40 to 70 of 100 requests"),
    ],
)
def test_a_person_reads_whether_the_cap_is_enough(low: int | None, high: int | None, words: str) -> None:
    assert terminal_plan._cap({"cap_reached_after": {"low": low, "high": high}}, 100) == words


def test_codes_in_a_row_do_not_command_the_terminal() -> None:
    assert spelled("a\x1b[2Jb\r\n\tä\x9b") == "a\\x1b[2Jb\\x0d\n\tä\\x9b"
