"""What is done, known, left and spent of a stage directory that earlier calls have worked on: the one place that says so.

Plan, status, cap, batches and workers read it here. It only reads, and may look at a directory that a driver is at work on;
commit records and outputs are written by `shards.py`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from alpagasus_ray.engines.prices import Tariff
from alpagasus_ray.inference.budget import at_most_spent
from alpagasus_ray.inference.ledger import Outcome, StoredReplies, ledger_of, stored_in_output
from alpagasus_ray.store.lease import Lease, latest_parts, shard_of
from alpagasus_ray.store.run import DONE, LEDGER, FileEntry, StageDir, totals

READERS = 16
"""Threads that read small files side by side: on an object store each takes a round trip."""
NOTHING_KNOWN = StoredReplies({}, {})
ROUNDS = "rounds"
"""Within the ratings of a cascade that is not finished: `00/rows/`, `00/ratings/`, `01/rows/`, …."""


class Left(NamedTuple):
    """What is still to be asked of one shard."""

    rows: int
    """Rows without a reply."""
    numbers: Sequence[int]
    """The row that asks each request, in order: rows with the same request are asked once."""


@dataclass(frozen=True)
class Backlog:
    """One stage directory, as a call finds it."""

    home: StageDir
    again: frozenset[str] = frozenset()
    """Replies of rows with one of these statuses count as none: they are asked anew."""
    keeps_replies: bool = True
    """Whether replies are kept in ledgers; those of offline judges cost nothing and are not."""

    # done

    def records(self) -> frozenset[str]:
        """Names of the commit records that are there."""
        return frozenset(self.home.storage.at(DONE).names())

    def done(self, found: Collection[str] | None = None) -> list[FileEntry]:
        """The commit records, one for each shard, in the order of the shards. With the names of those that a call has `found`
        when it began, a record that a driver of an earlier epoch has left since is not among them."""
        done, guard = self.home.storage.at(DONE), self.home.storage.guard
        names = [name for name in done.names() if found is None or name in found or not _of_another(name, guard)]
        latest = latest_parts(name.removesuffix(".json") for name in names)
        with ThreadPoolExecutor(READERS) as pool:
            contents = pool.map(done.read, (f"{file}.json" for file in latest.values()))
            return [FileEntry.model_validate_json(content) for content in contents]

    def open(self, shards: Iterable[str]) -> list[str]:
        """Those of the shards that have no commit record yet, in order."""
        done = {shard_of_record(name) for name in self.home.storage.at(DONE).names()}
        # by the names of the records alone: at 100,000 shards to read them would take minutes
        return [shard for shard in shards if shard not in done]

    def begun(self, names: Iterable[str]) -> set[str]:
        """The shards that have a ledger or an output among these names of files in the run, committed or not. An output whose
        record was taken back holds replies as well."""
        prefix = f"{self.home.name}/"
        paths = [name.removeprefix(prefix).split("/") for name in names if name.startswith(prefix)]
        ledgers = {f"{parts[1]}.parquet" for parts in paths if parts[0] == LEDGER and len(parts) == 3}
        return ledgers | {shard_of(parts[0]) for parts in paths if len(parts) == 1 and parts[0].startswith("part-")}

    # known

    def known(self, shard: str) -> StoredReplies:
        """What is stored of a shard that is not committed: in its ledger, and in an output whose record was taken back."""
        if not self.keeps_replies:
            return StoredReplies({}, {})
        try:
            # the ledger is read before the output: a commit writes the output first and deletes the ledger then, so one of the
            # two holds each reply
            ledger = ledger_of(self.home, shard).load()
        except FileNotFoundError:
            ledger = NOTHING_KNOWN  # it has just been committed: its output, read after this, holds what the ledger held
        if not self.home.storage.exists(shard):
            return ledger
        # an output without a commit record: its worker died in between, or rows of it are asked again
        output = self.home.storage.read_table(shard)
        return StoredReplies.of((*stored_in_output(output, self.again).outcomes(), *ledger.outcomes()))

    def stored_replies(self, shards: Sequence[str]) -> dict[str, StoredReplies]:
        """The same for several shards."""
        with ThreadPoolExecutor(READERS) as pool:
            return dict(zip(shards, pool.map(self.known, shards), strict=True))

    # left

    def left(
        self,
        source: StageDir,
        entry: FileEntry,
        key_of: Callable[[Mapping[str, Any]], str],
        replies: Collection[str],
        *,
        numbers: Sequence[int] | None = None,
        stand_in: str | None = None,
    ) -> Left:
        """What is left of some rows (by default all) of a shard, where requests with these keys are answered or under way.

        `key_of` gives the key of a row's request. To make the requests takes a hundred times as long as to read a column:
        where nothing is known yet, `stand_in` may name one that is equal where requests are.
        """
        numbers = range(entry.rows) if numbers is None else numbers
        if not numbers:
            return Left(0, ())
        # a stand-in is equal where requests are, but is no request's key: where there are replies to compare with, keys are
        # needed
        columns = [stand_in] if stand_in and not replies else None
        table = source.table(entry.name, entry.sha256, columns)
        rows = (table if len(numbers) == entry.rows else table.take(list(numbers))).to_pylist()
        keys = [row[stand_in] if columns else key_of(row) for row in rows]
        left = [(number, key) for number, key in zip(numbers, keys, strict=True) if key not in replies]
        # of equal requests the first one stays, as it is the one that workers send
        first = {key: number for number, key in reversed(left)}
        return Left(len(left), sorted(first.values()))

    # spent

    def spent_usd(self, tariff: Tariff, known: Iterable[StoredReplies]) -> float:
        """What commits and the replies of open shards have cost; by the present price where there was none at the time."""
        paid = sum(_cost(tariff, entry.usage) for entry in self.done())
        replies = (outcome.reply for shard in known for outcome in shard.replies.values())
        return paid + sum(_cost(tariff, reply._asdict()) for reply in replies if reply)

    def at_most_usd(self) -> float:
        """The bound that the last call with a cap has left; 0 where there was none. More than what is known to be spent where
        a call was killed."""
        return at_most_spent(self.home.storage)


class Held(NamedTuple):
    """What an unfinished directory holds, with the rounds of a cascade in it."""

    counts: Counter[str]
    """Rows that are done, by status."""
    reasons: Counter[str]
    replies: int
    """Received, in shards that are not done."""
    usd: float | None
    """What all of it has cost, as the replies say; None where none of them does."""
    rounds: int
    """Of a cascade; the last one may be under way."""


def held(home: StageDir, names: Collection[str]) -> Held:
    """What lies in a directory that is not finished. `names`: of all files of the run."""
    rounds = rounds_of(home, names)
    parts = [_held(part, names) for part in (home, *rounds)]
    counts, reasons = (sum((getattr(part, name) for part in parts), Counter[str]()) for name in ("counts", "reasons"))
    costs = [part.usd for part in parts if part.usd is not None]
    return Held(counts, reasons, sum(part.replies for part in parts), sum(costs) if costs else None, len(rounds))


def rounds_of(home: StageDir, names: Iterable[str]) -> list[StageDir]:
    """The ratings of a cascade's rounds, the first one first."""
    prefix = f"{home.name}/{ROUNDS}/"
    numbers = sorted({name.removeprefix(prefix).split("/")[0] for name in names if name.startswith(prefix)})
    return [round_part(home, number, "ratings") for number in numbers]


