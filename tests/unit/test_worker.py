"""A worker in the process of the test: shards in, files out, a plain coordinator beside it, engines of a few lines.

Its event loop has a clock that leaps (`fast_clock.py`), so that slow engines take no time.
"""

import asyncio
import json
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.engines.base import Engine, Rate, Reply, Request
from alpagasus_ray.errors import EngineDied, EngineUnusable, RowRefused, TryAgain, UsageError
from alpagasus_ray.inference import shards
from alpagasus_ray.inference.backlog import Backlog
from alpagasus_ray.inference.coordinator import Coordinator
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.first_replies import Usable
from alpagasus_ray.inference.ledger import Ledger, Outcome, stored_in_output
from alpagasus_ray.inference.retry import FLUSH_ATTEMPTS
from alpagasus_ray.inference.shard_run import DEATHS, ShardRun, scattered
from alpagasus_ray.inference.spec import AskSpec, Job, Task
from alpagasus_ray.inference.worker import Worker
from alpagasus_ray.store.run import DONE, LEDGER, Run
from alpagasus_ray.store.storage import Storage
from fast_clock import LeapingLoop
from toy_runs import toy_run

ROWS = 40
SHARDS = ["part-00000.parquet", "part-00001.parquet"]
Span = tuple[str, float, float]


class Toy:
    """Takes 2 s for each reply, of a dollar; what `behave` returns is raised instead."""

    address = "toy"
    stated = Rate()

    def __init__(self, behave: Callable[[str], Exception | None]) -> None:
        self._behave = behave
        self.may_answer: Callable[[], bool] = lambda: True
        self.spans: list[Span] = []
        """Key, begin and end of every request."""

    async def complete(self, request: Request) -> Reply:
        now = asyncio.get_running_loop().time
        began, error = now(), self._behave(request.key)
        while not self.may_answer():  # noqa: ASYNC110 - another thread may make it so
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.0)
        self.spans.append((request.key, began, now()))
        if error is not None:
            raise error
        return Reply(f"4 for {request.key}", "stop", 10, 5, 0, 1.0)

    @property
    def asked(self) -> list[str]:
        return [key for key, _, _ in self.spans]


