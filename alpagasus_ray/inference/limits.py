"""What keeps requests within what a server can take: a strict rate a minute, a number in flight that adapts, a breaker.

Four small machines. Time is given to them in seconds, so they know no clock, no Ray and no requests.
"""

import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field

ROUNDING = 1e-9
MARGIN = 0.02
"""Share of a limit that is left unused: what a server counts in its minute is not quite what was sent in ours."""
TAKE_EVERY_S = 0.25
"""A bucket is taken from about so often."""
BURST = 0.005
"""Share of a limit that may leave at one moment."""
FIRST = 8
"""Requests in flight at the start."""
CUT = 0.9
"""What is left of the number in flight after the server pushed back."""
BURST_S = 1.0
"""Single refusals within so long after a cut belong to the same burst,"""
INSISTS = 3
"""but so many mean that the cut was too small."""
REGROWTH = 4.0
"""Requests a cubic second: how fast the number in flight comes back (the constant C of RFC 9438, section 4; 0.4 there, for
paths where a loss costs more than the refusal of one request)."""
STREAK = 10
"""Failures in a row, with nothing answered in between, that open the breaker."""
STREAK_ROWS = 5
"""Different rows that must be among them: a few rows that a server cannot take are no outage."""
FIRST_PROBE_S, LONGEST_PROBE_S = 1.0, 30.0
DOZEN = 12
"""So many equal refusals, and nothing else so far: every row would get this one."""
NUMBER = re.compile(r"\d+")


class TokenBucket:
    """So many units a minute: in no window of 60 s are more handed out, whenever it starts.

    It starts empty, so that a restarted holder of the limit hands out nothing twice. `whole` units are not handed out in
    parts, which many could collect and use at one moment.
    """

    def __init__(self, per_minute: float, now: float, *, whole: bool = True) -> None:
        # a full bucket at the start would be a second minute's worth for whoever is restarted within that minute
        self._whole, self._level, self._at = whole, 0.0, now
        self.set(per_minute)

    def set(self, per_minute: float) -> None:
        """Change the limit; what was handed out counts on."""
        self.per_minute = per_minute
        # 2.5 a minute would have minutes of three, one that was saved and two that come in; rounded down it has none
        if self._whole and per_minute > 1:
            per_minute = math.floor(per_minute)
        self._rate = per_minute * (1 - MARGIN) / 60
        # what comes in between two asks must not run over, or a small limit would be missed by far
        self._burst = max(1.0, per_minute * BURST) + self._rate * TAKE_EVERY_S

    def take(self, wanted: float, now: float) -> float:
        """Units there are now, at most `wanted`."""
        self._fill(now)
        # a part of what is wanted is taken too: many that wait for all of theirs would leave the limit unused
        taken = max(0.0, min(wanted, self._level))
        if self._whole:
            taken = float(math.floor(taken + ROUNDING))
        self._level -= taken
        return taken

    def wait(self, units: float, now: float) -> float:
        """Seconds until it is worth asking again for so many units: not so long that it would be full by then, and run over."""
        self._fill(now)
        enough = min(units, 1.0 if self._whole else self._burst / 2)
        return max(0.0, (enough - self._level) / self._rate)

    def _fill(self, now: float) -> None:
        # what was not used in a quiet minute is lost: later it would leave as a burst
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = max(now, self._at)


