"""The endpoints as one worker knows them: engine, the number in flight, whether one is down or paused, permits at hand.

Knows nothing of the queue before them (`dispatcher.py`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from alpagasus_ray.engines.base import NO_RATE, Engine, Rate, Reply
from alpagasus_ray.engines.prices import Need
from alpagasus_ray.errors import EngineUnusable
from alpagasus_ray.inference.limits import CircuitBreaker, ConcurrencyWindow, TokenBucket

NEARLY_NONE = 1e-9
SEVERAL = 3
"""So many of something in a row, with nothing answered in between, are no accident."""
MAY_PASS = ("http 400", "http 401", "http 404")
"""Categories of what every request would get, unless one reply among many is wrong. No money is never an accident."""
LONGEST_WISH_S = 60.0
"""The longest pause that a server gets for a single wish that is beyond all measure."""
JITTER = 0.1
"""Share by which a pause that a server asks for is stretched at most: not all workers must be back at once."""
A_MOMENT_S = 0.1
"""Shorter pauses are not worth a word."""
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
    """Whether dollars have to be reserved before a request leaves."""
    adaptive: bool
    """Whether the number in flight starts low and adapts; engines in the worker itself take all at once."""
    max_outage_s: float


class Prefetch:
    """Units at hand of something that the coordinator hands out, and how fast they are used. As long as there is plenty, what
    the next half second will use is fetched ahead; where it is scarce, only what is needed at once, and others get theirs."""

    def __init__(self) -> None:
        self.at_hand = 0.0
        self._used = self._filled_to = 0.0
        self._ordered = self._filled = -math.inf
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
        span = now - self._ordered
        # the speed since the last order, for half a second; a span shorter than that is extrapolated to twice its length only,
        # for a burst of a moment is no speed
        ahead = self._used / span * min(AHEAD_S, 2 * span) if self._plenty and 0 < span < math.inf else 0.0
        self._ordered, self._used = now, 0.0
        return max(0.0, max(needed, ahead) - self.at_hand)

    def fill(self, units: float, ordered: float, now: float) -> None:
        self.at_hand += units
        self._filled_to = self.at_hand
        # getting less than was asked for is the one sign of scarcity that a worker sees
        self._plenty = units >= ordered
        self._filled = now

    def drop_old(self, now: float) -> None:
        if now - self._filled > AHEAD_S:
            self.drop()

    def drop(self) -> None:
        # what is owed stays: tokens that a reply took beyond its reservation have been used
        self.at_hand = min(self.at_hand, 0.0)


class Endpoint:
    """One endpoint as this worker knows it."""

    def __init__(self, number: int, engine: Engine, limits: RequestLimits) -> None:
        self.number, self.engine = number, engine
        # an engine in the job batches what it is given: it starts at its full number, as nobody else's server can be hurt
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
        self.is_fetching = False
        """Whether permits are on their way."""
        self.on_its_own = False
        """Whether the coordinator is away, so that the worker keeps to its share of the rates."""
        self._workers = limits.workers
        self.own_share: list[TokenBucket | None] = [None, None]

    @property
    def rate(self) -> Rate:
        """The limits of the recipe, or what the server states where that is less."""
        stated = self.engine.stated
        return self.given if stated == NO_RATE else self.given.lower(stated)

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

    def refuses_all(self, error: EngineUnusable) -> None:
        """The server says that no request could succeed: one such reply among answers may be a mistake, several in a row close
        the endpoint."""
        self.refused_all += 1
        self.trouble = str(error)
        # before the first answer there is nothing that speaks for the key, the address and the model's name
        has_answered = self.answered_at > -math.inf
        if not (has_answered and error.category in MAY_PASS and self.refused_all < SEVERAL):
            self.closed = self.closed or str(error)

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
        # permits are used also by a request that fails: the server has counted it
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
            # reserved was the longest reply there may be; most are far shorter, and half of a limit in tokens would be unused
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


class EndpointPool:
    """All endpoints of a worker."""

    def __init__(self, engines: Sequence[Engine], limits: RequestLimits, now: Callable[[], float]) -> None:
        self._now, self._limits = now, limits
        self._endpoints = [Endpoint(number, engine, limits) for number, engine in enumerate(engines)]

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(endpoint.window.in_flight for endpoint in self)

    @property
    def room(self) -> int:
        """Requests that may be in flight."""
        return sum(int(endpoint.window.size) for endpoint in self)

    @property
    def down(self) -> int:
        """Endpoints whose server is down or has to be left alone for more than a moment."""
        now = self._now()
        return sum(
            endpoint.closed is not None or endpoint.breaker.is_open or endpoint.paused_until - now > A_MOMENT_S
            for endpoint in self
        )

    @property
    def all_down(self) -> bool:
        """Whether there is no server that works."""
        return all(endpoint.closed is not None or endpoint.breaker.is_open for endpoint in self)

    def least_loaded(self, need: Need) -> Endpoint | None:
        """The one with most room that can take the request now; None where none can."""
        now = self._now()
        fit = [endpoint for endpoint in self if endpoint.ready(now) and endpoint.permits(need)]
        # by share of the room and not by number: a slow endpoint with a small window gets little, and still its share
        return min(fit, key=lambda endpoint: endpoint.window.in_flight / endpoint.window.size, default=None)

    def wait_s(self) -> float | None:
        """Seconds until the first of those with room is past its pause, or its next probe is due; None where none has one."""
        now = self._now()
        waits = [e.wait(now) for e in self if e.window.room and e.closed is None and not e.ready(now)]
        return min(waits, default=None)

    def why_closed(self) -> str | None:
        """Why nothing more can be sent, once every endpoint is closed for good."""
        if any(endpoint.closed is None for endpoint in self):
            return None
        return "; ".join(f"{endpoint.engine.address}: {endpoint.closed}" for endpoint in self)

    def why_hopeless(self, *, ever_answered: bool) -> str | None:
        """Why there is no more hope of any endpoint, or None."""
        reasons = [self._why_hopeless(endpoint, ever_answered) for endpoint in self]
        # one endpoint with hope is enough to go on
        return None if None in reasons else "; ".join(filter(None, reasons))

    def _why_hopeless(self, endpoint: Endpoint, ever_answered: bool) -> str | None:
        now, longest_s, address = self._now(), self._limits.max_outage_s, endpoint.engine.address
        if endpoint.closed is not None:
            return f"{address}: {endpoint.closed}"
        down_s = now - endpoint.breaker.down_since if endpoint.breaker.down_since is not None else 0.0
        if down_s > patience_s(longest_s, ever_answered=ever_answered):
            return f"{address} has not answered for {down_s:.0f} s ({endpoint.trouble})"
        pause_s = endpoint.paused_until - now
        if pause_s > longest_s * (1 + JITTER):
            return f"{address} wants to be left alone for {pause_s:.0f} s (Retry-After)"
        return None

    # pauses that servers ask for, which hold for all workers

    def unreported_pauses(self) -> dict[int, float]:
        """Seconds for which endpoints still have to be left alone, of pauses that the other workers do not know of."""
        now = self._now()
        return {e.number: e.paused_until - now for e in self if e.paused_until > max(now, e.told_until)}

    def reported(self, pauses: dict[int, float]) -> None:
        """The other workers will learn of these."""
        for number, seconds in pauses.items():
            endpoint = self._endpoints[number]
            endpoint.told_until = max(endpoint.told_until, min(endpoint.paused_until, self._now() + seconds))

    def pause(self, pauses: dict[int, float]) -> None:
        """Take over what other workers were told."""
        now = self._now()
        for number, seconds in pauses.items():
            endpoint = self._endpoints[number]
            if now + seconds > endpoint.paused_until:
                endpoint.pause(now + seconds)
                endpoint.told_until = endpoint.paused_until
