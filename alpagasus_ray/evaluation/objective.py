"""How often answers are the reference answer: a score beside the judge's, for prompts to which there is one right answer.

After SQuAD (P. Rajpurkar et al., arXiv 1606.05250, section 6.1): texts are compared in lower case, without punctuation and
English articles, whatever white space they have. Beyond it, punctuation is that of all scripts; a Chinese or Japanese character
is a word of its own, as these are written without spaces; and where nothing would be left of a text ("A", "+"), less is taken
away. The measure is blunt: "3.5" and "35" are the same to it, "five" and "5" are not.

Pure; knows nothing of models or runs.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

ARTICLES = {"a", "an", "the"}
UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The characters of Chinese and Japanese."""
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


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
    """The words of a text that count."""
    text = unicodedata.normalize("NFC", text).lower()
    bare = WORD.findall("".join(character for character in text if not _is_punctuation(character)))
    return [word for word in bare if word not in ARTICLES] or bare or WORD.findall(text)


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _contains(answer: Sequence[str], reference: Sequence[str]) -> bool:
    """Whether the words of the reference stand in the answer, one after the other."""
    width = len(reference)
    return any(answer[at : at + width] == reference for at in range(len(answer) - width + 1))


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the answer's words."""
    shared = (Counter(answer) & Counter(reference)).total()
    return 2 * shared / (len(answer) + len(reference))
