"""How tasks are put into calls: all of them once and in order, few calls where there are many, one each at the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.inference.shards import FEW, LARGEST, in_calls, overlap
from alpagasus_ray.inference.spec import Task


@given(st.integers(1, 20_000), st.integers(1, 5_000))
def test_every_task_is_in_one_call_in_order(count: int, slots: int) -> None:
    tasks = [Task(str(number)) for number in range(count)]
    calls = in_calls(tasks, slots)
    assert [task for call in calls for task in call] == tasks
    assert max(map(len, calls)) <= LARGEST
    assert len(calls) >= min(count, slots)
    assert {len(call) for call in calls[-min(slots, len(calls)) :]} == {1}


def test_few_tasks_have_a_call_each() -> None:
    assert len(in_calls([Task("a")] * FEW, 2)) == FEW


@pytest.mark.parametrize(("slots", "most"), [(2, 1_700), (200, 4_000), (2_000, 20_000)])
def test_a_hundred_thousand_shards_are_fewer_calls(slots: int, most: int) -> None:
    assert len(in_calls([Task("a")] * 100_000, slots)) <= most


@pytest.mark.parametrize(
    ("in_flight", "tasks", "workers", "shards"),
    [(1, 1, 1, 2), (64, 52, 1, 2), (512, 52, 1, 4), (512, 52, 20, 2), (512, 3, 1, 3), (4_096, 1_000, 1, 18)],
)
def test_more_shards_are_under_way_where_their_rows_leave_fast(in_flight: int, tasks: int, workers: int, shards: int) -> None:
    assert overlap(in_flight, tasks, workers) == shards
