"""How often answers are the reference answer: a score beside the judge's, for prompts to which there is one right answer.

After SQuAD (P. Rajpurkar et al., arXiv 1606.05250, section 6.1): texts are compared in lower case, without punctuation and
English articles, whatever white space they have. Beyond it, punctuation is that of all scripts; a Chinese or Japanese character
is a word of its own, as these are written without spaces; where nothing would be left of a text ("A", "+"), less is taken
away; and a number is compared as a number (`numbers.py`): "4.0" is 4, "3.5" is not 35, "-5" is not 5. The measure stays blunt:
"five" and "5" are not the same to it.

Pure; knows nothing of models or runs.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from alpagasus_ray.evaluation.numbers import UNSPACED, parts, plain

ARTICLES = {"a", "an", "the"}
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
INSIDE = re.compile(r"(?<=[^\W_])[-+](?=\d)|(?<=\d)[.,:/](?=\d)")
"""A sign or point inside of what is no number as a whole; it belongs to it."""


def exact_match(answers: Sequence[tuple[str | None, str | None]]) -> dict[str, Any]:
    """What pairs of an answer and the reference come to; prompts without a reference count nowhere.

    `prompts` have a reference; of them `exact` are answered with it and nothing else, `contains` with it among other words (or
    exactly), and `unanswered` have no answer, which as in SQuAD is a wrong one. `share` is that of exact answers, `f1` the mean
    overlap in words; both are from 0 to 1, and None where there is no reference.
    """
    pairs = [(_words(answer or ""), _words(reference)) for answer, reference in answers if reference and reference.strip()]
    exact = sum(answer == reference for answer, reference in pairs)
    return {
        "prompts": len(pairs),
        "exact": exact,
        "share": exact / len(pairs) if pairs else None,
        "contains": sum(_contains(answer, reference) for answer, reference in pairs),
        "f1": sum(_f1(answer, reference) for answer, reference in pairs) / len(pairs) if pairs else None,
        "unanswered": sum(not answer for answer, _ in pairs),
    }


def _words(text: str) -> list[str]:
    """The words and numbers of a text that count."""
    text = plain(unicodedata.normalize("NFC", text)).lower()
    bare = [word for part in parts(text) for word in _told(part)]
    # `A` as the answer to a multiple choice is an article, and `+` is punctuation: then less is taken away
    return [word for word in bare if word not in ARTICLES] or bare or WORD.findall(text)


def _told(part: str | Fraction) -> Iterator[str]:
    """A number as it is told whatever way it was written, or the words of what is none, without their punctuation."""
    if isinstance(part, Fraction):
        yield str(part)
        return
    kept = {found.start() for found in INSIDE.finditer(part)}
    yield from WORD.findall("".join(c for at, c in enumerate(part) if at in kept or not _is_punctuation(c)))


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _contains(answer: Sequence[str], reference: Sequence[str]) -> bool:
    """Whether the words of the reference stand in the answer, one after the other."""
    width = len(reference)
    return any(answer[at : at + width] == reference for at in range(len(answer) - width + 1))


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the answer's words."""
    # as often as a word stands in both: repeating the right word does not help
    shared = (Counter(answer) & Counter(reference)).total()
    return 2 * shared / (len(answer) + len(reference))
