"""The coordinator as a plain object: counts, the word to stop, what is shared, and which rows saw a worker die."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.engines.base import Rate
from alpagasus_ray.inference.budget import at_most_spent
from alpagasus_ray.inference.coordinator import IN_VAIN, SILENT_S, Cap, Coordinator
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.store.storage import Storage

unhurried = settings(deadline=None, max_examples=50)
"""On a busy machine an example may take its time."""
SHARD = "part-00000.parquet"


class Clock:
    """Seconds, moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def _capped(clock: Clock, storage: Storage, usd: float = 1.0, spent: float = 0.0) -> Coordinator:
    return Coordinator((Rate(),), Cap(storage, usd, spent), clock)


# counts


def _answered(requests: int, usd_billed: float = 0.0) -> Counts:
    return Counts(requests=Counter(answered=requests), usd_billed=usd_billed)


def test_what_happened_adds_up_over_workers_and_reports() -> None:
    coordinator = Coordinator()
    coordinator.report("a", _answered(2), {}, {})
    coordinator.report("b", _answered(3, usd_billed=0.5), {}, {})
    coordinator.report("a", _answered(1), {}, {})
    assert coordinator.snapshot().counts == _answered(6, usd_billed=0.5)


def test_a_shard_that_is_done_twice_counts_once() -> None:
    coordinator = Coordinator()
    coordinator.report("dies", Counts(), {SHARD: Counts(rows=70, without_reply=Counter({"http 500": 3}))}, {})
    coordinator.report("other", Counts(), {"part-00001.parquet": Counts(rows=10)}, {})
    coordinator.report("successor", Counts(), {SHARD: Counts(rows=5)}, {})
    assert coordinator.snapshot().counts == Counts(rows=15)
    coordinator.report("successor", Counts(), {SHARD: Counts(rows=100)}, {})
    assert coordinator.snapshot().counts == Counts(rows=110)


rows = st.integers(0, 100)


@unhurried
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), rows), max_size=40))
def test_the_rows_are_the_last_word_on_each_shard_whoever_said_it(reports: list[tuple[str, str, int]]) -> None:
    coordinator, last = Coordinator(), dict.fromkeys("xyz", 0)
    for worker, shard, count in reports:
        coordinator.report(worker, Counts(), {shard: Counts(rows=count)}, {})
        last[shard] = count
    assert coordinator.snapshot().counts.rows == sum(last.values())


def test_a_gauge_goes_down_again() -> None:
    coordinator = Coordinator()
    coordinator.report("a", Counts(endpoints_down=1), {}, {})
    coordinator.report("a", Counts(endpoints_down=-1), {}, {})
    assert coordinator.snapshot().counts == Counts()


# the word to stop


def test_the_first_reason_to_stop_stays_and_every_worker_hears_it() -> None:
    coordinator = Coordinator()
    assert coordinator.report("a", Counts(), {}, {}).stop is None
    coordinator.stop("enough")
    coordinator.stop("too late")
    assert coordinator.report("a", Counts(), {}, {}).stop == coordinator.report("b", Counts(), {}, {}).stop == "enough"
    assert coordinator.snapshot().stop == "enough"
    assert coordinator.snapshot().kind == "failed"


def test_every_worker_hears_that_one_of_them_had_an_answer() -> None:
    coordinator = Coordinator()
    assert not coordinator.report("a", Counts(requests=Counter(refused=5)), {}, {}).answered
    assert coordinator.report("b", _answered(1), {}, {}).answered
    assert coordinator.report("a", Counts(), {}, {}).answered


def test_a_pause_that_one_worker_was_told_holds_for_all_until_it_is_over(clock: Clock) -> None:
    coordinator = Coordinator(now=clock)
    coordinator.report("a", Counts(), {}, {0: 60.0})
    coordinator.report("b", Counts(), {}, {0: 10.0, 1: 5.0})
    clock.now = 20.0
    assert coordinator.report("c", Counts(), {}, {}).pauses == {0: 40.0}
    clock.now = 60.0
    assert coordinator.report("c", Counts(), {}, {}).pauses == {}


# permits


def test_without_a_limit_all_that_is_wanted_is_handed_out(clock: Clock) -> None:
    assert Coordinator((Rate(),), now=clock).permits(0, 500.0, 9e6, Rate()) == (500.0, 9e6, 0.0)


