"""Batches without Ray: what is packed, what the provider's answers and failures lead to, what is kept where."""

import itertools
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.batch_api import batches
from alpagasus_ray.batch_api.journal import Entry, Item, Journal, under_way
from alpagasus_ray.batch_api.openai_batches import BatchClient
from alpagasus_ray.batch_api.retrying_client import RetryingBatchClient
from alpagasus_ray.config import Ingest, Score
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.inference import endpoint
from alpagasus_ray.inference.budget import at_most_spent
from alpagasus_ray.inference.coordinator import Cap
from alpagasus_ray.inference.first_replies import ROOM
from alpagasus_ray.inference.ledger import Ledger, Outcome
from alpagasus_ray.inference.spec import Task
from alpagasus_ray.inference.stage import RemainingWork
from alpagasus_ray.inference.tasks.rating import prepare
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run
from alpagasus_ray.store.storage import Storage
from loopback import JudgeStarter, LoopbackJudge
from toy_runs import api_judge, prompt_hashes, toy_run

QUICK = ("--batch-seconds", "0.05")
STRIDE = 11
"""Of the steps at which a call may die, each so many-th is tried."""
PRICE = {"input": 1.0, "output": 4.0}
ROW_USD = (300 * 1.0 + 12 * 4.0) / 1e6
"""What a reply of the server costs when it is asked for live."""


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")


class Caller:
    """Calls what a stage calls, on one run and server."""

    def __init__(self, run: Run, server: LoopbackJudge) -> None:
        self.run, self.server = run, server

    def __call__(self, max_cost_usd: float | None = None, **judge: Any) -> RemainingWork:
        batch = {"poll_s": 0.02, **judge.pop("batch", {})}
        base_url = judge.pop("base_url", self.server.base_url)
        asked = api_judge(base_url, **{"mode": "batch", "price": PRICE, "batch": batch, **judge})
        config = Score(judge=asked, max_cost_usd=max_cost_usd)
        stage, task, target = prepare(config, self.run)
        self.job = stage.job(target)
        tasks = [Task(entry.name) for entry in target.listed.parts()]
        cap = stage.bill([target]).cap()
        return batches.collect(task.judge, self.job, tasks, target.listed.rows, cap, lambda counts: None)

    def known(self) -> dict[str, dict[str, Outcome]]:
        """By shard what its ledger holds."""
        names = [entry.name for entry in self.run.examples().finished().parts()]
        return {name: known.replies for name, known in self.job.backlog.stored_replies(names).items()}

    def outcomes(self) -> list[Outcome]:
        return [outcome for known in self.known().values() for outcome in known.values()]


@pytest.fixture
def call(tmp_path: Path, judge: JudgeStarter) -> Callable[..., Caller]:
    def make(rows: int, *options: str, faults: object = None, rows_per_shard: int = 100) -> Caller:
        given = ("--batch-faults", json.dumps(faults)) if faults else ()
        return Caller(toy_run(tmp_path, rows, rows_per_shard), judge(*QUICK, *options, *given))

    return make


def test_different_requests_are_asked_once_and_equal_rows_share_the_reply_in_their_own_ledgers(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    source = tmp_path / "twice.json"
    texts = [n % 10 for n in range(30)]  # each ten times over three shards, and once more in the last
    records = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}."} for n in [*texts, 7, 7]]
    source.write_text(json.dumps(records))
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=str(source), rows_per_shard=10), run)
    caller = Caller(run, judge(*QUICK))
    caller(batch={"max_requests": 6, "in_flight": 1})  # the first batch is through before the last shards are opened
    assert sorted(caller.server.taken()) == sorted(set(prompt_hashes(run)))
    assert [len(known) for known in caller.known().values()] == [10, 10, 10, 1]
    paid = [outcome.reply.cost_usd for outcome in caller.outcomes() if outcome.reply]
    assert sum(cost > 0 for cost in paid) == 10
    assert caller.server.stats()["batches"] == 2


@pytest.mark.parametrize(
    ("options", "limits", "batches"),
    [
        ((), {"max_requests": 40}, 3),
        ((), {"max_bytes": 60_000}, None),
        (("--batch-max-requests", "30"), {}, None),  # the provider takes less than the recipe says
        (("--batch-max-bytes", "60000"), {}, None),
    ],
)
def test_batches_keep_to_the_limits_of_the_recipe_and_of_the_provider(
    call: Callable[..., Caller], options: tuple[str, ...], limits: dict[str, int], batches: int | None
) -> None:
    caller = call(100, *options)
    caller(batch=limits)
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))
    assert len(caller.outcomes()) == 100
    assert not under_way(caller.job.home.storage)
    made = caller.server.stats()["batches"]
    assert made == batches if batches else made > 1


