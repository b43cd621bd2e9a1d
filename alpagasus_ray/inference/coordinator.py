"""The coordinator of one stage: workers report counts to it and hear when to stop, and it hands out what the whole cluster
shares: permits under the rate limits, dollars under the cap, and the memory of which rows killed a worker.

It lives in one actor, on the driver's own node (`driver.py`). Workers ask it for what they need in the next half second, not
for single requests, so that one actor is enough for a thousand workers. If it dies it comes back empty: the budget goes on from
its bound on storage, and meanwhile each worker keeps to its share of the rates.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from alpagasus_ray.engines.base import Rate
from alpagasus_ray.errors import RunLocked
from alpagasus_ray.inference.budget import Budget, at_most_spent
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.limits import TokenBucket
from alpagasus_ray.store.storage import Storage

SILENT_S = 60.0
"""A worker that has not reported for so long is taken for dead; what it had reserved counts as spent."""
LONGEST_WAIT_S = 5.0
REQUESTS = 0
"""Place of the limit in requests in a `Rate`."""
IN_VAIN = 20
"""So often a shard may be begun anew with no reply more than before; then the shard, or the node, kills workers."""
NOTES = 20
"""Most notes for the user."""
UNWRITABLE_S = 10.0
"""How long storage may refuse the bound on spending before the stage stops."""


StopKind = Literal["failed", "budget", "usage"]
"""Why a stage stops: it cannot go on, the cap is reached, or the recipe is wrong."""


class Permits(NamedTuple):
    """What may be sent to an endpoint now, and after how many seconds to ask again for more."""

    requests: float
    tokens: float
    wait_s: float


class Directive(NamedTuple):
    """The answer to a worker's report."""

    stop: str | None
    """Why to stop, or None to go on."""
    answered: bool
    """Whether any worker has had an answer in this call."""
    pauses: dict[int, float]
    """Seconds for which endpoints are to be left alone."""


class Snapshot(NamedTuple):
    """What the driver sees."""

    counts: Counts
    stop: str | None
    kind: StopKind
    spent_usd: float | None
    """Of the cap, over all calls; None without one."""
    notes: tuple[str, ...] = ()
    """What workers found that the user has to be told, each once."""


class CrashedRows(NamedTuple):
    """Rows of a shard that were in flight when a worker died."""

    deaths: dict[int, int]
    """By index in the shard: how many workers have died over the row."""


@dataclass(frozen=True)
class Cap:
    """A spending cap: where its bound is kept, dollars, and what earlier calls have cost."""

    storage: Storage
    usd: float
    spent: float


