"""One endpoint as one worker knows it: its engine, the number in flight, whether it is down or paused, permits at hand.

Knows nothing of the queue before it (`dispatcher.py`).
"""

import math
from typing import NamedTuple

from alpagasus_ray.engines.base import Engine, Rate, Reply
from alpagasus_ray.engines.prices import Need
from alpagasus_ray.inference.limits import CircuitBreaker, ConcurrencyWindow, TokenBucket

NEARLY_NONE = 1e-9
SEVERAL = 3
"""So many of something in a row, with nothing answered in between, are no accident."""
LONGEST_WISH_S = 60.0
AHEAD_S = 0.5
"""What is fetched ahead lasts about so long; permits that lie about longer are dropped, so that they make no burst."""
FIRST_ANSWER_S = 60.0
"""How long to try a server that has never answered in this call: its address may be wrong."""


def patience_s(max_outage_s: float, *, ever_answered: bool) -> float:
    """Seconds without an answer after which there is no more hope of a server."""
    return max_outage_s if ever_answered else min(FIRST_ANSWER_S, max_outage_s)


class RequestLimits(NamedTuple):
    """The conditions under which a worker sends requests."""

    concurrency: int
    rates: tuple[Rate, ...]
    """Of each endpoint, for the whole cluster."""
    workers: int
    """How many share the rates."""
    capped: bool
    """Whether dollars have to be borrowed before a request leaves."""
    adaptive: bool
    """Whether the number in flight starts low and adapts; engines in the worker itself take all at once."""
    max_outage_s: float


class Prefetch:
    """Units at hand of something that the coordinator hands out, and how fast they go."""

    def __init__(self) -> None:
        self.at_hand = 0.0
        self._used = self._filled_to = 0.0
        self._asked = self._filled = -math.inf
        self._plenty = False

    def use(self, units: float) -> None:
        self.at_hand -= units
        self._used += units

    @property
    def low(self) -> bool:
        """Whether it is time to fetch more, so that nobody has to wait for it."""
        return self._plenty and self.at_hand < self._filled_to / 2

    def order(self, needed: float, now: float) -> float:
        """How much to ask for: what is needed at once, and as long as there is plenty, what `AHEAD_S` seconds will use; less
        what is at hand."""
        span = now - self._asked
        ahead = self._used / span * min(AHEAD_S, 2 * span) if self._plenty and 0 < span < math.inf else 0.0
        self._asked, self._used = now, 0.0
        return max(0.0, max(needed, ahead) - self.at_hand)

    def fill(self, units: float, ordered: float, now: float) -> None:
        self.at_hand += units
        self._filled_to = self.at_hand
        self._plenty = units >= ordered
        self._filled = now

    def drop_old(self, now: float) -> None:
        if now - self._filled > AHEAD_S:
            self.drop()

    def drop(self) -> None:
        self.at_hand = min(self.at_hand, 0.0)


class Endpoint:
    """One endpoint as this worker knows it."""

    def __init__(self, number: int, engine: Engine, limits: RequestLimits) -> None:
        self.number, self.engine = number, engine
        self.window = ConcurrencyWindow(limits.concurrency, 0.0 if limits.adaptive else float(limits.concurrency))
        self.breaker = CircuitBreaker()
        self.paused_until = -math.inf
        self.told_until = -math.inf
        """Up to when the other workers know of the pause."""
        self.answered_at = -math.inf
        """When the server last answered a request."""
        self.suspects: set[str] = set()
        """Rows that have failed again since then."""
        self.trouble = ""
        """What was wrong the last time."""
        self.closed: str | None = None
        """Why nothing more is sent here, once that is certain."""
        self.refused_all, self.long_wishes = 0, 0
        """Since the last answer: replies that every request would get (a wrong key), and wishes for too long a pause."""
        self.given = limits.rates[number] if limits.rates else Rate()
        self.requests, self.tokens = Prefetch(), Prefetch()
        self.asking = False
        self.on_its_own = False
        """Whether the coordinator is away, so that the worker keeps to its share of the rates."""
        self._workers = limits.workers
        self.own_share: list[TokenBucket | None] = [None, None]

    @property
    def rate(self) -> Rate:
        """The limits of the recipe, or what the server states where that is less."""
        return self.given.lower(self.engine.stated)

    def rely_on_itself(self, now: float) -> None:
        """The coordinator is away: from now on, and not from the start, this worker's share comes in."""
        self.on_its_own = True
        # whole requests, rounded down: many workers that each round up a little would pass a small limit together
        shares = [limit // self._workers if limit else None for limit in self.rate]
        self.own_share = [
            TokenBucket(max(share, NEARLY_NONE), now, whole=kind == 0) if share is not None else None
            for kind, share in enumerate(shares)
        ]

    def has_answered(self, now: float) -> None:
        """The server has dealt with a request, whatever came of it."""
        self.breaker.answered()
        self.answered_at = now
        self.suspects.clear()
        self.refused_all = self.long_wishes = 0

    def pause(self, until: float) -> None:
        """Leave the server alone; permits at hand would be a burst on top of those of that minute."""
        if until > self.paused_until:
            self.paused_until = until
            self.requests.drop()
            self.tokens.drop()

    def ready(self, now: float) -> bool:
        return self.closed is None and self.window.room and now >= self.paused_until and self.breaker.lets_through(now)

    def permits(self, need: Need) -> bool:
        requests, tokens = self.rate
        return (requests is None or self.requests.at_hand >= 1) and (tokens is None or self.tokens.at_hand >= need.tokens)

    def start(self, need: Need, now: float) -> None:
        """Count a request that goes here."""
        requests, tokens = self.rate
        self.window.in_flight += 1
        self.breaker.sent(now)
        if requests is not None:
            self.requests.use(1)
        if tokens is not None:
            self.tokens.use(need.tokens)

    @property
    def low(self) -> bool:
        """Whether permits are about to run out that are not scarce."""
        requests, tokens = self.rate
        return (requests is not None and self.requests.low) or (tokens is not None and self.tokens.low)

    def settle_tokens(self, need: Need, reply: Reply, now: float) -> None:
        """Put back the tokens that were reserved and not used."""
        if self.rate.tokens is not None and reply.tokens_in is not None and reply.tokens_out is not None:
            left = need.tokens - reply.tokens_in - reply.tokens_out
            self.tokens.at_hand += left if now >= self.paused_until else min(left, 0)

    def patience_with(self, wish_s: float, longest_s: float) -> float:
        """Seconds to leave the server alone that wishes so many: a single wish beyond all measure among answers is no reason to
        wait for hours."""
        self.long_wishes = self.long_wishes + 1 if wish_s > longest_s else 0
        return min(wish_s, LONGEST_WISH_S) if 0 < self.long_wishes < SEVERAL else wish_s

    def wait(self, now: float) -> float:
        """Seconds until a pause or the time before the next probe is over."""
        return max(self.paused_until - now, self.breaker.wait(now), 0.0)
