"""The rate, the number in flight and the breaker, each alone; time is a number."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.inference.limits import CUT, FIRST, STREAK, STREAK_ROWS, CircuitBreaker, ConcurrencyWindow, TokenBucket

unhurried = settings(deadline=None, max_examples=60)
"""On a busy machine an example may take its time."""
MINUTE_S = 60.0
LIMITS = [60, 3000, 90_000]
SMALL = [3, 20]
EXACT = 1 + 1e-9
Taken = list[tuple[float, float]]
"""Time and units."""
Asks = list[tuple[float, float]]
"""Seconds since the last ask, and units."""
asks = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5000)), min_size=1, max_size=150)


def _most_in_a_minute(taken: Taken) -> float:
    """The largest sum in any 60 s, both ends included."""
    window: deque[tuple[float, float]] = deque()
    total = most = 0.0
    for at, units in taken:
        window.append((at, units))
        total += units
        while window[0][0] < at - MINUTE_S:
            total -= window.popleft()[1]
        most = max(most, total)
    return most


def _take_all(bucket: TokenBucket, asked: Iterable[tuple[float, float]], now: float = 0.0) -> Taken:
    taken = []
    for gap, wanted in asked:
        now += gap
        taken.append((now, bucket.take(wanted, now)))
    return taken


def _constant(step_s: float, seconds: float) -> Iterable[tuple[float, float]]:
    return ((step_s, 1e9) for _ in range(int(seconds / step_s)))


@unhurried
@given(st.sampled_from([*SMALL, *LIMITS]), asks)
def test_no_minute_hands_out_more_than_the_limit(limit: int, asked: Asks) -> None:
    assert _most_in_a_minute(_take_all(TokenBucket(limit, 0.0), asked)) <= limit


@unhurried
@given(st.sampled_from([3000, 90_000]), asks)
def test_no_minute_hands_out_more_than_the_limit_in_parts_of_units(limit: int, asked: Asks) -> None:
    assert _most_in_a_minute(_take_all(TokenBucket(limit, 0.0, whole=False), asked)) <= limit * EXACT


@unhurried
@given(st.sampled_from([*SMALL, *LIMITS]), asks)
def test_whole_units_are_handed_out_whole(limit: int, asked: Asks) -> None:
    assert all(units == int(units) for _, units in _take_all(TokenBucket(limit, 0.0), asked))


@pytest.mark.parametrize("limit", [*SMALL, *LIMITS])
def test_no_minute_under_constant_demand_hands_out_more_than_the_limit(limit: int) -> None:
    assert _most_in_a_minute(_take_all(TokenBucket(limit, 0.0), _constant(0.05, 200))) <= limit


@pytest.mark.parametrize("limit", LIMITS)
def test_constant_demand_gets_97_to_100_percent_of_the_limit(limit: int) -> None:
    minutes = 10
    got = sum(units for _, units in _take_all(TokenBucket(limit, 0.0), _constant(0.1, minutes * MINUTE_S)))
    assert 0.97 * limit <= got / minutes <= limit


@unhurried
@given(st.sampled_from([*SMALL, *LIMITS]), asks, st.floats(0, 30), asks)
def test_a_restart_within_the_minute_keeps_to_the_limit(limit: int, first: Asks, gap: float, second: Asks) -> None:
    before = _take_all(TokenBucket(limit, 0.0), first)
    restarted = before[-1][0] + gap
    after = _take_all(TokenBucket(limit, restarted), second, restarted)
    assert _most_in_a_minute(before + after) <= limit


@pytest.mark.parametrize("limit", [*SMALL, *LIMITS])
def test_starts_again_and_again_keep_to_the_limit(limit: int) -> None:
    taken: Taken = []
    for start in range(0, 180, 7):
        taken += _take_all(TokenBucket(limit, start), _constant(0.05, 7), start)
    assert _most_in_a_minute(taken) <= limit


@unhurried
@given(asks, st.sampled_from([3, 60, 600]), asks)
def test_a_lowered_limit_holds_from_then_on(before: Asks, lowered: int, after: Asks) -> None:
    bucket = TokenBucket(3000, 0.0)
    at = _take_all(bucket, before)[-1][0]
    bucket.set(lowered)
    assert _most_in_a_minute(_take_all(bucket, after, at)) <= lowered


@unhurried
@given(st.sampled_from([*SMALL, *LIMITS]), asks, st.integers(1, 100))
def test_after_the_wait_there_is_something(limit: int, asked: Asks, wanted: int) -> None:
    bucket = TokenBucket(limit, 0.0)
    now = _take_all(bucket, asked)[-1][0]
    assert bucket.take(wanted, now + bucket.wait(wanted, now)) >= 1


@pytest.mark.parametrize("limit", [*SMALL, 60, 200, 3000])
@pytest.mark.parametrize("late_s", [0.0, 0.1])
def test_who_asks_when_told_to_or_a_moment_later_misses_little(limit: int, late_s: float) -> None:
    bucket, now, got = TokenBucket(limit, 0.0), 0.0, 0.0
    while now < 20 * MINUTE_S:
        got += bucket.take(64, now)
        now += max(0.1, bucket.wait(64, now) + late_s)
    assert got / 20 >= 0.95 * limit


# the number in flight


def _round(window: ConcurrencyWindow, now: float) -> float:
    """As many replies as there is room for, each followed by the next request."""
    for _ in range(int(window.size)):
        window.in_flight = int(window.size) - 1
        window.answered(now)
    return window.size


def _push_back_all(window: ConcurrencyWindow, sent: float, now: float) -> None:
    """All that were in flight are turned away."""
    window.in_flight = int(window.size)
    while window.in_flight:
        window.in_flight -= 1
        window.pushed_back(sent, now)


def _full(most: int = 1000, size: float = 100.0) -> ConcurrencyWindow:
    window = ConcurrencyWindow(most, size)
    window.in_flight = int(size)
    return window


def test_the_number_in_flight_starts_low_and_doubles_with_each_round_up_to_the_most() -> None:
    window, sizes = ConcurrencyWindow(100), []
    for now in range(5):
        sizes.append(int(window.size))
        _round(window, float(now))
    assert sizes == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, 100]


def test_a_most_below_the_start_is_where_it_starts() -> None:
    assert int(ConcurrencyWindow(3).size) == 3


def test_a_burst_of_refusals_cuts_once() -> None:
    window = _full()
    _push_back_all(window, sent=9.0, now=10.0)
    assert window.size == pytest.approx(100 * CUT)


def test_a_refusal_of_what_was_sent_after_the_cut_cuts_again() -> None:
    window = _full()
    _push_back_all(window, sent=9.0, now=10.0)
    _push_back_all(window, sent=15.0, now=16.0)
    assert window.size == pytest.approx(100 * CUT**2)


def test_what_is_cut_is_what_was_in_flight_not_what_could_have_been() -> None:
    window = ConcurrencyWindow(1000, 100.0, in_flight=20)
    window.in_flight -= 1
    window.pushed_back(0.0, 1.0)
    assert window.size == pytest.approx(20 * CUT)


def test_errors_of_the_server_never_cut_and_hold_up_growth_for_a_round_of_answers() -> None:
    window = ConcurrencyWindow(100, 50.0, in_flight=49)
    window.troubled(10.0)
    window.troubled(11.0)
    for _ in range(50):
        window.answered(12.0)
    assert window.size == 50
    window.answered(13.0)
    assert window.size == 51


def test_the_time_of_trouble_does_not_count_as_time_of_growth() -> None:
    calm, troubled = (ConcurrencyWindow(100, 80.0, in_flight=79) for _ in range(2))
    for window in (calm, troubled):
        window.pushed_back(0.0, 1.0)
    troubled.troubled(2.0)
    for _ in range(math.ceil(troubled.size)):
        troubled.answered(32.0)
    for now in range(2, 12):
        calm.answered(float(now))
        troubled.answered(now + 30.0)
    assert troubled.size == pytest.approx(calm.size)


def test_a_window_that_is_not_used_does_not_grow() -> None:
    window = ConcurrencyWindow(100, 50.0)
    for now in range(50):
        window.in_flight = 10
        window.answered(float(now))
    assert window.size == 50


events = st.lists(st.tuples(st.sampled_from(["answered", "refused", "error", "restart"]), st.floats(0, 30)), max_size=200)


@unhurried
@given(st.integers(1, 300), events)
def test_the_number_in_flight_stays_between_one_and_the_most(most: int, happened: list[tuple[str, float]]) -> None:
    window, now = ConcurrencyWindow(most), 0.0
    for what, gap in happened:
        sent, now = now, now + gap
        before = window.size
        window.in_flight = int(window.size) - 1
        _happen(window, what, sent, now)
        assert 1 <= window.size <= most
        assert what in ("refused", "restart") or window.size >= before, "only a refusal cuts"


def _happen(window: ConcurrencyWindow, what: str, sent: float, now: float) -> None:
    if what == "answered":
        window.answered(now)
    elif what == "refused":
        window.pushed_back(sent, now)
    elif what == "error":
        window.troubled(now)
    else:
        window.restart()


def test_after_an_outage_it_starts_low_again() -> None:
    window = _full(size=200.0)
    window.restart()
    assert window.size == FIRST


def test_after_an_outage_it_grows_fast_to_where_the_server_pushed_back_before_and_slowly_past_it() -> None:
    window = _full(size=100.0)
    _push_back_all(window, sent=9.0, now=10.0)
    window.restart()
    sizes = [_round(window, 1000.0 + n) for n in range(4)]
    assert sizes[2] == 8 * FIRST
    assert sizes[3] <= 120


class Simulated:
    """A server that answers `capacity` requests at a time and turns away more at once, and a client that has plenty to ask."""

    def __init__(self, capacity: Callable[[float], int], latency_s: float) -> None:
        self.window = ConcurrencyWindow(512)
        self._capacity, self._latency_s = capacity, latency_s
        self._random = random.Random(1)
        self._busy = 0
        self._coming: list[tuple[float, int, str, float]] = []
        self._order = itertools.count()
        self.answered: list[float] = []
        self.refused = 0

    def _send(self, now: float) -> None:
        while self.window.room:
            self.window.in_flight += 1
            refused = self._busy >= self._capacity(now)
            self._busy += not refused
            takes = 0.1 * self._latency_s if refused else self._latency_s * self._random.uniform(0.8, 1.2)
            heapq.heappush(self._coming, (now + takes, next(self._order), "refused" if refused else "answered", now))

    def run(self, seconds: float) -> "Simulated":
        self._send(0.0)
        while self._coming[0][0] < seconds:
            now, _, what, sent = heapq.heappop(self._coming)
            self.window.in_flight -= 1
            if what == "refused":
                self.refused += 1
            else:
                self._busy -= 1
                self.answered.append(now)
            _happen(self.window, what, sent, now)
            self._send(now)
        return self

    def share(self, start: float, end: float) -> float:
        """Of the answers that the capacity allows for in this time."""
        got = sum(start <= at < end for at in self.answered)
        return got * self._latency_s / sum(self._capacity(start + step) for step in range(int(end - start)))


@pytest.mark.parametrize("latency_s", [0.2, 1.0])
@pytest.mark.parametrize("capacity", [4, 20, 100])
def test_at_least_nine_tenths_of_a_servers_capacity_are_used(capacity: int, latency_s: float) -> None:
    assert Simulated(lambda _: capacity, latency_s).run(120).share(0, 120) >= 0.9


def test_at_least_nine_tenths_are_used_where_capacity_falls_and_rises() -> None:
    ran = Simulated(lambda now: 30 if 60 <= now < 120 else 100, 1.0).run(180)
    assert ran.share(0, 180) >= 0.9
    assert ran.share(130, 180) >= 0.9, "it finds the capacity again"


def test_few_requests_are_turned_away_where_capacity_is_steady() -> None:
    ran = Simulated(lambda _: 50, 1.0).run(180)
    assert ran.refused < 0.1 * len(ran.answered)


# the breaker


def _fail(breaker: CircuitBreaker, rows: Sequence[str], now: float = 0.0, unreached: bool = False) -> None:
    for row in rows:
        breaker.failed(row, unreached, now, now)


def _open(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    _fail(breaker, [f"row {n}" for n in range(STREAK)], now)
    assert breaker.is_open
    return breaker


def test_a_streak_over_several_rows_opens_it_and_a_shorter_one_does_not() -> None:
    breaker = CircuitBreaker()
    _fail(breaker, [f"row {n}" for n in range(STREAK - 1)])
    assert not breaker.is_open
    assert breaker.lets_through(0.0)
    _fail(breaker, ["one more"])
    assert breaker.is_open
    assert not breaker.lets_through(0.0)


@unhurried
@given(st.lists(st.integers(1, STREAK_ROWS - 1), max_size=100))
def test_a_few_rows_that_always_fail_never_open_it(rows: list[int]) -> None:
    breaker = CircuitBreaker()
    _fail(breaker, [f"row {row}" for row in rows])
    assert not breaker.is_open


def test_one_row_is_enough_where_nobody_is_there_at_all() -> None:
    breaker = CircuitBreaker()
    _fail(breaker, ["the only row"] * STREAK, unreached=True)
    assert breaker.is_open


@unhurried
@given(st.lists(st.integers(0, STREAK - 1), max_size=20))
def test_streaks_with_an_answer_between_them_never_open_it(streaks: list[int]) -> None:
    breaker = CircuitBreaker()
    for length in streaks:
        _fail(breaker, [f"row {n}" for n in range(length)])
        breaker.answered()
    assert not breaker.is_open


def test_it_is_down_since_the_first_failure_of_the_streak() -> None:
    breaker = CircuitBreaker()
    for n in range(STREAK):
        _fail(breaker, [f"row {n}"], now=100.0 + n)
    assert breaker.down_since == 100.0


def test_there_is_one_probe_at_a_time() -> None:
    breaker = _open()
    now = breaker.wait(0.0)
    assert breaker.lets_through(now)
    breaker.sent(now)
    assert not any(breaker.lets_through(now + later) for later in range(60))
    breaker.failed("the probe", False, now, now + 5)
    assert not breaker.lets_through(now + 5)
    assert breaker.lets_through(now + 5 + breaker.wait(now + 5))


def test_a_probe_that_never_ends_is_followed_by_another_in_the_end() -> None:
    breaker = _open()
    now = breaker.wait(0.0)
    breaker.sent(now)
    assert breaker.lets_through(now + 60)


def test_pauses_between_probes_double_up_to_half_a_minute() -> None:
    breaker, now, pauses = _open(), 0.0, []
    for _ in range(8):
        pauses.append(breaker.wait(now))
        now += pauses[-1]
        breaker.sent(now)
        breaker.failed("the probe", False, now, now)
    longest = [1, 2, 4, 8, 16, 30, 30, 30]
    assert all(long / 2 <= pause <= long for pause, long in zip(pauses, longest, strict=True)), pauses


@unhurried
@given(st.lists(st.floats(0, 99), max_size=30))
def test_what_was_under_way_when_it_opened_does_not_lengthen_the_pause(sent: list[float]) -> None:
    breaker = _open(now=100.0)
    wait = breaker.wait(100.0)
    for at in sent:
        breaker.failed("leftover", True, at, 100.0)
    assert breaker.wait(100.0) == wait


def test_an_answer_closes_it_and_the_next_outage_begins_with_short_pauses() -> None:
    breaker, now = _open(), 0.0
    for _ in range(6):
        now += breaker.wait(now)
        breaker.sent(now)
        breaker.failed("the probe", False, now, now)
    breaker.answered()
    assert breaker.lets_through(now)
    assert breaker.wait(now) == 0.0
    _fail(breaker, ["row"] * (STREAK - 1), now, unreached=True)
    assert not breaker.is_open, "the streak begins anew"
    _fail(breaker, ["row"], now, unreached=True)
    assert 0.5 <= breaker.wait(now) <= 1.0


outages = st.lists(st.tuples(st.sampled_from(["fails", "late", "answered", "never ends"]), st.floats(0, 50)), max_size=60)


@unhurried
@given(outages)
def test_while_it_is_open_probes_never_overlap_unless_one_is_a_minute_old(probes: list[tuple[str, float]]) -> None:
    breaker, now, under_way = _open(), 0.0, float("-inf")
    for end, takes in probes:
        now += breaker.wait(now)
        assert now >= under_way + 60, "the one before has ended or is long overdue"
        breaker.sent(now)
        if end == "never ends":
            under_way = now
            continue
        if end == "late":
            breaker.failed("a leftover", True, -1.0, now)
        now += takes
        if end == "answered":
            breaker.answered()
            _fail(breaker, ["row"] * STREAK, now, unreached=True)
        else:
            breaker.failed("the probe", True, now - takes, now)
