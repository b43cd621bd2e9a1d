"""Known defects planted into a user's own examples: twelve kinds, to see which of them a judge can see. Pure and seeded.

A copy of a row gets one defect and keeps its instruction and input; the judge rates both, and the card compares
(`judge_sections.planted_defects`). Kinds that need something to spoil (a number, a long answer, a plain statement) take only
rows that have it. The rows are taken to be good: a defect planted into a bad row is a comparison of two bad ones.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

PER_KIND = 20
LONG_WORDS = 15
"""Words of an answer from which on three words, or its first half, are a defect."""
MANY_LETTERS = 40
"""The same for text written without blanks, in characters."""
REPEATS = 12


class Row(NamedTuple):
    """An example; `language` is a code such as `en`, where it is known."""

    example_id: str
    instruction: str
    input: str
    output: str
    language: str = "en"


class Defect(NamedTuple):
    """A row's copy with a defect: `output` replaces the row's own, `note` says what was done."""

    kind: str
    row: Row
    output: str
    note: str


Random = np.random.Generator


class Source(NamedTuple):
    """A row to spoil, the others that it may take something from, and chance."""

    row: Row
    rows: Sequence[Row]
    random: Random


Spoiled = tuple[str, str]
"""An output and a note."""
Spoil = Callable[[Source], Spoiled | None]
"""None where the row has nothing of the kind to spoil."""

PLACEHOLDERS = ("N/A", "<nooutput>", "[insert answer here]", "TODO", "...")
REFUSALS: Mapping[str, str] = {
    "en": "I'm sorry, but I am not able to help with this request.",
    "es": "Lo siento, pero no puedo ayudar con esta petición.",
    "de": "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "fr": "Je suis désolé, mais je ne peux pas répondre à cette demande.",
    "zh": "很抱歉，我无法帮助完成这个请求。",
}
OTHER_LANGUAGE: Mapping[str, str] = {
    "en": "This is an interesting question. There are several sides to it, and the most important one depends on what is "
    "wanted: first look at the facts, then compare the possibilities, and decide at the end.",
    "de": "Das ist eine interessante Frage. Sie hat mehrere Seiten, und welche die wichtigste ist, hängt davon ab, was "
    "gewünscht wird: zuerst die Tatsachen ansehen, dann die Möglichkeiten vergleichen und am Ende entscheiden.",
}
NEGATIONS: Mapping[str, Sequence[tuple[str, str]]] = {
    "en": (
        (r"\b(has|have|had) been\b", r"\1 not been"),
        (r"\b(is|are|was|were|can|will|should|must|does|did)\b(?! not|n't)(?=\s)", r"\1 not"),
        (r"\b(is|are|was|were|can|will|should|must|does|did) not\b", r"\1"),
    ),
    "es": ((r"\b(?<!no )(es|son|fue|eran|puede|pueden|está|están)\b", r"no \1"),),
    "de": ((r"\b(ist|sind|war|waren|kann|können|wird|werden)\b(?! nicht)", r"\1 nicht"),),
    "fr": ((r"\b(est|sont|était|peut|peuvent)\b(?! pas)", r"\1 pas"),),
    "zh": ((r"(?<!不)是", "不是"), (r"(?<!不)能", "不能")),
}
NUMBER = re.compile(r"(?<![\w.,:/-])\d{1,6}(?![\w:/-]|[.,]\d)(?!\.\s)")
"""A whole number that stands alone: no date, version, decimal or number of a list's line."""


def plant(
    rows: Sequence[Row], per_kind: int = PER_KIND, seed: int = 0, kinds: Sequence[str] | None = None
) -> tuple[list[Defect], dict[str, int]]:
    """Up to `per_kind` defects of each kind, and how many of each there are; fewer where fewer rows have what a kind needs.

    The same rows in any order and the same seed give the same defects: rows are drawn by the hash of their id.
    """
    planted: list[Defect] = []
    for kind in kinds or KINDS:
        spoil, done = KINDS[kind], 0
        for row in sorted(rows, key=lambda one: _digest(seed, kind, one.example_id)):
            if done == per_kind:
                break
            random = np.random.default_rng(_digest(seed, kind, row.example_id))
            spoiled = spoil(Source(row, rows, random))
            if spoiled is not None and spoiled[0] != row.output:
                planted.append(Defect(kind, row, *spoiled))
                done += 1
    return planted, {kind: sum(one.kind == kind for one in planted) for kind in kinds or KINDS}


