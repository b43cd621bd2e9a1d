"""Rows that hold what a model will be tested on. Pure functions over texts.

A row is contaminated by a test prompt if it holds at least half of the prompt's word 8-grams (`ngrams`), or, as open-instruct
has it, if at least half of the prompt's words are part of 8-grams that it holds (`words`; Tulu 3, arXiv 2411.15124, and
`decontamination/README.md` there). The second finds shorter parts, and more that only sounds alike: in Alpaca seven overlaps
with the four test sets of AlpaGasus, four of which are the usual lines of one program, where the first finds none. So the first
goes by words only for a row that is a shortened copy: whose own prompt is hardly more than what it shares with the test prompt.

Words are compared after NFKC and case folding, so other blanks, punctuation and capitals hide nothing. References are looked
for besides prompts, and in prompts and outputs of rows alike. A prompt of fewer than 8 words has no 8-gram: a row is
contaminated by it if its own prompt has the very same words. References that short are nobody's (`yes`, `42`) and are not
looked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.selection.words import Grams, Hashes, ngrams, whole, words

Rule = Literal["ngrams", "words"]

SIZE = 8
"""Words of an n-gram."""
LEAST = 0.5
"""Share of a test prompt's n-grams or words, from which on a row is contaminated."""
COPY = 0.9
"""Share of the words of a row's prompt that has to come from a test prompt for the row to be a shortened copy of it."""
BLOCK = 4096
"""Rows taken at a time."""
_FILTER_BITS = 22

Indices = NDArray[np.int64]


class PromptText(NamedTuple):
    """A prompt of a test set, with its input, or its reference."""

    test_set: str
    prompt_id: str
    kind: Literal["prompt", "reference"]
    text: str


class Hit(NamedTuple):
    """A row that holds a text of a test set."""

    row: int
    test_set: str
    prompt_id: str
    kind: str
    share: float
    """Of the text's n-grams or words that the row holds; 1 where a short text is the row's prompt."""

    @property
    def reason(self) -> str:
        """For the list of dropped rows."""
        return f"test set {self.test_set}: {self.prompt_id}"


class Index(NamedTuple):
    """All texts of the test sets, to be looked for; a few megabytes for each 10,000 texts, and the same for every shard."""

    texts: list[PromptText]
    grams: Hashes
    """All their n-grams, sorted, each once."""
    starts: Indices
    """Where each n-gram begins in `occurrences`; one more than there are n-grams."""
    occurrences: Indices
    """(occurrences, 2): text, and place in it."""
    sizes: Indices
    """Words of each text."""
    short: Mapping[int, list[int]]
    """Prompts without an n-gram, by the hash of all their words."""
    seen: NDArray[np.bool_]
    """For the first bits of a hash, whether any n-gram begins so: most words of most rows need no closer look."""
    unchecked: int
    """References without an n-gram, and texts without a word."""


def index_of(texts: Iterable[PromptText]) -> Index:
    """The index of test texts."""
    every = list(texts)
    single = words([text.text for text in every])
    sizes = np.bincount(single.rows, minlength=len(every))
    long = ngrams(single, SIZE)
    places = np.arange(len(long.rows)) - np.searchsorted(long.rows, long.rows)
    order = np.lexsort((places, long.rows, long.hashes))
    grams, starts = np.unique(long.hashes[order], return_index=True)
    seen = np.zeros(1 << _FILTER_BITS, dtype=bool)
    seen[grams >> np.uint64(64 - _FILTER_BITS)] = True
    short: dict[int, list[int]] = {}
    unchecked = 0
    for number, (text, hashed) in enumerate(zip(every, whole(single, len(every)).tolist(), strict=True)):
        if sizes[number] >= SIZE:
            continue
        if hashed and text.kind == "prompt":
            short.setdefault(hashed, []).append(number)
        else:
            unchecked += 1
    ends = np.append(starts, len(order)).astype(np.int64)
    return Index(every, grams, ends, np.stack([long.rows, places], axis=1)[order], sizes, short, seen, unchecked)


def contaminated(index: Index, prompts: Sequence[str], outputs: Sequence[str], rule: Rule = "ngrams") -> list[Hit]:
    """Each row that holds a test text, with each text that it holds, in order. `prompts` are instruction and input together."""
    hits = []
    for start in range(0, len(prompts), BLOCK):
        block = slice(start, start + BLOCK)
        hits += [hit._replace(row=hit.row + start) for hit in _in_block(index, prompts[block], outputs[block], rule)]
    return hits


