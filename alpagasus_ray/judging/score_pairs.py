"""Where in a reply about two answers a pair of scores stands by itself: whole lines, at the beginning and at the end.

Takes lines as `lines_of` makes them. What sentences say is in `verdict_sentences.py`, what comes of both in `parse_verdict.py`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

NUMBER = r"[0-9]+(?:\.[0-9]+|,[0-9]{1,2}(?![0-9]))?"
_NO_MORE = (
    r"(?![.,]?[0-9]| ?%| ?/| ?out of| ?[-–—] ?[0-9]| (?:to|or) [0-9]| (?:or )?(?:less|lower|fewer|more|higher|above|below)\b)"
)
SCORE = rf"({NUMBER})(?: ?(?:/|out of) ?({NUMBER}))?(?![0-9])(?: points?)?{_NO_MORE}"
NOUN = r"(?:assistant|answer|response|model|output)"
NAMED = [rf"{NOUN} ?\(?(?:{names})\b\)?" for names in ("1|a", "2|b")]
_HEADED = r"((?:(?:my |the )?(?:final |overall )?(?:scores?|ratings?)|overall|final): ?)?"
_BETWEEN = r"(?: ?, | ?[;|&] ?| and | vs\.? | )"


def compiled(*patterns: str) -> list[re.Pattern[str]]:
    """The patterns, which take capitals and small letters alike."""
    return [re.compile(pattern, re.IGNORECASE) for pattern in patterns]


ALONE = compiled(
    rf"{_HEADED}[\[(]{{0,2}}{SCORE}{_BETWEEN}{SCORE}[\])]{{0,2}}[.,]?",
    rf"{_HEADED}[\[(]{{1,2}}{SCORE}[\])]{{1,2}}{_BETWEEN}[\[(]{{1,2}}{SCORE}[\])]{{1,2}}[.,]?",
    rf"{_HEADED}{NAMED[0]} ?[:=] ?{SCORE}{_BETWEEN}(?:and )?{NAMED[1]} ?[:=] ?{SCORE}[.,]?",
)
LISTED = re.compile(r"[0-9]+[.)] ")
"""`1. 8` is an item of a list, not two scores."""
ONE = re.compile(rf"{SCORE}\.?", re.IGNORECASE)
_OWN = r"(?:'s (?:overall |final )?score)?(?: ?[:=] ?| [-–—] |(?<=score) is )"
_SCORE_OF = r"(?:(?:overall |final )?(?:score|rating) (?:of|for) )?"
LINES = compiled(*(rf"(?:[-•] |[0-9][.)] )?{_SCORE_OF}{name}{_OWN}{SCORE}(?: ?([(.,;:–—-]).*)?" for name in NAMED))
OPENING = re.compile(
    r"(?:(?:sure|okay|ok|certainly|of course)[,.!]? )?here (?:are|is) (?:my|the|your) (?:overall |final )?"
    r"(?:scores?|ratings?|evaluation|assessment|judge?ment|verdict|review)[^0-9]{0,60}:|scores?:?|ratings?:?",
    re.IGNORECASE,
)
"""A first line that says what follows, and nothing yet."""
ANNOUNCED = re.compile(
    r"\b(?:scores?|ratings?|evaluation)\b.*:$"
    r"|^here (?:are|is) (?:my|the) (?:scores?|ratings?)\b.*$|^(?:final |overall )?(?:scores?|ratings?)$",
    re.IGNORECASE,
)
CRITERION = (
    r"(?:helpfulness|relevance|accuracy|(?:level of )?details?|correctness|clarity|depth|creativity|style|tone|fluency|grammar"
    r"|conciseness|brevity|coherence|completeness|format(?:ting)?|structure)"
)
ASPECT = re.compile(
    rf"(?<!based )\b(?:for|on|in|regarding|in terms of) (?:\w+ ){{0,2}}{CRITERION}\b|^(?:[0-9][.)] |[-•] )?{CRITERION}\b",
    re.IGNORECASE,
)


class Score(NamedTuple):
    """A score as it is written, perhaps out of something."""

    value: float
    end: float | None = None


Pair = tuple[Score, Score]


def values_of(pair: Pair) -> tuple[float, float]:
    """The two scores without what they are out of."""
    return pair[0].value, pair[1].value


def lines_of(text: str) -> list[str]:
    """The lines that are not blank, with single blanks and without marks of emphasis."""
    plain = re.sub(r"[^\S\n]+", " ", text.replace("’", "'"))
    plain = re.sub(r"(?<!\w)[*_`\"“”#]+|[*_`\"“”]+(?!\w)", "", plain)
    return [line for raw in plain.split("\n") if (line := raw.strip())]


def on_top(lines: Sequence[str]) -> Pair | None:
    """The pair of scores that the reply begins with."""
    lines = lines[1:] if len(lines) > 1 and OPENING.fullmatch(lines[0]) else lines
    if not lines:
        return None
    if not LISTED.match(lines[0]):
        for pattern in ALONE:
            if found := pattern.fullmatch(lines[0]):
                return pair_of(found.groups()[1:])
    return labelled(lines, 0) or _one_each(lines)


def _one_each(lines: Sequence[str]) -> Pair | None:
    """Two lines with a number alone on each, and no third."""
    found = [ONE.fullmatch(line) for line in lines[:3]]
    if len(found) < 2 or not (found[0] and found[1]) or (len(found) > 2 and found[2]):
        return None
    return pair_of((*found[0].groups()[:2], *found[1].groups()[:2]))


def at_the_end(lines: Sequence[str]) -> Pair | None:
    """The pair of scores that the reply ends with, below its first line."""
    if len(lines) > 3 and (pair := labelled(lines, len(lines) - 2)):
        return pair
    return on_the_last_line(lines) if len(lines) > 1 else None


def on_the_last_line(lines: Sequence[str]) -> Pair | None:
    """Two scores alone on the last line; behind a colon they may be what the text is about."""
    if LISTED.match(lines[-1]) or (len(lines) > 1 and (ASPECT.search(lines[-2]) or lines[-2].endswith(":"))):
        return announced(lines, len(lines) - 1)
    found = [match for pattern in ALONE if (match := pattern.fullmatch(lines[-1]))]
    return pair_of(found[0].groups()[1:]) if found else None


def labelled(lines: Sequence[str], number: int) -> Pair | None:
    """Two lines in a row with a score each, in either order: announced, or bare at the top of the reply."""
    before, two = lines[number - 1] if number else "", lines[number : number + 2]
    for first, second in ((0, 1), (1, 0)):
        found = [match for place, line in zip((first, second), two, strict=False) if (match := LINES[place].fullmatch(line))]
        if len(found) == 2:
            bare = not number and not (found[0][3] or found[1][3])
            whole = not any(ASPECT.search(line) for line in (before, *two))
            if whole and (bare or ANNOUNCED.search(before)):
                return pair_of(found[first].groups()[:2] + found[second].groups()[:2])
    return None


def announced(lines: Sequence[str], number: int) -> Pair | None:
    """A line of both scores that begins with a word for them, or follows a line that announces them."""
    before = lines[number - 1] if number else ""
    for pattern in ALONE:
        found = pattern.fullmatch(lines[number])
        if found and (found[1] or ANNOUNCED.search(before)) and not (LISTED.match(lines[number]) or ASPECT.search(before)):
            return pair_of(found.groups()[1:])
    return None


def pair_of(groups: Sequence[str | None]) -> Pair:
    """A pair from the groups of a match: score and end of the first, score and end of the second."""
    first, end_1, second, end_2 = groups
    assert first is not None
    assert second is not None
    return score_of(first, end_1), score_of(second, end_2)


def score_of(value: str, end: str | None) -> Score:
    """A score from its text, and that of what it is out of where there is one; `8,5` is 8.5."""
    return Score(*(float(number.replace(",", ".")) for number in (value, end) if number is not None))