def _digest(seed: int, kind: str, example_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{kind}\0{example_id}".encode()).digest()[:8])


def pad(output: str) -> str:
    """The answer with filler before and after it that says nothing: what a length probe adds."""
    before = "Thank you for this question. Let me think about it carefully and give you a complete and helpful answer."
    after = (
        "I hope that this answer is helpful and covers everything that you wanted to know. If there is anything else that you "
        "would like to ask, or if some part of it is unclear, please feel free to let me know at any time."
    )
    return f"{before}\n\n{output}\n\n{after}"


def _empty(at: Source) -> Spoiled | None:
    return ("", "the output is empty") if at.row.output else None


def _placeholder(at: Source) -> Spoiled | None:
    return str(at.random.choice(PLACEHOLDERS)), "a placeholder stands for the answer"


def _echo(at: Source) -> Spoiled | None:
    return at.row.input or at.row.instruction, "repeats the input" if at.row.input else "repeats the instruction"


def _cut_off(at: Source) -> Spoiled | None:
    if not _is_long(at.row.output):
        return None
    end = int(len(at.row.output) * at.random.uniform(0.35, 0.65))
    while end > 1 and not (at.row.output[end - 1].isalnum() and at.row.output[end].isalnum()):
        end -= 1
    return (at.row.output[:end], "breaks off in the middle of a word") if end > 1 else None


def _repetition(at: Source) -> Spoiled | None:
    words = at.row.output.split()
    if not _is_long(at.row.output):
        return None
    piece = " ".join(words[:6]) if len(words) >= LONG_WORDS else at.row.output[:12]
    return " ".join([piece] * REPEATS), "the same words over and over"


def _wrong_language(at: Source) -> Spoiled | None:
    others = sorted(
        (one for one in at.rows if one.language != at.row.language and _is_long(one.output)), key=lambda one: one.example_id
    )
    if others:
        other = others[int(at.random.integers(len(others)))]
        return other.output, f"the answer of {other.example_id}, in {other.language}"
    language = "de" if at.row.language == "en" else "en"
    return OTHER_LANGUAGE[language], f"a general answer in {language}"


def _refusal(at: Source) -> Spoiled | None:
    return REFUSALS.get(at.row.language, REFUSALS["en"]), "declines a harmless request"


def _too_short(at: Source) -> Spoiled | None:
    words = at.row.output.split()
    if not _is_long(at.row.output):
        return None
    return " ".join(words[:3]) if len(words) >= LONG_WORDS else at.row.output[:4], "a few words of a long answer"


def _swapped_answer(at: Source) -> Spoiled | None:
    others = [
        one
        for one in at.rows
        if (one.instruction, one.input) != (at.row.instruction, at.row.input) and one.output not in ("", at.row.output)
    ]
    if not others:
        return None
    other = min(others, key=lambda one: _digest(0, at.row.example_id, one.example_id))
    return other.output, f"the answer of {other.example_id}"


def _negated_fact(at: Source) -> Spoiled | None:
    for pattern, said in NEGATIONS.get(at.row.language, ()):
        spoiled, done = re.subn(pattern, said, at.row.output, count=1)
        if done:
            return spoiled, "the first statement says the contrary"
    return None


def _wrong_number(at: Source) -> Spoiled | None:
    numbers = list(NUMBER.finditer(at.row.output))
    if not numbers:
        return None
    number = numbers[int(at.random.integers(len(numbers)))]
    right = int(number[0])
    wrong = right + max(1, round(right * float(at.random.uniform(0.1, 0.5)))) * (
        1 if at.random.random() < 0.5 or right < 2 else -1
    )
    return at.row.output[: number.start()] + str(wrong) + at.row.output[number.end() :], f"{right} became {wrong}"


def _garbled(at: Source) -> Spoiled | None:
    return (garbled(at.row.output, at.random), "the words are in no order") if _is_long(at.row.output) else None


def garbled(text: str, random: Random) -> str:
    """The words of a text in no order; its characters, where it has few blanks."""
    words = text.split()
    if len(words) >= LONG_WORDS:
        return " ".join(random.permutation(words))
    return "".join(random.permutation(list(text)))


def _is_long(text: str) -> bool:
    has_blanks = text.count(" ") * 12 > len(text)
    return len(text.split()) >= LONG_WORDS if has_blanks else len(text) >= MANY_LETTERS


KINDS: Mapping[str, Spoil] = {
    "empty": _empty,
    "placeholder": _placeholder,
    "echo": _echo,
    "cut_off": _cut_off,
    "repetition": _repetition,
    "wrong_language": _wrong_language,
    "refusal": _refusal,
    "too_short": _too_short,
    "swapped_answer": _swapped_answer,
    "negated_fact": _negated_fact,
    "wrong_number": _wrong_number,
    "garbled": _garbled,
}