def test_a_judge_that_cannot_be_read_costs_one_small_batch_and_calling_again_costs_none(call: Callable[..., Caller]) -> None:
    caller = call(400, "--says", "A fine answer", rows_per_shard=40)
    for _ in range(2):
        with pytest.raises(StageFailed, match=r"of the first \d+ rows have no usable result .*`score\.max_unusable`") as error:
            caller()
        assert "one such reply, as it came:\n---\nA fine answer" in str(error.value)
        assert (caller.server.stats()["batches"], len(caller.server.taken())) == (1, ROOM)
        assert len(caller.outcomes()) == ROOM, "what was paid is kept"
        assert Journal(caller.job.home.storage, None).entries == []


def test_a_judge_that_can_be_read_gets_whole_batches_after_a_small_one(call: Callable[..., Caller]) -> None:
    caller = call(400, rows_per_shard=40)
    caller()
    assert caller.server.stats()["batches"] == 2
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))


def test_a_call_that_finds_a_larger_batch_under_way_sends_the_next_beside_it(
    call: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, limits = call(400, rows_per_shard=40), {"max_requests": 100}
    created = iter((None, None, KeyboardInterrupt()))
    create, known = RetryingBatchClient.create, []

    def dying(self: RetryingBatchClient, *arguments: Any) -> Any:
        if (death := next(created, None)) is not None:
            raise death
        known.append(len(Journal(caller.job.home.storage, None).entries))
        caller.server.control(batch_seconds=0.05 if len(known) == 1 else 3.0)
        return create(self, *arguments)

    monkeypatch.setattr(RetryingBatchClient, "create", dying)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        caller(batch=limits)
    assert known == [1, 1]
    assert len(Journal(caller.job.home.storage, None).entries) == 2, "of the third it is not known whether it was created"
    caller(batch=limits)
    assert known[2] == 2, "the one under way and the first of this call"
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))


def test_no_more_batches_are_at_the_provider_than_the_recipe_says(call: Callable[..., Caller]) -> None:
    caller = call(100)
    seen: list[int] = []
    note = Journal.note

    def watch(self: Journal, entry: Entry, **changes: Any) -> Entry:
        noted = note(self, entry, **changes)
        seen.append(len(self.entries))
        return noted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "note", watch)
        caller(batch={"max_requests": 10, "in_flight": 2})
    assert max(seen) == 2


def test_rows_that_may_yet_be_answered_are_asked_again_and_the_others_keep_their_reason(call: Callable[..., Caller]) -> None:
    faults = [
        {"row_status": 500, "match": "number 3.", "batches": 1},
        {"row_status": 429, "match": "number 4.", "batches": 1},
        {"row_status": 400, "match": "number 5."},
        {"row_status": 503, "match": "number 6."},
    ]
    caller = call(10, faults=faults)
    collected = caller(max_attempts=2)
    outcomes = caller.known()["part-00000.parquet"]
    by_number = dict(enumerate(_keys(caller)))
    assert (outcomes[by_number[3]].attempts, outcomes[by_number[3]].maybe_billed_twice) == (2, 1)
    assert (outcomes[by_number[4]].attempts, outcomes[by_number[4]].maybe_billed_twice) == (2, 0)
    failed = collected.job.work.open_engines()[0].failed
    assert failed == {
        by_number[5]: Outcome(None, "http 400: broken", 1, None),
        by_number[6]: Outcome(None, "http 503: broken", 2, None, 2),  # nothing says that it was turned away
    }
    assert set(outcomes) == set(by_number.values()) - set(failed)


def test_unanswered_requests_stay_counted_when_the_driver_dies_before_they_are_asked_again(
    call: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = call(10, faults=[{"row_status": 500, "match": "number 3.", "batches": 2}])
    created = iter((None, None, KeyboardInterrupt()))
    create = RetryingBatchClient.create

    def dying(self: RetryingBatchClient, *arguments: Any) -> Any:
        if (death := next(created)) is not None:
            raise death
        return create(self, *arguments)

    monkeypatch.setattr(RetryingBatchClient, "create", dying)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        caller(max_attempts=9)
    (left,) = caller.job.backlog.known("part-00000.parquet").unanswered.values()
    assert (left.attempts, left.maybe_billed_twice) == (2, 2)
    monkeypatch.undo()
    caller(max_attempts=1)
    outcome = caller.known()["part-00000.parquet"][_keys(caller)[3]]
    assert (outcome.attempts, outcome.maybe_billed_twice) == (3, 2)


def _keys(caller: Caller) -> list[str]:
    """Request keys of the examples, in order."""
    stage = caller.run.examples()
    rows = (row for table in stage.tables(stage.finished()) for row in table.to_pylist())
    return [caller.job.work.request(row).key for row in rows]


def test_what_an_expired_batch_has_done_is_taken_and_the_rest_is_asked_again(call: Callable[..., Caller]) -> None:
    caller = call(40, faults={"expire_after": 25, "batches": 1})
    caller()
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))
    assert Counter(outcome.attempts for outcome in caller.outcomes()) == {1: 25, 2: 15}
    assert {outcome.maybe_billed_twice for outcome in caller.outcomes()} == {0}


