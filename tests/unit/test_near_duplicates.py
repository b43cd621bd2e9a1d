"""Near-duplicates: pairs that are as alike as asked for, exactly, and the better of each stays."""

from pathlib import Path

import numpy as np
import pytest
from alpaca_rows import alpaca_table, judge_scores
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.selection import near_duplicates as near

WORDS = "river mountain paints seven green boats while singing quietly under old stone bridges near every third market".split()


def _jaccard(first: str, second: str) -> float:
    sets = [
        {tuple(text.split()[place : place + 3]) for place in range(max(1, len(text.split()) - 2))} for text in (first, second)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def _text(rng: np.random.Generator, count: int = 60) -> str:
    return " ".join(rng.choice(WORDS, count)) + f" {rng.integers(10**9)}"


def test_nearly_equal_rows_are_found_and_the_better_stays() -> None:
    rng = np.random.default_rng(0)
    texts = [_text(rng) for _ in range(200)]
    texts[150] = texts[20].replace(",", "") + " indeed"
    texts[70] = texts[99].upper()
    order = np.arange(200)[::-1]
    assert near.near_duplicates(texts, order, 0.8) == {20: 150, 70: 99}


def test_pairs_of_every_likeness_are_told_apart_at_the_limit() -> None:
    """100 rows each a little further from its original: what is clearly as alike is found, and what is clearly not is not."""
    rng = np.random.default_rng(1)
    texts = []
    for count in range(100):
        words = _text(rng, 100).split()
        changed = [*words[: len(words) - count // 2], *(f"new{count}x{place}" for place in range(count // 2))]
        texts += [" ".join(words), " ".join(changed)]
    dropped = near.near_duplicates(texts, np.arange(200), 0.8)
    likeness = {row: _jaccard(texts[row - 1], texts[row]) for row in range(1, 200, 2)}
    assert {row for row, alike in likeness.items() if alike >= 0.92} <= set(dropped)
    assert set(dropped) <= {row for row, alike in likeness.items() if alike >= 0.68}


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=7).map(" ".join), min_size=1, max_size=12), st.randoms())
def test_no_kept_row_repeats_a_kept_one_and_each_dropped_row_names_a_kept_better_one(texts: list[str], random: object) -> None:
    order = list(range(len(texts)))
    random.shuffle(order)
    dropped = near.near_duplicates(texts, np.array(order), 0.9)
    assert all(order.index(other) < order.index(row) and other not in dropped for row, other in dropped.items())
    kept = [text for row, text in enumerate(texts) if row not in dropped and text]
    assert len(kept) == len(set(kept))
    assert all(texts[row] for row in dropped)


def test_what_is_like_a_dropped_row_only_stays() -> None:
    """A chain: 1 is like 0, 2 is like 1 but not like 0."""
    assert near.repeats(np.array([[0, 1], [1, 2]]), np.arange(3)) == {1: 0}
    assert near.repeats(np.array([[1, 0], [1, 2]]), np.array([1, 0, 2])) == {0: 1, 2: 1}
    assert near.repeats(np.array([[0, 1], [2, 1]]), np.array([2, 0, 1])) == {1: 2}


@pytest.mark.parametrize("limit", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_find_nearly_all_pairs_that_are_just_alike_enough(limit: float) -> None:
    count, length = near.bands(limit)
    assert count * length <= near.PERMUTATIONS
    assert 1 - (1 - limit**length) ** count >= 0.99


def test_signatures_estimate_how_alike_rows_are() -> None:
    rng = np.random.default_rng(2)
    first = _text(rng, 300).split()
    for share in (0.9, 0.6, 0.3):
        second = [*first[: int(share * 300)], *_text(rng, 300).split()[int(share * 300) :]]
        texts = [" ".join(first), " ".join(second)]
        rows = near.signatures(texts)
        assert abs((rows[0] == rows[1]).mean() - _jaccard(*texts)) < 0.15


def test_boilerplate_is_no_quadratic_work() -> None:
    keys = np.ones((3000, 2), dtype=np.uint64)
    pairs = near.candidates(keys, np.arange(3000))
    assert len(pairs) <= 3000 * near.LEADERS


def test_rows_without_words_repeat_nothing() -> None:
    assert near.near_duplicates(["", "...", "", "one two", "one  two!"], np.arange(5), 0.8) == {4: 3}


def _alpaca_has_few(shared: Path, count: int) -> dict[int, int]:
    table = alpaca_table(shared).slice(0, count)
    columns = (table[name].to_pylist() for name in ("instruction", "input", "output"))
    texts = ["\n".join(parts) for parts in zip(*columns, strict=True)]
    order = np.argsort(-judge_scores(shared)[:count], kind="stable")
    dropped = near.near_duplicates(texts, order, 0.8)
    score = judge_scores(shared)
    assert all(score[other] >= score[row] for row, other in dropped.items())
    return dropped


def test_part_of_alpaca_has_hardly_a_near_duplicate(shared: Path) -> None:
    assert len(_alpaca_has_few(shared, 5000)) <= 2


@pytest.mark.long
def test_alpaca_has_five_near_duplicates(shared: Path) -> None:
    assert len(_alpaca_has_few(shared, 52002)) == 5
