"""From a judge's raw reply to a rating, or to the reason why there is none. Reading never invents a number.

First `cleaning.clean` takes off what is not the reply. Then every place is looked at where a score may stand, and only there:

(a) the first line that says anything: a number alone (`4.5`, `**4**`, `[[4]]`, `4/5`), also with text behind a separator (`4
    - good`, `4. The response …`, `4 (mostly right)`). A line that only announces the score (`Here is my rating:`) says
    nothing yet.
(b) behind a label (`score_labels.py`): `Score: 4.5`, `**Accuracy:** 4 out of 5`; alone on its line it takes the number of the
    next. On the first and the last line; anywhere where it says that it is the `final` or `overall` one.
(c) in a JSON object, bare or fenced, that begins or ends the reply: under a key that is a label, in any order of the keys.
(d) in `<score>4</score>` or behind `[RESULT]`: a whole line, the beginning of the first, the end of the last.
(e) the last line, if it holds a number alone.

What stands elsewhere may be quoted. All that are found must agree as numbers, and with what the judge says in words of its own
(`I give it a 2`); else the reply is `unparsed: contradiction`. A denominator must be the end of the scale; a number that is
not on the scale is `unparsed`. Of a reply cut by the token limit the last line does not count; it is `truncated` if no score
is left. A rubric with a `reply` pattern of its own is read by that alone.
"""

import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.engines.base import LENGTH
from alpagasus_ray.judging import score_labels
from alpagasus_ray.judging.cleaning import clean, nothing_to_read
from alpagasus_ray.judging.rubric import Scale

