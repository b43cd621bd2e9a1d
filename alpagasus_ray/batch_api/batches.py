"""Replies through a provider's batch API: batches are packed, created, watched, and what comes back goes into the ledgers.

The driver does this alone, without Ray, one step after the other. What is under way stands in the journal, so that it
outlives the driver. Shards are not committed here: the ordinary run does that afterwards, from the ledgers (`replay.py`).
"""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from openai.types import Batch

from alpagasus_ray.batch_api.builder import BatchBuilder, BatchDraft, BatchLimits
from alpagasus_ray.batch_api.journal import Entry, Item, Journal
from alpagasus_ray.batch_api.openai_batches import ENDED, Refusal, refusal, refusal_of_error
from alpagasus_ray.batch_api.replay import ReplayTask
from alpagasus_ray.batch_api.retrying_client import QueueFull, RetryingBatchClient
from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import Rate, Reply, Request
from alpagasus_ray.engines.prices import Need, tariff
from alpagasus_ray.errors import (
    UNREADABLE,
    EngineError,
    EngineUnusable,
    RowRefused,
    StageFailed,
    TryAgain,
    UsageError,
    reason_of,
)
from alpagasus_ray.inference.coordinator import Cap
from alpagasus_ray.inference.counts import Counts, StopRule, in_words
from alpagasus_ray.inference.first_replies import ROOM, FirstLook
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.spec import Job, Task
from alpagasus_ray.inference.stage import RemainingWork
from alpagasus_ray.progress import Progress
from alpagasus_ray.terminal import say

PROGRESS_EVERY_S = 300.0
"""Between two lines of progress where there is no terminal."""
NO_RESULT = TryAgain("no result", "the batch says nothing of this request")


@dataclass
class SubmittedBatch:
    """A batch at the provider."""

    entry: Entry
    items: dict[str, Item]
    seen: bool
    """Whether it was under way in this call; if not, what ended it did so before the user called again."""
    accepted: bool = False
    done: int = 0


def collect(judge: Judge, job: Job, tasks: Sequence[Task], rows: int, cap: Cap | None, rule: StopRule) -> RemainingWork:
    """Ask for the `rows` rows of the tasks by batches, or in `live` mode only wait for the batches of an earlier call. Takes up
    to a day and more. Raises `StageFailed` where it cannot go on; the next call collects what is under way then."""
    # what went out as a batch is billed as one, whatever the mode is now
    spec = replace(job.spec, tariff=tariff(judge.model_copy(update={"mode": "batch"})))
    billed = replace(job, spec=spec)
    collector = BatchCollector(judge, billed, tasks, cap)
    try:
        with Progress("score", rows, plain_every_s=PROGRESS_EVERY_S) as progress:
            end = collector.run(progress, rule)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted. {collector.left_behind()}") from None
    except EngineError as error:
        raise StageFailed(f"stopped: {error}. {collector.left_behind()}") from None
    finally:
        collector.client.close()
    if judge.mode == "live":
        return RemainingWork(job, tasks)
    builder = collector.builder
    limits = job.spec.limits._replace(rates=(Rate(),), capped=False, adaptive=False)
    after = replace(job, work=ReplayTask(job.work, builder.failed), spec=replace(spec, limits=limits))
    return RemainingWork(after, builder.completed_tasks() if end == "money" else tasks, at_cap=end == "money")


