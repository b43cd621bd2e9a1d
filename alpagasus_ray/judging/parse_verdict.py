"""From a judge's raw reply about two answers to a verdict, or to the reason why there is none. Reading never invents one.

First `cleaning.clean` takes off what is not the reply. What is read then depends on the rubric's form, the first that fits:

Form `scores` (no mark counts):

1. The first line that says anything holds two numbers and nothing else (`8 7.5`, `8/10, 9/10`, `(8, 7)`, `Scores: 8 7`), or
   the first two lines hold one number each, labelled (`Assistant 1: 8/10`) or alone. Another pair that the end of the reply
   gives is a contradiction.
2. A JSON object of two scores, which begins or ends the reply.
3. Further down the reply gives one pair of overall scores: on the last line, a tuple (`Output: (10, 1)`), two labelled lines
   in a row under one that announces scores (`Assistant 2: 2 (wrong)`), labelled lines that say out of how many (`Assistant
   2: 9/10`), or sentences (`Assistant 1 a score of 10 and Assistant 2 a score of 1`, `both a score of 8`, `are 4 and 9,
   respectively`). Two different pairs are no answer, nor is a pair that a score told alone contradicts.

Form `verdict` (no score counts): the marks of `marks.py`. Of a reply cut by the token limit only a mark on its last whole line.

Either form: a sentence says which one the judge chooses or finds better (`I would choose Assistant 1`, `Output (a) is better`).
Sentences that contradict each other, and words that call both good or neither better, are no answer: a tie is never read
from words.

What a sentence denies, supposes, puts in the mouth of others or says of one criterion alone (`not`, `if`, `some prefer`, `for
accuracy`) is no score and no choice. A range (`7-8`) or a percentage is no score, and `8,5` is one number. A score that is
not on the scale, or out of another number than its end, is `unparsed`. A reply cut by the token limit is `truncated`, unless
the lines with the scores were ended before the cut.

Blanks are made single before anything is matched and every repetition is bounded, so that a reply of nothing but blanks, or of
one word a thousand times, takes no longer to read than another.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from alpagasus_ray.engines.base import LENGTH
from alpagasus_ray.judging import winner_marks
from alpagasus_ray.judging.cleaning import clean, nothing_to_read
from alpagasus_ray.judging.parse_rating import REFUSAL, REFUSAL_WINDOW
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
Winner = winner_marks.Winner

_NUMBER = r"[0-9]+(?:\.[0-9]+|,[0-9]{1,2}(?![0-9]))?"
_NO_MORE = (
    r"(?![.,]?[0-9]| ?%| ?/| ?out of| ?[-–—] ?[0-9]| (?:to|or) [0-9]| (?:or )?(?:less|lower|fewer|more|higher|above|below)\b)"
)
_SCORE = rf"({_NUMBER})(?: ?(?:/|out of) ?({_NUMBER}))?(?![0-9])(?: points?)?{_NO_MORE}"
_NOUN = r"(?:assistant|answer|response|model|output)"
_NAMED = [rf"{_NOUN} ?\(?(?:{names})\b\)?" for names in ("1|a", "2|b")]
_BOTH = rf"{_NAMED[0]} and (?:for |to )?{_NAMED[1]}"
_GIVEN = r"(?:overall |final |total )?(?:score|rating) of "
_GETS = r"(?:(?:should |would |will )?(?:gets?|receives?|earns?|deserves?|scores) )?"
_HEADED = r"((?:(?:my |the )?(?:final |overall )?(?:scores?|ratings?)|overall|final): ?)?"
_BETWEEN = r"(?: ?, | ?[;|&] ?| and | vs\.? | )"


def _compiled(*patterns: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.IGNORECASE) for pattern in patterns]


# whole lines
ALONE = _compiled(
    rf"{_HEADED}[\[(]{{0,2}}{_SCORE}{_BETWEEN}{_SCORE}[\])]{{0,2}}[.,]?",
    rf"{_HEADED}[\[(]{{1,2}}{_SCORE}[\])]{{1,2}}{_BETWEEN}[\[(]{{1,2}}{_SCORE}[\])]{{1,2}}[.,]?",
    rf"{_HEADED}{_NAMED[0]} ?[:=] ?{_SCORE}{_BETWEEN}(?:and )?{_NAMED[1]} ?[:=] ?{_SCORE}[.,]?",
)
LISTED = re.compile(r"[0-9]+[.)] ")
"""`1. 8` is an item of a list, not two scores."""
ONE = re.compile(rf"{_SCORE}\.?", re.IGNORECASE)
_IN_TUPLE = r"([0-9]+(?:\.[0-9]+)?)(?: ?(?:/|out of) ?([0-9]+(?:\.[0-9]+)?))?"
TUPLE = re.compile(rf"(output ?:? ?|scores? ?:? ?)?\( ?{_IN_TUPLE}, ?{_IN_TUPLE} ?\)[.,]?", re.IGNORECASE)
_OWN = r"(?:'s (?:overall |final )?score)?(?: ?[:=] ?| [-–—] |(?<=score) is )"
_SCORE_OF = r"(?:(?:overall |final )?(?:score|rating) (?:of|for) )?"
LINES = _compiled(*(rf"(?:[-•] |[0-9][.)] )?{_SCORE_OF}{name}{_OWN}{_SCORE}(?: ?([(.,;:–—-]).*)?" for name in _NAMED))
TITLES = _compiled(*(rf"{name}:?" for name in _NAMED))
TITLED = re.compile(rf"(?:overall |final )?(?:score|rating): ?{_SCORE}", re.IGNORECASE)
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

# parts of sentences
PAIRS = _compiled(
    r"\btuple (?:(?:containing|with|of) (?:the |their |both )?(?:overall |final )?scores )?"
    rf"(?:(?:for|of) (?:{_BOTH}|both assistants|the two assistants) )?(?:is|would be):? ?\( ?{_SCORE}, ?{_SCORE} ?\)",
    rf"\bscores (?:for|of) {_BOTH} (?:are|would be) {_SCORE} and {_SCORE},? respectively",
)
EQUAL = re.compile(
    rf"\bboth(?: of them)?(?: (?:the )?{_NOUN}s| {_BOTH})?(?: (?:should|would|will))?(?: (?:receive|get|deserve|earn|have))?"
    rf" (?:a|the same) {_GIVEN}{_SCORE}(?!,? (?:and|or) [0-9])",
    re.IGNORECASE,
)
SINGLE = [
    _compiled(
        rf"\b{name}'s (?:overall |final )?score (?:is|would be) {_SCORE}",
        rf"\b{name}(?:'s \w+(?: \w+)?)? {_GETS}(?:with )?an? {_GIVEN}{_SCORE}",
        rf"\b{name}(?:'s \w+(?: \w+)?)? an? ({_NUMBER}) out of ({_NUMBER})(?!\.?[0-9])",
        rf"\b{_GIVEN}{_SCORE} (?:to|for) {name}",
    )
    for name in _NAMED
]
"""For each of the two, the ways to tell its score alone."""

_ENDS = (
    r"(?=$|[.,;:!](?![0-9])| (?:as|over|because|since|due|overall|here|in this case)\b)"
    r"(?!,? (?:or|and) (?:assistant|answer|response|model|output|[(12]))"
)
_ONE = rf"(?:(?:{_NOUN} )?\(?([12])\b\)?|{_NOUN} \(?([ab])\b\)?|\(([ab])\))"
_NAMED_ONE = rf"{_NOUN} ?\(?([12ab])\b\)?"
_I = r"\bi(?:'d|'ll)?(?: (?:would|will|must|shall|have to|do|also|still|therefore|clearly|personally|say|had to))*"
_RATHER = r"(?: (?:the|a|much|far|clearly|slightly|significantly|overall|therefore))*"
_THAN = rf"(?: than (?:that of )?(?:{_NOUN} ?\(?[12ab]\b\)?(?:'s(?: \w+)?)?|the other(?: one)?))?"
PROSE = _compiled(
    rf"{_I} (?:choose|choosing|pick|select|recommend|prefer|go with)(?: choosing)? {_ONE}(?:'s(?: \w+)?)?{_ENDS}",
    rf"{_I} recommend that {_NAMED_ONE}(?:'s \w+)? be used",
    rf"{_I} rate {_NAMED_ONE} as (?:the )?(?:better|best|more helpful)\b",
    rf"\b{_NAMED_ONE}(?:'s \w+)? is{_RATHER} better(?: {_NOUN}| choice| option| one| submission| solution)?{_THAN}{_ENDS}",
    rf"\bthe better(?:-performing)? (?:one|choice|{_NOUN}) is {_NAMED_ONE}{_ENDS}",
    rf"\bmy (?:choice is {_ONE}|answer is {_NAMED_ONE}){_ENDS}",
)
"""Ways to say which one is better; a lone letter counts only behind a noun or in brackets."""
LAST = re.compile(r"output: ?([12])", re.IGNORECASE)

# what takes the meaning from a sentence
CRITERION = (
    r"(?:helpfulness|relevance|accuracy|(?:level of )?details?|correctness|clarity|depth|creativity|style|tone|fluency|grammar"
    r"|conciseness|brevity|coherence|completeness|format(?:ting)?|structure)"
)
ASPECT = re.compile(
    rf"(?<!based )\b(?:for|on|in|regarding|in terms of) (?:\w+ ){{0,2}}{CRITERION}\b|^(?:[0-9][.)] |[-•] )?{CRITERION}\b",
    re.IGNORECASE,
)
DENIED = re.compile(
    r"\b(?:not|never|cannot|neither|nor|hardly|may|might|could|some|others|argue|argued|unclear|(?:wrong|hard|difficult) to"
    r"|would(?:'ve| have))\b|n't\b",
    re.IGNORECASE,
)
SUPPOSED = re.compile(r"\b(?:if|whether|unless)\b", re.IGNORECASE)
FORCED = re.compile(r"\bif i (?:had|have|must|were)(?: forced)?(?: to)? (?:choose|pick|decide)(?: one)?\b", re.IGNORECASE)
CLAUSE = re.compile(r"[,;:–—]|\b(?:so|but|and|therefore|thus|hence|because)\b", re.IGNORECASE)
SENTENCE = 400
"""So far from a score or a choice the words of its sentence count; longer ones are no sentences."""
NEITHER = re.compile(
    r"\bneither\b[^.]{0,200}\b(?:better|executes?|meets?|satisf\w+)|\bcannot choose\b|\bequally\b|\beither one\b|\boption 3\b"
    r"|\bboth\b[^.]{0,200}\bthe same\b[^.]{0,200}\bresponse\b|\b(?:is|it|as|it's|be) a (?:tie|draw)\b|\bequivalent\b",
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


class _Score(NamedTuple):
    """A score as it is written, perhaps out of something."""

    value: float
    end: float | None = None


_Pair = tuple[_Score, _Score]


def read(
    text: str, finish_reason: str, form: Literal["scores", "verdict"], scale: Scale, *, reasoning: str | None = None
) -> Verdict:
    """The verdict in a reply's text; see the module for the rules. `reasoning` is what the server tells apart from the text:
    it is never read, only said where there is no text."""
    seen, cut = clean(text), finish_reason == LENGTH
    if nothing := nothing_to_read(seen, finish_reason, reasoning):
        return Verdict(UNPARSED if nothing.status == "empty" else nothing.status, error=nothing.error)
    whole = seen.text.rpartition("\n")[0] if cut else seen.text
    found = _of_marks(whole, cut=cut) if form == "verdict" else _of_scores(whole, scale, cut=cut)
    if found is not None:
        return found
    if cut:
        return Verdict(TRUNCATED, error="length: the reply was cut before a verdict was complete")
    return _in_words(_lines(seen.text)) or _nothing(seen.text)


def _of_marks(text: str, *, cut: bool) -> Verdict | None:
    found = winner_marks.found(_lines(text), only_last=cut) or (None if cut else winner_marks.in_json(text))
    if isinstance(found, winner_marks.Contradiction):
        return Verdict(UNPARSED, error=f"contradiction: several verdicts are given ({', '.join(found.marks)})")
    return Verdict(JUDGED, winner=found) if found else None


def _of_scores(text: str, scale: Scale, *, cut: bool) -> Verdict | None:
    lines = _lines(text)
    on_top = _on_top(lines)
    if on_top is None:
        pair = None if cut else winner_marks.scores_in_json(text)
        told = (_Score(pair[0]), _Score(pair[1])) if pair else None
        return _scored(told, scale) if told else None if cut else _further_down(lines, scale)
    pair_at_the_end = _at_the_end(lines)
    if pair_at_the_end and _values(pair_at_the_end) != _values(on_top):
        both = "; ".join(f"{one:g} and {two:g}" for one, two in (_values(on_top), _values(pair_at_the_end)))
        return Verdict(UNPARSED, error=f"contradiction: several pairs of scores are given ({both})")
    return _scored(on_top, scale)


def _values(pair: _Pair) -> tuple[float, float]:
    return pair[0].value, pair[1].value


def _nothing(text: str) -> Verdict:
    if REFUSAL.search(text.strip()[:REFUSAL_WINDOW]):
        return Verdict(REFUSED, error="refusal: the judge declines in its own words")
    return Verdict(UNPARSED, error="no verdict: neither scores nor a choice")


def _lines(text: str) -> list[str]:
    """The lines that are not blank, with single blanks and without marks of emphasis."""
    plain = re.sub(r"[^\S\n]+", " ", text.replace("’", "'"))
    plain = re.sub(r"(?<!\w)[*_`\"“”#]+|[*_`\"“”]+(?!\w)", "", plain)
    return [line for raw in plain.split("\n") if (line := raw.strip())]


def _on_top(lines: Sequence[str]) -> _Pair | None:
    """The pair of scores that the reply begins with."""
    lines = lines[1:] if len(lines) > 1 and OPENING.fullmatch(lines[0]) else lines
    if not lines:
        return None
    if not LISTED.match(lines[0]):
        for pattern in ALONE:
            if found := pattern.fullmatch(lines[0]):
                return _pair(found.groups()[1:])
    return _labelled(lines, 0) or _one_each(lines)


def _one_each(lines: Sequence[str]) -> _Pair | None:
    """Two lines with a number alone on each, and no third."""
    found = [ONE.fullmatch(line) for line in lines[:3]]
    if len(found) < 2 or not (found[0] and found[1]) or (len(found) > 2 and found[2]):
        return None
    return _pair((*found[0].groups()[:2], *found[1].groups()[:2]))


def _at_the_end(lines: Sequence[str]) -> _Pair | None:
    """The pair of scores that the reply ends with, below its first line."""
    if len(lines) > 3 and (pair := _labelled(lines, len(lines) - 2)):
        return pair
    return _last(lines) if len(lines) > 1 else None


def _last(lines: Sequence[str]) -> _Pair | None:
    """Two scores alone on the last line; behind a colon they may be what the text is about."""
    if LISTED.match(lines[-1]) or (len(lines) > 1 and (ASPECT.search(lines[-2]) or lines[-2].endswith(":"))):
        return _announced(lines, len(lines) - 1)
    found = [match for pattern in ALONE if (match := pattern.fullmatch(lines[-1]))]
    return _pair(found[0].groups()[1:]) if found else None


def _further_down(lines: Sequence[str], scale: Scale) -> Verdict | None:
    """The overall scores below the first line: one pair, which no score told alone contradicts."""
    sentences = list(_sentences(lines))
    alone = [set(_singles(lines, sentences, place)) for place in (0, 1)]
    last = _last(lines) if lines else None
    pairs = {_values(pair): pair for pair in (*_pairs(lines, sentences), *([last] if last else []))}
    values = [{score.value for score in scores} for scores in alone]
    if len(values[0]) == len(values[1]) == 1:
        one, two = (max(scores, key=lambda score: score.end or 0) for scores in alone)
        pairs.setdefault((one.value, two.value), (one, two))
    if len(pairs) > 1:
        listed = "; ".join(f"{first:g} and {second:g}" for first, second in sorted(pairs))
        return Verdict(UNPARSED, error=f"contradiction: several pairs of scores are given ({listed})")
    for pair in pairs.values():
        if any(told and told != {score.value} for told, score in zip(values, pair, strict=True)):
            return Verdict(UNPARSED, error="contradiction: a score alone is another than in the pair")
        return _scored(pair, scale)
    return None


def _pairs(lines: Sequence[str], sentences: Sequence[str]) -> Iterator[_Pair]:
    """All pairs of overall scores that are told together."""
    tuples = [TUPLE.fullmatch(line) for line in lines]
    speaks = any(re.search(r"\bscor|\brat(?:e|ing)", line, re.IGNORECASE) for line in lines)
    last = tuples[-1] if tuples else None
    for number, found in enumerate(tuples):
        if found and ((found[1] and (speaks or (last and last[1]))) or (speaks and found is last)):
            yield _pair(found.groups()[1:])
        elif pair := _labelled(lines, number) or _announced(lines, number):
            yield pair
    for sentence in sentences:
        for pattern in PAIRS:
            yield from (_pair(found.groups()) for found in pattern.finditer(sentence) if _meant(sentence, found))
        yield from (_pair(found.groups() * 2) for found in EQUAL.finditer(sentence) if _meant(sentence, found))


def _labelled(lines: Sequence[str], number: int) -> _Pair | None:
    """Two lines in a row with a score each, in either order: announced, or bare at the top of the reply."""
    before, two = lines[number - 1] if number else "", lines[number : number + 2]
    for first, second in ((0, 1), (1, 0)):
        found = [match for place, line in zip((first, second), two, strict=False) if (match := LINES[place].fullmatch(line))]
        if len(found) == 2:
            bare = not number and not (found[0][3] or found[1][3])
            whole = not any(ASPECT.search(line) for line in (before, *two))
            if whole and (bare or ANNOUNCED.search(before)):
                return _pair(found[first].groups()[:2] + found[second].groups()[:2])
    return None


def _announced(lines: Sequence[str], number: int) -> _Pair | None:
    """A line of both scores that begins with a word for them, or follows a line that announces them."""
    before = lines[number - 1] if number else ""
    for pattern in ALONE:
        found = pattern.fullmatch(lines[number])
        if found and (found[1] or ANNOUNCED.search(before)) and not (LISTED.match(lines[number]) or ASPECT.search(before)):
            return _pair(found.groups()[1:])
    return None


def _singles(lines: Sequence[str], sentences: Sequence[str], place: int) -> Iterator[_Score]:
    """The scores of one answer that are told without the other's: in sentences, in lines that say out of how many, under its
    title."""
    for sentence in sentences:
        for pattern in SINGLE[place]:
            yield from (_score(found[1], found[2]) for found in pattern.finditer(sentence) if _meant(sentence, found))
    heading = ""
    for line, after in zip(lines, [*lines, ""][1:], strict=True):
        found = LINES[place].fullmatch(line)
        told = not ASPECT.search(heading) and (not heading.endswith(":") or ANNOUNCED.search(heading))
        if found and found[2] and told and not ASPECT.search(line):
            yield _score(found[1], found[2])
        if TITLES[place].fullmatch(line) and (titled := TITLED.fullmatch(after)):
            yield _score(titled[1], titled[2])
        heading = heading if found or LINES[1 - place].fullmatch(line) else line


def _sentences(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield from re.split(r"(?<=[.!?;]) (?=[A-Z(\[])", line)


def _meant(sentence: str, found: re.Match[str]) -> bool:
    """Whether the sentence holds what it says there: it neither denies nor supposes it, and means the whole answer."""
    start, end = max(0, found.start() - SENTENCE), found.end() + SENTENCE
    before, after = FORCED.sub("", sentence[start : found.start()]), sentence[found.end() : end]
    clause = CLAUSE.split(before)[-1] + found[0]
    supposed = SUPPOSED.search(before) or re.match(r",? (?:only )?(?:if|unless)\b", after, re.IGNORECASE)
    return not (supposed or DENIED.search(clause) or ASPECT.search(sentence[start:end]))


def _pair(groups: Sequence[str | None]) -> _Pair:
    first, end_1, second, end_2 = groups
    assert first is not None
    assert second is not None
    return _score(first, end_1), _score(second, end_2)


def _score(value: str, end: str | None) -> _Score:
    return _Score(*(float(number.replace(",", ".")) for number in (value, end) if number is not None))


def _scored(pair: _Pair, scale: Scale) -> Verdict:
    for score in pair:
        if score.end is not None and score.end != scale.max:
            return Verdict(UNPARSED, error=f"off scale: a score out of {score.end:g}, where the scale ends at {scale.max:g}")
        if not scale.holds(score.value):
            return Verdict(UNPARSED, error=f"off scale: {score.value:g} is not on {scale}")
    first, second = (score.value for score in pair)
    return Verdict(JUDGED, first, second, "tie" if first == second else "first" if first > second else "second")


def _in_words(lines: Sequence[str]) -> Verdict | None:
    sentences = list(_sentences(lines))
    if any(NEITHER.search(sentence) for sentence in sentences):
        return None
    matches = [
        found for sentence in sentences for pattern in PROSE for found in pattern.finditer(sentence) if _meant(sentence, found)
    ]
    if lines and (last := LAST.fullmatch(lines[-1])):
        matches.append(last)
    names = {group.lower() for found in matches for group in found.groups() if group}
    chosen = {"first" if name in "1a" else "second" for name in names}
    if len(chosen) > 1:
        return Verdict(UNPARSED, error="contradiction: each of the two is called the better one")
    return Verdict(JUDGED, winner="first" if "first" in chosen else "second") if chosen else None