class EqualRefusals:
    """Notices that a server refuses the first requests all in the same words: then every other one would be refused too."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def saw(self, text: str) -> bool:
        """Take what a refusal says, the numbers in it left out; whether it is one too many."""
        # texts differ in ids and counts of tokens alone where the cause is one
        words = NUMBER.sub("", text)
        self._seen[words] += 1
        return self._seen[words] >= DOZEN


@dataclass
class ConcurrencyWindow:
    """How many requests may be in flight.

    It doubles with each round of replies until the server pushes back for the first time, is cut then, and follows the
    cubic curve of RFC 9438 from there: fast back to where the push came, slowly past it, faster after. A push back that
    answers a request sent before the last cut, or a single one within `BURST_S` after it, belongs to the same burst and cuts
    nothing. After a server error or a timeout it does not grow before a whole round came back well.
    """

    most: int
    size: float = 0.0
    in_flight: int = 0
    _peak: float = 0.0
    """Size at which the server last pushed back; 0 before it did."""
    _cut_at: float = float("-inf")
    _since_cut: int = 0
    _grown_from: float = 0.0
    _round: int = 0
    """Answers that have to come before it may grow again."""
    _paused_at: float = 0.0

    def __post_init__(self) -> None:
        self.size = self.size or float(min(self.most, FIRST))

    @property
    def room(self) -> bool:
        return self.in_flight < int(self.size)

    def answered(self, now: float) -> None:
        """A request came back well."""
        if self._round:
            self._round -= 1
            if not self._round:
                self._grown_from += now - self._paused_at  # the time of the pause does not count as time of growth
            return
        if self.in_flight + 1 < self.size / 2:
            return  # what is not used says nothing of what the server can take (RFC 9438, section 5.8)
        self._grown_from = min(self._grown_from, now)
        if not self._peak:  # before the first push back: one more for each answer doubles it with each round
            self.size = min(self.most, self.size + 1)
            return
        # K of RFC 9438, section 4.2: the seconds after which the curve is back at the size where the server pushed back
        span = ((self._peak * (1 - CUT)) / REGROWTH) ** (1 / 3)
        curve = self._peak + REGROWTH * (now - self._grown_from - span) ** 3
        # never down, and at most one more for an answer: after a long pause the curve may be far above, and a leap would be a
        # burst
        self.size = min(self.most, max(self.size, min(curve, self.size + 1)))

    def pushed_back(self, sent: float, now: float) -> None:
        """A request that was sent at `sent` was turned away (429)."""
        if sent <= self._cut_at:
            return  # it left before the cut, and says nothing of the size since
        self._since_cut += 1
        # requests of one burst are refused together; each of them cutting would leave next to nothing in flight
        if now < self._cut_at + BURST_S and self._since_cut < INSISTS:
            return
        self._since_cut = 0
        # what was in flight, not what was allowed, is what the server would not take
        self._peak = min(self.size, self.in_flight + 1.0)
        self.size = max(1.0, self._peak * CUT)
        self._cut_at = self._grown_from = now

    def troubled(self, now: float) -> None:
        """A server error or a timeout: no reason to send less, none to send more either."""
        if not self._round:
            self._paused_at = now
        # a whole round has to come back well, for what is in flight now was sent before the trouble
        self._round = math.ceil(self.size)

    def restart(self) -> None:
        """The server was away: begin as at the start, up to where it pushed back before; growth counts from its first
        answer."""
        # a server that has just come up is met with a few requests, not with all that have waited for it
        self.size = min(self.size, float(FIRST))
        self._grown_from = math.inf


@dataclass
class CircuitBreaker:
    """Keeps requests from a server that is down: after a streak of failures only a probe now and then goes through."""

    down_since: float | None = None
    """When the streak began that opened it; None while it is closed."""
    _streak: int = 0
    _first: float = 0.0
    _opened: float = 0.0
    _rows: set[str] = field(default_factory=set)
    _not_taken: int = 0
    _probe_at: float = 0.0
    _pause: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.down_since is not None

    def lets_through(self, now: float) -> bool:
        """Whether a request may go; while it is open, the one that may is the probe."""
        return self.down_since is None or now >= self._probe_at

    def sent(self, now: float) -> None:
        """A request went through: while it is open no other may follow until this one fails or is long overdue."""
        if self.is_open:
            self._probe_at = now + 2 * LONGEST_PROBE_S

    def answered(self) -> None:
        self.down_since, self._streak, self._not_taken, self._pause = None, 0, 0, 0.0
        self._rows.clear()

    def failed(self, row: str, not_taken: bool, sent: float, now: float) -> None:
        """A request failed in a way that may mean an outage; `not_taken` when nobody was there, or it was turned away, which is
        hardly the row's fault."""
        if self.is_open and sent <= self._opened:
            return  # it was under way when the breaker opened and tells nothing new
        self._first = self._first if self._streak else now
        self._streak += 1
        self._not_taken += not_taken
        self._rows.add(row)
        # ten failures of one poisonous row are that row's; ten of five rows, or nobody at the door, are the server's
        many_rows = len(self._rows) >= STREAK_ROWS or self._not_taken >= STREAK_ROWS
        if self.is_open or (self._streak >= STREAK and many_rows):
            if self.down_since is None:
                # an outage is as old as its first failure, by which `max_outage_s` is counted, not as the moment it was noticed
                self.down_since, self._opened = self._first, now
            # each probe in vain doubles the pause, with jitter: many workers must not probe at one moment
            self._pause = min(LONGEST_PROBE_S, max(FIRST_PROBE_S, 2 * self._pause))
            self._probe_at = now + random.uniform(0.5, 1) * self._pause  # noqa: S311 - not for secrets

    def wait(self, now: float) -> float:
        """Seconds until the next probe."""
        return max(0.0, self._probe_at - now) if self.is_open else 0.0
