"""The numbers that a stage gives to Ray's metrics while it runs (docs/metrics.md explains them).

Counters come from the fields of `counts.py`; the gauges are here. Workers count in plain objects and publish what was added a
few times a second, so a request costs nothing more.
"""

from ray.util.metrics import Counter, Gauge

from alpagasus_ray.inference.counts import METRICS, Counts

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
            name: Counter(name, metric.doc, tag_keys=("stage", *((metric.tag,) if metric.tag else ())))
            for name, metric in METRICS.items()
        }
        self._in_flight, self._window = (Gauge(name, doc, tag_keys=("stage",)) for name, doc in (IN_FLIGHT, WINDOW))
        self._published = Counts()

    def publish(self, totals: Counts, in_flight: int, window: float) -> None:
        """Add what is new in the worker's totals, and set the gauges."""
        news, self._published = totals.since(self._published), totals
        for metric, value, amount in news.samples():
            if amount > 0:  # a row that is set aside leaves its first status, and a counter never goes down
                tags = {metric.tag: value} if metric.tag and value is not None else {}
                self._counters[metric.name].inc(amount, tags=self._stage | tags)
        self._in_flight.set(in_flight, tags=self._stage)
        self._window.set(window, tags=self._stage)


class DriverMetrics:
    """What only the driver knows, and tells about twice a second."""

    def __init__(self, stage: str, cap_usd: float | None) -> None:
        self._stage, self._cap_usd = {"stage": stage}, cap_usd
        self._left, self._spent, self._cap = (Gauge(name, doc, tag_keys=("stage",)) for name, doc in (LEFT, SPENT, CAP))

    def publish(self, left: float, spent_usd: float | None) -> None:
        """Rows that are left, and dollars where there is a cap."""
        self._left.set(left, tags=self._stage)
        if self._cap_usd is not None and spent_usd is not None:
            self._spent.set(spent_usd, tags=self._stage)
            self._cap.set(self._cap_usd, tags=self._stage)
