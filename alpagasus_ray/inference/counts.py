"""What is counted while a stage runs, each number once: workers count, the coordinator adds up, the driver shows it.

A field that has a metric is published under its name; to add a metric is one line here (docs/metrics.md explains them, and a
panel of `cluster/grafana` shows each). Knows nothing of Ray.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, Self

from alpagasus_ray.reporting.number_text import money


class Metric(NamedTuple):
    """A counter as Prometheus knows it. Every sample carries the stage, and the tag where there is one."""

    name: str
    tag: str | None
    doc: str


class Sample(NamedTuple):
    """What a metric has grown by."""

    metric: Metric
    value: str | None
    """Of its tag."""
    amount: float


RequestEnd = Literal["answered", "rejected", "refused", "unreached", "unknown"]
TokenKind = Literal["in", "out", "cached"]


def _metric(name: str, doc: str, tag: str | None = None, value: str | None = None) -> dict[str, Any]:
    """What a field says of its metric; `value` is that of the tag, where the field is not a count by its values."""
    return {"metric": Metric(name, tag, doc), "value": value}


def _dollars(certainty: str) -> dict[str, Any]:
    doc = "US dollars: billed, or maybe (no answer, but perhaps billed)"
    return _metric("alpagasus_dollars_total", doc, "certainty", certainty)


REQUESTS = "Requests by outcome: answered, rejected, refused, unreached, unknown"
TOKENS = "Tokens of answered requests: in, out, cached (a part of in)"
MERGED = "Rows that took the reply of an equal request in flight"
WAITED = "Seconds that requests waited for room, permits or dollars"


@dataclass
class Counts:
    """Of a shard, of a worker, or of a stage. The numbers of rows are those of a shard since its worker began with it: a shard
    that is done again, because its worker died, counts anew. All others say what happened, and only grow."""

    rows: int = 0
    """Rows that are through."""
    statuses: Counter[str] = field(
        default_factory=Counter, metadata=_metric("alpagasus_rows_total", "Rows by status", "status")
    )
    without_result: Counter[str] = field(
        default_factory=Counter, metadata=_metric("alpagasus_failures_total", "Rows without a result, by reason", "reason")
    )
    without_reply: Counter[str] = field(default_factory=Counter)
    """Rows that got no reply, or one that cannot be kept, by reason; a reply that is only of no use is not among them."""
    stored: int = field(default=0, metadata=_metric("alpagasus_ledger_hits_total", "Rows whose reply was there already"))
    merged: int = field(default=0, metadata=_metric("alpagasus_merged_requests_total", MERGED))
    other_model: int = 0
    """Replies of another model than the one that was asked for."""
    requests: Counter[RequestEnd] = field(
        default_factory=Counter, metadata=_metric("alpagasus_requests_total", REQUESTS, "outcome")
    )
    tokens: Counter[TokenKind] = field(default_factory=Counter, metadata=_metric("alpagasus_tokens_total", TOKENS, "kind"))
    usd_billed: float = field(default=0.0, metadata=_dollars("billed"))
    usd_maybe_billed: float = field(default=0.0, metadata=_dollars("maybe"))
    retries: Counter[str] = field(
        default_factory=Counter,
        metadata=_metric("alpagasus_retries_total", "Attempts that will be repeated, by reason", "reason"),
    )
    outages: int = field(default=0, metadata=_metric("alpagasus_outages_total", "Times that a worker found an endpoint down"))
    waited_s: float = field(default=0.0, metadata=_metric("alpagasus_limiter_wait_seconds_total", WAITED))
    endpoints_down: int = 0
    """At this moment, over all workers."""
    error_texts: Counter[str] = field(default_factory=Counter)
    """Whole texts of failures; of each worker the first few different ones."""

    def add(self, other: "Counts", times: int = 1) -> Self:
        """Add another's numbers, or with `times` = -1 take them away; the same object."""
        for name in FIELDS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if not isinstance(mine, Counter):
                setattr(self, name, mine + times * theirs)
                continue
            for key, amount in theirs.items():
                mine[key] += times * amount
        return self

    def since(self, earlier: "Counts") -> "Counts":
        """What the numbers have grown by."""
        return Counts().add(self).add(earlier, -1)

    def copy(self) -> "Counts":
        """A copy that later changes leave alone."""
        return Counts().add(self)

    def samples(self) -> Iterator[Sample]:
        """The numbers that have a metric."""
        for entry in fields(self):
            metric, amount = entry.metadata.get("metric"), getattr(self, entry.name)
            if metric is None:
                continue
            if isinstance(amount, Counter):
                yield from (Sample(metric, value, number) for value, number in amount.items())
            else:
                yield Sample(metric, entry.metadata["value"], amount)


FIELDS = [entry.name for entry in fields(Counts)]
METRICS: dict[str, Metric] = {
    metric.name: metric for entry in fields(Counts) if (metric := entry.metadata.get("metric")) is not None
}
"""By name."""
StopRule = Callable[[Counts], str | None]
"""Looks at the counts so far and says why to stop, or None."""
SHOWN_STATUSES = ("unparsed", "refused", "truncated")
SHOWN_REASONS = 3


def errors(counts: Counts) -> Counter[str]:
    """What went wrong so far, by its text: attempts that are repeated by their reason, and whole texts of failures."""
    again = Counter({f"{reason} (tried again)": number for reason, number in counts.retries.items()})
    return again + counts.error_texts


def in_words(counts: Counts) -> list[str]:
    """What a line of progress says besides rows and rate."""
    parts = []
    if counts.usd_billed:
        parts.append(f"${money(counts.usd_billed)}")
    if counts.other_model:
        parts.append(f"{counts.other_model:,} answered by another model than the one asked for")
    if counts.endpoints_down:
        parts.append("waiting for a server that is down or asked to be left alone")
    if counts.stored:
        parts.append(f"{counts.stored:,} from the ledger")
    parts += [f"{number:,} failed: {reason}" for reason, number in counts.without_reply.most_common(SHOWN_REASONS) if number]
    return parts + [f"{counts.statuses[name]:,} {name}" for name in SHOWN_STATUSES if counts.statuses[name]]