SCORED, UNPARSED, REFUSED, TRUNCATED, FAILED = "scored", "unparsed", "refused", "truncated", "failed"
NOT_ASKED = "not_asked"
"""Of a row that a cascade leaves unasked."""
STATUSES = (SCORED, UNPARSED, REFUSED, TRUNCATED, FAILED, NOT_ASKED)
UNSCORED = (UNPARSED, REFUSED, TRUNCATED, FAILED)
"""Statuses without a score, of rows that a judge was asked about."""

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]+|,[0-9]{1,2})?|\.[0-9]+)(?![0-9]|[.,][0-9]|[^\W\d_]*\d)"
_VALUE = (
    rf"(?P<score>{_NUMBER})(?:\s?(?:{score_labels.UNITS})(?![a-z]))?"
    rf"(?:\s*[(\[,;:.-]*\s*(?:{score_labels.OUT_OF}|满分)\s*(?P<end>[0-9]+(?:\.[0-9]+)?)(?![0-9]|[.,][0-9]|\s*/)"
    rf"\s*(?:{score_labels.UNITS})?\s*[)\]]?)?"
    rf"(?:\s?(?:{score_labels.UNITS})(?![a-z]))?"
)
_TAIL = r"(?P<tail>(?:\s+[-–—]{1,2}\s+|\s*—\s*|[.,;:]\s+|\s*\()(?![+-]?\.?[0-9]).*)?"
_SIGN = rf"(?:\s*(?:[:=]|[-=]>|→|[-–](?![0-9])|—|\b(?:{score_labels.IS})\b|[是为為は])\s*)"
_RANGE = r"(?:\s*[(\[]\s*(?:out\s+of\s+)?[0-9.]+(?:\s*(?:-|–|to)\s*[0-9.]+)?\s*[)\]])?"
_LEAD = r"(?:(?:so|thus|therefore|hence|in conclusion|in summary|to sum up)\b,?\s*)?"
DIGIT = re.compile("[0-9]")  # what has none holds no score, and need not be looked at
VALUE = re.compile(rf"{_VALUE}\s*\.?", re.IGNORECASE)
VALUE_AND_TEXT = re.compile(rf"{_VALUE}\s*\.?{_TAIL}", re.IGNORECASE)
ITEM = re.compile(r"[0-9]+[.)]\s+\S")
"""`2. It is short.` is an item of a list."""
LIST_MARK = re.compile(r"(?:[-*•·▪–+]\s+|#{1,6}\s*(?=\S))+")
NUMBERED = re.compile(r"\A[0-9]{1,2}[.)]\s+(?=[^\W\d])")
FENCE = re.compile(r"\s*(?:```|~~~)\s*\w*\s*")
EMPHASIS = re.compile(r"\*+|`+|(?<!\w)_+|_+(?!\w)")
MADE_PLAIN = re.compile(r"\\boxed\{\s*([^{}\n]{1,20}?)\s*\}|\[\[\s*([^\[\]\n]{1,20}?)\s*\]\]|\$([^$\n]{1,20})\$")
WRAPPED = {"[": "]", "(": ")", '"': '"', "'": "'", "«": "»", "{": "}"}
RESULT = re.compile(rf"\[RESULT\]\s*:?\s*(?:{_VALUE})\s*\.?", re.IGNORECASE)
ANNOUNCED = re.compile(
    r"(?:(?:sure|okay|ok|certainly|of course)[,.!]?\s*)?(?:here(?:'s| is| are)\s+)?(?:(?:my|the|your|an?|overall|final)\s+)*"
    r"(?:scores?|ratings?|evaluation|assessment|grading|review|judge?ment|verdict|result|评分结果)"
    r"(?:\s+(?:for|of)\s+(?:the|this)\s+(?:response|answer|example))?(?:\s+(?:as|in)\s+(?:\w+\s+){0,2}json(?:\s+\w+)?)?\s*[:.]?",
    re.IGNORECASE,
)
"""A first line that says what follows, and nothing yet."""
JSON_MARK = "\0json"
JSON_AT = re.compile(r"^[ \t]*(?:\[\s*)?(?=\{)", re.MULTILINE)
FIRST_KEY = re.compile(r"\{\s*([\"'])(?P<key>[^\"'\n]{1,40})\1\s*:\s*[\"']?(?P<value>[^\"',}\n]{1,20}?)[\"']?\s*[,}]")
MOST_OBJECTS = 16
SAID = re.compile(
    r"\bi(?:'d|'ll| would| will| must)?(?: (?:therefore|thus|still|now|only|also)){0,3}"
    r" (?:rate|give|score|assign|award|grade)d?"
    rf"(?: (?!not\b)[a-z]+){{0,6}} (?P<score>{_NUMBER})(?! ?%)",
    re.IGNORECASE,
)
"""The judge's own words for its score: they never give one, but may contradict what was found."""
UNREAL = re.compile(r"\b(?:if|unless|would have|could|might|not|never|cannot|had)\b|n't\b", re.IGNORECASE)
REFUSAL = re.compile(
    r"(?:^|[.!?]\s+|\n\s*)(?:as an? [^,.\n]{1,40},\s*|unfortunately,?\s*|(?:i'm |i am )?(?:very )?sorry,?\s*(?:but\s*)?)?"
    r"(?:i(?:'|’)?m\s+(?:very\s+)?sorry|i\s+apologi[sz]e|i\s+must\s+decline|i\s+(?:can(?:no|')?t|can’t|am\s+(?:unable|not\s+able)\s+to"
    r"|will\s+not|won(?:'|’)t)\s+"
    r"(?:rate|score|grade|judge|evaluate|assess|provide|give|assign|assist|help|comply|do))",
    re.IGNORECASE,
)
REFUSAL_WINDOW = 300
"""Only the beginning of a reply tells whether it is a refusal: an explanation may quote one."""


class Reading(NamedTuple):
    """What a reply says."""

    status: str
    score: float | None = None
    error: str | None = None


class Said(NamedTuple):
    """A score as it stands in a reply."""

    value: float
    end: float | None = None
    """What it is out of, where that is said."""


class _Asked(NamedTuple):
    """What is asked of a line."""

    labelled: re.Pattern[str]
    label: re.Pattern[str]
    tag: re.Pattern[str]
    inline: re.Pattern[str]


def read(
    text: str,
    finish_reason: str,
    scale: Scale,
    dimension: str = "accuracy",
    *,
    pattern: str | None = None,
    reasoning: str | None = None,
) -> Reading:
    """The rating in a reply's text; see the module for the rules. `pattern` is a rubric's own, `reasoning` what the server
    tells apart from the text: it is never read, only said where there is no text."""
    seen, cut = clean(text), finish_reason == LENGTH
    if nothing := nothing_to_read(seen, finish_reason, reasoning):
        return Reading(UNPARSED if nothing.status == "empty" else nothing.status, error=nothing.error)
    found = list(_by_pattern(seen.text, pattern) if pattern else _found(seen.text, _asked(dimension), cut=cut))
    values = sorted({said.value for said in found})
    if len(values) > 1:
        return Reading(UNPARSED, error=f"contradiction: several scores are given ({', '.join(f'{v:g}' for v in values)})")
    if found:
        return _on_scale(found, scale)
    if cut:
        return Reading(TRUNCATED, error="length: the reply was cut before a score was complete")
    if REFUSAL.search(seen.text.strip()[:REFUSAL_WINDOW]):
        return Reading(REFUSED, error="refusal: the judge declines in its own words")
    return Reading(UNPARSED, error="no score: none stands where one is read")