def test_a_full_queue_is_waited_for(call: Callable[..., Caller], capsys: pytest.CaptureFixture[str]) -> None:
    caller = call(40, faults={"fail_validation": 2})
    caller()
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))
    assert "batch not taken, requests: 40: token_limit_exceeded: Enqueued token limit reached" in capsys.readouterr().err


def test_a_queue_that_stays_full_stops_the_stage(call: Callable[..., Caller]) -> None:
    caller = call(3, faults={"fail_validation": 1000})
    with pytest.raises(StageFailed, match="takes no batch: token_limit_exceeded"):
        caller(max_outage_s=0.2)
    assert Journal(caller.job.home.storage, None).entries == []


def test_a_batch_whose_creation_was_not_answered_is_found_and_not_created_again(call: Callable[..., Caller]) -> None:
    caller = call(40, faults={"lost_reply": 2})
    caller(batch={"max_requests": 10})
    assert caller.server.stats()["batches"] == 4
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))


STEPS = [
    *((Journal, name) for name in ("open", "note", "close", "_write", "end")),
    *((BatchClient, name) for name in ("upload", "create", "look", "download")),
    (Ledger, "flush"),
    (Storage, "write"),
]


@pytest.mark.parametrize("after", [False, True])
def test_wherever_a_call_dies_nothing_is_asked_twice_and_the_books_are_right(
    tmp_path: Path, judge: JudgeStarter, after: bool
) -> None:
    server = judge("--batch-seconds", "0.03")
    for number in range(1 + 2 * after, 1000, STRIDE):
        run = toy_run(tmp_path, 12, rows_per_shard=5)
        caller = Caller(run, server)
        before = len(server.taken())
        if not _dies_at_step(number, after, partial(caller, 0.05, batch={"max_requests": 7})):
            assert number > 40
            break
        caller(0.05, batch={"max_requests": 7})
        assert sorted(server.taken()[before:]) == sorted(prompt_hashes(run)), number
        assert len(caller.outcomes()) == 12
        assert at_most_spent(caller.job.home.storage) == pytest.approx(12 * ROW_USD / 2), number
        shutil.rmtree(run.storage.root)


def _dies_at_step(number: int, after: bool, work: Callable[[], object]) -> bool:
    """Do the work up to the step, or through it. False where it has fewer steps."""
    steps = itertools.count(1)

    def step(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            last = next(steps) == number
            if last and not after:
                raise KeyboardInterrupt
            result = original(*arguments, **named)
            if last:
                raise KeyboardInterrupt
            return result

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, step(getattr(owner, name)))
        try:
            work()
        except (StageFailed, KeyboardInterrupt):
            return True
    return False


def test_an_intent_whose_batch_was_never_created_is_dropped_and_its_rows_are_asked(call: Callable[..., Caller]) -> None:
    caller = call(10)
    journal = Journal(caller.run.ratings("judge").storage, None)
    intent = {"address": caller.server.base_url, "requests": 1, "usd": 1.0}
    item = Item("nobody", "part-00000.parquet", "toy:0", 1.0)
    journal.open(Entry(number=3, token="a", **intent), {"nobody": item})
    journal.open(Entry(number=4, token="b", input_file_id="file-0", **intent), {"nobody": item})
    caller()
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))
    assert not under_way(caller.job.home.storage)


def test_a_batch_cancelled_at_the_provider_stops_the_stage_with_what_is_done_kept(call: Callable[..., Caller]) -> None:
    caller = call(40)
    caller.server.control(batch_seconds=1.0)
    client = BatchClient(api_judge(caller.server.base_url))
    look = BatchClient.look

    def cancel_half_way(self: BatchClient, batch_id: str) -> Any:
        batch = look(self, batch_id)
        if batch.request_counts and batch.request_counts.completed >= 10 and batch.status == "in_progress":
            client._client.batches.cancel(batch_id)
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchClient, "look", cancel_half_way)
        with pytest.raises(StageFailed, match=r"batch_00001 was cancelled at .* the same command goes on"):
            caller()
    assert 10 <= len(caller.outcomes()) < 40
    caller.server.control(batch_seconds=0.05)
    caller()
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))
    client.close()


