"""The ledger of one shard: every reply received from an engine, on storage within `FLUSH_S` seconds of its arrival, and every
attempt that may have been billed without one. Where requests cost money, these are written down before they are sent, as
attempts without an answer, and corrected by what becomes of them: so whatever ends the processes, each is counted.

It is a directory of segments, each a file of JSON lines that is written whole or not at all, so that it works the same on
a disk and on an object store, and a crash cannot tear it. A reply in it is never asked for again. When the shard is
committed its output holds every reply, and the ledger is deleted. Not safe for two writers of one shard (the run's lock
and Ray Data's one task for each shard see to that).
"""

import logging
import threading
import time
import uuid
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from alpagasus_ray.store.lease import Lease, epoch_of_file
from alpagasus_ray.store.reply import COLUMNS, OF_OUTCOME, Reply, stored_reply
from alpagasus_ray.store.reply import Outcome as Outcome  # noqa: PLC0414 - what a ledger holds
from alpagasus_ray.store.run import LEDGER, StageDir
from alpagasus_ray.store.storage import Storage

FLUSH_S = 1.0
log = logging.getLogger(__name__)


NO_ATTEMPTS = Outcome(None, None, 0, None)


class StoredReplies(NamedTuple):
    """What earlier calls left of a shard, by request key."""

    replies: dict[str, Outcome]
    unanswered: dict[str, Outcome]
    """Of requests without a reply: the attempts there were, and the error where a call has given them up."""

    @classmethod
    def of(cls, outcomes: Iterable[tuple[str, Outcome]]) -> "StoredReplies":
        """Sort outcomes; of several for a key the one that tells most is kept."""
        stored = cls({}, {})
        for key, outcome in outcomes:
            kind = stored.unanswered if outcome.reply is None else stored.replies
            # rows may share a reply, and then one of them tells what it cost; what is unanswered is told again as it grows
            if key not in kind or outcome.attempts > kind[key].attempts:
                kind[key] = outcome._replace(error=outcome.error or (kind[key].error if key in kind else None))
        for key in stored.replies:
            stored.unanswered.pop(key, None)  # its attempts are counted in the reply's
        return stored

    def outcomes(self) -> Iterable[tuple[str, Outcome]]:
        """All of it."""
        return (*self.replies.items(), *self.unanswered.items())


class Ledger:
    """Collects what became of one shard's requests and writes it in segments."""

    def __init__(self, storage: Storage, epoch: str = "") -> None:
        """`epoch` is that of the run's lock; segments tell in whose they were written."""
        self._storage = storage
        # segments are read in the order of their names: those of an epoch come after older ones, which begin with the time
        self._writer = "-".join(filter(None, (epoch and f"e{epoch}", f"{time.time_ns():020d}", uuid.uuid4().hex[:6])))
        self._epoch = epoch
        self._segments = 0
        self._pending: list[bytes] = []
        self._has_replies = False
        self._unanswered: dict[str, Outcome] = {}
        """What was added last of requests without a reply."""
        # the flush on a timer and the last one of a shard run in different threads
        self._writing = threading.Lock()

    def load(self) -> StoredReplies:
        """All that earlier writers left."""
        outcomes: list[tuple[str, Outcome]] = []
        for name in self._storage.names():
            for line in self._storage.read(name).splitlines():
                try:
                    entry = orjson.loads(line)
                    outcomes.append((entry["key"], _outcome(entry, _reply(entry))))
                except (orjson.JSONDecodeError, KeyError, TypeError):
                    # segments are written whole; should a disk lose a part of one all the same, what it held is asked again
                    log.warning("%s: a line cannot be read, its row is asked again", self._storage.path(name))
        return StoredReplies.of(_latest(outcomes))

    @property
    def is_blank(self) -> bool:
        """Whether nothing that this writer has added is worth keeping: no reply, and no attempt that may have been billed."""
        return not self._has_replies and not any(outcome.maybe_billed_twice for outcome in self._unanswered.values())

    def add(self, key: str, row_id: str, outcome: Outcome) -> None:
        """Take a reply, or attempts without one, which replace what was added of them before; it is on storage after the next
        `flush`."""
        if outcome.reply is None:
            self._unanswered[key] = outcome
        else:
            self._has_replies = True
        # as bytes at once, on the thread that has them anyway: a flush only joins lines
        entry = {"key": key, "row_id": row_id, **(outcome.reply._asdict() if outcome.reply else {})}
        self._pending.append(orjson.dumps(entry | {field: getattr(outcome, field) for field in OF_OUTCOME}))

    def flush(self) -> None:
        """Write what came in since the last call as one segment. What could not be written (`OSError`) is kept for the next."""
        with self._writing:
            # a copy: replies that come in while it is written are of the next segment
            pending = self._pending[:]
            if pending:
                self._storage.write(f"{self._writer}-{self._segments:05d}.jsonl", b"\n".join(pending) + b"\n")
                self._segments += 1
                # only once it is on storage; a write that failed has lost nothing
                del self._pending[: len(pending)]

    def delete(self) -> None:
        """Remove the ledger of the shard, but for what the driver of a later epoch has written there."""
        with self._writing:
            self._pending.clear()
            names = self._storage.names() if self._epoch else []
            # a later driver has taken the run over and may be at work on this very shard; what it wrote is not this one's to
            # delete
            if not any(epoch_of_file(name) > self._epoch for name in names):
                self._storage.delete_tree()
                return
            for name in names:
                if epoch_of_file(name) <= self._epoch:
                    self._storage.delete(name)


def ledger_of(home: StageDir, shard: str) -> Ledger:
    """The ledger of one shard of a stage. A reply is kept whoever received it, also by a worker of a driver that has lost the
    run."""
    guard = home.storage.guard
    epoch = guard.epoch if isinstance(guard, Lease) else ""
    return Ledger(home.storage.unguarded().at(LEDGER, shard.removesuffix(".parquet")), epoch)


def _latest(outcomes: Iterable[tuple[str, Outcome]]) -> Iterable[tuple[str, Outcome]]:
    """Of lines in the order in which they were written: all replies, and what was said last of a request without one."""
    replies: list[tuple[str, Outcome]] = []
    last: dict[str, Outcome] = {}
    for key, outcome in outcomes:
        if outcome.reply is not None:
            replies.append((key, outcome))
        else:
            last[key] = outcome._replace(error=outcome.error or (last[key].error if key in last else None))
    return (*replies, *last.items())


def stored_in_output(output: pa.Table, again: Container[str] = ()) -> StoredReplies:
    """What a committed output shard holds; the replies of rows with a status of `again` count as attempts in vain."""
    wanted = ("request_hash", "status", "reply", "raw", "error", "logprobs", *COLUMNS)
    rows = output.select([name for name in wanted if name in output.column_names]).to_pylist()
    return StoredReplies.of(
        (row["request_hash"], _outcome(row, None if row["status"] in again else stored_reply(row))) for row in rows
    )


def _outcome(entry: Mapping[str, Any], reply: Reply | None) -> Outcome:
    error = entry.get("error") if reply is None else None
    return Outcome(reply, error, **{field: entry[field] for field in OF_OUTCOME})


def _reply(entry: Mapping[str, Any]) -> Reply | None:
    # ledgers of earlier versions know fewer fields
    return Reply(**{field: entry[field] for field in Reply._fields if field in entry}) if "text" in entry else None
