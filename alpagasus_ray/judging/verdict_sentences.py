"""What sentences say of two answers: overall scores, and which one is better. Published reviews need most of it.

What a sentence denies, supposes, puts in the mouth of others or says of one criterion alone is no score and no choice.
"""

import re
from collections.abc import Iterator, Sequence

from alpagasus_ray.judging.score_pairs import (
    ANNOUNCED,
    ASPECT,
    LINES,
    NAMED,
    NOUN,
    NUMBER,
    SCORE,
    Pair,
    Score,
    announced,
    compiled,
    labelled,
    pair_of,
    score_of,
)

_BOTH = rf"{NAMED[0]} and (?:for |to )?{NAMED[1]}"
_GIVEN = r"(?:overall |final |total )?(?:score|rating) of "
_GETS = r"(?:(?:should |would |will )?(?:gets?|receives?|earns?|deserves?|scores) )?"
_IN_TUPLE = r"([0-9]+(?:\.[0-9]+)?)(?: ?(?:/|out of) ?([0-9]+(?:\.[0-9]+)?))?"
TUPLE = re.compile(rf"(output ?:? ?|scores? ?:? ?)?\( ?{_IN_TUPLE}, ?{_IN_TUPLE} ?\)[.,]?", re.IGNORECASE)
TITLES = compiled(*(rf"{name}:?" for name in NAMED))
TITLED = re.compile(rf"(?:overall |final )?(?:score|rating): ?{SCORE}", re.IGNORECASE)
PAIRS = compiled(
    r"\btuple (?:(?:containing|with|of) (?:the |their |both )?(?:overall |final )?scores )?"
    rf"(?:(?:for|of) (?:{_BOTH}|both assistants|the two assistants) )?(?:is|would be):? ?\( ?{SCORE}, ?{SCORE} ?\)",
    rf"\bscores (?:for|of) {_BOTH} (?:are|would be) {SCORE} and {SCORE},? respectively",
)
EQUAL = re.compile(
    rf"\bboth(?: of them)?(?: (?:the )?{NOUN}s| {_BOTH})?(?: (?:should|would|will))?(?: (?:receive|get|deserve|earn|have))?"
    rf" (?:a|the same) {_GIVEN}{SCORE}(?!,? (?:and|or) [0-9])",
    re.IGNORECASE,
)
SINGLE = [
    compiled(
        rf"\b{name}'s (?:overall |final )?score (?:is|would be) {SCORE}",
        rf"\b{name}(?:'s \w+(?: \w+)?)? {_GETS}(?:with )?an? {_GIVEN}{SCORE}",
        rf"\b{name}(?:'s \w+(?: \w+)?)? an? ({NUMBER}) out of ({NUMBER})(?!\.?[0-9])",
        rf"\b{_GIVEN}{SCORE} (?:to|for) {name}",
    )
    for name in NAMED
]
"""For each of the two, the ways to tell its score alone."""
_ENDS = (
    r"(?=$|[.,;:!](?![0-9])| (?:as|over|because|since|due|overall|here|in this case)\b)"
    r"(?!,? (?:or|and) (?:assistant|answer|response|model|output|[(12]))"
)
_ONE = rf"(?:(?:{NOUN} )?\(?([12])\b\)?|{NOUN} \(?([ab])\b\)?|\(([ab])\))"
_NAMED_ONE = rf"{NOUN} ?\(?([12ab])\b\)?"
_I = r"\bi(?:'d|'ll)?(?: (?:would|will|must|shall|have to|do|also|still|therefore|clearly|personally|say|had to))*"
_RATHER = r"(?: (?:the|a|much|far|clearly|slightly|significantly|overall|therefore))*"
_THAN = rf"(?: than (?:that of )?(?:{NOUN} ?\(?[12ab]\b\)?(?:'s(?: \w+)?)?|the other(?: one)?))?"
PROSE = compiled(
    rf"{_I} (?:choose|choosing|pick|select|recommend|prefer|go with)(?: choosing)? {_ONE}(?:'s(?: \w+)?)?{_ENDS}",
    rf"{_I} recommend that {_NAMED_ONE}(?:'s \w+)? be used",
    rf"{_I} rate {_NAMED_ONE} as (?:the )?(?:better|best|more helpful)\b",
    rf"\b{_NAMED_ONE}(?:'s \w+)? is{_RATHER} better(?: {NOUN}| choice| option| one| submission| solution)?{_THAN}{_ENDS}",
    rf"\bthe better(?:-performing)? (?:one|choice|{NOUN}) is {_NAMED_ONE}{_ENDS}",
    rf"\bmy (?:choice is {_ONE}|answer is {_NAMED_ONE}){_ENDS}",
)
"""Ways to say which one is better; a lone letter counts only behind a noun or in brackets."""
LAST = re.compile(r"output: ?([12])", re.IGNORECASE)
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


def pairs_in(lines: Sequence[str], sentences: Sequence[str]) -> Iterator[Pair]:
    """All pairs of overall scores that are told together."""
    tuples = [TUPLE.fullmatch(line) for line in lines]
    speaks = any(re.search(r"\bscor|\brat(?:e|ing)", line, re.IGNORECASE) for line in lines)
    last = tuples[-1] if tuples else None
    for number, found in enumerate(tuples):
        if found and ((found[1] and (speaks or (last and last[1]))) or (speaks and found is last)):
            yield pair_of(found.groups()[1:])
        elif pair := labelled(lines, number) or announced(lines, number):
            yield pair
    for sentence in sentences:
        for pattern in PAIRS:
            yield from (pair_of(found.groups()) for found in pattern.finditer(sentence) if is_meant(sentence, found))
        yield from (pair_of(found.groups() * 2) for found in EQUAL.finditer(sentence) if is_meant(sentence, found))


def scores_alone(lines: Sequence[str], sentences: Sequence[str], place: int) -> Iterator[Score]:
    """The scores of one answer that are told without the other's: in sentences, in lines that say out of how many, under its
    title."""
    for sentence in sentences:
        for pattern in SINGLE[place]:
            yield from (score_of(found[1], found[2]) for found in pattern.finditer(sentence) if is_meant(sentence, found))
    heading = ""
    for line, after in zip(lines, [*lines, ""][1:], strict=True):
        found = LINES[place].fullmatch(line)
        told = not ASPECT.search(heading) and (not heading.endswith(":") or ANNOUNCED.search(heading))
        if found and found[2] and told and not ASPECT.search(line):
            yield score_of(found[1], found[2])
        if TITLES[place].fullmatch(line) and (titled := TITLED.fullmatch(after)):
            yield score_of(titled[1], titled[2])
        heading = heading if found or LINES[1 - place].fullmatch(line) else line


def sentences_of(lines: Sequence[str]) -> Iterator[str]:
    """The sentences of all lines; a line ends one."""
    for line in lines:
        yield from re.split(r"(?<=[.!?;]) (?=[A-Z(\[])", line)


def is_meant(sentence: str, found: re.Match[str]) -> bool:
    """Whether the sentence holds what it says there: it neither denies nor supposes it, and means the whole answer."""
    start, end = max(0, found.start() - SENTENCE), found.end() + SENTENCE
    before, after = FORCED.sub("", sentence[start : found.start()]), sentence[found.end() : end]
    clause = CLAUSE.split(before)[-1] + found[0]
    supposed = SUPPOSED.search(before) or re.match(r",? (?:only )?(?:if|unless)\b", after, re.IGNORECASE)
    return not (supposed or DENIED.search(clause) or ASPECT.search(sentence[start:end]))
