"""Updates hold every example once an epoch, whoever computes them; packs hold every example of an update once."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.training import schedule
from alpagasus_ray.training.schedule import Integers, Order

CAPACITY = 512
ORDERS = {"examples": st.integers(1, 60), "global_batch": st.integers(1, 25), "seed": st.integers(0, 5)}
LENGTHS = st.lists(st.integers(2, CAPACITY), min_size=1, max_size=80).map(np.array)
WORKERS = st.integers(1, 9)


def order(
    examples: int, global_batch: int = 128, seed: int = 0, epochs: float | None = None, steps: int | None = None
) -> Order:
    return Order.of(examples, global_batch, seed, epochs=epochs, steps=steps)


def seen(of: Order, start: int = 0) -> list[int]:
    """The examples of all updates from one on, in order."""
    return [int(index) for step in range(start, of.steps) for index in of.batch(step)]


# the order of the examples


@given(epochs=st.integers(1, 4), **ORDERS)
def test_each_epoch_holds_every_example_exactly_once(epochs: int, examples: int, global_batch: int, seed: int) -> None:
    every = seen(order(examples, global_batch, seed, epochs=epochs))
    assert len(every) == epochs * examples
    for epoch in _cut(every, examples):
        assert sorted(epoch) == list(range(examples))


def _cut(every: list[int], size: int) -> list[list[int]]:
    return [every[start : start + size] for start in range(0, len(every), size)]


@given(epochs=st.floats(0.01, 4), **ORDERS)
def test_all_batches_are_full_but_the_last(epochs: float, examples: int, global_batch: int, seed: int) -> None:
    of = order(examples, global_batch, seed, epochs=epochs)
    *full, last = [len(of.batch(step)) for step in range(of.steps)]
    assert set(full) <= {global_batch}
    assert 1 <= last <= global_batch
    assert sum(full) + last == of.seen == max(1, round(examples * epochs))


@given(epochs=st.floats(0.01, 4), **ORDERS)
def test_fractional_epochs_are_the_beginning_of_whole_ones(epochs: float, examples: int, global_batch: int, seed: int) -> None:
    part = seen(order(examples, global_batch, seed, epochs=epochs))
    assert part == seen(order(examples, global_batch, seed, epochs=math.ceil(epochs)))[: len(part)]
    counts = Counter(part)
    often = [counts[index] for index in range(examples)]
    assert max(often) - min(often) <= 1


@given(data=st.data(), **ORDERS)
def test_an_update_is_the_same_from_wherever_the_training_goes_on(
    data: st.DataObject, examples: int, global_batch: int, seed: int
) -> None:
    first, again = (order(examples, global_batch, seed, epochs=2) for _ in range(2))
    every = seen(first)
    step = data.draw(st.integers(0, first.steps - 1))
    assert seen(again, step) == every[step * global_batch :]


@given(steps=st.integers(1, 12), **ORDERS)
def test_steps_in_place_of_epochs_are_that_many_full_batches(steps: int, examples: int, global_batch: int, seed: int) -> None:
    of = order(examples, global_batch, seed, steps=steps)
    assert of.steps == steps
    assert {len(of.batch(step)) for step in range(steps)} == {global_batch}
    assert of.epoch(steps - 1) == pytest.approx(steps * global_batch / examples)


def test_epochs_are_shuffled_differently_and_another_seed_shuffles_otherwise() -> None:
    first, second = _cut(seen(order(200, epochs=2)), 200)
    assert first != second
    assert first != list(range(200))
    assert first != seen(order(200, epochs=1, seed=1))


@pytest.mark.parametrize(
    ("examples", "epochs", "steps"), [(9229, 3, 217), (52_002, 3, 1219), (9229, 5, 361), (52_002, 5, 2032)]
)
def test_the_papers_arms_take_as_many_updates_as_theirs(examples: int, epochs: int, steps: int) -> None:
    assert order(examples, epochs=epochs).steps == steps
    assert order(examples, epochs=epochs).epoch(steps - 1) == epochs


def test_three_epochs_unless_told() -> None:
    assert order(9229) == order(9229, epochs=3)


# packs


def packed(lengths: Integers, workers: int, capacity: int = CAPACITY) -> list[list[Integers]]:
    return schedule.packs(np.arange(len(lengths)), lengths, capacity, workers)


def flat(shares: list[list[Integers]]) -> list[int]:
    return sorted(int(index) for share in shares for part in share for index in part)


@given(lengths=LENGTHS, workers=WORKERS)
def test_packs_hold_every_example_exactly_once_and_never_too_much(lengths: Integers, workers: int) -> None:
    shares = packed(lengths, workers)
    assert flat(shares) == list(range(len(lengths)))
    assert all(lengths[part].sum() <= CAPACITY for share in shares for part in share)


@given(lengths=LENGTHS, workers=WORKERS)
def test_every_worker_has_as_many_packs(lengths: Integers, workers: int) -> None:
    shares = packed(lengths, workers)
    assert len(shares) == workers
    assert len({len(share) for share in shares}) == 1


@given(lengths=LENGTHS, workers=WORKERS)
def test_the_fullest_pack_holds_at_most_one_example_more_than_the_emptiest(lengths: Integers, workers: int) -> None:
    """What the longest-first rule is for: no example could move to make two packs more equal."""
    held = [[int(length) for length in lengths[part]] for share in packed(lengths, workers) for part in share]
    emptiest = min(sum(pack) for pack in held)
    assert all(sum(pack) - min(pack) <= emptiest for pack in held if pack)


@given(lengths=LENGTHS, workers=WORKERS)
def test_packs_of_short_examples_are_about_as_few_as_their_tokens_allow(lengths: Integers, workers: int) -> None:
    short = np.minimum(lengths, CAPACITY // 4)
    (number,) = {len(share) for share in packed(short, workers)}
    least = math.ceil(short.sum() / (CAPACITY * workers))
    assert least <= number <= math.ceil(short.sum() / (0.75 * CAPACITY * workers))


def test_packs_of_real_lengths_are_few_and_as_large_for_each_worker() -> None:
    lengths = np.random.default_rng(0).gamma(2, 60, size=128).astype(np.int64).clip(20, 512)
    for workers in (1, 2, 4, 8):
        shares = packed(lengths, workers, capacity=2048)
        tokens = [sum(int(lengths[part].sum()) for part in share) for share in shares]
        assert sum(len(share) for share in shares) <= workers * math.ceil(lengths.sum() / (2048 * workers)) + workers
        assert max(tokens) - min(tokens) < 0.02 * max(tokens)


def test_workers_without_an_example_have_an_empty_pack() -> None:
    shares = packed(np.array([30, 20, 10]), workers=5)
    assert flat(shares) == [0, 1, 2]
    assert [len(share) for share in shares] == [1] * 5
    assert sum(not len(part) for share in shares for part in share) == 2


def test_packs_name_examples_by_their_index_in_the_arm() -> None:
    lengths = np.arange(100) + 2
    batch = np.array([90, 5, 41])
    assert flat(schedule.packs(batch, lengths, CAPACITY, 2)) == [5, 41, 90]


# padded rows


@given(number=st.integers(1, 60), micro_batch=st.integers(1, 7), workers=WORKERS)
def test_rows_hold_every_example_exactly_once_in_as_many_parts_for_each_worker(
    number: int, micro_batch: int, workers: int
) -> None:
    shares = schedule.rows(np.arange(number) + 7, micro_batch, workers)
    assert flat(shares) == [index + 7 for index in range(number)]
    assert len(shares) == workers
    assert {len(share) for share in shares} == {math.ceil(math.ceil(number / workers) / micro_batch)}
    assert all(len(part) <= micro_batch for share in shares for part in share)


@given(lengths=LENGTHS, micro_batch=st.integers(1, 7))
def test_padded_rows_take_their_longest_example_each_or_the_given_width(lengths: Integers, micro_batch: int) -> None:
    (parts,) = schedule.rows(np.arange(len(lengths)), micro_batch, 1)
    assert schedule.occupied(parts, lengths) == sum(len(part) * max(lengths[part]) for part in parts)
    assert schedule.occupied(parts, lengths, CAPACITY) == CAPACITY * len(lengths)
    assert schedule.occupied([*parts, np.array([], dtype=np.int64)], lengths) == schedule.occupied(parts, lengths)


@given(lengths=LENGTHS)
def test_examples_of_a_pack_begin_where_the_one_before_ends(lengths: Integers) -> None:
    borders = schedule.starts(lengths)
    assert borders[0] == 0
    assert borders[-1] == lengths.sum()
    assert [stop - start for start, stop in itertools.pairwise(borders)] == lengths.tolist()
