"""One shard as its worker has it in hand: the rows, what is known of each, what has become of them so far.

Knows files and the ledger; nothing of how rows are asked (`worker.py`).
"""

from collections import Counter
from typing import Any

from alpagasus_ray.engines.base import Request
from alpagasus_ray.inference import shards
from alpagasus_ray.inference.ledger import NOT_ASKED, Known, Outcome
from alpagasus_ray.inference.spec import Job, Task


class Shard:
    """One shard in work."""

    @classmethod
    def open(cls, job: Job, task: Task) -> "Shard":
        """Read the shard, and what earlier calls have left of it."""
        rows = shards.rows_of(task.read(job.source))
        return cls(job, task.shard, rows, job.backlog.known(task.shard))

    def __init__(self, job: Job, file: str, rows: list[dict[str, Any]], known: Known) -> None:
        self.job, self.file, self.rows, self.ledger = job, file, rows, job.ledger(file)
        self.name = f"{job.home.name}/{file}"
        self.known, self.unanswered = known
        self._is_new = not (known.replies or known.unanswered)
        self.ahead: dict[str, Outcome] = {}
        """By key: requests that the ledger tells as sent and that were not sent yet, with what there was of them before."""
        self.asked: set[str] = set()
        """Keys of requests that were sent for this shard."""
        self.failed: dict[str, Outcome] = {}
        self.results: list[dict[str, Any] | None] = [None] * len(rows)
        self.counts: Counter[str] = Counter()
        self.taken: set[str] = set()
        """Keys of known outcomes that a row has taken; a second row with the same request shares it."""
        self.marked: set[int] = set()
        """Places that the board knows to be under way."""
        self.done: list[int] = []
        """Places that were finished since the last mark."""
        self.victims: set[int] = set()
        """Places that an engine died over."""

    def id_of(self, place: int) -> str:
        """The row's id, for people who look into a ledger; it stands in the first column of whatever is asked about."""
        return str(next(iter(self.rows[place].values())))

    @property
    def is_blank(self) -> bool:
        """Whether neither this call nor an earlier one has left anything of it that is worth keeping."""
        return self._is_new and self.ledger.is_blank

    def waiting(self, request: Request) -> Outcome:
        """What earlier calls have asked in vain, as `earlier`; it can still be taken."""
        return self.unanswered.get(request.key, NOT_ASKED)

    def earlier(self, request: Request) -> Outcome:
        """What earlier calls have asked in vain; the first of several equal rows has it."""
        return self.unanswered.pop(request.key, NOT_ASKED)