def _on_scale(found: Sequence[Said], scale: Scale) -> Reading:
    score = found[0].value
    for end in (said.end for said in found):
        if end is not None and end != scale.max:
            return Reading(UNPARSED, error=f"off scale: {score:g} out of {end:g}, where the scale ends at {scale.max:g}")
    if not scale.holds(score):
        return Reading(UNPARSED, error=f"off scale: {score:g} is not on {scale}")
    return Reading(SCORED, score)


def _by_pattern(text: str, pattern: str) -> Iterator[Said]:
    """What the rubric's own pattern finds."""
    for found in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
        if value := VALUE.fullmatch(found[1].strip()):
            yield _said(value)


@functools.cache
def _asked(dimension: str) -> _Asked:
    label = score_labels.label_of(dimension)
    patterns = (
        rf"{_LEAD}(?P<label>{label}){_RANGE}(?:{_SIGN}|\s+)(?P<rest>.*)",
        rf"(?P<label>{label}){_RANGE}\s*[:=]?",
        rf"<(?P<label>{label})>\s*(?:{_VALUE})\s*\.?\s*</(?:{label})>",
        rf"\b(?P<label>{label})\"?{_SIGN}(?P<score>{_NUMBER})",
    )
    return _Asked(*(re.compile(pattern, re.IGNORECASE) for pattern in patterns))


# where scores stand


def _found(text: str, asked: _Asked, *, cut: bool) -> Iterator[Said]:
    """All scores that stand where scores are read; where there are some, also those that the judge says in other words."""
    text, objects = _without_json(text, asked, cut=cut)
    lines = _lines(text, asked, cut=cut)
    found = [*objects(lines), *_in_lines(lines, asked)] if lines else []
    yield from found
    if found:
        yield from _in_words(lines, asked)


def _lines(text: str, asked: _Asked, *, cut: bool) -> list[str]:
    """The lines that say something, without what only adorns them."""
    raw = text.split("\n")
    told = [line for line in (raw[:-1] if cut else raw) if line.strip() and not FENCE.fullmatch(line)]
    lines = [made for line in told if (made := _unadorned(line))]
    while len(lines) > 1 and ANNOUNCED.fullmatch(lines[0]) and not asked.label.fullmatch(lines[0]):
        del lines[0]
    return lines


def _unadorned(line: str) -> str:
    line = MADE_PLAIN.sub(lambda found: found[1] or found[2] or found[3], line.strip())
    line = LIST_MARK.sub("", line, count=1) if LIST_MARK.match(line) else line
    return re.sub(r"[^\S\n]+", " ", EMPHASIS.sub("", line)).strip()


def _unwrapped(text: str) -> str:
    """Without quotes and brackets around the whole of it."""
    text = text.strip()
    while len(text) > 2 and text[0] in WRAPPED:
        bare = text.removesuffix(".")
        if not bare.endswith(WRAPPED[bare[0]]):
            break
        text = bare[1:-1].strip()
    return text


def _in_lines(lines: Sequence[str], asked: _Asked) -> Iterator[Said]:
    last = len(lines) - 1
    for place, line in enumerate(lines):
        outer = place in (0, last)
        if label := asked.label.fullmatch(line):
            follows = _value(lines[place + 1]) if place < last else None
            if follows and (place == 0 or place + 1 == last or score_labels.has_last_word(label["label"])):
                yield follows
        elif labelled := DIGIT.search(line) and _labelled(line, asked):
            if outer or score_labels.has_last_word(labelled[0]):
                yield labelled[1]
        elif place == 0 and (said := _first(lines)):
            yield said
        elif place == last and _may_end(lines) and (value := VALUE.fullmatch(_unwrapped(line))):
            yield _said(value)
        yield from _tagged(line, asked, is_first=place == 0, is_last=place == last)


def _labelled(line: str, asked: _Asked) -> tuple[str, Said] | None:
    """A label and the number behind it, perhaps with text behind a separator."""
    line = NUMBERED.sub("", line, count=1)
    found = asked.labelled.fullmatch(line) or asked.labelled.fullmatch(_unwrapped(line))
    if found is None:
        return None
    said = _value(found["rest"])
    return (found["label"], said) if said else None