def test_permits_of_all_workers_together_keep_to_the_limit(clock: Clock) -> None:
    coordinator, handed = Coordinator((Rate(600, None),), now=clock), 0.0
    for step in range(600):
        clock.now = step * 0.1
        handed += sum(coordinator.permits(0, 50.0, 0.0, Rate()).requests for _ in range(4))
    assert 0.97 * 600 <= handed <= 600


def test_each_endpoint_has_limits_of_its_own_for_requests_and_for_tokens(clock: Clock) -> None:
    coordinator = Coordinator((Rate(600, None), Rate(None, 60_000), Rate()), now=clock)
    for endpoint in range(3):
        assert coordinator.permits(endpoint, 0.0, 0.0, Rate())[:2] == (0.0, 0.0)
    clock.now = 60.0
    first, second, third = (coordinator.permits(endpoint, 1e6, 1e6, Rate()) for endpoint in range(3))
    assert 0 < first.requests < 20, "what may leave at one moment"
    assert first.tokens == 1e6
    assert second.requests == 1e6
    assert 0 < second.tokens < 2000
    assert third[:2] == (1e6, 1e6)


def test_a_worker_that_got_less_than_it_wants_is_told_when_to_ask_again(clock: Clock) -> None:
    coordinator = Coordinator((Rate(60, None),), now=clock)
    for _ in range(5):
        permits = coordinator.permits(0, 1.0, 0.0, Rate())
        assert permits.requests == 0.0
        assert permits.wait_s > 0.0
        clock.now += permits.wait_s
        assert coordinator.permits(0, 1.0, 0.0, Rate())[::2] == (1.0, 0.0)


@pytest.mark.parametrize("given_limit", [3000, None])
def test_a_limit_that_the_server_states_holds_where_it_is_stricter(clock: Clock, given_limit: float | None) -> None:
    coordinator, handed = Coordinator((Rate(given_limit, None),), now=clock), 0.0
    for step in range(600):
        clock.now = step * 0.1
        handed += coordinator.permits(0, 50.0, 0.0, Rate(120, None)).requests
    assert 0.97 * 120 <= handed <= 120


def test_a_limit_that_the_server_states_does_not_loosen_the_given_one(clock: Clock) -> None:
    coordinator, handed = Coordinator((Rate(120, None),), now=clock), 0.0
    for step in range(600):
        clock.now = step * 0.1
        handed += coordinator.permits(0, 50.0, 0.0, Rate(3000, None)).requests
    assert handed <= 120


def test_a_stated_limit_holds_for_workers_that_have_not_seen_it(clock: Clock) -> None:
    coordinator, handed = Coordinator((Rate(3000, None),), now=clock), 0.0
    for step in range(600):
        clock.now = step * 0.1
        handed += coordinator.permits(0, 50.0, 0.0, Rate(120, None)).requests
        clock.now += 0.05
        handed += coordinator.permits(0, 50.0, 0.0, Rate()).requests
    assert handed <= 120


# dollars


def test_the_stage_stops_at_the_cap_only_when_nobody_can_return_anything(clock: Clock, storage: Storage) -> None:
    coordinator = _capped(clock, storage)
    assert coordinator.reserve("a", 0.0, 0.0, 1.0, 0.5) == 1.0
    assert coordinator.reserve("b", 0.0, 0.0, 1.0, 0.5) == 0.0
    assert coordinator.snapshot().stop is None
    assert coordinator.reserve("a", 0.75, 0.0, 0.0, 0.0) == 0.0
    assert coordinator.reserve("b", 0.0, 0.0, 1.0, 0.5) == 0.0
    assert coordinator.snapshot().stop == "the budget is used up"
    assert coordinator.snapshot().kind == "budget"
    coordinator.close_budget()
    assert at_most_spent(storage) == 0.75


def test_a_stop_for_another_reason_is_not_that_of_the_budget(clock: Clock, storage: Storage) -> None:
    coordinator = _capped(clock, storage, spent=1.0)
    coordinator.stop("enough")
    coordinator.reserve("a", 0.0, 0.0, 1.0, 0.5)
    assert coordinator.snapshot().stop == "enough"
    assert coordinator.snapshot().kind == "failed"


