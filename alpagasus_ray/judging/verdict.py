"""From a judge's raw reply about two answers to a verdict, or to the reason why there is none. Reading never invents one.

In this order, the first that fits decides; where the rubric's form is `verdict`, 4 comes before 2:

1. The provider says the judge refused or the content was filtered -> `refused`.
2. The first line that is not blank holds two numbers and nothing else (`8 7.5`, `8/10, 9/10`, `(8, 7)`), or the first two lines
   hold one labelled number each (`Assistant 1: 8/10`).
3. Further down the reply gives one pair of overall scores: a tuple (`Output: (10, 1)`), two labelled numbers at the begin of
   their lines (`Assistant 2: 2 (wrong)`), or a sentence (`Assistant 1 a score of 10 and Assistant 2 a score of 1`, `both a
   score of 8`, `are 4 and 9, respectively`). Two different pairs are no answer.
4. The reply marks the better one: `[[A]]`, `[[B]]`, or `[[C]]` for a tie. Two different marks are no answer.
5. A sentence says which one is chosen or better (`I would choose Assistant 1`, `Output (a) is better`). Sentences that
   contradict each other, and words that call both good or neither better, are no answer: a tie is never read from words.
6. The words of a refusal -> `refused`. Anything else -> `unparsed`.

A score that is not on the scale, or out of another number than its end, is `unparsed`. A reply cut by the token limit is
`truncated`, unless the first line with the scores was ended before the cut or a mark is there.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from alpagasus_ray.judging.rating import REFUSAL, REFUSAL_WINDOW
from alpagasus_ray.judging.rubric import Scale

JUDGED, UNPARSED, REFUSED, TRUNCATED, FAILED, UNANSWERED = (
    "judged",
    "unparsed",
    "refused",
    "truncated",
    "failed",
    "unanswered",
)
STATUSES = (JUDGED, UNPARSED, REFUSED, TRUNCATED, UNANSWERED, FAILED)
Winner = Literal["first", "second", "tie"]

_NUMBER = r"\d+(?:\.\d+)?"
_SCORE = rf"({_NUMBER})(?:[ \t]*(?:/|out of)[ \t]*({_NUMBER}))?(?!\.?\d)(?:[ \t]*points?)?"
_OPEN, _CLOSE = r"[ \t*_`\"'\[(#]*", r"[ \t*_`\"'\]).,]*"
_SIGN = r"[ \t]*(?:[:=-]|\bis\b)[ \t]*"
_NAMED = [rf"(?:assistant|answer|response|model|output)[ \t]*\(?(?:{names})\)?" for names in ("1|a", "2|b")]
_LABEL = [rf"{name}(?:'s[ \t]+(?:overall[ \t]+)?score)?{_CLOSE}{_SIGN}{_OPEN}" for name in _NAMED]
_GIVEN = r"(?:score|rating)\s+of\s+"

BARE = re.compile(rf"{_OPEN}{_SCORE}{_CLOSE}(?:[\s,;|&-]+|\s+and\s+){_OPEN}{_SCORE}{_CLOSE}", re.IGNORECASE)
TOLD = re.compile(rf"{_OPEN}{_LABEL[0]}{_SCORE}{_CLOSE}[\s,;|]+(?:and\s+)?{_OPEN}{_LABEL[1]}{_SCORE}{_CLOSE}", re.IGNORECASE)
HEADER = re.compile(r"^\W*(?:final\s+|overall\s+)?scores?\W*$", re.IGNORECASE | re.MULTILINE)
PAIRS = [
    re.compile(
        rf"^{_OPEN}(?:output{_CLOSE}:?[ \t]*)?\([ \t]*{_SCORE}[ \t]*,[ \t]*{_SCORE}[ \t]*\)\W*$", re.IGNORECASE | re.MULTILINE
    ),
    re.compile(rf"\b(?:tuple|output)\b[^.\n()]*(?:is|:)[ \t]*\([ \t]*{_SCORE}[ \t]*,[ \t]*{_SCORE}[ \t]*\)", re.IGNORECASE),
    re.compile(rf"assistant 1 and (?:for )?assistant 2 are\s+{_SCORE}\s+and\s+{_SCORE},?\s+respectively", re.IGNORECASE),
]
BOTH = re.compile(rf"\bboth\b[^.\n]*?\b{_GIVEN}{_SCORE}", re.IGNORECASE)
SINGLE = [
    [
        re.compile(rf"^{_OPEN}{label}{_SCORE}(?=$|[\s().,;*])", re.IGNORECASE | re.MULTILINE),
        re.compile(rf"{name}'s\s+(?:overall\s+|final\s+)?score\s+is\s+{_SCORE}", re.IGNORECASE),
        re.compile(
            rf"{name}(?:'s\s+[\w ]+?)?\s+(?:(?:gets|receives|scores|deserves)\s+)?(?:with\s+)?a\s+{_GIVEN}{_SCORE}",
            re.IGNORECASE,
        ),
        re.compile(rf"{name}(?:'s\s+[\w ]+?)?\s+an?\s+({_NUMBER})\s+out\s+of\s+({_NUMBER})", re.IGNORECASE),
        re.compile(rf"{_GIVEN}{_SCORE}\s+(?:to|for)\s+{name}", re.IGNORECASE),
    ]
    for name, label in zip(_NAMED, _LABEL, strict=True)
]
"""For each of the two, the ways to tell its score alone."""
MARK = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_BETTER = r"(?:the\s+|clearly\s+|slightly\s+|a\s+)*better\b(?!\s+than\s+nothing)"
PROSE = [
    re.compile(
        r"\b(?:choose|choosing|pick|select|recommend|prefer|go\s+with)\s+(?:choosing\s+)?(?:assistant|answer|response|output)?\s*"
        r"\(?(1|2|a|b)\b\)?(?=$|[\s.,;]|'s)",
        re.IGNORECASE,
    ),
    re.compile(rf"\b(?:assistant|answer|response|output)\s*\(?(1|2|a|b)\b\)?(?:'s\s+\w+)?\s+is\s+{_BETTER}", re.IGNORECASE),
    re.compile(r"\b(?:my\s+answer|my\s+choice)\s+is\s+(?:assistant\s+)?\(?(1|2)\b", re.IGNORECASE),
    re.compile(r"\bthe\s+better(?:-performing)?\s+(?:answer|assistant|one)\s+is\s+assistant\s+(1|2)\b", re.IGNORECASE),
    re.compile(r"\brecommend\s+that\s+assistant\s+(1|2)'s\s+\w+\s+be\s+used", re.IGNORECASE),
    re.compile(r"\brate\s+assistant\s+(1|2)\s+as\s+the\s+(?:more|better)", re.IGNORECASE),
    re.compile(r"^output:\s*(1|2)\s*$", re.IGNORECASE | re.MULTILINE),
]
"""Ways to say which one is better; a lone letter counts only behind a noun or in brackets."""
NEITHER = re.compile(
    r"\bneither\b[^.]*\b(?:better|executes?|meets?|satisf\w+)|\bcannot choose\b|\bequally\b|\beither one\b|\boption 3\b"
    r"|\bboth\b[^.]*\bthe same\b[^.]*\bresponse\b",
    re.IGNORECASE,
)


class Verdict(NamedTuple):
    """What a reply says, by the places in which the answers stood."""

    status: str
    first: float | None = None
    """Overall score of the first answer; None where the reply has no scores."""
    second: float | None = None
    winner: Winner | None = None
    error: str | None = None


class _Pair(NamedTuple):
    """Two scores as they are written, each perhaps out of something."""

    first: str
    end_1: str | None
    second: str
    end_2: str | None


def read(text: str, finish_reason: str, form: Literal["scores", "verdict"], scale: Scale) -> Verdict:
    """The verdict in a reply's text; see the module for the rules."""
    if finish_reason in ("refusal", "content_filter"):
        return Verdict(REFUSED, error=f"{finish_reason.replace('_', ' ')}: the provider marked the reply so")
    cut = finish_reason == "length"
    lines = [line for line in (text.split("\n")[:-1] if cut else text.split("\n")) if line.strip()]
    by_mark, on_top = _marked(text), _on_top(lines, scale)
    early = (by_mark or on_top) if form == "verdict" else on_top or (by_mark if cut else None)
    if early is not None:
        return early
    if cut:
        return Verdict(TRUNCATED, error="length: the reply was cut before a verdict was complete")
    return _further_down(text, scale) or by_mark or _in_words(text) or _nothing(text)


