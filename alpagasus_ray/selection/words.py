"""Texts as sequences of hashed words, and word n-grams of them, in numpy alone.

A word is a run of letters and digits after NFKC and case folding; a character of a script that puts no blanks between words
(Chinese, Japanese, Korean, Thai, Lao) is a word of its own. A hash is 64-bit integer arithmetic on UTF-8 bytes: the same on
every machine and in every process. Knows nothing of examples.
"""

import functools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]

_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
"""Odd, so that it has an inverse modulo 2^64."""
_SEPARATOR, _WORD, _ALONE = 0, 1, 2


class Grams(NamedTuple):
    """Hashed words or n-grams of many texts, in reading order."""

    hashes: Hashes
    rows: Rows
    """For each hash, the number of its text; never falls."""


def folded(text: str) -> str:
    """The text without differences of case, width and composition."""
    return unicodedata.normalize("NFKC", text).casefold()


def words(texts: Sequence[str]) -> Grams:
    """The words of texts."""
    encoded = [folded(text).encode("utf-8", "replace") for text in texts]
    # all texts as one array: numpy does in seconds what a loop over words in Python does in minutes
    data = np.frombuffer(b"\n".join(encoded) + b"\n", dtype=np.uint8)
    ends_of_texts = np.cumsum(np.fromiter((len(text) + 1 for text in encoded), dtype=np.int64, count=len(encoded)))
    starts, ends = _bounds(data)
    powers, inverses = _powers(1 << len(data).bit_length())
    # sums of byte times power up to each place: a word's hash is a difference of two of them, shifted back to power zero
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers[: len(data)], out=sums[1:])
    hashes = mixed((sums[ends] - sums[starts]) * inverses[starts])
    return Grams(hashes, np.searchsorted(ends_of_texts, starts, side="right").astype(np.int64))


def ngrams(grams: Grams, size: int) -> Grams:
    """The runs of `size` words that lie within one text."""
    count = max(0, len(grams.rows) - size + 1)
    inside = grams.rows[:count] == grams.rows[size - 1 : size - 1 + count]
    total = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        # a polynomial over the hashes of the words: the order of the words counts
        total *= _BASE
        total += grams.hashes[place : place + count]
    return Grams(mixed(total[inside]), grams.rows[:count][inside])


def whole(grams: Grams, count: int) -> Hashes:
    """One hash of all words of each of `count` texts, in order; 0 for a text without a word."""
    hashes = np.zeros(count, dtype=np.uint64)
    if not len(grams.rows):
        return hashes
    starts = np.flatnonzero(np.diff(grams.rows, prepend=-1))
    lengths = np.diff(starts, append=len(grams.rows))
    places = np.arange(len(grams.rows)) - np.repeat(starts, lengths)
    powers, _ = _powers(1 << int(lengths.max()).bit_length())
    hashes[grams.rows[starts]] = mixed(np.add.reduceat(grams.hashes * powers[places], starts))
    return hashes


def mixed(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the finalizer of SplitMix64; Steele, Lea, Flood 2014)."""
    values = values ^ (values >> np.uint64(30))
    values = values * np.uint64(0xBF58476D1CE4E5B9)
    values = values ^ (values >> np.uint64(27))
    values = values * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _bounds(data: NDArray[np.uint8]) -> tuple[Rows, Rows]:
    """First byte, and the byte behind the last, of each word. The data ends in a separator."""
    kinds = _KINDS[data]
    begins_character = np.ones(len(data), dtype=bool)
    other = np.flatnonzero(data >= 0x80)
    if len(other):
        begins_character[other] = data[other] >= 0xC0
        leads = other[begins_character[other]]
        kinds[other] = _kinds_of(data[leads], data[leads + 1])[np.cumsum(begins_character[other]) - 1]
    is_word = kinds != _SEPARATOR
    before = np.concatenate([[_SEPARATOR], kinds[:-1]])
    starts = is_word & ((before == _SEPARATOR) | (begins_character & ((kinds == _ALONE) | (before == _ALONE))))
    ends = is_word[:-1] & (~is_word[1:] | starts[1:])
    return np.flatnonzero(starts), np.flatnonzero(ends) + 1


def _kinds_of(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Kind of characters beyond ASCII, by their first two bytes."""
    kinds = np.full(len(first), _WORD, dtype=np.uint8)
    kinds[first >= 0xE3] = _ALONE
    kinds[(first == 0xE0) & (second >= 0xB8) & (second <= 0xBB)] = _ALONE  # Thai and Lao
    # U+0080 to U+00BF, U+2000 to U+2FFF and U+3000 to U+303F hold punctuation and signs
    kinds[(first == 0xC2) | (first == 0xE2) | ((first == 0xE3) & (second == 0x80))] = _SEPARATOR
    return kinds


@functools.lru_cache(maxsize=2)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of the base modulo 2^64 and their inverses, from the zeroth."""
    # with inverses a hash is shifted back to power zero, and a word has one hash wherever it stands
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    both = [np.full(count, base, dtype=np.uint64) for base in (_BASE, inverse)]
    for powers in both:
        powers[0] = 1
        np.cumprod(powers, out=powers)
    return both[0], both[1]


_KINDS = np.array([_WORD if chr(byte).isalnum() and byte < 0x80 else _SEPARATOR for byte in range(256)], dtype=np.uint8)
