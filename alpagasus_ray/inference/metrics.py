"""The numbers that a stage gives to Ray's metrics while it runs; all their names are here (docs/metrics.md explains them).

Workers count in plain dictionaries and publish what was added a few times a second, so a request costs nothing more.
"""

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

COUNTERS: dict[str, tuple[str, str | None, str]] = {
    "requests": ("alpagasus_requests_total", "outcome", "Requests by outcome: answered, rejected, refused, unreached, unknown"),
    "tokens": ("alpagasus_tokens_total", "kind", "Tokens of answered requests: in, out, cached (a part of in)"),
    "usd": ("alpagasus_dollars_total", "certainty", "US dollars: billed, or maybe (no answer, but perhaps billed)"),
    "retries": ("alpagasus_retries_total", "reason", "Attempts that will be repeated, by reason"),
    "outages": ("alpagasus_outages_total", None, "Times that a worker found an endpoint down"),
    "ledger": ("alpagasus_ledger_hits_total", None, "Rows whose reply was there already"),
    "merged": ("alpagasus_merged_requests_total", None, "Rows that took the reply of an equal request in flight"),
    "waited": ("alpagasus_limiter_wait_seconds_total", None, "Seconds that requests waited for room, permits or dollars"),
    "status": ("alpagasus_rows_total", "status", "Rows by status"),
    "failures": ("alpagasus_failures_total", "reason", "Rows without a result, by reason"),
}
"""First word of a count -> name of the metric, its tag, what it says."""
IN_FLIGHT = ("alpagasus_in_flight", "Requests under way")
WINDOW = ("alpagasus_concurrency", "Requests that may be under way, as the worker has found out")
LEFT = ("alpagasus_rows_left", "Rows of the present call that are still to be done")
SPENT = ("alpagasus_spent_dollars", "US dollars of the cap that are spent, over all calls")
CAP = ("alpagasus_cap_dollars", "US dollars that the stage may cost")


class Metrics:
    """The metrics of one worker; every sample carries the stage."""

    def __init__(self, stage: str) -> None:
        self._stage = {"stage": stage}
        self._counters = {
            word: Counter(name, doc, tag_keys=("stage", *((tag,) if tag else ())))
            for word, (name, tag, doc) in COUNTERS.items()
        }
        self._in_flight, self._window = (Gauge(name, doc, tag_keys=("stage",)) for name, doc in (IN_FLIGHT, WINDOW))

    def publish(self, news: Mapping[str, float], in_flight: int, window: float) -> None:
        """Add what is new (`<word> <tag value>` -> amount) and set the gauges."""
        for key, amount in news.items():
            word, _, value = key.partition(" ")
            if word in COUNTERS and amount > 0:
                tag = COUNTERS[word][1]
                tags: dict[str, Any] = self._stage | ({tag: value} if tag else {})
                self._counters[word].inc(amount, tags=tags)
        self._in_flight.set(in_flight, tags=self._stage)
        self._window.set(window, tags=self._stage)


class DriverMetrics:
    """What only the driver knows, and tells about twice a second."""

    def __init__(self, stage: str, cap_usd: float | None) -> None:
        self._stage, self._cap_usd = {"stage": stage}, cap_usd
        self._left, self._spent, self._cap = (Gauge(name, doc, tag_keys=("stage",)) for name, doc in (LEFT, SPENT, CAP))

    def publish(self, left: float, spent_usd: float | None) -> None:
        self._left.set(left, tags=self._stage)
        if self._cap_usd is not None and spent_usd is not None:
            self._spent.set(spent_usd, tags=self._stage)
            self._cap.set(self._cap_usd, tags=self._stage)