def _nothing(text: str) -> Verdict:
    if REFUSAL.search(text[:REFUSAL_WINDOW]):
        return Verdict(REFUSED, error="refusal: the judge declines in its own words")
    return Verdict(
        UNPARSED, error="no verdict: neither scores nor a choice" if text.strip() else "empty reply: there is no text"
    )


def _on_top(lines: Sequence[str], scale: Scale) -> Verdict | None:
    if not lines:
        return None
    found = BARE.fullmatch(lines[0]) or TOLD.fullmatch(lines[0]) or TOLD.fullmatch("\n".join(lines[:2]))
    return _scored(_Pair(*found.groups()), scale) if found else None


def _further_down(text: str, scale: Scale) -> Verdict | None:
    """The overall scores below the first line; those under a heading for them, if there is one."""
    headed = [match.end() for match in HEADER.finditer(text)]
    pairs = {(float(pair.first), float(pair.second)): pair for pair in _pairs(text[headed[-1] :] if headed else text)}
    if len(pairs) > 1:
        listed = "; ".join(f"{first:g} and {second:g}" for first, second in sorted(pairs))
        return Verdict(UNPARSED, error=f"contradiction: several pairs of scores are given ({listed})")
    return _scored(next(iter(pairs.values())), scale) if pairs else None


