"""Checkpoints of a training: only whole ones count, the newest stays until the next is whole, others lose their mark first."""

from pathlib import Path

import pytest

from alpagasus_ray.store.storage import Storage
from alpagasus_ray.training.checkpoints import UNIVERSAL, WHOLE, CheckpointInfo, Checkpoints, name_of, newest


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "state"))


def put(storage: Storage, step: int, *, whole: bool, suffix: str = "") -> None:
    place = storage.at(name_of(step) + suffix)
    place.write("mp_rank_00_model_states.pt", b"weights")
    if whole:
        place.write(WHOLE, CheckpointInfo(step=step, workers=2, seconds={"train": float(step)}).model_dump_json().encode())


def states(storage: Storage, workers: int = 2, *, is_spread: bool = True) -> Checkpoints:
    return Checkpoints(storage, rank=0, workers=workers, keeps_frozen=True, is_spread=is_spread)


def test_where_nothing_was_saved_there_is_no_state(storage: Storage) -> None:
    assert newest(storage) is None


def test_a_state_that_was_torn_does_not_exist(storage: Storage) -> None:
    put(storage, 10, whole=True)
    put(storage, 20, whole=False)
    mark = newest(storage)
    assert mark is not None
    assert mark.step == 10


def test_the_newest_is_that_of_the_most_steps(storage: Storage) -> None:
    for step in (5, 100, 20):
        put(storage, step, whole=True)
    put(storage, 100, whole=True, suffix=UNIVERSAL)
    mark = newest(storage)
    assert mark is not None
    assert mark.step == 100


def test_once_a_state_is_whole_all_others_go(storage: Storage) -> None:
    put(storage, 10, whole=True)
    put(storage, 10, whole=True, suffix=UNIVERSAL)
    put(storage, 20, whole=False)
    put(storage, 30, whole=True)
    states(storage).drop_all_but(name_of(30))
    assert {name.split("/")[0] for name in storage.all_names()} == {name_of(30)}


SPREAD = [(2, True, False), (1, True, True), (4, True, True), (1, False, False)]


@pytest.mark.parametrize(("workers", "is_spread", "expected"), SPREAD)
def test_only_states_spread_over_other_workers_are_converted(
    storage: Storage, workers: int, is_spread: bool, expected: bool
) -> None:
    mark = CheckpointInfo(step=10, workers=2, seconds={})
    assert states(storage, workers, is_spread=is_spread).needs_universal(mark) == expected
