"""Texts as hashed words: the same whatever the spelling of case and blanks, and on every machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.selection.words import ngrams, words

LATIN = st.text(alphabet="abz9é ", max_size=20)


def _of(text: str) -> list[int]:
    return words([text]).hashes.tolist()


@pytest.mark.parametrize(
    "other",
    ["HELLO, brave   new world!", "hello\tbrave\nnew (world)", "ＨＥＬＬＯ brave “new” — world", "hello·brave«new»world"],
)
def test_case_width_blanks_and_punctuation_make_no_other_words(other: str) -> None:
    assert _of(other) == _of("Hello brave new world")


def test_a_character_of_a_script_without_blanks_is_a_word() -> None:
    assert _of("你好。世界 ok") == [*_of("你"), *_of("好"), *_of("世"), *_of("界"), *_of("ok")]


@given(st.lists(LATIN, max_size=8))
def test_words_of_many_texts_are_the_words_of_each_in_turn(texts: list[str]) -> None:
    grams = words(texts)
    assert [(row, value) for row, text in enumerate(texts) for value in _of(text)] == list(
        zip(grams.rows.tolist(), grams.hashes.tolist(), strict=True)
    )


@given(st.lists(LATIN, max_size=5), st.integers(1, 4))
def test_an_ngram_never_reaches_into_the_next_text(texts: list[str], size: int) -> None:
    counted = [max(0, len(_of(text)) - size + 1) for text in texts]
    rows = ngrams(words(texts), size).rows.tolist()
    assert [rows.count(row) for row in range(len(texts))] == counted


def test_the_order_of_words_is_part_of_an_ngram() -> None:
    first, second = (ngrams(words([text]), 2).hashes.tolist() for text in ("left right", "right left"))
    assert first != second


def test_hashes_are_the_same_on_every_machine() -> None:
    """Files hold what was made with them: a change here makes every stored student worthless."""
    assert _of("hello wörld 你") == PINNED


PINNED = [4709949849595525731, 7538755665281975845, 14882052954674654493]