def _value(text: str) -> Said | None:
    found = VALUE_AND_TEXT.fullmatch(_unwrapped(text)) or VALUE_AND_TEXT.fullmatch(text.strip())
    return _said(found) if found else None


def _first(lines: Sequence[str]) -> Said | None:
    """The number that the first line begins with; the first item of a list is none."""
    if ITEM.match(lines[0]) and any(ITEM.match(line) for line in lines[1:]):
        return None
    return _value(lines[0])


def _may_end(lines: Sequence[str]) -> bool:
    """Whether a number alone on the last line is a score: behind a colon it may be what the text is about."""
    return len(lines) < 2 or not lines[-2].endswith(":") or ANNOUNCED.fullmatch(lines[-2]) is not None


def _tagged(line: str, asked: _Asked, *, is_first: bool, is_last: bool) -> Iterator[Said]:
    for pattern in (asked.tag, RESULT):
        for found in pattern.finditer(line):
            begins, ends = not line[: found.start()].strip(), not line[found.end() :].strip()
            if (begins and ends) or (begins and is_first) or (ends and is_last):
                yield _said(found)


def _in_words(lines: Sequence[str], asked: _Asked) -> Iterator[Said]:
    """What the judge says inside of its sentences, as far as it holds what it says."""
    for line in filter(DIGIT.search, lines):
        for sentence in re.split(r"(?<=[.!?;])\s+", line):
            if not DIGIT.search(sentence) or UNREAL.search(sentence):
                continue
            yield from (Said(_number(found["score"])) for found in SAID.finditer(sentence))
            inline = (found for found in asked.inline.finditer(sentence) if score_labels.has_last_word(found["label"]))
            yield from (Said(_number(found["score"])) for found in inline if not _is_named(sentence[: found.start()]))


def _is_named(before: str) -> bool:
    """Whether a word stands before a label that makes it somebody else's: `IMDb overall score: 4`."""
    return (
        re.search(r"\b(?!so\b|the\b|my\b|and\b|is\b|a\b|thus\b|hence\b|therefore\b)\w+\s*$", before, re.IGNORECASE) is not None
    )


def _said(found: re.Match[str]) -> Said:
    return Said(_number(found["score"]), None if found["end"] is None else float(found["end"]))


def _number(text: str) -> float:
    return float(text.replace(",", "."))


# JSON


class _Objects(NamedTuple):
    """The scores of JSON objects, and whether each of them has a line of its own in what is left of the text."""

    scores: Sequence[Said]

    def __call__(self, lines: Sequence[str]) -> Sequence[Said]:
        """Those that count: where one begins or ends the reply, all of them, so that another one contradicts."""
        return self.scores if JSON_MARK in (lines[0], lines[-1]) else ()


def _without_json(text: str, asked: _Asked, *, cut: bool) -> tuple[str, _Objects]:
    """The text with a mark in place of each JSON object that holds a score, and those scores."""
    scores: list[Said] = []
    kept, start = "", 0
    for found in list(JSON_AT.finditer(text))[:MOST_OBJECTS]:
        if found.end() < start:
            continue
        told, end = _object(text, found.end(), asked)
        if told:
            after = re.match(r"\s*\]", text[end:])
            kept += f"{text[start : found.start()]}\n{JSON_MARK}\n"
            start = end + (after.end() if after else 0)
            scores += told
    rest = text[start:]
    return kept + (f"{rest}\n" if cut and start and not rest.strip() else rest), _Objects(scores)


def _object(text: str, start: int, asked: _Asked) -> tuple[list[Said], int]:
    """The scores of the object that begins there, and where it ends; one that is cut or broken counts by its first key."""
    try:
        pairs, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        found = FIRST_KEY.match(text, start)
        told = _under([(one["key"], one["value"]) for one in FIRST_KEY.finditer(text, start)], asked) if found else []
        return (told, len(text)) if found and asked.label.fullmatch(found["key"]) else ([], start)
    return _under(pairs, asked), end


def _under(pairs: Sequence[tuple[str, Any]], asked: _Asked) -> list[Said]:
    """The scores under the keys of an object that are labels."""
    told = []
    for key, value in pairs:
        is_number = isinstance(value, str | int | float) and not isinstance(value, bool)
        if is_number and asked.label.fullmatch(key.strip()) and (found := VALUE.fullmatch(str(value).strip())):
            told.append(_said(found))
    return told


def _pairs(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return pairs


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_number, strict=False)
