"""The spending cap: the bound on storage holds whatever happens, the cap is never passed, a clean end leaves the exact sum."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.inference.budget import ROUNDING, SPEND, STEP, Budget, at_most_spent
from alpagasus_ray.store.storage import Storage, Written

unhurried = settings(deadline=None, max_examples=40)
"""On a busy machine an example may take its time."""
CAP = 1.0
BORROWERS = ["a", "b", "c"]


class Crash(Exception):
    """The process dies at a write."""


@dataclass(frozen=True)
class Dying(Storage):
    """Storage of a process that dies before or after its n-th write."""

    writes_left: list[int] = field(default_factory=list, compare=False)
    after: bool = False

    def write(self, name: str, content: bytes) -> Written:
        dies = self.writes_left == [0]
        if dies and not self.after:
            raise Crash
        written = super().write(name, content)
        if dies:
            raise Crash
        if self.writes_left:
            self.writes_left[0] -= 1
        return written


class Honest:
    """Borrowers that settle and hold no more than they were lent, over as many processes as it takes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.budget = Budget(storage, CAP, at_most_spent(storage))
        self.loans = dict.fromkeys(BORROWERS, 0.0)
        """What each may have spent or still spend."""
        self.settled = 0.0
        self.lost = 0.0
        """What was lent to those who are gone: it may have been spent."""

    @property
    def maybe_spent(self) -> float:
        return self.settled + self.lost + sum(self.loans.values())

    def lend(self, who: str, wanted: float, least: float) -> None:
        before, out = self.maybe_spent, sum(self.loans.values())
        lent = self.budget.lend(who, wanted, least)
        if lent is None:
            assert out <= ROUNDING, "others may still return something"
            assert self.budget.free < least
        self.loans[who] += lent or 0.0
        assert before + (lent or 0.0) <= CAP + ROUNDING

    def report(self, who: str, settled: float, held: float) -> None:
        """Shares of the loan that were settled and that are held, half of it under way."""
        loan = self.loans[who]
        kept = (loan - settled * loan) * held
        self.budget.report(who, settled * loan, kept / 2, kept / 2)
        self.settled += settled * loan
        self.loans[who] = kept

    def forget(self, who: str) -> None:
        self.budget.forget(who)
        self.lost += self.loans[who]
        self.loans[who] = 0.0

    def crash(self, storage: Storage) -> None:
        """All processes are gone; the next call starts from what is on storage."""
        self.lost, self.loans = self.maybe_spent - self.settled, dict.fromkeys(BORROWERS, 0.0)
        self.storage = storage
        self.budget = Budget(storage, CAP, at_most_spent(storage))

    def do(self, step: tuple[str, str, float, float]) -> None:
        what, who, first, second = step
        if what == "lend":
            self.lend(who, max(first, second), min(first, second))
        elif what == "report":
            self.report(who, first, second)
        elif what == "forget":
            self.forget(who)
        else:
            self.budget.close()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


@contextmanager
def _folder() -> Iterator[Storage]:
    """For each example a folder of its own."""
    with TemporaryDirectory() as folder:
        yield Storage.open(folder)


shares = st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.3, 1.0])
steps = st.tuples(
    st.sampled_from(["lend", "lend", "report", "report", "forget", "close"]), st.sampled_from(BORROWERS), shares, shares
)


@unhurried
@given(st.lists(steps, max_size=25))
def test_the_bound_on_storage_is_never_below_what_may_be_spent_and_the_cap_is_never_passed(
    taken: list[tuple[str, str, float, float]],
) -> None:
    with _folder() as folder:
        users = Honest(folder)
        for step in taken:
            users.do(step)
            assert at_most_spent(folder) >= users.maybe_spent - ROUNDING
            assert users.maybe_spent <= CAP + ROUNDING
            assert at_most_spent(folder) <= CAP + ROUNDING


crashes = st.lists(st.tuples(st.lists(steps, max_size=10), st.integers(0, 4), st.booleans()), max_size=4)


@unhurried
@given(crashes)
def test_the_bound_holds_over_processes_that_die_before_or_after_any_write(
    lives: list[tuple[list[tuple[str, str, float, float]], int, bool]],
) -> None:
    with _folder() as folder:
        users = Honest(folder)
        for taken, writes, after in lives:
            try:
                users.crash(Dying(folder.fs, folder.root, writes_left=[writes], after=after))
                for step in taken:
                    users.do(step)
            except Crash:
                users.crash(folder)
            assert at_most_spent(folder) >= users.maybe_spent - ROUNDING
            assert users.maybe_spent <= CAP + ROUNDING


@unhurried
@given(st.lists(st.floats(0, 0.04), max_size=20))
def test_a_clean_end_leaves_the_exact_sum_on_storage(costs: list[float]) -> None:
    with _folder() as folder:
        budget = Budget(folder, CAP, 0.0)
        for cost in costs:
            assert budget.lend("a", 0.05, 0.05) == 0.05
            budget.report("a", cost, 0.0, 0.0)
        assert budget.close() == pytest.approx(math.fsum(costs))
        assert at_most_spent(folder) == pytest.approx(math.fsum(costs), abs=ROUNDING)
        assert budget.spent == pytest.approx(math.fsum(costs))