def round_part(home: StageDir, number: str, part: str) -> StageDir:
    """The directory of a round's rows, or of what the judge said of them."""
    return StageDir(f"{home.name}/{ROUNDS}/{number}/{part}", home.storage.at(ROUNDS, number, part))


def _held(home: StageDir, names: Collection[str]) -> Held:
    manifest = home.manifest()
    if manifest is not None:  # a finished round
        return Held(
            Counter(manifest.counts), Counter(manifest.details.get("reasons", {})), 0, manifest.usage.get("cost_usd"), 0
        )
    backlog = Backlog(home)
    entries = backlog.done()
    waiting = backlog.begun(names) - {entry.shard for entry in entries}
    received = [outcome.reply for shard in sorted(waiting) for outcome in backlog.known(shard).replies.values()]
    done = totals(entries)
    costs = [done.usage.get("cost_usd"), *(reply.cost_usd for reply in received if reply is not None)]
    known = [cost for cost in costs if cost is not None]
    return Held(done.counts, done.reasons, len(received), sum(known) if known else None, 0)


def measure(outcomes: Iterable[Outcome], fields: Sequence[str]) -> Counter[str]:
    """Sums over the replies that were asked for themselves, not taken from an equal row: their `count`, these fields, and how
    many know each (`n <field>`)."""
    sums: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.reply is not None and outcome.attempts:
            values = {**outcome.reply._asdict(), "latency_s": outcome.latency_s, "count": 1}
            for field in ("count", *fields):
                if values[field] is not None:
                    sums.update({field: values[field], f"n {field}": 1})
    return sums


def shard_of_record(name: str) -> str:
    """The shard of a commit record."""
    return shard_of(name.removesuffix(".json"))


def _of_another(name: str, guard: Any) -> bool:
    """Whether a commit record was left under another hold of the lock; a local one has no epoch in its name."""
    # a driver that was given up as dead may commit late; its shard is done by this one as well, and must not be listed twice
    return isinstance(guard, Lease) and guard.beats and guard.epoch not in name


def _cost(tariff: Tariff, usage: Mapping[str, Any]) -> float:
    # replies from before a price was set cost dollars all the same, and the cap has to count them
    known = usage.get("cost_usd")
    if known is None:
        known = tariff.dollars(*(usage.get(f"tokens_{kind}") or 0 for kind in ("in", "out", "cached")))
    return known or 0.0