def test_what_a_silent_worker_had_counts_as_spent_and_the_others_go_on(clock: Clock, storage: Storage) -> None:
    coordinator = _capped(clock, storage)
    coordinator.reserve("dead", 0.0, 0.0, 0.5, 0.5)
    for _ in range(3):
        clock.now += SILENT_S / 2
        coordinator.report("alive", Counts(), {}, {})
        assert coordinator.reserve("alive", 0.0, 0.0, 0.5, 0.5) == 0.5
    assert coordinator.reserve("alive", 0.1, 0.0, 0.5, 0.5) == 0.0
    assert coordinator.snapshot().kind == "budget", "nobody holds anything that could come back"
    coordinator.close_budget()
    assert at_most_spent(storage) == pytest.approx(0.6)


def test_a_worker_that_is_heard_of_keeps_its_loan(clock: Clock, storage: Storage) -> None:
    coordinator = _capped(clock, storage)
    coordinator.reserve("slow", 0.0, 0.0, 1.0, 0.5)
    for _ in range(10):
        clock.now += SILENT_S / 2
        coordinator.report("slow", Counts(), {}, {})
        coordinator.report("other", Counts(), {}, {})
    assert coordinator.reserve("other", 0.0, 0.0, 1.0, 0.5) == 0.0
    assert coordinator.snapshot().stop is None


def test_a_coordinator_that_was_lost_goes_on_from_the_bound_on_storage(clock: Clock, storage: Storage) -> None:
    _capped(clock, storage).reserve("a", 0.0, 0.0, 0.75, 0.5)
    again = _capped(clock, storage)
    assert again.reserve("a", 0.0, 0.0, 1.0, 0.1) <= 0.25
    assert at_most_spent(storage) <= 1.0


def test_a_clean_end_leaves_what_was_spent_and_no_more(clock: Clock, storage: Storage) -> None:
    coordinator = _capped(clock, storage, spent=0.25)
    coordinator.reserve("a", 0.0, 0.0, 0.5, 0.1)
    coordinator.reserve("a", 0.125, 0.0, 0.0, 0.0)
    coordinator.close_budget()
    assert at_most_spent(storage) == 0.375


# rows under way


def test_rows_that_were_marked_when_a_worker_died_are_told_to_its_successor() -> None:
    coordinator = Coordinator()
    assert coordinator.begin_shard(SHARD, 0).deaths == {}
    coordinator.mark_in_flight(SHARD, [0, 1, 2], [])
    coordinator.mark_in_flight(SHARD, [3], [0, 2])
    assert coordinator.begin_shard(SHARD, 0).deaths == {1: 1, 3: 1}


def test_deaths_add_up_over_workers_for_the_rows_that_saw_them() -> None:
    coordinator = Coordinator()
    for _ in range(3):
        coordinator.begin_shard(SHARD, 0)
        coordinator.mark_in_flight(SHARD, [7], [])
    coordinator.mark_in_flight(SHARD, [8], [])
    assert coordinator.begin_shard(SHARD, 0).deaths == {7: 3, 8: 1}


def test_a_worker_that_dies_before_it_marks_anything_blames_no_row() -> None:
    coordinator = Coordinator()
    coordinator.begin_shard(SHARD, 0)
    assert coordinator.begin_shard(SHARD, 0).deaths == {}


def test_a_shard_that_ended_well_leaves_no_suspects() -> None:
    coordinator = Coordinator()
    coordinator.begin_shard(SHARD, 0)
    coordinator.mark_in_flight(SHARD, [1], [])
    coordinator.begin_shard(SHARD, 0)
    coordinator.mark_in_flight(SHARD, [1], [])
    coordinator.end_shard(SHARD)
    assert coordinator.begin_shard(SHARD, 0).deaths == {}


def test_shards_do_not_blame_each_other() -> None:
    coordinator = Coordinator()
    coordinator.begin_shard(SHARD, 0)
    coordinator.mark_in_flight(SHARD, [1], [])
    assert coordinator.begin_shard("part-00001.parquet", 0).deaths == {}
    assert coordinator.begin_shard(SHARD, 0).deaths == {1: 1}


def test_workers_that_die_one_after_the_other_over_a_shard_end_the_stage_unless_replies_come_in_between() -> None:
    coordinator = Coordinator()
    for replies in range(100):
        coordinator.begin_shard(SHARD, replies)
    assert coordinator.snapshot().stop is None
    for _ in range(IN_VAIN):
        coordinator.begin_shard(SHARD, 99)
    assert "workers died over it" in str(coordinator.snapshot().stop)