def test_a_loan_that_nobody_returned_counts_as_spent_at_the_end(storage: Storage) -> None:
    budget = Budget(storage, CAP, 0.25)
    budget.lend("a", 0.5, 0.1)
    assert budget.close() == at_most_spent(storage) == 0.75


def test_what_was_reserved_and_not_spent_is_lent_again(storage: Storage) -> None:
    budget = Budget(storage, CAP, 0.0)
    assert budget.lend("a", 1.0, 1.0) == 1.0
    assert budget.lend("b", 0.5, 0.5) == 0.0, "it has to wait until the other returns something"
    budget.report("a", settled=0.25, at_hand=0.0, under_way=0.25)
    assert budget.lend("b", 0.5, 0.5) == 0.5


def test_none_is_lent_only_where_nothing_is_out_and_it_can_never_fit(storage: Storage) -> None:
    budget = Budget(storage, CAP, 0.5)
    assert budget.lend("a", 0.75, 0.25) == 0.5, "less than wanted is better than nothing"
    assert budget.lend("b", 0.75, 0.25) == 0.0
    budget.report("a", 0.4, 0.0, 0.0)
    assert budget.lend("b", 0.75, 0.25) is None
    assert budget.lend("b", 0.75, 0.05) == pytest.approx(0.1), "a smaller request still fits"


def test_what_is_lent_is_enough_for_one_request_where_the_cap_is_a_multiple_of_it(storage: Storage) -> None:
    each = 0.000204
    budget = Budget(storage, 30 * each, 0.0)
    for _ in range(30):
        lent = budget.lend("a", each, each)
        assert lent is not None
        assert lent >= each
        budget.report("a", each, 0.0, 0.0)
    assert budget.lend("a", each, each) is None


def test_a_borrower_that_is_gone_has_spent_what_it_had(storage: Storage) -> None:
    budget = Budget(storage, CAP, 0.0)
    budget.lend("a", 0.5, 0.5)
    budget.report("a", 0.1, 0.1, 0.2)
    budget.forget("a")
    budget.forget("a")
    assert budget.spent == pytest.approx(0.4)
    assert budget.free == pytest.approx(0.6)


def test_the_bound_is_not_written_for_every_request(storage: Storage) -> None:
    counted = Dying(storage.fs, storage.root, writes_left=[10**6])
    budget = Budget(counted, CAP, 0.0)
    for _ in range(1000):
        budget.lend("a", 0.001, 0.001)
        budget.report("a", 0.0005, 0.0, 0.0)
    assert 10**6 - counted.writes_left[0] <= 0.5 / STEP + 2


def test_a_raised_cap_goes_on_from_what_was_spent(storage: Storage) -> None:
    budget = Budget(storage, CAP, 0.0)
    budget.lend("a", CAP, CAP)
    budget.report("a", CAP, 0.0, 0.0)
    assert budget.lend("a", 0.5, 0.5) is None
    spent = budget.close()
    raised = Budget(storage, 2 * CAP, max(spent, at_most_spent(storage)))
    assert raised.lend("a", 0.5, 0.5) == 0.5
    assert raised.free == pytest.approx(0.5)


def test_a_cap_that_was_lowered_below_what_is_spent_lends_nothing(storage: Storage) -> None:
    budget = Budget(storage, CAP, 2 * CAP)
    assert budget.lend("a", 0.1, 0.1) is None
    assert budget.close() == at_most_spent(storage) == 2 * CAP


def test_a_request_that_cost_more_than_was_reserved_raises_the_bound_at_once(storage: Storage) -> None:
    budget = Budget(storage, CAP, 0.0)
    budget.lend("a", 0.1, 0.1)
    budget.report("a", settled=0.3, at_hand=0.0, under_way=0.0)
    assert at_most_spent(storage) >= 0.3


def test_after_a_write_that_failed_nothing_is_lent_before_the_bound_is_on_storage(storage: Storage) -> None:
    budget = Budget(storage, CAP, 0.0)
    in_the_way = Path(storage.path(SPEND))
    in_the_way.mkdir()
    with pytest.raises(OSError, match="directory"):
        budget.lend("a", 0.5, 0.5)
    in_the_way.rmdir()
    assert budget.lend("a", 0.5, 0.5) == 0.5
    assert at_most_spent(storage) >= 0.5


def test_starts_that_lend_nothing_use_up_none_of_the_cap(storage: Storage) -> None:
    Budget(storage, CAP, 0.1).close()
    for _ in range(20):
        Budget(storage, CAP, at_most_spent(storage))
    assert at_most_spent(storage) == pytest.approx(0.1)


def test_no_file_means_that_nothing_is_spent(storage: Storage) -> None:
    assert at_most_spent(storage) == 0.0
