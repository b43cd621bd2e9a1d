"""From a judge's raw reply to a rating, or to the reason why there is none. Reading never invents a number.

In this order, the first that fits decides:

1. The provider says the judge refused or the content was filtered -> `refused`.
2. The reply is a JSON object that begins with its `score`, as `score.judge.constrained: json` asks for it.
3. The first line that is not blank is a number and nothing else (`4.5`).
4. That line is one of the lenient forms: `Score: 4.5`, `Rating - 4`, `4.5/5`, `4 out of 5`, each also in `**bold**`,
   `[[brackets]]`, quotes or with a full stop, and a label with the scale's end (`Score (0-5): 4`). A denominator must be
   the end of the scale.
5. Somewhere further down exactly one score is given by lines that hold nothing but a labelled score (`Rating: [[4]]`);
   two different ones are no answer.
6. No number, but the words of a refusal -> `refused`. Anything else -> `unparsed`.

A number that is not on the scale is `unparsed`. A reply cut by the token limit is `truncated`, unless the line with the
score was ended before the cut.
"""

import re
from typing import NamedTuple

from alpagasus_ray.judging.rubric import Scale

SCORED, UNPARSED, REFUSED, TRUNCATED, FAILED = "scored", "unparsed", "refused", "truncated", "failed"
STATUSES = (SCORED, UNPARSED, REFUSED, TRUNCATED, FAILED)

_NUMBER = r"(?P<score>-?\d+(?:\.\d+)?|-?\.\d+)"
_OPEN, _CLOSE = r"[\s*_`\"'\[(]*", r"[\s*_`\"'\])]*"
_OUT_OF = r"(?:\s*(?:/|out\s+of)\s*(?P<end>\d+(?:\.\d+)?))?"
_UNIT = r"(?:\s*(?:points?|stars?))?"
_LABEL = r"(?:(?:overall|final|total|my|the)\s+)*(?:\w+\s+)?(?:score|rating|grade)"
_RANGE = r"(?:\s*[\[(]\s*(?:out\s+of\s+)?[\d.]+(?:\s*(?:-|–|to)\s*[\d.]+)?\s*[\])])?"
_SIGN = r"(?:\s*(?:[:=]|-(?!\d)|–|\bis\b|\bof\b)\s*)"

BARE = re.compile(rf"{_OPEN}{_NUMBER}{_OUT_OF}{_UNIT}{_CLOSE}\.?{_CLOSE}", re.IGNORECASE)
LABELLED = re.compile(
    rf"{_OPEN}#*\s*{_LABEL}{_RANGE}{_CLOSE}{_SIGN}{_OPEN}{_NUMBER}{_CLOSE}{_OUT_OF}{_UNIT}{_CLOSE}\.?{_CLOSE}", re.IGNORECASE
)
JSON = re.compile(r"\s*\{\s*\"score\"\s*:\s*(?P<score>-?\d+(?:\.\d+)?)(?P<end>(?!))?\s*[,}]")
REFUSAL = re.compile(
    r"\b(?:i(?:'|’)?m\s+(?:very\s+)?sorry|i\s+apologi[sz]e|i\s+(?:can(?:no|')?t|can’t|am\s+(?:unable|not\s+able)\s+to|will\s+not|won(?:'|’)t)\s+"
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


def read(text: str, finish_reason: str, scale: Scale) -> Reading:
    """The rating in a reply's text; see the module for the rules."""
    if finish_reason in ("refusal", "content_filter"):
        return Reading(REFUSED, error=f"{finish_reason.replace('_', ' ')}: the provider marked the reply so")
    cut = finish_reason == "length"
    lines = text.split("\n")
    whole = [line for line in (lines[:-1] if cut else lines) if line.strip()]
    found = JSON.match(text) or _first_line(whole) or _further_down(whole)
    if isinstance(found, re.Match):
        return _on_scale(found, scale)
    if isinstance(found, str):
        return Reading(UNPARSED, error=found)
    if cut:
        return Reading(TRUNCATED, error="length: the reply was cut before a score was complete")
    if REFUSAL.search(text[:REFUSAL_WINDOW]):
        return Reading(REFUSED, error="refusal: the judge declines in its own words")
    return Reading(UNPARSED, error="no score: no line holds a score alone" if text.strip() else "empty reply: there is no text")


def _first_line(lines: list[str]) -> re.Match[str] | None:
    return (BARE.fullmatch(lines[0]) or LABELLED.fullmatch(lines[0])) if lines else None


def _further_down(lines: list[str]) -> re.Match[str] | str | None:
    """The one labelled score below the first line; a text where several contradict each other."""
    matches = [match for line in lines[1:] if (match := LABELLED.fullmatch(line))]
    values = {match["score"] for match in matches}
    if len(values) > 1:
        return f"contradiction: several scores are given ({', '.join(sorted(values))})"
    return matches[0] if matches else None


def _on_scale(match: re.Match[str], scale: Scale) -> Reading:
    score, end = float(match["score"]), match["end"]
    if end is not None and float(end) != scale.max:
        return Reading(UNPARSED, error=f"off scale: {match['score']} out of {end}, where the scale ends at {scale.max:g}")
    if not scale.holds(score):
        return Reading(UNPARSED, error=f"off scale: {match['score']} is not on {scale}")
    return Reading(SCORED, score)
