"""Which requests go into the next batch: rows without a reply, in order, each different request once, up to the limits.

Shards are opened one at a time and requests go to a file, so that no more than a shard and the keys of all requests (some
150 bytes each) are in memory. Knows ledgers, and nothing of how batches fare at the provider.
"""

import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Literal, NamedTuple

from alpagasus_ray.batch_api.journal import Item
from alpagasus_ray.engines.base import Request
from alpagasus_ray.inference.ledger import NO_ATTEMPTS, Outcome, StoredReplies
from alpagasus_ray.inference.spec import Job, Task

LOOKED_INTO = 32
"""Shards whose replies are kept at hand for equal requests of other shards."""


class BatchLimits(NamedTuple):
    """How large a batch may be."""

    requests: int
    bytes: int
    usd: float


class BatchDraft:
    """An input file that is being filled."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the draft
        self.items: dict[str, Item] = {}
        self.bytes = 0
        self.usd = 0.0

    def add(self, item: Item, line: bytes) -> None:
        self.file.write(line)
        self.items[item.key] = item
        self.bytes += len(line)
        self.usd += item.usd


class EqualRow(NamedTuple):
    """A row of another shard with the same request."""

    shard: str
    example_id: str
    before: Outcome
    """Attempts that this shard has made in vain."""


class BatchBuilder:
    """Goes through the tasks; knows for each request whether it is to be asked, under way, answered or failed."""

    def __init__(
        self,
        job: Job,
        tasks: Sequence[Task],
        line: Callable[[Request], bytes],
        max_bytes: int,
        saw: Callable[[str, str, Outcome], None],
    ) -> None:
        """`line` makes a request's line of an input file; `saw` is shown the key, the example and the reply of every row that
        an earlier call has asked."""
        self._job, self._tasks, self._line, self._max_bytes, self._saw = job, tasks, line, max_bytes, saw
        self._todo: deque[tuple[Task, dict[str, Item] | None]] = deque((task, None) for task in tasks)
        """Shards to open; where only some of their requests are to be asked again, those."""
        self._ready: deque[tuple[Item, bytes]] = deque()
        self._shard_of: dict[str, str] = {}
        """Shard whose ledger has the reply to a request, or will have it."""
        self._pending: dict[str, tuple[EqualRow, ...]] = {}
        """Requests without an outcome, and who else waits for it."""
        self._open: Counter[str] = Counter()
        """Requests without an outcome, by shard."""
        self._opened: set[str] = set()
        self._looked_into: dict[str, dict[str, Outcome]] = {}
        self.failed: dict[str, Outcome] = {}
        """Outcomes of requests that nobody asks again in this call."""
        self.rows_known = 0
        self.draft = BatchDraft()

    def fill(self, limits: BatchLimits) -> Literal["full", "money", "end"]:
        """Put requests into the draft until it is full, the next one costs too much, or there are no more."""
        while True:
            while not self._ready:
                if not self._todo:
                    return "end"
                self._open_shard(*self._todo.popleft())
            item, line = self._ready[0]
            draft = self.draft
            if draft.items and (len(draft.items) >= limits.requests or draft.bytes + len(line) > limits.bytes):
                return "full"
            # the next request in order, not the next that fits: expensive ones would be left for the end of the cap
            if draft.usd + item.usd > limits.usd:
                return "money"
            self._ready.popleft()
            draft.add(item, line)

    def take(self) -> BatchDraft:
        """The draft as it is; a new one takes its place."""
        taken, self.draft = self.draft, BatchDraft()
        return taken

    def adopt(self, items: Iterable[Item]) -> None:
        """Requests of an earlier call that are under way."""
        for item in items:
            self._register(item)

    def requeue(self, items: Iterable[Item]) -> None:
        """Requests that came back without an outcome: they go into a further batch, before all others."""
        by_shard: dict[str, dict[str, Item]] = {}
        for item in items:
            by_shard.setdefault(item.shard, {})[item.key] = item
        # `extendleft` turns the order around, and `reversed` back
        self._todo.extendleft((Task(shard), requests) for shard, requests in reversed(by_shard.items()))

    def settle(self, key: str, failed: Outcome | None = None) -> tuple[EqualRow, ...]:
        """A request has its outcome; the answer is who else waits for it."""
        others = self._pending.pop(key, ())
        self._open[self._shard_of[key]] -= 1
        for other in others:
            self._open[other.shard] -= 1
        if failed is not None:
            self.failed[key] = failed
        return others

    def completed_tasks(self) -> list[Task]:
        """The tasks of which every request has an outcome."""
        return [task for task in self._tasks if task.shard in self._opened and not self._open[task.shard]]

    def _open_shard(self, task: Task, only: dict[str, Item] | None) -> None:
        rows = task.read(self._job.source).to_pylist()
        requests = [(self._job.work.request(row), str(row["example_id"])) for row in rows]
        if only is not None:
            for request, _ in requests:
                item = only.pop(request.key, None)
                if item is not None:
                    self._ready.append((item, self._line(request)))
            return
        stored = self._job.backlog.known(task.shard)
        ledger = self._job.ledger(task.shard)
        for request, example_id in requests:
            row = EqualRow(task.shard, example_id, stored.unanswered.get(request.key, NO_ATTEMPTS))
            if request.key in stored.replies:
                self._saw(request.key, example_id, stored.replies[request.key])
            answer = self._consider(request, row, stored)
            if answer is not None:
                ledger.add(request.key, example_id, answer)
                stored.replies[request.key] = answer
        ledger.flush()
        self._opened.add(task.shard)

    def _consider(self, request: Request, row: EqualRow, stored: StoredReplies) -> Outcome | None:
        """See to it that a row gets its outcome; the answer is a reply that an equal row of another shard has."""
        key = request.key
        home = self._shard_of.get(key)
        if key in stored.replies or key in self.failed:
            self._shard_of.setdefault(key, row.shard)
            self.rows_known += 1
        elif key in self._pending:
            # one for each shard: within a shard the ordinary run shares the reply by itself
            if home != row.shard and all(other.shard != row.shard for other in self._pending[key]):
                self._pending[key] += (row,)
                self._open[row.shard] += 1
        elif home is not None and (answer := self._reply_in(home, key)) is not None:
            self.rows_known += 1
            return answer.shared().after(row.before)
        else:
            self._prepare(request, row)
        return None

    def _prepare(self, request: Request, row: EqualRow) -> None:
        line, before = self._line(request), row.before
        usd, attempts = self._job.spec.tariff.need(request.messages).usd or 0.0, before.attempts
        item = Item(request.key, row.shard, row.example_id, usd, attempts, before.maybe_billed_twice, attempts)
        self._register(item)
        if len(line) <= self._max_bytes:
            self._ready.append((item, line))
            return
        reason = f"too long: {len(line):,} bytes, more than score.judge.batch.max_bytes = {self._max_bytes:,}"
        self.settle(item.key, Outcome(None, reason, 0, None).after(before))

    def _register(self, item: Item) -> None:
        self._shard_of[item.key] = item.shard
        self._pending[item.key] = ()
        self._open[item.shard] += 1

    def _reply_in(self, shard: str, key: str) -> Outcome | None:
        if key not in self._looked_into.get(shard, {}):
            if len(self._looked_into) >= LOOKED_INTO:
                # the one that was opened first; equal rows mostly lie near each other
                del self._looked_into[next(iter(self._looked_into))]
            self._looked_into[shard] = self._job.backlog.known(shard).replies
        return self._looked_into[shard].get(key)