def _pairs(text: str) -> Iterator[_Pair]:
    """All pairs of overall scores; of scores that stand alone those that are told once, or always the same."""
    for pattern in PAIRS:
        for match in pattern.finditer(text):
            yield _Pair(*match.groups())
    for match in BOTH.finditer(text):
        yield _Pair(match[1], match[2], match[1], match[2])
    one, two = ({match.groups() for pattern in patterns for match in pattern.finditer(text)} for patterns in SINGLE)
    if len(one) == len(two) == 1:
        yield _Pair(*one.pop(), *two.pop())


def _scored(pair: _Pair, scale: Scale) -> Verdict:
    ends = {end for end in (pair.end_1, pair.end_2) if end is not None and float(end) != scale.max}
    if ends:
        return Verdict(UNPARSED, error=f"off scale: a score out of {ends.pop()}, where the scale ends at {scale.max:g}")
    first, second = float(pair.first), float(pair.second)
    for score in (first, second):
        if not scale.holds(score):
            return Verdict(UNPARSED, error=f"off scale: {score:g} is not on {scale}")
    return Verdict(JUDGED, first, second, "tie" if first == second else "first" if first > second else "second")


def _marked(text: str) -> Verdict | None:
    marks = set(MARK.findall(text))
    if len(marks) > 1:
        return Verdict(UNPARSED, error=f"contradiction: several marks are given ({', '.join(sorted(marks))})")
    winners: dict[str, Winner] = {"A": "first", "B": "second", "C": "tie"}
    return Verdict(JUDGED, winner=winners[marks.pop()]) if marks else None


def _in_words(text: str) -> Verdict | None:
    if NEITHER.search(text):
        return None
    found = {match[1].lower() for pattern in PROSE for match in pattern.finditer(text)}
    chosen = {"first" if name in "1a" else "second" for name in found}
    if len(chosen) > 1:
        return Verdict(UNPARSED, error="contradiction: each of the two is called the better one")
    return Verdict(JUDGED, winner="first" if "first" in chosen else "second") if chosen else None