def _in_block(index: Index, prompts: Sequence[str], outputs: Sequence[str], rule: Rule) -> list[Hit]:
    sides = [words(prompts), words(outputs)]
    pairs = np.unique(np.concatenate([_known(index, side) for side in sides]), axis=0)
    counts = index.starts[pairs[:, 1] + 1] - index.starts[pairs[:, 1]]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    occurrences = index.occurrences[np.repeat(index.starts[pairs[:, 1]], counts) + within]
    matches = np.column_stack([np.repeat(pairs[:, 0], counts), occurrences])
    own = np.bincount(sides[0].rows, minlength=len(prompts))
    found = []
    for (row, text, held), (_, _, covered) in zip(_matched(matches, 1), _matched(matches, SIZE), strict=True):
        is_copy = index.texts[text].kind == "prompt" and covered >= COPY * own[row] and own[row] >= SIZE
        by_words = rule == "words" or is_copy
        # a text of n words has n - SIZE + 1 n-grams
        share = covered / index.sizes[text] if by_words else held / (index.sizes[text] - SIZE + 1)
        if share >= LEAST:
            found.append(_hit(index, row, text, share))
    if index.short:
        equal = enumerate(whole(sides[0], len(prompts)).tolist())
        found += [_hit(index, row, text, 1.0) for row, hashed in equal for text in index.short.get(hashed, ())]
    return sorted(found)


def _matched(matches: Indices, width: int) -> list[tuple[int, int, int]]:
    """(row, text, places): how many places of a text are within `width` from the start of an n-gram that the row holds.

    `matches` are (row, text, place of an n-gram in the text).
    """
    if not len(matches):
        return []
    ordered = matches[np.lexsort(matches.T[::-1])]
    # n-grams overlap: each adds the places up to the next one's start, and the last of a text its whole width
    following = np.diff(ordered, axis=0)
    is_last = np.append((following[:, :2] != 0).any(axis=1), True)
    new_places = np.where(is_last, width, np.minimum(np.append(following[:, 2], width), width))
    ends = np.flatnonzero(is_last)
    totals = np.diff(np.cumsum(new_places)[ends], prepend=0)
    return [(row, text, total) for (row, text), total in zip(ordered[ends, :2].tolist(), totals.tolist(), strict=True)]


def _known(index: Index, side: Grams) -> Indices:
    """(hits, 2): row, and number of the n-gram in the index, of each n-gram of the rows that is there."""
    grams = ngrams(side, SIZE)
    # a table of four million flags rules most n-grams out before the search, which takes far longer for each
    likely = index.seen[grams.hashes >> np.uint64(64 - _FILTER_BITS)]
    hashes, rows = grams.hashes[likely], grams.rows[likely]
    numbers = np.searchsorted(index.grams, hashes)
    there = index.grams[np.minimum(numbers, len(index.grams) - 1)] == hashes if len(index.grams) else np.zeros(0, dtype=bool)
    return np.stack([rows[there], numbers[there]], axis=1)


def _hit(index: Index, row: int, text: int, share: float) -> Hit:
    own = index.texts[text]
    return Hit(row, own.test_set, own.prompt_id, own.kind, round(float(share), 4))


def summary(index: Index, hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """One entry a test set, in the order given: prompts looked for, those found, and rows that hold one."""
    names = list(dict.fromkeys(text.test_set for text in index.texts))
    every = list(hits)
    return [
        {
            "test_set": name,
            "prompts": len({text.prompt_id for text in index.texts if text.test_set == name}),
            "found": len({hit.prompt_id for hit in every if hit.test_set == name}),
            "rows": len({hit.row for hit in every if hit.test_set == name}),
        }
        for name in names
    ]


def to_tsv(ids: Sequence[str] | Mapping[int, str], hits: Iterable[Hit]) -> str:
    """For `contamination.tsv`: one line a hit; `ids` are those of rows, by their numbers."""
    lines = ["example_id\ttest_set\tprompt_id\tkind\tshare"]
    lines += ["\t".join((ids[hit.row], hit.test_set, hit.prompt_id, hit.kind, f"{hit.share:g}")) for hit in hits]
    return "\n".join(lines) + "\n"
