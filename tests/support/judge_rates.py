"""What a judge server measures and limits: requests a minute as they arrive, rate limits with headers, changing capacity.

Knows no HTTP and no clock: every call says what time it is, in seconds of a monotonic clock.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

MINUTE_S = 60.0


class Arrivals:
    """Requests and their tokens in time; the most in any window of 60 s, which ends at an arrival wherever it is largest."""

    def __init__(self) -> None:
        self._window: deque[tuple[float, int]] = deque()
        self._window_tokens = 0
        self.count = self.tokens = self.most = self.most_tokens = 0
        self.first = self.last = 0.0

    def add(self, tokens: int, now: float) -> None:
        self.first = self.first if self.count else now
        self.last = now
        self.count += 1
        self.tokens += tokens
        self._window.append((now, tokens))
        self._window_tokens += tokens
        while self._window[0][0] <= now - MINUTE_S:
            self._window_tokens -= self._window.popleft()[1]
        self.most = max(self.most, len(self._window))
        self.most_tokens = max(self.most_tokens, self._window_tokens)

    def report(self) -> dict[str, float]:
        """The rates over the whole time leave out the last request, which ends the time: n arrivals span n - 1 gaps."""
        span = self.last - self.first
        per_minute = (self.count - 1) / span * MINUTE_S if span else 0.0
        return {
            "most_per_minute": self.most,
            "most_tokens_per_minute": self.most_tokens,
            "per_minute": per_minute,
            "tokens_per_minute": per_minute * self.tokens / self.count if self.count else 0.0,
        }


class Bucket:
    """Starts full with `size`, refills steadily with `rate` a second."""

    def __init__(self, size: float, rate: float, now: float) -> None:
        self.size = size
        self.rate = rate
        self._level = size
        self._at = now

    def level(self, now: float) -> float:
        self._level = min(self.size, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until the amount can be taken, 0 if it can be now; what is larger than the bucket takes a full one."""
        return max(0.0, (min(amount, self.size) - self.level(now)) / self.rate)

    def take(self, amount: float) -> None:
        self._level -= min(amount, self.size)


class Limits:
    """Requests and tokens a minute, as a provider states them in the headers of its replies."""

    def __init__(self, spec: str, now: float) -> None:
        """`spec`: `600,90000`, or `600` or `,90000` for one of the two."""
        named = zip(("requests", "tokens"), spec.split(","), strict=False)
        self._buckets = {name: Bucket(int(limit), int(limit) / MINUTE_S, now) for name, limit in named if limit}

    def take(self, tokens: int, now: float) -> tuple[str, float] | None:
        """None if the request is within the limits; else which one it is beyond, and for how many seconds."""
        costs = {"requests": 1, "tokens": tokens}
        for name, bucket in self._buckets.items():
            if wait_s := bucket.wait_s(costs[name], now):
                return name, wait_s
        for name, bucket in self._buckets.items():
            bucket.take(costs[name])
        return None

    def headers(self, now: float) -> dict[str, str]:
        stated = {}
        for name, bucket in self._buckets.items():
            stated[f"x-ratelimit-limit-{name}"] = f"{bucket.size:.0f}"
            stated[f"x-ratelimit-remaining-{name}"] = f"{math.floor(bucket.level(now))}"
            stated[f"x-ratelimit-reset-{name}"] = duration(bucket.wait_s(bucket.size, now))
        return stated


def duration(seconds: float) -> str:
    """Seconds as OpenAI's reset headers have them: `0s`, `12ms`, `1s`, `8.64s`, `6m0s`, `1h0m0s`; rounded up to a
    millisecond, so that whoever waits as long does not come too early."""
    ms = math.ceil(round(seconds * 1000, 6))
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    written = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{written}"
    return f"{minutes}m{written}" if minutes else written


@dataclass
class Phase:
    """For a time, so many requests in flight or so many a second; without both, any number."""

    until_s: float = math.inf
    in_flight: int | None = None
    per_second: float | None = None
    from_s: float = field(default=0.0, init=False)
    refused: int = field(default=0, init=False)
    _answered: Counter[int] = field(default_factory=Counter, init=False)
    _bucket: Bucket | None = field(default=None, init=False)

    def wait_s(self, in_flight: int, seconds: float) -> float | None:
        """None if one more request is let in; else how long to wait, 0 where nobody knows."""
        if self.in_flight is not None and in_flight >= self.in_flight:
            self.refused += 1
            return 0.0
        if self.per_second is None:
            return None
        self._bucket = self._bucket or Bucket(max(1.0, self.per_second), self.per_second, seconds)
        if wait_s := self._bucket.wait_s(1, seconds):
            self.refused += 1
            return wait_s
        self._bucket.take(1)
        return None

    def note_answer(self, seconds: float) -> None:
        self._answered[int(seconds - self.from_s)] += 1

    def report(self, last_s: float) -> dict[str, Any]:
        """What was let through until `last_s`, when the server last did anything."""
        seconds = max(0.0, min(self.until_s, last_s) - self.from_s)
        answered = sum(self._answered.values())
        return {
            "in_flight": self.in_flight,
            "limit_per_second": self.per_second,
            "from_s": self.from_s,
            "seconds": seconds,
            "answered": answered,
            "refused": self.refused,
            "per_second": answered / seconds if seconds else 0.0,
            "by_second": [self._answered[n] for n in range(max(self._answered, default=-1) + 1)],
        }


class Capacity:
    """Phases one after the other, counted from the first request after they were set; the last one does not end."""

    def __init__(self, phases: list[dict[str, Any]]) -> None:
        self._phases = [Phase(**given) for given in phases] or [Phase()]
        self._phases[-1].until_s = math.inf
        for earlier, later in zip(self._phases, self._phases[1:], strict=False):
            later.from_s = earlier.until_s
        self._began: float | None = None
        self._last_s = 0.0

    def wait_s(self, in_flight: int, now: float) -> float | None:
        """As `Phase.wait_s`, in the phase of this time."""
        return self._phase(now).wait_s(in_flight, self._last_s)

    def note_answer(self, now: float) -> None:
        self._phase(now).note_answer(self._last_s)

    def report(self) -> list[dict[str, Any]]:
        return [phase.report(self._last_s) for phase in self._phases]

    def _phase(self, now: float) -> Phase:
        self._began = now if self._began is None else self._began
        self._last_s = now - self._began
        return next(phase for phase in self._phases if self._last_s < phase.until_s)