class BatchCollector:
    """Has batches made and collects them, until no row is without an outcome or no dollar is left."""

    def __init__(self, judge: Judge, job: Job, tasks: Sequence[Task], cap: Cap | None) -> None:
        self._judge, self._job = judge, job
        self.client = RetryingBatchClient(judge, job.work.form)
        self._journal = Journal(job.home.storage, cap)
        self.builder = BatchBuilder(job, tasks, self.client.line, judge.batch.max_bytes, self._saw)
        usable = job.spec.usable
        self._first = FirstLook(usable) if usable and judge.mode == "batch" else None
        self._useless: str | None = None
        """Why to stop: the first results are of no use."""
        self._submitted: list[SubmittedBatch] = []
        self._rows_settled = 0
        self._most = self._largest = judge.batch.max_requests
        """Requests in the next batch; and in any, as far as the provider takes them."""
        self._full = QueueFull(judge.batch.poll_s)

    def run(self, progress: Progress, rule: StopRule) -> Literal["end", "money"]:
        """Why nothing more is to be sent, once nothing is under way."""
        if len(self._judge.endpoints) > 1:
            self._tell(f"batches go to the first of the endpoints only, {self.client.address}")
        self._resume()
        while True:
            for submitted in list(self._submitted):
                self._look(submitted)
            self._show(progress, rule)
            state = self._send()
            if state != "wait" and not self._submitted:
                self._journal.end()
                return state
            time.sleep(self._judge.batch.poll_s)

    def left_behind(self) -> str:
        """What a message says about going on."""
        away = [entry for entry in self._journal.entries if entry.input_file_id]
        if not away:
            return "What is done is kept, and the same command goes on from here"
        requests = sum(entry.requests for entry in away)
        return (
            f"Batches that go on at {self.client.address}: {len(away)}, with {requests:,} requests. The same command "
            "collects them; what has come back is kept"
        )

    # what earlier calls have left

    def _resume(self) -> None:
        for entry in self._journal.entries:
            # without a file no batch can have been created
            if entry.address != self.client.address and entry.input_file_id:
                raise UsageError(
                    f"`score.judge.base_url` is {self.client.address} now, and a batch of this run is under way at "
                    f"{entry.address}; go back to that until it is collected, or take its entry out of "
                    f"{self._journal.path} to give it up: then its rows are asked, and paid, again"
                )
            self._take_over(entry)
        if self._submitted:
            self._tell(f"collecting what earlier calls have left under way, batches: {len(self._submitted)}")

    def _take_over(self, entry: Entry) -> None:
        if entry.batch_id is None:
            # killed after creating a batch: the token that was given to it finds it, or it would be paid twice
            batch = self.client.find(entry.token, entry.input_file_id) if entry.input_file_id else None
            if batch is None:  # it was not created; its rows are packed anew
                self._journal.close(entry, 0.0)
                return
            entry = self._journal.note(entry, batch_id=batch.id)
        submitted = SubmittedBatch(entry, self._journal.items(entry), seen=False)
        self.builder.adopt(submitted.items.values())
        self._submitted.append(submitted)

    # to the provider

    def _send(self) -> Literal["wait", "end", "money"]:
        """Create batches as long as there are rows, dollars and room for them."""
        if self._judge.mode == "live":
            return "end"
        while True:
            undecided = any(not submitted.accepted for submitted in self._submitted)
            if len(self._submitted) >= self._judge.batch.in_flight or self._full.holds(undecided):
                return "wait"
            is_first = self._is_first()
            if is_first and self._submitted:
                return "wait"
            most = min(self._most, ROOM) if is_first else self._most
            why = self.builder.fill(BatchLimits(most, self._judge.batch.max_bytes, self._journal.free))
            self._stop_if_useless()
            if why == "money" and self._submitted:
                return "wait"  # for what comes back from those: better than a few requests now
            # a remainder of a few requests would take up to a day as well; it is left for a raised cap
            if why == "money" and self.builder.draft.usd < self._journal.least:
                return "money"
            if not self.builder.draft.items:
                return "end"
            if why == "money":
                self._tell("the most that a batch can cost is reserved: all that fits under score.max_cost_usd goes now")
            self._launch(self.builder.take())

    def _launch(self, draft: BatchDraft) -> None:
        entry = Entry(
            number=self._journal.next_number,
            token=uuid.uuid4().hex,
            address=self.client.address,
            requests=len(draft.items),
            usd=draft.usd,
        )
        # before anything is sent: the next call knows what may be at the provider, whatever ends this one
        entry = self._journal.open(entry, draft.items)
        submitted = SubmittedBatch(entry, draft.items, seen=True)
        name = f"{self._job.home.name.replace('/', '-')}-{entry.number:05d}.jsonl"
        about = {"stage": self._job.home.name, "batch": str(entry.number)}
        try:
            with draft.file as file:
                file_id = self.client.upload(file, name)
            submitted.entry = self._journal.note(entry, input_file_id=file_id)
            batch = self.client.create(entry.token, file_id, about)
        except RowRefused as error:
            self._refused(submitted, refusal_of_error(error))
            return
        submitted.entry = self._journal.note(submitted.entry, batch_id=batch.id)
        self._submitted.append(submitted)
        self._tell(f"batch {batch.id} created, requests: {entry.requests:,}")

    def _refused(self, submitted: SubmittedBatch, why: Refusal) -> None:
        """The provider does not take a batch, and it cost nothing: its rows go into smaller or later ones."""
        self._journal.close(submitted.entry, 0.0)
        alone, requests = not self._submitted, submitted.entry.requests
        self._tell(f"batch not taken, requests: {requests:,}: {why.message}")
        if self._judge.mode == "live":
            return
        if why.kind == "other" or (why.kind == "size" and requests == 1):
            raise StageFailed(f"the provider does not take a batch: {why.message}. {self.left_behind()}")
        if why.kind == "size":
            # the provider's limits of size are its own, and not all are published: they are found by halving
            self._largest = max(1, requests // 2)
        elif self._full.refused() > self._judge.max_outage_s and alone:
            raise StageFailed(f"the provider takes no batch: {why.message}. {self.left_behind()}")
        if why.kind == "size" or alone:
            self._most = max(1, requests // 2)
        self.builder.requeue(submitted.items.values())

    # from the provider

    def _look(self, submitted: SubmittedBatch) -> None:
        batch = self._ask_about(submitted.entry)
        if batch.request_counts:
            submitted.done = batch.request_counts.completed + batch.request_counts.failed
        if batch.status not in (*ENDED, "validating") and not submitted.accepted:
            submitted.accepted = True
            self._full.over()
        if batch.status not in ENDED:
            submitted.seen = True
            return
        self._submitted.remove(submitted)
        if batch.status == "failed" and not batch.output_file_id:
            self._refused(submitted, refusal(batch))
            return
        self._full.over()
        self._most = min(self._largest, 2 * self._most)
        self._settle(submitted, self.client.results(batch))
        self._tell(f"batch {batch.id} {batch.status}, requests done: {submitted.done:,} of {submitted.entry.requests:,}")
        if batch.status == "cancelled" and submitted.seen:
            raise StageFailed(f"batch {batch.id} was cancelled at {self.client.address}. {self.left_behind()}")

    def _ask_about(self, entry: Entry) -> Batch:
        try:
            return self.client.look(str(entry.batch_id))
        except EngineUnusable as error:
            if error.category != "http 404":
                raise
            raise StageFailed(
                f"{error}. Take the key of the account that created it, or take its entry out of {self._journal.path} to give "
                "it up: then its rows are asked, and paid, again"
            ) from None

    def _settle(self, submitted: SubmittedBatch, results: Mapping[str, Reply | EngineError]) -> None:
        """Keep what a batch brought: first in the ledgers; then its entry goes, then its loan."""
        kept: defaultdict[str, list[tuple[str, str, Outcome]]] = defaultdict(list)
        again: list[Item] = []
        cost_usd, unusable = 0.0, None
        for item in submitted.items.values():
            got = results.get(item.key, NO_RESULT)
            if isinstance(got, EngineUnusable):
                unusable = got
                again.append(item)
                continue
            cost_usd += self._cost(item, got)
            after = self._outcome(item, got)
            if isinstance(after, Item):
                again.append(after)
                if after.maybe_billed_twice:
                    kept[item.shard].append((item.key, item.example_id, after.without_reply()))
                continue
            self._saw(item.key, item.example_id, after)
            rows = self.builder.settle(item.key, after if after.reply is None else None)
            self._rows_settled += 1 + len(rows)
            if after.reply is not None or after.maybe_billed_twice:
                kept[item.shard].append((item.key, item.example_id, after))
            if after.reply is not None:
                for row in rows:
                    kept[row.shard].append((item.key, row.example_id, after.shared().after(row.before)))
        for shard, outcomes in kept.items():
            self._keep(shard, outcomes)
        self._journal.close(submitted.entry, cost_usd)
        self.builder.requeue(again)
        if unusable is not None and submitted.seen:
            raise unusable

    def _outcome(self, item: Item, got: Reply | EngineError) -> Outcome | Item:
        """What became of a request; an item where it is to be asked again."""
        attempts = item.attempts + 1
        if isinstance(got, Reply):
            priced = got._replace(cost_usd=self._job.spec.tariff.charge(got, Need(0, item.usd)))
            return Outcome(priced, None, attempts, None, item.maybe_billed_twice)
        maybe = item.maybe_billed_twice + (isinstance(got, TryAgain) and got.cause == "unknown")
        if isinstance(got, TryAgain) and attempts - item.earlier < self._job.spec.max_attempts:
            return item._replace(attempts=attempts, maybe_billed_twice=maybe)
        return Outcome(None, str(got), attempts, None, maybe)

    def _cost(self, item: Item, got: Reply | EngineError) -> float:
        """Dollars that a request cost, or may have cost at most."""
        if isinstance(got, Reply):
            cost = self._job.spec.tariff.cost(got)
            return item.usd if cost is None else cost
        return item.usd if isinstance(got, TryAgain) and got.cause == "unknown" else 0.0

    def _keep(self, shard: str, outcomes: Sequence[tuple[str, str, Outcome]]) -> None:
        ledger = self._job.ledger(shard)
        known = ledger.load()  # an earlier call may have been killed between this and the end of the entry
        for key, example_id, outcome in outcomes:
            if key not in known.replies:
                ledger.add(key, example_id, outcome)
        ledger.flush()

    def _show(self, progress: Progress, rule: StopRule) -> None:
        builder = self.builder
        reasons = Counter(reason_of(str(outcome.error)) for outcome in builder.failed.values())
        failed = Counter(failed=len(builder.failed))
        counts = Counts(stored=builder.rows_known, statuses=failed, without_reply=reasons)
        done = builder.rows_known + self._rows_settled + sum(submitted.done for submitted in self._submitted)
        progress.show(done, counts.stored, in_words(counts))
        self._stop_if_useless()
        reason = rule(counts) if self._judge.mode == "batch" else None
        if reason is not None:
            raise StageFailed(f"stopped: {reason}. {self.left_behind()}")

    def _saw(self, key: str, example_id: str, outcome: Outcome) -> None:
        """Look at a row's result: a judge that cannot be read is found out by a first, small batch, as it is live."""
        if self._first is None or self._useless is not None:
            return
        try:
            result = self._job.work.result({"example_id": example_id}, Request(key, [], {}), outcome)
        except UNREADABLE as error:  # whatever a judge writes costs its row only
            result = self._job.work.result({"example_id": example_id}, Request(key, [], {}), Outcome(None, str(error), 0, None))
        self._useless = self._first.saw(result)

    def _is_first(self) -> bool:
        """Whether it has yet to be seen that the judge can be read; larger batches go only where a call has seen it."""
        is_seen = self._first is None or self._first.is_over
        return not is_seen and all(batch.entry.requests <= ROOM for batch in self._submitted)

    def _stop_if_useless(self) -> None:
        if self._useless is not None:
            raise StageFailed(f"stopped: {self._useless}. {self.left_behind()}")

    def _tell(self, text: str) -> None:
        say(f"score: {text}")