class Coordinator:
    """The shared state; a plain object, so that it can be looked at without Ray."""

    def __init__(self, rates: Sequence[Rate] = (), cap: Cap | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._shards: dict[str, Counts] = {}
        self._counts = Counts()
        self._stop: str | None = None
        self._kind: StopKind = "failed"
        self._noted: dict[str, str] = {}
        self._given = tuple(rates)
        self._stated = [Rate() for _ in rates]
        self._buckets: dict[tuple[int, int], TokenBucket] = {}
        self._cap = cap
        self._budget: Budget | None = None
        self._heard: dict[str, float] = {}
        self._unwritable_since: float | None = None
        self._pauses: dict[int, float] = {}
        self._in_flight: dict[str, set[int]] = {}
        self._deaths: dict[str, Counter[int]] = {}
        self._begun: dict[str, tuple[int, int]] = {}
        """By shard: most replies that a worker found there, and how often one has begun since with no more than these."""

    # counts, and when to stop

    def report(self, worker: str, news: Counts, shards: Mapping[str, Counts], pauses: Mapping[int, float]) -> Directive:
        """Take a worker's news: what happened since its last report, counts of the shards it works on since their begin,
        seconds for which endpoints asked to be left alone."""
        now = self._now()
        self._heard[worker] = now
        self._forget_silent(now)
        self._counts.add(news)
        for shard, counts in shards.items():
            # a shard that is done again after a death replaces what its first worker said
            self._counts.add(self._shards.get(shard, Counts()), -1).add(counts)
            self._shards[shard] = counts
        for endpoint, seconds in pauses.items():
            # in this actor's own time: workers tell how long a pause still is, and their clocks may differ
            self._pauses[endpoint] = max(self._pauses.get(endpoint, 0.0), now + seconds)
        # a server that turns one worker away would turn the others away as well, and each would have to learn it
        left = {endpoint: until - now for endpoint, until in self._pauses.items() if until > now}
        return Directive(self._stop, self._counts.requests["answered"] > 0, left)

    def stop(self, reason: str, kind: StopKind = "failed") -> None:
        """Let every worker end after the requests it has in flight; the first reason stays."""
        # the first reason is the cause; what workers report after it are often its consequences
        if self._stop is None:
            self._stop, self._kind = reason, kind

    def note(self, key: str, text: str) -> None:
        """Something that the user has to be told; of several with one key the first."""
        if key not in self._noted and len(self._noted) < NOTES:
            self._noted[key] = text

    def snapshot(self) -> Snapshot:
        """Counts so far, and why the stage is stopping if it is."""
        spent = None if self._cap is None else self._cap.spent if self._budget is None else self._budget.spent
        return Snapshot(self._counts.copy(), self._stop, self._kind, spent, tuple(self._noted.values()))

    # rates

    def permits(self, endpoint: int, requests: float, tokens: float, stated: Rate) -> Permits:
        """Hand out what there is, at most as much as is wanted; `stated` is what the server says its limits are. Less than is
        wanted is handed out rather than nothing: a worker that waits for its whole demand would starve beside smaller ones."""
        self._limit(endpoint, stated)
        now = self._now()
        granted, wait_s = [], 0.0
        for kind, wanted in enumerate((requests, tokens)):
            bucket = self._buckets.get((endpoint, kind))
            granted.append(bucket.take(wanted, now) if bucket else wanted)
            if bucket and granted[-1] < wanted:
                wait_s = max(wait_s, bucket.wait(wanted - granted[-1], now))
        return Permits(granted[0], granted[1], min(wait_s, LONGEST_WAIT_S))

    def _limit(self, endpoint: int, stated: Rate) -> None:
        # a worker that has had no answer yet does not know what another was told
        self._stated[endpoint] = Rate(*(new or old for new, old in zip(stated, self._stated[endpoint], strict=True)))
        for kind, limit in enumerate(self._given[endpoint].lower(self._stated[endpoint])):
            bucket = self._buckets.get((endpoint, kind))
            if limit is not None and bucket is None:
                self._buckets[endpoint, kind] = TokenBucket(limit, self._now(), whole=kind == REQUESTS)
            elif limit is not None and bucket is not None and bucket.per_minute != limit:
                # the level stays: a server that states another limit every minute would otherwise fill the bucket anew each
                # time
                bucket.set(limit)

    # dollars

    def reserve(self, worker: str, settled: float, under_way: float, wanted: float, least: float) -> float:
        """Dollars for a worker's next requests, `least` or more or none yet. It gives back what it had at hand and says what it
        settled, so that what one worker does not need is there for the others. Where even one request will never fit under the
        cap again, the stage stops."""
        assert self._cap is not None, "dollars are reserved only under a cap"
        self._heard[worker] = self._now()
        try:
            if self._budget is None:
                # after a death of this actor the bound on storage is above what the driver knew
                spent = max(self._cap.spent, at_most_spent(self._cap.storage))
                self._budget = Budget(self._cap.storage, self._cap.usd, spent)
            # what it has at hand comes back first, so that whoever asks never holds more than it needs
            self._budget.report(worker, settled, 0.0, under_way)
            lent = self._budget.lend(worker, wanted, least) if wanted else 0.0
        except OSError as error:  # nothing is handed out that is not on storage; the worker asks again
            return self._cannot_write(error)
        except RunLocked as error:  # another driver spends now
            self.stop(str(error))
            return 0.0
        self._unwritable_since = None
        if lent is None and self._stop is None:
            self.stop("the budget is used up", "budget")
        return lent or 0.0

    def _cannot_write(self, error: OSError) -> float:
        self._unwritable_since = self._unwritable_since or self._now()
        if self._now() - self._unwritable_since > UNWRITABLE_S:
            self.stop(f"what is spent cannot be written down: {error}")
        return 0.0

    def close_budget(self) -> None:
        """Write down what was spent."""
        if self._budget is not None:
            self._budget.close()

    def _forget_silent(self, now: float) -> None:
        for worker in [name for name, at in self._heard.items() if now - at > SILENT_S]:
            # one that was only slow reports again, and is heard again; that its loan counted as spent is on the safe side
            del self._heard[worker]
            if self._budget is not None:
                self._budget.forget(worker)

    # rows in flight, so that one that kills its worker is found

    def begin_shard(self, shard: str, replies: int) -> CrashedRows:
        """A worker starts on a shard that has so many replies. Rows that are still marked as in flight there saw an earlier
        worker die. Where one worker after the other dies and no reply is won, the stage stops."""
        best, died = self._begun.get(shard, (-1, 0))
        # a shard may lose many workers to spot nodes in hours of work; what is in vain is a death that brought no reply
        self._begun[shard] = (replies, 0) if replies > best else (best, died + 1)
        if self._begun[shard][1] >= IN_VAIN:
            self.stop(
                f"{shard}: {IN_VAIN} workers died over it one after the other, and no reply came in between; Ray's logs say why"
            )
        deaths = self._deaths.setdefault(shard, Counter())
        # with many rows in flight any of them may have done it; each is counted, and is sent alone the next time
        deaths.update(self._in_flight.pop(shard, set()))
        return CrashedRows(dict(deaths))

    def mark_in_flight(self, shard: str, places: Sequence[int], done: Sequence[int]) -> None:
        """Mark the rows that are sent next, and unmark those that are done."""
        self._in_flight.setdefault(shard, set()).update(places)
        self._in_flight[shard].difference_update(done)

    def end_shard(self, shard: str) -> None:
        """A worker is through with a shard, or has stopped in good order; what it said of the shard last is final."""
        self._shards.pop(shard, None)
        self._in_flight.pop(shard, None)
        self._deaths.pop(shard, None)
        self._begun.pop(shard, None)


class CoordinatorClient(Protocol):
    """How a worker reaches the coordinator; None where it cannot be reached for now."""

    async def call(self, method: str, *arguments: Any) -> Any: ...
