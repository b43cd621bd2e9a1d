"""What is under way at a provider's batch API, on the run's storage: one entry for each batch, until its replies are kept.

An entry is written before its batch is created, with a token that the provider keeps beside the batch: whoever finds an entry
without a batch's id asks the provider for that token. So no batch is created twice, and none is lost sight of, whenever a
driver is killed. All entries and what is spent stand in one file, so that a batch and its dollars change by one write. Knows
neither the provider nor what is asked.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from alpagasus_ray.inference.budget import Budget
from alpagasus_ray.inference.coordinator import Cap
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.store.storage import Storage

BATCHES = "batches"
"""Directory of an unfinished stage: what is under way at a batch API."""
JOURNAL = "journal.json"
WORTH = 0.05
"""Share of the cap that a batch has to be worth: what fits gets smaller each time, and each time takes hours."""


class Item(NamedTuple):
    """One request of a batch."""

    key: str
    shard: str
    """Whose ledger its reply goes to."""
    example_id: str
    usd: float
    """The most it can cost; 0 where there is no price."""
    attempts: int = 0
    """Batches and requests it was in before, without a reply."""
    maybe_billed_twice: int = 0
    """Of these: it may have been billed all the same."""
    earlier: int = 0
    """Of these: requests of earlier calls, which do not count against `max_attempts`."""

    def without_reply(self) -> Outcome:
        """What was asked so far, in vain."""
        return Outcome(None, None, self.attempts, None, self.maybe_billed_twice)


class Entry(BaseModel):
    """One batch."""

    model_config = ConfigDict(frozen=True)

    number: int
    token: str
    address: str
    requests: int
    usd: float
    """What is reserved for it."""
    lent: bool = False
    """Whether `at_most_usd` includes `usd`."""
    input_file_id: str | None = None
    batch_id: str | None = None
    """None while it is not known whether the batch was created."""


class Page(BaseModel):
    """The journal's file."""

    at_most_usd: float | None = None
    """What is spent and reserved, as of this page; None where the last call had no cap. While there is a page it is this that
    holds, not `spend.json`, which follows it."""
    entries: list[Entry] = []


class Journal:
    """The batches of one stage: `journal.json`, and beside it the requests of each. With a cap it lends dollars for them."""

    def __init__(self, home: Storage, cap: Cap | None) -> None:
        self._storage = home.at(BATCHES)
        page = self._read()
        self._entries = {entry.number: entry for entry in page.entries}
        self._cap = cap.usd if cap else math.inf
        self._budget: Budget | None = None
        if cap is not None:
            spent = cap.spent if page.at_most_usd is None else page.at_most_usd
            self._budget = Budget(cap.storage, cap.usd, spent)
            self._adopt_loans(self._budget)
        else:  # what this call spends will not be in the bound that their loans are part of
            self._entries = {number: entry.model_copy(update={"lent": False}) for number, entry in self._entries.items()}
        self._write()

    @property
    def entries(self) -> list[Entry]:
        """All that is under way, in order."""
        return list(self._entries.values())

    @property
    def next_number(self) -> int:
        """A number that no entry has."""
        return max(self._entries, default=0) + 1

    @property
    def free(self) -> float:
        """Dollars that may still be reserved."""
        return self._budget.free if self._budget else math.inf

    @property
    def least(self) -> float:
        """Dollars below which it is not worth while to send a part of what is left."""
        return WORTH * self._cap if self._budget else 0.0

    def open(self, entry: Entry, items: Mapping[str, Item]) -> Entry:
        """Begin an entry; what it can cost at most has to be free."""
        if self._budget is not None:
            granted = self._budget.lend(entry.token, entry.usd, entry.usd)
            assert granted or not entry.usd, "packed to what is free"
        self._storage.write_table(_items_file(entry), _table(items.values()))
        return self.note(entry, lent=self._budget is not None)

    def note(self, entry: Entry, **changes: Any) -> Entry:
        """Write down what has become known of an entry."""
        entry = entry.model_copy(update=changes)
        self._entries[entry.number] = entry
        self._write()
        return entry

    def items(self, entry: Entry) -> dict[str, Item]:
        """The requests of an entry, by key."""
        rows = self._storage.read_table(_items_file(entry)).to_pylist()
        return {row["key"]: Item(**row) for row in rows}

    def close(self, entry: Entry, cost_usd: float) -> None:
        """End an entry that has cost so much; from here on nobody asks the provider about it."""
        del self._entries[entry.number]
        if self._budget is not None:
            self._budget.report(entry.token, cost_usd, 0.0, 0.0)
        self._write()
        self._storage.delete(_items_file(entry))

    def end(self) -> None:
        """Nothing is under way any more: the journal goes."""
        assert not self._entries, "all are closed"
        self._storage.delete_tree()

    @property
    def path(self) -> str:
        """Where it is, for messages."""
        return self._storage.path(JOURNAL)

    def _adopt_loans(self, budget: Budget) -> None:
        """Take over the loans of an earlier call: they are part of what it may have spent at most, and become loans again in
        place of that; unless that call had no cap."""
        for entry in self.entries:
            # out of what counts as spent and into the loans, so that what a batch costs less than its most comes back
            counted = min(entry.usd, budget.spent) if entry.lent else 0.0
            budget.report(entry.token, -counted, 0.0, entry.usd)
            self._entries[entry.number] = entry.model_copy(update={"lent": True})

    def _read(self) -> Page:
        return Page.model_validate_json(self._storage.read(JOURNAL)) if self._storage.exists(JOURNAL) else Page()

    def _write(self) -> None:
        at_most = self._cap - self._budget.free if self._budget else None
        page = Page(at_most_usd=at_most, entries=self.entries)
        self._storage.write(JOURNAL, page.model_dump_json(indent=2).encode())
        if self._budget is not None:
            self._budget.close()


def under_way(home: Storage) -> bool:
    """Whether an earlier call of a stage has left a journal, so that there may be batches at the provider."""
    return home.at(BATCHES).exists(JOURNAL)


def _items_file(entry: Entry) -> str:
    return f"{entry.number:05d}.parquet"


def _table(items: Iterable[Item]) -> pa.Table:
    return pa.Table.from_pylist([item._asdict() for item in items])


def at_provider(home: Storage) -> tuple[Page, list[Item]]:
    """The journal of a stage as it is now, with those entries alone whose batches are, or may be, at the provider, and their
    requests. Only reads; a driver may be at work."""
    storage = home.at(BATCHES)
    try:
        page = Page.model_validate_json(storage.read(JOURNAL))
    except FileNotFoundError:
        return Page(), []
    entries: list[Entry] = []
    items: list[Item] = []
    for entry in page.entries:
        if entry.batch_id or entry.input_file_id:
            with suppress(FileNotFoundError):  # it has just been collected
                items += [Item(**row) for row in storage.read_table(_items_file(entry)).to_pylist()]
                entries.append(entry)
    return page.model_copy(update={"entries": entries}), items
