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

from alpagasus_ray.engines.base import Reply
from alpagasus_ray.store.lease import epoch_of_file
from alpagasus_ray.store.storage import Storage

FLUSH_S = 1.0
log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of one request: a reply, or the reason why there is none."""

    reply: Reply | None
    error: str | None
    attempts: int
    latency_s: float | None
    """Seconds that the attempt which was answered took."""
    maybe_billed_twice: int = 0
    """Attempts that have no answer and may have been billed all the same."""

    def shared(self) -> "Outcome":
        """The same outcome for another row with the same request: it was asked and paid once."""
        reply = self.reply
        if reply is not None:
            cost = None if reply.cost_usd is None else 0.0
            reply = reply._replace(tokens_in=0, tokens_out=0, tokens_cached=0, cost_usd=cost)
        return Outcome(reply, self.error, 0, None)

    def after(self, earlier: "Outcome") -> "Outcome":
        """The same outcome with the attempts that earlier calls have made in vain."""
        attempts, maybe = self.attempts + earlier.attempts, self.maybe_billed_twice + earlier.maybe_billed_twice
        return self._replace(attempts=attempts, maybe_billed_twice=maybe)


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
                    outcomes.append((entry["key"], _outcome(entry)))
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
        entry = {"key": key, "row_id": row_id, **(outcome.reply._asdict() if outcome.reply else {})}
        self._pending.append(orjson.dumps(entry | {field: getattr(outcome, field) for field in _OF_OUTCOME}))

    def flush(self) -> None:
        """Write what came in since the last call as one segment. What could not be written (`OSError`) is kept for the next."""
        with self._writing:
            pending = self._pending[:]
            if pending:
                self._storage.write(f"{self._writer}-{self._segments:05d}.jsonl", b"\n".join(pending) + b"\n")
                self._segments += 1
                del self._pending[: len(pending)]

    def delete(self) -> None:
        """Remove the ledger of the shard, but for what the driver of a later epoch has written there."""
        with self._writing:
            self._pending.clear()
            names = self._storage.names() if self._epoch else []
            if not any(epoch_of_file(name) > self._epoch for name in names):
                self._storage.delete_tree()
                return
            for name in names:
                if epoch_of_file(name) <= self._epoch:
                    self._storage.delete(name)


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
    wanted = ("request_hash", "status", "reply", "raw", "error", "logprobs", *_COLUMNS)
    columns = [name for name in wanted if name in output.column_names]
    rows: Iterable[Mapping[str, Any]] = output.select(columns).to_pylist()
    return StoredReplies.of(
        (row["request_hash"], _outcome(row if row["status"] in again else {**row, **_as_reply(row)})) for row in rows
    )


def _as_reply(row: Mapping[str, Any]) -> dict[str, Any]:
    text = row["reply"] if row.get("raw") is None else row["raw"]
    if text is None:
        return {}
    logprobs = orjson.loads(row["logprobs"]) if row.get("logprobs") else None
    return {"text": text, "finish_reason": row["finish_reason"] or "stop", "logprobs": logprobs}


_OF_OUTCOME = ["attempts", "latency_s", "maybe_billed_twice"]
_OF_REPLY = ["finish_reason", "tokens_in", "tokens_out", "tokens_cached", "cost_usd", "reasoning", "max_tokens"]
_OF_REPLY += ["model", "fingerprint"]
_COLUMNS = [*_OF_REPLY, *_OF_OUTCOME]


def _outcome(entry: Mapping[str, Any]) -> Outcome:
    # ledgers of earlier versions know fewer fields
    reply = Reply(**{field: entry[field] for field in Reply._fields if field in entry}) if "text" in entry else None
    return Outcome(reply, entry.get("error") if reply is None else None, **{field: entry[field] for field in _OF_OUTCOME})
