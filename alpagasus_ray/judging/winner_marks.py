"""The marks by which a judge names the better of two answers, and JSON objects that do. Pure; `parse_verdict.py` says when they
count.

A mark is `[[A]]`, `[[B]]`, `[[C]]` or `[[Tie]]` for a tie, `[[A>B]]`, `[[A>>B]]`, `[[A=B]]`, in any case. It counts where
the judge gives it: alone on a line, at the beginning of the first, or behind a label there (`Verdict: A`, then also without
brackets on the first and the last line), at the end of the last line, or behind a word of choice on the last line (`but I
choose [[B]]`). Elsewhere it may be quoted.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Winner = Literal["first", "second", "tie"]

_NAME = r"(?:A ?(?:>{1,3}|<{1,3}|=) ?B|B ?(?:>{1,3}|<{1,3}|=) ?A|A|B|C|tie)"
_NOUN = r"(?:assistant|answer|response|model|output)"
MARK = re.compile(rf"\[\[ ?(?P<name>{_NAME}) ?\]\]", re.IGNORECASE)
_LABEL = (
    r"(?:(?:so|thus|therefore|hence),? )?(?:my |the )?(?:final |overall )?"
    rf"(?:verdict|winner|decision|choice|judge?ment|preference|better {_NOUN})"
    r"(?: is)? ?[:=]? ?"
)
ALONE = re.compile(rf"(?:{_LABEL})?\[\[ ?(?P<name>{_NAME}) ?\]\][.!]?", re.IGNORECASE)
NAMED = re.compile(rf"{_LABEL}(?:{_NOUN} )?[\[(\"']{{0,2}}(?P<name>{_NAME})[\])\"']{{0,2}}\.?", re.IGNORECASE)
LETTER = re.compile(rf"(?:{_NOUN} )?(?P<name>A|B|tie)\.?", re.IGNORECASE)
CHOSEN = re.compile(
    r"\b(?:choose|pick|select|prefer|go with|decide (?:for|on)|verdict(?: is)?|winner(?: is)?|choice(?: is)?) ?:? ?"
    rf"\[\[ ?(?P<name>{_NAME}) ?\]\]",
    re.IGNORECASE,
)
DENIED = re.compile(r"\b(?:not|never|cannot|if|unless|could|might)\b|n't\b", re.IGNORECASE)
KEYS = ("verdict", "winner", "better", "choice", "decision", "preference")
SIDES = re.compile(r"(?:score[_ ]?)?(?:assistant|answer|response|model|output)?[_ ]?(1|2|a|b)(?:[_ ]score)?", re.IGNORECASE)
OBJECT = re.compile(r"(?:\A|\n)\s*(?=\{)")


class Contradiction(NamedTuple):
    """Marks that differ."""

    marks: Sequence[str]


def found(lines: Sequence[str], *, only_last: bool = False) -> Winner | Contradiction | None:
    """The verdict that the lines give by a mark; `only_last`: by a mark that is the whole of the last line."""
    if not lines:
        return None
    if only_last:
        last = ALONE.fullmatch(lines[-1])
        return _meant(last["name"]) if last else None
    names = list(_given(lines)) or list(_in_last(lines[-1]))
    winners = {_meant(name) for name in names}
    if len(winners) > 1:
        return Contradiction(sorted({name.upper() for name in names}))
    return winners.pop() if winners else None


def _given(lines: Sequence[str]) -> Iterator[str]:
    """Marks on lines of their own; without brackets on the first and the last line."""
    for place, line in enumerate(lines):
        outer = place in (0, len(lines) - 1)
        if match := ALONE.fullmatch(line) or (outer and NAMED.fullmatch(line)) or None:
            yield match["name"]
        elif place == 0 and MARK.match(line):
            yield from (mark["name"] for mark in MARK.finditer(line))
    if len(lines) == 1 and (match := LETTER.fullmatch(lines[0])):
        yield match["name"]


def _in_last(line: str) -> Iterator[str]:
    """What the last line chooses, else what it ends with."""
    chosen = [match["name"] for match in CHOSEN.finditer(line) if not DENIED.search(line[: match.start()])]
    if chosen:
        yield from chosen
        return
    marks = list(MARK.finditer(line))
    if marks and line[marks[-1].end() :].strip(" .!)\"'") == "" and not DENIED.search(line):
        yield from (match["name"] for match in marks)


def _meant(name: str) -> Winner:
    sign = name.upper().replace(" ", "")
    if sign in ("C", "TIE") or "=" in sign:
        return "tie"
    if len(sign) == 1:
        return "first" if sign == "A" else "second"
    return "first" if (sign[0] == "A") == (">" in sign) else "second"


# JSON


def in_json(text: str) -> Winner | Contradiction | None:
    """The verdict in the one JSON object that begins or ends the reply."""
    pairs = _object(text)
    if pairs is None:
        return None
    said = [value.strip() for key, value in pairs if key.lower() in KEYS and isinstance(value, str)]
    names = [
        match["name"]
        for value in said
        if (match := re.fullmatch(rf"(?:{_NOUN} )?\[*(?P<name>{_NAME})\]*", value, re.IGNORECASE))
    ]
    winners = {_meant(name) for name in names}
    if len(winners) > 1:
        return Contradiction(sorted(names))
    return winners.pop() if winners else None


def scores_in_json(text: str) -> tuple[float, float] | None:
    """The two scores in the one JSON object that begins or ends the reply."""
    told: dict[bool, set[float]] = {True: set(), False: set()}
    for key, value in _object(text) or ():
        side = SIDES.fullmatch(key.strip())
        if side and isinstance(value, int | float) and not isinstance(value, bool):
            told[side[1].lower() in "1a"].add(float(value))
    if len(told[True]) == len(told[False]) == 1:
        return told[True].pop(), told[False].pop()
    return None


def _object(text: str) -> Sequence[tuple[str, Any]] | None:
    """The keys and values of the only JSON object, which begins or ends the text."""
    bare = re.sub(r"^\s*```\w*\s*$", "", text, flags=re.MULTILINE).strip()
    starts = [match.end() for match in OBJECT.finditer(bare)][:8]
    for start in starts:
        try:
            pairs, end = _DECODER.raw_decode(bare, start)
        except (ValueError, RecursionError):
            continue
        if start == 0 or end == len(bare):
            return pairs if isinstance(pairs, list) else None
    return None


def _listed(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return pairs


_CONSTANTS: Mapping[str, None] = {"NaN": None, "Infinity": None, "-Infinity": None}
_DECODER = json.JSONDecoder(object_pairs_hook=_listed, parse_constant=_CONSTANTS.__getitem__, strict=False)