def test_a_wrong_key_and_a_server_without_batches_stop_at_once_with_one_message(call: Callable[..., Caller]) -> None:
    caller = call(10, "--key", "right")
    with pytest.raises(StageFailed, match="stopped: http 401: the server refuses the key") as error:
        caller()
    assert "unused" not in str(error.value)
    with pytest.raises(StageFailed, match=r"has no batch API; set score\.judge\.mode to live"):
        caller(base_url=caller.server.base_url.replace("/v1", "/nothing"))
    assert caller.server.taken() == []


def test_a_server_that_is_down_for_too_long_stops_the_stage(call: Callable[..., Caller]) -> None:
    caller = call(10)
    for kind, told in (("503", "http 503"), ("html", "malformed reply"), ("disconnect", "connection")):
        caller.server.control(down=kind)
        with pytest.raises(StageFailed, match=rf"has given none for \d s \({told}"):
            caller(max_outage_s=0.2)
    caller.server.control(down=None)
    caller()
    assert len(caller.outcomes()) == 10


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_server_that_turns_away_at_first_and_wants_a_long_pause_is_waited_for(
    call: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    caller = call(5)
    monkeypatch.setattr(endpoint, "FIRST_ANSWER_S", 0.5)
    caller.server.control(down={"kind": status, "retry_after": 1})
    healing = threading.Timer(0.3, caller.server.control, kwargs={"down": None})
    healing.start()
    caller()
    healing.join()
    assert len(caller.outcomes()) == 5


def test_a_pause_longer_than_the_longest_outage_is_told_at_once_with_the_time_that_has_passed(
    call: Callable[..., Caller],
) -> None:
    caller = call(5)
    caller.server.control(down={"kind": "429", "retry_after": 600})
    with pytest.raises(StageFailed, match=r"for \d s \(http 429.*left alone for 600 s \(Retry-After\)"):
        caller(max_outage_s=60.0)


def test_a_server_that_never_answered_is_given_up_soon(call: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch) -> None:
    caller = call(5)
    monkeypatch.setattr(endpoint, "FIRST_ANSWER_S", 0.2)
    caller.server.control(down="disconnect")
    with pytest.raises(StageFailed, match=r"has given none for \d s \(connection"):
        caller()


def test_a_batch_under_way_elsewhere_is_not_forgotten(call: Callable[..., Caller]) -> None:
    caller = call(10)
    journal = Journal(caller.run.ratings("judge").storage, None)
    journal.open(Entry(number=1, token="a", address="http://there/v1", requests=1, usd=0.0, input_file_id="f"), {})
    with pytest.raises(
        UsageError, match=r"under way at http://there/v1; go back to that .* or take its entry out of .*journal\.json"
    ):
        caller()


def test_spending_keeps_to_the_cap_and_goes_on_when_it_is_raised(call: Callable[..., Caller]) -> None:
    caller = call(60, rows_per_shard=20)
    full = 60 * ROW_USD / 2
    collected = caller(max_cost_usd=full / 2)
    assert collected.at_cap
    done = len(caller.outcomes())
    assert 20 < done <= 30
    assert [task.shard for task in collected.tasks] == ["part-00000.parquet"]
    assert at_most_spent(caller.job.home.storage) == pytest.approx(done * ROW_USD / 2)
    assert not caller(max_cost_usd=100 * full).at_cap
    assert sorted(caller.server.taken()) == sorted(prompt_hashes(caller.run))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "stage"))


def _open(journal: Journal) -> Entry:
    return journal.open(Entry(number=1, token="a", address="", requests=1, usd=4.0), {})


def test_a_loan_outlives_its_call_and_is_not_counted_twice(storage: Storage) -> None:
    entry = _open(Journal(storage, Cap(storage, 10.0, 1.0)))
    assert at_most_spent(storage) == 5.0
    again = Journal(storage, Cap(storage, 10.0, at_most_spent(storage)))
    assert again.entries == [entry]
    assert again.free == pytest.approx(5.0)
    again.close(entry, 1.5)
    assert at_most_spent(storage) == pytest.approx(2.5)


def test_what_a_call_without_a_cap_has_under_way_is_lent_under_the_next_cap(storage: Storage) -> None:
    assert not _open(Journal(storage, None)).lent
    capped = Journal(storage, Cap(storage, 10.0, 1.0))
    assert capped.entries[0].lent
    assert capped.free == pytest.approx(5.0)
    assert at_most_spent(storage) == pytest.approx(5.0)
