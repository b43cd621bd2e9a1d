"""From a prompt back to the examples that are about the same."""

import numpy as np

from alpagasus_ray.selection.nearest import in_words, nearest

ROWS = [
    "Write a poem about the autumn rain",
    "Sort a list of numbers in Python",
    "Write a Python function that sorts a list of strings",
    "Explain how photosynthesis works",
    "Sort these words in Python by their length",
]
KEPT = np.array([True, False, True, True, False])
SCORES = np.array([4.5, 3.5, 5.0, 4.5, 4.0])


def test_rows_that_share_rare_words_and_pairs_come_first_kept_and_dropped_alike() -> None:
    (found,) = nearest(["How do I sort a list in Python?"], ROWS, KEPT, SCORES, most=2)
    assert found[0].row == 1
    assert {near.row for near in found} >= {1, 4}
    assert [near.cosine for near in found] == sorted((near.cosine for near in found), reverse=True)
    assert sum(near.kept for near in found) <= 2 >= sum(not near.kept for near in found)
    assert in_words(found, 3).endswith("2 dropped with scores of 3.5 to 4")
    assert in_words(found, 2).endswith("2 or more dropped with scores of 3.5 to 4")


def test_what_shares_nothing_finds_nothing() -> None:
    assert nearest(["Übersetze bitte"], ROWS, KEPT, SCORES, most=2) == [[]]
    assert nearest(["x"], [], KEPT[:0], SCORES[:0], most=2) == [[]]
    assert nearest([""], ROWS, KEPT, SCORES, most=2) == [[]]


def test_a_row_is_most_like_itself() -> None:
    found = nearest(ROWS, ROWS, KEPT, SCORES, most=1)
    assert [own[0].row for own in found] == list(range(len(ROWS)))
    assert all(abs(own[0].cosine - 1) < 1e-9 for own in found)
