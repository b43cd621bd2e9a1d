"""What a distilled judge sees of an example: hashed words and word pairs of prompt and output, and a few plain numbers.

The columns of a prompt (instruction and input) and of an output are apart. Everything is integer arithmetic or one rounded
operation a number in a fixed order: the same features on every machine.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alpagasus_ray.selection.words import Grams, mixed, ngrams, words

Floats = NDArray[np.float64]

BITS = 18
COLUMNS = 1 << BITS
"""Of the prompt; the output has as many again."""
PLAIN = ("prompt words", "output words", "has an input", "output lines", "output bytes a word", "distinct output words")
VERSION = 1
"""Of all that is here: a student fitted on other features refuses these."""
BLOCK = 4096
"""Rows taken at a time: what they need in memory is some tens of megabytes."""

_SALTS = (np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB))


class Block(NamedTuple):
    """The features of some rows."""

    columns: NDArray[np.int64]
    """Of each word and word pair, as often as it occurs: below `COLUMNS` of the prompt, from there of the output."""
    rows: NDArray[np.int64]
    weights: Floats
    """Of each: one by the root of how many its row has on that side, so that long texts do not weigh more."""
    plain: Floats
    """(rows, `PLAIN`), before they are scaled."""


def blocks(examples: pa.Table, size: int = BLOCK) -> Iterator[Block]:
    """The features of a table with `instruction`, `input` and `output`, some rows at a time, in order."""
    for start in range(0, len(examples), size):
        part = examples.slice(start, size)
        yield features(*(part[name].to_pylist() for name in ("instruction", "input", "output")))


def features(instruction: Sequence[str], inputs: Sequence[str], output: Sequence[str]) -> Block:
    """The features of examples, given by column."""
    count = len(instruction)
    prompt = words([f"{first}\n{second}" for first, second in zip(instruction, inputs, strict=True)])
    answer = words(output)
    sides = [_hashed(side, number, count) for number, side in enumerate((prompt, answer))]
    columns, rows, weights = (np.concatenate(parts) for parts in zip(*sides, strict=True))
    return Block(columns, rows, weights, _plain(prompt, answer, inputs, output))


def _hashed(side: Grams, number: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    pairs = ngrams(side, 2)
    hashes = np.concatenate([side.hashes, pairs.hashes])
    rows = np.concatenate([side.rows, pairs.rows])
    columns = (mixed(hashes ^ _SALTS[number]) >> np.uint64(64 - BITS)).astype(np.int64) + number * COLUMNS
    sizes = np.bincount(rows, minlength=count)
    return columns, rows, 1 / np.sqrt(sizes[rows])


def _plain(prompt: Grams, answer: Grams, inputs: Sequence[str], output: Sequence[str]) -> Floats:
    count = len(output)
    words_in, words_out = (np.bincount(side.rows, minlength=count).astype(np.float64) for side in (prompt, answer))
    lines = np.fromiter((text.count("\n") for text in output), dtype=np.float64, count=count)
    size = np.fromiter((len(text.encode()) for text in output), dtype=np.float64, count=count)
    each = np.unique(mixed(answer.hashes + answer.rows.astype(np.uint64)), return_index=True)[1]
    distinct = np.bincount(answer.rows[each], minlength=count).astype(np.float64)
    has_input = np.fromiter((bool(text.strip()) for text in inputs), dtype=np.float64, count=count)
    at_least_one = np.maximum(words_out, 1)
    # roots and not logarithms: a root is rounded the same way by every processor and library
    columns = (np.sqrt(words_in), np.sqrt(words_out), has_input, np.sqrt(lines), size / at_least_one, distinct / at_least_one)
    return np.column_stack(columns)