@dataclass
class Asking:
    """The work of a stage: the key of a row is its number, or what `keys` says."""

    engine: Toy
    keys: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    schema = RATINGS

    def open_engines(self) -> Sequence[Engine]:
        return [self.engine]

    def request(self, row: Mapping[str, Any]) -> Request:
        number = row["instruction"].split()[-1].rstrip(".")
        self.seen.add(number)
        return Request(self.keys.get(number, number), [{"role": "user", "content": row["instruction"]}], row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        found = {"example_id": row["example_id"], "request_hash": request.key, **outcome._asdict(), "status": "failed"}
        if reply := outcome.reply:
            found |= {**reply._asdict(), "status": "scored"}
        return found | {"reply": reply.text if reply else None}


@dataclass
class Link:
    """A plain coordinator in the same process."""

    coordinator: Coordinator
    is_away: bool = False
    one_way_s: float = 0.0

    async def call(self, method: str, *arguments: Any) -> Any:
        await asyncio.sleep(self.one_way_s)
        answer = None if self.is_away else getattr(self.coordinator, method)(*arguments)
        await asyncio.sleep(self.one_way_s)
        return answer


@dataclass
class Stage:
    """One stage over a toy run, with whatever workers a test starts."""

    run: Run
    coordinator: Coordinator = field(default_factory=lambda: Coordinator((Rate(),)))
    workers: list[Worker] = field(default_factory=list)

    def job(self, work: Asking, **changes: Any) -> Job:
        home = self.run.ratings("judge")
        spec, output = (
            AskSpec.of(Score(concurrency=8), Judge(max_attempts=3, max_tokens=100)),
            changes.pop("output", home.storage),
        )
        return Job(work, replace(spec, **changes), self.run.examples(), home, output)

    def worker(self, work: Asking, link: Link | None = None, **changes: Any) -> Worker:
        worker = Worker([self.job(work, **changes)], link or Link(self.coordinator))
        self.workers.append(worker)
        return worker

    def results(self, shard: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.run.ratings("judge").storage.read_table(shard).to_pylist()
        return rows

    def left(self, work: Asking, shard: str) -> dict[str, Outcome]:
        return self.job(work).ledger(shard).load().replies

    @property
    def committed(self) -> list[str]:
        return self.run.ratings("judge").storage.at(DONE).names()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(asyncio, "new_event_loop", LeapingLoop)
    stage = Stage(toy_run(tmp_path, ROWS, rows_per_shard=ROWS // 2))
    yield stage
    for worker in stage.workers:
        worker._loop.call_soon_threadsafe(worker._loop.stop)


def _asking(behave: Callable[[str], Exception | None] = lambda _: None, **keys: str) -> Asking:
    return Asking(Toy(behave), {number.removeprefix("row_"): key for number, key in keys.items()})


def _do(worker: Worker, shard: str, rows: int = 0) -> str:
    """Do a shard; the answer is why it stopped, empty if it did not."""
    done = worker({"tasks": [json.dumps([Task(shard, tuple(range(rows)) or None)])]})
    assert done["shard"] == [shard]
    return done["stopped"][0]


def _ids(stage: Stage) -> list[str]:
    return [row for shard in SHARDS for row in stage.run.examples().storage.read_table(shard)["example_id"].to_pylist()]


def _numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


# rows and results


def test_every_row_has_its_result_in_the_order_of_the_shard(stage: Stage) -> None:
    work = _asking()
    assert _do(stage.worker(work), SHARDS[1]) == ""
    rows = stage.results(SHARDS[1])
    assert [row["reply"] for row in rows] == [f"4 for {number}" for number in _numbers(20, 40)]
    assert [row["example_id"] for row in rows] == _ids(stage)[20:]
    assert sorted(work.engine.asked) == _numbers(20, 40)
    assert stage.committed == [f"{SHARDS[1]}.json"]
    assert stage.left(work, SHARDS[1]) == {}, "the output holds all that was in the ledger"
    counts = stage.coordinator.snapshot().counts
    assert (counts.rows, counts.statuses["scored"], counts.requests["answered"]) == (20, 20, 20)


@pytest.mark.parametrize("failures", [2, 100])
def test_while_the_ledger_cannot_be_written_nothing_is_bought(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    work, left, flush = _asking(), iter(range(failures)), Ledger.flush
    bought: list[int] = []

    def failing(self: Ledger) -> None:
        if self._pending and next(left, None) is not None:
            bought.append(len(work.engine.spans))
            raise OSError(28, "No space left on device")
        flush(self)

    monkeypatch.setattr(Ledger, "flush", failing)
    stopped = _do(stage.worker(work), SHARDS[0])
    assert ("No space left" in stopped) == (failures > FLUSH_ATTEMPTS)
    assert len(stage.committed) == (failures < FLUSH_ATTEMPTS)
    assert max(bought) <= bought[0] + 8, "only what was in flight came in"


def test_a_shard_whose_last_replies_cannot_be_written_at_once_is_finished_when_they_can(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, write = iter(range(3)), Storage.write

    def failing(self: Storage, name: str, content: bytes) -> Any:
        if len(work.engine.spans) == 20 and next(left, None) is not None:
            raise OSError(5, "storage is away")
        return write(self, name, content)

    work = _asking()
    monkeypatch.setattr(Storage, "write", failing)
    assert _do(stage.worker(work), SHARDS[0]) == ""
    assert next(left, None) is None
    assert len(work.engine.asked) == 20
    assert stage.committed == [f"{SHARDS[0]}.json"]


def test_a_request_that_failed_is_not_asked_again_for_a_later_row_of_the_shard(stage: Stage) -> None:
    work = Asking(Toy(_failing("same")), {"0": "same", "19": "same"})
    assert _do(stage.worker(work, limits=stage.job(work).spec.limits._replace(concurrency=1)), SHARDS[0]) == ""
    assert work.engine.asked.count("same") == 3
    found = [(row["status"], row["attempts"]) for row in stage.results(SHARDS[0]) if row["request_hash"] == "same"]
    assert found == [("failed", 3), ("failed", 0)]


def test_a_worker_whose_engine_cannot_be_opened_says_why_and_where(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    work = _asking()

    def no_key() -> Sequence[Engine]:
        raise UsageError("no API key: set OPENAI_API_KEY")

    monkeypatch.setattr(work, "open_engines", no_key)
    assert _do(stage.worker(work), SHARDS[0]) == f"{platform.node()}: no API key: set OPENAI_API_KEY"
    assert stage.coordinator.snapshot().stop == f"{platform.node()}: no API key: set OPENAI_API_KEY"


@pytest.mark.parametrize("cause", ["unknown", "refused", "unreached"])
def test_after_forty_minutes_of_outage_every_row_is_there_once_and_all_that_may_have_been_billed_is_counted(
    stage: Stage, cause: Any
) -> None:
    def behave(key: str) -> Exception | None:
        began.append(asyncio.get_running_loop().time())
        return TryAgain("http 500", "", cause) if 3 < began[-1] - began[0] < 2403 else None

    began: list[float] = []
    work = _asking(behave)
    worker = stage.worker(work, engine=Judge(max_attempts=6))
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda shard: _do(worker, shard), SHARDS)) == ["", ""]
    rows = [row for shard in SHARDS for row in stage.results(shard)]
    assert [row["example_id"] for row in rows] == _ids(stage)
    assert {row["status"] for row in rows} == {"scored"}
    assert began[-1] - began[0] > 2400
    assert len(work.engine.asked) == sum(row["attempts"] for row in rows)
    assert sum(row["maybe_billed_twice"] for row in rows) == (len(work.engine.asked) - ROWS) * (cause == "unknown")


def test_a_trial_does_the_first_rows_commits_nothing_and_keeps_its_replies(stage: Stage) -> None:
    work = _asking()
    trial = stage.run.ratings("judge").storage.at("trial")
    assert _do(stage.worker(work, output=trial), SHARDS[0], rows=5) == ""
    assert trial.read_table(SHARDS[0]).num_rows == 5
    assert stage.committed == []
    assert sorted(stage.left(work, SHARDS[0])) == _numbers(0, 5)
    again = _asking()
    assert _do(stage.worker(again), SHARDS[0]) == ""
    assert sorted(again.engine.asked, key=int) == _numbers(5, 20)


def test_two_shards_of_a_worker_overlap_and_each_is_whole(stage: Stage) -> None:
    work = _asking(lambda key: TryAgain("http 500") if key == "0" else None)
    worker = stage.worker(work)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda shard: _do(worker, shard), SHARDS)) == ["", ""]
    assert [row["reply"] for row in stage.results(SHARDS[1])] == [f"4 for {number}" for number in _numbers(20, 40)]
    assert stage.coordinator.snapshot().counts.rows == ROWS


def test_rows_without_a_reply_are_there_with_the_reason(stage: Stage) -> None:
    def behave(key: str) -> Exception | None:
        return {"3": RowRefused("too long", "9000 tokens"), "5": TryAgain("http 500", "broken")}.get(key)

    work = _asking(behave)
    assert _do(stage.worker(work), SHARDS[0]) == ""
    rows = stage.results(SHARDS[0])
    assert {number: row["error"] for number, row in enumerate(rows) if row["status"] == "failed"} == {
        3: "too long: 9000 tokens",
        5: "http 500: broken",
    }
    assert (rows[3]["attempts"], rows[5]["attempts"], rows[4]["attempts"]) == (1, 3, 1)
    counts = stage.coordinator.snapshot().counts
    assert (counts.statuses["failed"], counts.without_reply["too long"], counts.without_reply["http 500"]) == (2, 1, 1)


def test_a_shard_of_failures_only_is_committed_with_its_reasons(stage: Stage) -> None:
    work = _asking(lambda key: RowRefused("http 400", "no" if int(key) % 2 else "never"))
    assert _do(stage.worker(work), SHARDS[0]) == ""
    assert {row["error"] for row in stage.results(SHARDS[0])} == {"http 400: no", "http 400: never"}
    assert stage.committed == [f"{SHARDS[0]}.json"]


# equal requests


def test_equal_requests_in_flight_are_sent_and_paid_once(stage: Stage) -> None:
    work = _asking(row_1="same", row_2="same", row_4="same")
    _do(stage.worker(work), SHARDS[0])
    rows = stage.results(SHARDS[0])
    assert work.engine.asked.count("same") == 1
    assert [rows[number]["reply"] for number in (1, 2, 4)] == ["4 for same"] * 3
    assert sum(row["cost_usd"] for row in rows) == 18.0
    assert [rows[number]["attempts"] for number in (1, 2, 4)] == [1, 0, 0]


def test_a_later_equal_row_of_the_shard_takes_the_reply_that_is_there(stage: Stage) -> None:
    work = _asking(row_0="same", row_19="same")
    _do(stage.worker(work, limits=stage.job(work).spec.limits._replace(concurrency=2)), SHARDS[0])
    assert work.engine.asked.count("same") == 1
    assert sum(row["cost_usd"] for row in stage.results(SHARDS[0])) == 19.0


def test_offline_judges_are_asked_for_every_row_and_leave_no_ledger(stage: Stage) -> None:
    work = _asking(row_0="same", row_1="same")
    limits = stage.job(work).spec.limits._replace(adaptive=False)
    assert _do(stage.worker(work, paid=False, limits=limits), SHARDS[0]) == ""
    assert work.engine.asked.count("same") == 2
    assert stage.run.ratings("judge").storage.at(LEDGER, "part-00000").names() == []


def test_an_equal_request_that_fails_fails_for_all_who_wait_for_it(stage: Stage) -> None:
    work = _asking(lambda key: TryAgain("http 500") if key == "same" else None, row_1="same", row_2="same")
    _do(stage.worker(work), SHARDS[0])
    assert [row["error"] for row in stage.results(SHARDS[0])][:3] == [None, "http 500", "http 500"]
    assert work.engine.asked.count("same") == 3


def _both_at_once(stage: Stage, work: Asking) -> tuple[str, str]:
    """Both shards on one worker; no row of the first is answered before the second has begun."""
    worker = stage.worker(work, limits=stage.job(work).spec.limits._replace(concurrency=12))
    work.engine.may_answer = lambda: "0" in work.seen and any(int(number) >= ROWS // 2 for number in tuple(work.seen))
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_do, worker, SHARDS[0])
        while "0" not in work.seen:
            time.sleep(0.001)
        second = pool.submit(_do, worker, SHARDS[1])
        return first.result(), second.result()


def test_a_request_that_two_shards_share_is_paid_once_and_each_has_the_reply(stage: Stage) -> None:
    work = _asking(row_19="same", row_20="same")
    assert _both_at_once(stage, work) == ("", "")
    assert work.engine.asked.count("same") == 1
    first, second = stage.results(SHARDS[0]), stage.results(SHARDS[1])
    assert first[19]["reply"] == second[0]["reply"] == "4 for same"
    assert sum(row["cost_usd"] for row in first + second) == ROWS - 1


def _unusable_at(number: str) -> Callable[[str], Exception | None]:
    return lambda key: EngineUnusable("http 402") if key == number else None


def test_each_of_two_shards_that_share_a_request_has_it_in_its_own_ledger(stage: Stage) -> None:
    work = Asking(Toy(_unusable_at("39")), {"0": "same", "21": "same"})
    assert _both_at_once(stage, work) == ("", "http 402")
    shared = stage.left(work, SHARDS[1])["same"]
    assert shared.reply is not None
    assert shared.reply.cost_usd == 0.0
    again = _asking(row_21="same")
    assert _do(stage.worker(again, Link(Coordinator((Rate(),)))), SHARDS[1]) == ""
    assert "same" not in again.engine.asked


def test_a_reply_shared_with_another_shard_serves_the_later_equal_rows_of_this_one(stage: Stage) -> None:
    work = _asking(row_0="same", row_20="same", row_39="same")
    assert _both_at_once(stage, work) == ("", "")
    assert work.engine.asked.count("same") == 1


def test_the_ledger_names_the_row_that_a_shared_reply_belongs_to(stage: Stage) -> None:
    work = Asking(Toy(_unusable_at("39")), {"0": "same", "21": "same"})
    _both_at_once(stage, work)
    ledger = stage.run.ratings("judge").storage.at(LEDGER, "part-00001")
    lines = [line for name in ledger.names() for line in ledger.read(name).splitlines()]
    (entry,) = [entry for entry in map(json.loads, lines) if entry["key"] == "same" and "text" in entry]
    assert entry["row_id"] == _ids(stage)[21]


# who answers


def test_replies_of_another_model_than_the_one_asked_for_are_counted_and_every_row_says_whose_it_is(stage: Stage) -> None:
    class Named(Toy):
        async def complete(self, request: Request) -> Reply:
            name = "other" if request.key in ("3", "4") else "toy-2024-07-18"
            return (await super().complete(request))._replace(model=name, fingerprint=f"fp {request.key}")

    assert _do(stage.worker(Asking(Named(lambda _: None)), engine=Judge(model="toy", max_attempts=3)), SHARDS[0]) == ""
    assert stage.coordinator.snapshot().counts.other_model == 2
    rows = stage.results(SHARDS[0])
    assert [row["model"] for row in rows[2:6]] == ["toy-2024-07-18", "other", "other", "toy-2024-07-18"]
    assert rows[7]["fingerprint"] == "fp 7"
    (entry,) = Backlog(stage.run.ratings("judge")).done()
    assert entry.models == {"toy-2024-07-18": 18, "other": 2}


def test_a_reply_that_was_kept_says_who_gave_it_and_older_files_do_not(stage: Stage) -> None:
    work = _asking()
    given = Outcome(Reply("4", "stop", 1, 1, 0, 0.5, model="toy", fingerprint="fp"), None, 1, 1.0)
    ledger = stage.job(work).ledger(SHARDS[0])
    ledger.add("0", "", given)
    ledger.flush()
    assert _do(stage.worker(work), SHARDS[0]) == ""
    table = stage.run.ratings("judge").storage.read_table(SHARDS[0])
    assert stored_in_output(table).replies["0"].reply == given.reply
    older = stored_in_output(table.drop_columns(["model", "fingerprint"])).replies["0"].reply
    assert older == Reply("4", "stop", 1, 1, 0, 0.5)


# what earlier calls left


def test_replies_in_the_ledger_are_not_asked_again(stage: Stage) -> None:
    work = _asking()
    ledger = stage.job(work).ledger(SHARDS[0])
    for number in _numbers(0, 7):
        ledger.add(number, "", Outcome(Reply(f"old {number}", "stop", 1, 1, 0, 0.25), None, 1, 1.0))
    ledger.flush()
    assert _do(stage.worker(work), SHARDS[0]) == ""
    assert sorted(work.engine.asked, key=int) == _numbers(7, 20)
    rows = stage.results(SHARDS[0])
    assert [row["reply"] for row in rows[:7]] == [f"old {number}" for number in _numbers(0, 7)]
    assert sum(row["cost_usd"] for row in rows) == 7 * 0.25 + 13
    assert stage.coordinator.snapshot().counts.stored == 7


def test_unanswered_attempts_stay_counted_when_the_stage_stops_in_between_and_when_a_row_fails(stage: Stage) -> None:
    def trouble(key: str) -> Exception | None:
        if key == "9" and work.engine.asked.count("9") == 1:
            stage.coordinator.stop("enough")
        return TryAgain("http 500", "", "unknown") if key in ("7", "9") else None

    work = _asking(trouble)
    assert _do(stage.worker(work, engine=Judge(max_attempts=9)), SHARDS[0]) == "enough"
    left = stage.job(work).ledger(SHARDS[0]).load().unanswered
    sent = {key: work.engine.asked.count(key) for key in ("7", "9")}
    assert {key: outcome.maybe_billed_twice for key, outcome in left.items()} == sent
    stage.coordinator = Coordinator((Rate(),))
    still = _asking(_failing("9"))
    assert _do(stage.worker(still), SHARDS[0]) == ""
    assert _counted(stage, "7") == (sent["7"] + 1, sent["7"])
    assert _counted(stage, "9") == (sent["9"] + 3, sent["9"] + 3)
    shards.take_back(stage.job(work), {"failed"})
    assert _do(stage.worker(_asking()), SHARDS[0]) == ""
    assert _counted(stage, "9") == (sent["9"] + 4, sent["9"] + 3)
    assert _counted(stage, "7") == (sent["7"] + 1, sent["7"])


def test_unanswered_attempts_of_rows_with_one_request_count_once(stage: Stage) -> None:
    work = Asking(Toy(_failing("same")), {"3": "same", "12": "same"})
    assert _do(stage.worker(work), SHARDS[0]) == ""
    shards.take_back(stage.job(work), {"failed"})
    again = Asking(Toy(lambda _: None), work.keys)
    assert _do(stage.worker(again), SHARDS[0]) == ""
    same = [(row["attempts"], row["maybe_billed_twice"]) for row in stage.results(SHARDS[0]) if row["request_hash"] == "same"]
    assert sorted(same) == [(0, 0), (4, 3)]


def test_a_request_is_written_down_before_it_is_sent(stage: Stage) -> None:
    known: dict[str, int] = {}

    def behave(key: str) -> Exception | None:
        known[key] = stage.job(work).ledger(SHARDS[0]).load().unanswered[key].maybe_billed_twice
        return None

    work = _asking(behave)
    assert _do(stage.worker(work), SHARDS[0]) == ""
    assert known == dict.fromkeys(_numbers(0, 20), 1)
    assert sum(row["maybe_billed_twice"] for row in stage.results(SHARDS[0])) == 0


def _killed(stage: Stage, work: Asking, until: Callable[[], bool]) -> None:
    """A worker is at work on the first shard and gone from one moment to the next, with all that it knew."""
    worker = stage.worker(work)
    threading.Thread(target=_do, args=(worker, SHARDS[0]), daemon=True).start()
    while not until():
        time.sleep(0.01)
    worker._loop.call_soon_threadsafe(worker._loop.stop)
    while worker._loop.is_running():
        time.sleep(0.01)
    stage.coordinator = Coordinator((Rate(),))


def test_what_was_under_way_when_a_worker_was_killed_counts_as_perhaps_billed(stage: Stage) -> None:
    sent: list[str] = []

    def behave(key: str) -> Exception | None:
        sent.append(key)
        return None

    work = _asking(behave)
    work.engine.may_answer = lambda: len(sent) < 12
    _killed(stage, work, lambda: len(sent) >= 12)
    again = _asking()
    assert _do(stage.worker(again), SHARDS[0]) == ""
    twice = set(sent) & set(again.engine.asked)
    assert twice, "the kill cut some off"
    counted = {row["request_hash"]: row["maybe_billed_twice"] for row in stage.results(SHARDS[0])}
    assert {counted[key] for key in twice} == {1}
    assert {counted[key] for key in counted if key not in again.engine.asked} <= {0}
    assert max(counted.values()) == 1


def test_an_attempt_after_one_that_may_have_been_billed_is_written_down_before_it_is_sent_too(stage: Stage) -> None:
    tries = Counter[str]()

    def behave(key: str) -> Exception | None:
        tries[key] += 1
        return TryAgain("http 500") if key == "7" and tries[key] == 1 else None

    work = _asking(behave)
    work.engine.may_answer = lambda: tries["7"] < 2
    _killed(stage, work, lambda: tries["7"] == 2)
    assert _do(stage.worker(_asking()), SHARDS[0]) == ""
    assert _counted(stage, "7") == (3, 2)


def test_what_was_written_down_and_not_sent_before_a_stop_does_not_count(stage: Stage) -> None:
    def behave(key: str) -> Exception | None:
        if key == "3":
            stage.coordinator.stop("enough")
        return None

    work = _asking(behave)
    one = stage.job(work).spec.limits._replace(concurrency=1)
    assert _do(stage.worker(work, limits=one), SHARDS[0]) == "enough"
    left = stage.job(work).ledger(SHARDS[0]).load()
    assert set(left.replies) == set(work.engine.asked)
    assert left.unanswered, "rows were written down ahead"
    assert {(outcome.attempts, outcome.maybe_billed_twice) for outcome in left.unanswered.values()} == {(0, 0)}


def test_a_call_that_the_server_turned_away_leaves_nothing(stage: Stage) -> None:
    work = _asking(lambda _: EngineUnusable("http 404", "no such model"))
    assert _do(stage.worker(work), SHARDS[0]) == "http 404: no such model"
    assert stage.run.ratings("judge").storage.all_names() == set()


def test_a_model_in_the_job_bills_nobody_and_nothing_is_written_down_ahead(stage: Stage) -> None:
    known: list[int] = []

    def behave(_: str) -> Exception | None:
        known.append(len(stage.job(work).ledger(SHARDS[0]).load().unanswered))
        return None

    work = _asking(behave)
    assert _do(stage.worker(work, limits=stage.job(work).spec.limits._replace(adaptive=False)), SHARDS[0]) == ""
    assert set(known) == {0}


def _failing(bad: str) -> Callable[[str], Exception | None]:
    return lambda key: TryAgain("http 500", "", "unknown") if key == bad else None


def _counted(stage: Stage, number: str) -> tuple[int, int]:
    (row,) = [row for row in stage.results(SHARDS[0]) if row["request_hash"] == number]
    return row["attempts"], row["maybe_billed_twice"]


def test_a_stop_leaves_no_shard_half_committed_and_every_reply_in_the_ledger(stage: Stage) -> None:
    def behave(key: str) -> Exception | None:
        if key == "9":
            stage.coordinator.stop("enough")
        return None

    work = _asking(behave)
    assert _do(stage.worker(work), SHARDS[0]) == "enough"
    assert stage.committed == []
    assert not stage.run.ratings("judge").storage.exists(SHARDS[0])
    assert 0 < len(work.engine.asked) < 20
    assert sorted(stage.left(work, SHARDS[0])) == sorted(work.engine.asked)
    again = _asking()
    assert _do(stage.worker(again, Link(Coordinator((Rate(),)))), SHARDS[0]) == ""
    assert sorted(again.engine.asked + work.engine.asked, key=int) == _numbers(0, 20), "nothing was asked twice"


def test_a_stopped_worker_takes_no_more_shards(stage: Stage) -> None:
    work = _asking(lambda _: EngineUnusable("http 401", "the server refuses the key"))
    worker = stage.worker(work)
    assert _do(worker, SHARDS[0]) == "http 401: the server refuses the key"
    asked = len(work.engine.asked)
    assert _do(worker, SHARDS[1]) == "http 401: the server refuses the key"
    assert len(work.engine.asked) == asked
    assert stage.committed == []


def test_an_engine_that_is_unusable_stops_every_worker(stage: Stage) -> None:
    work, other = _asking(lambda _: EngineUnusable("http 402", "pay")), _asking()
    sound = stage.worker(other)
    assert _do(stage.worker(work), SHARDS[0]) == "http 402: pay"
    assert stage.coordinator.snapshot().stop == "http 402: pay"
    assert _do(sound, SHARDS[1]) == "http 402: pay"


def test_rows_that_had_failed_when_the_stage_stopped_are_asked_again(stage: Stage) -> None:
    def behave(key: str) -> Exception | None:
        return {"2": TryAgain("http 500"), "4": EngineUnusable("http 402")}.get(key)

    work = _asking(behave)
    assert _do(stage.worker(work), SHARDS[0]) == "http 402"
    assert "2" not in stage.left(work, SHARDS[0])
    again = _asking()
    assert _do(stage.worker(again, Link(Coordinator((Rate(),)))), SHARDS[0]) == ""
    assert {row["status"] for row in stage.results(SHARDS[0])} == {"scored"}


def test_a_coordinator_that_is_away_keeps_no_worker_from_its_work(stage: Stage) -> None:
    work = _asking()
    assert _do(stage.worker(work, Link(stage.coordinator, is_away=True)), SHARDS[0]) == ""
    assert len(stage.results(SHARDS[0])) == 20


def test_what_happened_while_the_coordinator_was_away_is_told_when_it_is_back(stage: Stage) -> None:
    link = Link(stage.coordinator, is_away=True)

    def behave(key: str) -> Exception | None:
        link.is_away = link.is_away and key != "15"
        return None

    assert _do(stage.worker(_asking(behave), link), SHARDS[0]) == ""
    assert stage.coordinator.snapshot().counts.requests["answered"] == 20


def test_what_is_told_while_another_report_is_under_way_counts_once(stage: Stage) -> None:
    worker = stage.worker(_asking(), Link(stage.coordinator, one_way_s=0.45))
    assert [_do(worker, shard) for shard in SHARDS] == ["", ""]
    counts = stage.coordinator.snapshot().counts
    assert (counts.requests["answered"], counts.rows) == (ROWS, ROWS)


def test_an_outage_is_waited_for_though_the_coordinator_was_lost_after_the_first_answers(stage: Stage) -> None:
    link, tries = Link(stage.coordinator), Counter[str]()

    def behave(key: str) -> Exception | None:
        tries[key] += 1
        if int(key) < 8 or sum(tries.values()) > 80:
            return None
        if tries[key] == 2 and link.coordinator is stage.coordinator:
            link.coordinator = Coordinator((Rate(),))
        return TryAgain("connection", "", "unreached")

    assert _do(stage.worker(_asking(behave), link), SHARDS[0]) == ""
    assert {row["status"] for row in stage.results(SHARDS[0])} == {"scored"}


def test_a_ledger_that_cannot_be_written_stops_the_stage_with_the_reason(stage: Stage) -> None:
    home = Path(stage.run.ratings("judge").storage.root)
    home.mkdir(parents=True)
    (home / LEDGER).write_text("in the way")
    work = _asking()
    reason = _do(stage.worker(work, limits=stage.job(work).spec.limits._replace(concurrency=1)), SHARDS[0])
    assert "ledger" in reason
    assert stage.committed == []


# rows that kill


def _named(shard: str) -> str:
    """What the coordinator calls a shard."""
    return f"ratings/judge/{shard}"


def _died(stage: Stage, shard: str, *places: int) -> None:
    """A worker began with the shard and died while it asked these rows."""
    stage.coordinator.begin_shard(_named(shard), 0)
    stage.coordinator.mark_in_flight(_named(shard), places, [])


def _alone(spans: Sequence[Span], key: str) -> bool:
    """Whether nothing else was under way while this was."""
    ((begin, end),) = [(begin, end) for name, begin, end in spans if name == key]
    return not [name for name, other, last in spans if name != key and other < end and last > begin]


def test_the_rows_over_which_a_worker_died_are_asked_alone_and_the_others_together(stage: Stage) -> None:
    _died(stage, SHARDS[0], 5, 11)
    work = _asking()
    assert _do(stage.worker(work), SHARDS[0]) == ""
    assert _alone(work.engine.spans, "5")
    assert _alone(work.engine.spans, "11")
    assert Counter(_alone(work.engine.spans, key) for key in _numbers(0, 20)) == {True: 2, False: 18}
    assert {row["status"] for row in stage.results(SHARDS[0])} == {"scored"}


def test_a_row_over_which_workers_died_twice_is_set_aside_with_the_reason(stage: Stage) -> None:
    _died(stage, SHARDS[0], 5, 11)
    _died(stage, SHARDS[0], 11)
    work = _asking()
    assert _do(stage.worker(work), SHARDS[0]) == ""
    rows = stage.results(SHARDS[0])
    assert rows[11]["status"] == "failed"
    assert rows[11]["error"] == f"deadly: {DEATHS} workers died while they asked this"
    assert "11" not in work.engine.asked
    assert _alone(work.engine.spans, "5")
    assert stage.coordinator.snapshot().counts.without_reply["deadly"] == 1
    assert stage.coordinator.begin_shard(_named(SHARDS[0]), 0).deaths == {}, "the shard is through"


def test_a_row_that_had_its_reply_before_the_worker_died_is_no_suspect(stage: Stage) -> None:
    _died(stage, SHARDS[0], 5)
    _died(stage, SHARDS[0], 5)
    work = _asking()
    ledger = stage.job(work).ledger(SHARDS[0])
    ledger.add("5", "", Outcome(Reply("in time", "stop", 1, 1, 0, 1.0), None, 1, 1.0))
    ledger.flush()
    assert _do(stage.worker(work), SHARDS[0]) == ""
    assert stage.results(SHARDS[0])[5]["reply"] == "in time"


def test_rows_are_marked_before_they_are_sent_and_those_that_are_done_are_not(stage: Stage) -> None:
    marked: list[tuple[str, set[int]]] = []

    def behave(key: str) -> Exception | None:
        marked.append((key, set(stage.coordinator._in_flight.get(_named(SHARDS[0]), set()))))
        return None

    work = _asking(behave)
    assert _do(stage.worker(work, limits=stage.job(work).spec.limits._replace(concurrency=2)), SHARDS[0]) == ""
    assert all(int(key) in places for key, places in marked)
    assert 0 not in marked[-1][1]
    assert stage.coordinator._in_flight == {}


def test_a_worker_that_stops_in_good_order_leaves_no_suspects(stage: Stage) -> None:
    work = _asking(lambda key: EngineUnusable("http 402") if key == "7" else None)
    assert _do(stage.worker(work), SHARDS[0]) == "http 402"
    assert stage.coordinator.begin_shard(_named(SHARDS[0]), 0).deaths == {}


def test_an_engine_that_dies_takes_its_process_with_it_and_leaves_what_it_had_under_suspicion(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def leave(code: int) -> None:
        raise Ended(code)

    work = _asking(lambda key: EngineDied("engine died") if int(key) >= 8 else None)
    monkeypatch.setattr("alpagasus_ray.inference.worker.os._exit", leave)
    with pytest.raises(Ended):
        _do(stage.worker(work), SHARDS[0])
    answered = {key for key in work.engine.asked if int(key) < 8}
    assert set(stage.left(work, SHARDS[0])) == answered, "what was received is kept"
    suspects = set(map(int, work.engine.asked)) - set(map(int, answered))
    assert set(stage.coordinator.begin_shard(_named(SHARDS[0]), len(answered)).deaths) == suspects, "and nobody else is"
    assert suspects


def test_a_shard_that_is_being_opened_when_the_engine_dies_does_not_keep_the_worker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    opening, died = threading.Event(), threading.Event()
    opened = ShardRun.open.__func__  # type: ignore[attr-defined]

    def slowly(cls: type[ShardRun], host: Worker, job: Job, task: Any) -> ShardRun:
        if task.shard == SHARDS[1]:
            opening.set()
            died.wait(10)
        return opened(cls, host, job, task)  # type: ignore[no-any-return]

    def behave(key: str) -> Exception:
        opening.wait(10)
        died.set()
        return EngineDied("engine died")

    def leave(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(ShardRun, "open", classmethod(slowly))
    monkeypatch.setattr("alpagasus_ray.inference.worker.os._exit", leave)
    worker = stage.worker(_asking(behave))
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(_do, worker, shard) for shard in SHARDS]
        assert all(isinstance(call.exception(), Ended) for call in both)


def test_an_engine_that_does_not_start_is_tried_again_while_others_are_at_work(stage: Stage) -> None:
    tries: list[int] = []

    class Late(Asking):
        def open_engines(self) -> Sequence[Engine]:
            tries.append(1)
            if len(tries) < 3:
                raise UsageError("no memory yet")
            return [self.engine]

    stage.coordinator.report("another", Counts(requests=Counter(answered=1)), {}, {})
    assert _do(stage.worker(Late(Toy(lambda _: None))), SHARDS[0]) == ""
    assert len(tries) == 3


def test_nothing_of_another_shard_is_sent_while_a_suspect_is_under_way(stage: Stage) -> None:
    _died(stage, SHARDS[1], 5)
    tries = iter([TryAgain("http 500")])
    work = _asking(lambda key: next(tries, None) if key == "19" else None)
    assert _both_at_once(stage, work) == ("", "")
    assert work.engine.asked.count("19") == 2
    assert _alone(work.engine.spans, "25")


def test_a_stop_while_a_suspect_is_under_way_ends_the_shard_and_keeps_its_reply(stage: Stage) -> None:
    _died(stage, SHARDS[0], 5, 11)

    def behave(key: str) -> Exception | None:
        stage.coordinator.stop("enough")
        return None

    work = _asking(behave)
    assert _do(stage.worker(work), SHARDS[0]) == "enough"
    assert work.engine.asked == ["5"]
    assert list(stage.left(work, SHARDS[0])) == ["5"]
    assert stage.committed == []


def test_a_suspect_that_fails_at_first_is_tried_again_alone(stage: Stage) -> None:
    _died(stage, SHARDS[0], 5)
    tries = iter([TryAgain("http 500"), TryAgain("http 500")])
    work = _asking(lambda key: next(tries, None) if key == "5" else None)
    assert _do(stage.worker(work), SHARDS[0]) == ""
    assert work.engine.asked[:3] == ["5", "5", "5"]
    assert {row["status"] for row in stage.results(SHARDS[0])} == {"scored"}


# what a reply may do to others


class Strange(Asking):
    """Some rows have results that cannot be read, or not be written."""

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        found = super().result(row, request, outcome)
        if outcome.reply is not None and request.key == "3":
            raise OverflowError("math range error")
        if outcome.reply is not None and request.key == "5":
            found["tokens_in"] = 2**70
        if outcome.reply is not None and request.key == "7":
            found["reply"] = "\ud800"
        return found


def test_a_reply_that_cannot_be_read_or_written_costs_its_row_only(stage: Stage) -> None:
    work = Strange(Toy(lambda _: None))
    assert _do(stage.worker(work), SHARDS[0]) == ""
    rows = stage.results(SHARDS[0])
    assert {place for place, row in enumerate(rows) if row["status"] == "failed"} == {3, 5, 7}
    assert all(rows[place]["error"].startswith("malformed reply: ") for place in (3, 5, 7))
    counts = stage.coordinator.snapshot().counts
    assert (counts.statuses["scored"], counts.statuses["failed"], counts.without_reply["malformed reply"]) == (17, 3, 3)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(asyncio, "new_event_loop", LeapingLoop)
    stage = Stage(toy_run(tmp_path, 1000, rows_per_shard=1000))
    yield stage
    for worker in stage.workers:
        worker._loop.call_soon_threadsafe(worker._loop.stop)


class Unread(Asking):
    """Nothing that the judge writes can be read."""

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        return super().result(row, request, outcome) | {"status": "unparsed"}


def test_a_judge_that_cannot_be_read_costs_a_hundred_requests_at_most(large: Stage) -> None:
    work = Unread(Toy(lambda _: None))
    usable = Usable(frozenset({"scored"}), 0.5, "score.max_unusable")
    limits = large.job(work).spec.limits._replace(concurrency=64)
    reason = _do(large.worker(work, usable=usable, limits=limits), SHARDS[0])
    assert reason.startswith("50 of the first 50 rows have no usable result (50 x unparsed)")
    assert "as it came:\n---\n4 for " in reason
    assert len(work.engine.asked) <= 100
    assert large.coordinator.snapshot().stop == reason


def test_a_judge_that_can_be_read_is_asked_for_all_rows_in_about_the_same_time(large: Stage) -> None:
    def seconds(**changes: Any) -> float:
        work = _asking()
        assert _do(large.worker(work, **changes), SHARDS[0]) == ""
        return max(end for _, _, end in work.engine.spans) - min(begin for _, begin, _ in work.engine.spans)

    plain = seconds()
    large.run.ratings("judge").storage.delete_tree()
    assert seconds(usable=Usable(frozenset({"scored"}), 0.5, "k")) <= 1.05 * plain


def test_sixty_bad_rows_side_by_side_cost_a_worker_no_outage(large: Stage) -> None:
    bad = {str(number) for number in range(400, 460)}
    work = _asking(lambda key: TryAgain("http 500") if key in bad else None)
    limits = large.job(work).spec.limits._replace(concurrency=16)
    assert _do(large.worker(work, limits=limits), SHARDS[0]) == ""
    rows = large.results(SHARDS[0])
    assert {str(place) for place, row in enumerate(rows) if row["status"] == "failed"} == bad
    assert large.coordinator.snapshot().counts.outages == 0


def test_a_prompt_that_the_server_cut_is_told_to_the_driver(large: Stage) -> None:
    class Long(Asking):
        def request(self, row: Mapping[str, Any]) -> Request:
            asked = super().request(row)
            return asked._replace(messages=[{"role": "user", "content": asked.messages[0]["content"] * 10}])

    assert _do(large.worker(Long(Toy(lambda _: None))), SHARDS[0]) == ""
    (note,) = large.coordinator.snapshot().notes
    assert note.startswith("the server cuts prompts: it counts 20 of them at exactly 10 tokens")


def test_a_worker_that_is_closed_leaves_no_task_behind(stage: Stage) -> None:
    async def for_ever() -> None:
        await asyncio.Event().wait()

    worker = stage.worker(_asking())
    waiting = asyncio.run_coroutine_threadsafe(for_ever(), worker._loop)
    worker.close()
    assert waiting.cancelled()


@pytest.mark.parametrize("count", [1, 2, 64, 1000, 1001, 52002])
def test_an_order_that_spreads_rows_holds_each_once(count: int) -> None:
    order = scattered(count)
    assert sorted(order) == list(range(count))
    assert count < 64 or max(sum(place in range(400, 460) for place in order[at : at + 16]) for at in range(0, count, 16)) <= 16
