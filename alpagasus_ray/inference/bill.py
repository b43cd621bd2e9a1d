"""What is paid together: the jobs under one cap, what they have cost, and what is left when the cap is reached."""

from collections.abc import Sequence
from typing import NamedTuple

from alpagasus_ray.errors import BudgetReached
from alpagasus_ray.inference.backlog import Backlog
from alpagasus_ray.inference.coordinator import Cap
from alpagasus_ray.inference.ledger import StoredReplies
from alpagasus_ray.inference.spec import Job, Task
from alpagasus_ray.store.run import Manifest, StageDir


class Part(NamedTuple):
    """A job, and the manifest of what it reads."""

    job: Job
    source: Manifest

    def shards(self) -> list[str]:
        return [entry.name for entry in self.source.parts()]

    def known(self) -> dict[str, StoredReplies]:
        """What is stored of each shard that is not committed."""
        backlog = self.job.backlog
        return backlog.stored_replies(backlog.open(self.shards()))

    def rows_left(self, known: dict[str, StoredReplies]) -> int:
        """Rows that have no reply yet."""
        job, entries = self.job, {entry.name: entry for entry in self.source.parts()}

        def left(shard: str, replies: StoredReplies) -> int:
            # to make the requests of a shard takes a second; where nothing is answered its rows need not be read
            if not replies.replies:
                return entries[shard].rows
            return job.backlog.left(job.source, entries[shard], lambda row: job.work.request(row).key, replies.replies).rows

        return sum(left(shard, replies) for shard, replies in known.items())


class Account(NamedTuple):
    """Where a stage stands before it goes on."""

    rows_left: int
    """Rows that have no reply yet."""
    spent_usd: float
    """What all calls so far have cost at most."""


class Bill(NamedTuple):
    """The jobs under one cap."""

    home: StageDir
    """Where the bound on what they may have cost is kept."""
    parts: Sequence[Part]
    finished_usd: float = 0.0
    """What finished stages under the same cap have cost."""

    def rows(self, tasks: Sequence[Task]) -> int:
        """Rows of so many tasks, done or not."""
        rows = [{entry.name: entry.rows for entry in part.source.parts()} for part in self.parts]
        return sum(rows[task.job][task.shard] if task.rows is None else len(task.rows) for task in tasks)

    def account(self) -> Account:
        """Look through commit records, ledgers and the rows of shards that have some replies."""
        # read once for both numbers: all ledgers of a large run take a while
        known = [part.known() for part in self.parts]
        left = sum(part.rows_left(replies) for part, replies in zip(self.parts, known, strict=True))
        return Account(left, self._spent(known))

    def _spent(self, known: Sequence[dict[str, StoredReplies]]) -> float:
        paid = self.finished_usd
        for part, replies in zip(self.parts, known, strict=True):
            paid += part.job.backlog.spent_usd(part.job.spec.tariff, replies.values())
        # a call that was killed may have sent requests whose replies nobody has: its bound counts them as paid
        return max(paid, Backlog(self.home).at_most_usd())

    def cap(self) -> Cap | None:
        """The cap with what has been spent; None where there is none."""
        spec = self.parts[0].job.spec
        if not spec.limits.capped:
            return None
        assert spec.max_cost_usd is not None, "limits say so"
        # the cap is over all calls: what earlier ones have paid is counted anew from what they left, never from a number of
        # theirs
        return Cap(self.home.storage, spec.max_cost_usd, self._spent([part.known() for part in self.parts]))

    def at_the_cap(self) -> BudgetReached:
        """What to tell when the cap is reached."""
        now, rows, spec = self.account(), sum(part.source.rows for part in self.parts), self.parts[0].job.spec
        assert spec.max_cost_usd is not None, "there is a cap"
        return BudgetReached(
            f"stopped at the budget: ${now.spent_usd:.6g} of `{spec.section}.max_cost_usd` = {spec.max_cost_usd:g} are spent, "
            f"and {now.rows_left:,} of {rows:,} rows are left. What is paid for is kept: raise the cap, and the same command "
            "goes on from here",
            {
                "stopped": "budget",
                "stage": self.home.name,
                "spent_usd": now.spent_usd,
                "max_cost_usd": spec.max_cost_usd,
                "rows_left": now.rows_left,
                "rows": rows,
            },
        )
