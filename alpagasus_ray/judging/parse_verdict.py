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

Form `verdict` (no score counts): the marks of `winner_marks.py`. Of a reply cut by the token limit only a mark on its last
whole line.

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

from collections.abc import Sequence
from typing import Literal, NamedTuple

from alpagasus_ray.engines.base import LENGTH
from alpagasus_ray.judging import winner_marks
from alpagasus_ray.judging.cleaning import clean, nothing_to_read
from alpagasus_ray.judging.parse_rating import REFUSAL, REFUSAL_WINDOW
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.judging.score_pairs import Pair, Score, at_the_end, lines_of, on_the_last_line, on_top, values_of
from alpagasus_ray.judging.verdict_sentences import LAST, NEITHER, PROSE, is_meant, pairs_in, scores_alone, sentences_of

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


class Verdict(NamedTuple):
    """What a reply says, by the places in which the answers stood."""

    status: str
    first: float | None = None
    """Overall score of the first answer; None where the reply has no scores."""
    second: float | None = None
    winner: Winner | None = None
    error: str | None = None


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
    return _in_words(lines_of(seen.text)) or _nothing(seen.text)


def _of_marks(text: str, *, cut: bool) -> Verdict | None:
    found = winner_marks.found(lines_of(text), only_last=cut) or (None if cut else winner_marks.in_json(text))
    if isinstance(found, winner_marks.Contradiction):
        return Verdict(UNPARSED, error=f"contradiction: several verdicts are given ({', '.join(found.marks)})")
    return Verdict(JUDGED, winner=found) if found else None


def _of_scores(text: str, scale: Scale, *, cut: bool) -> Verdict | None:
    lines = lines_of(text)
    top = on_top(lines)
    if top is None:
        pair = None if cut else winner_marks.scores_in_json(text)
        told = (Score(pair[0]), Score(pair[1])) if pair else None
        return _scored(told, scale) if told else None if cut else _further_down(lines, scale)
    pair_at_the_end = at_the_end(lines)
    if pair_at_the_end and values_of(pair_at_the_end) != values_of(top):
        both = "; ".join(f"{one:g} and {two:g}" for one, two in (values_of(top), values_of(pair_at_the_end)))
        return Verdict(UNPARSED, error=f"contradiction: several pairs of scores are given ({both})")
    return _scored(top, scale)


def _nothing(text: str) -> Verdict:
    if REFUSAL.search(text.strip()[:REFUSAL_WINDOW]):
        return Verdict(REFUSED, error="refusal: the judge declines in its own words")
    return Verdict(UNPARSED, error="no verdict: neither scores nor a choice")


def _further_down(lines: Sequence[str], scale: Scale) -> Verdict | None:
    """The overall scores below the first line: one pair, which no score told alone contradicts."""
    sentences = list(sentences_of(lines))
    alone = [set(scores_alone(lines, sentences, place)) for place in (0, 1)]
    last = on_the_last_line(lines) if lines else None
    pairs = {values_of(pair): pair for pair in (*pairs_in(lines, sentences), *([last] if last else []))}
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


def _scored(pair: Pair, scale: Scale) -> Verdict:
    for score in pair:
        if score.end is not None and score.end != scale.max:
            return Verdict(UNPARSED, error=f"off scale: a score out of {score.end:g}, where the scale ends at {scale.max:g}")
        if not scale.holds(score.value):
            return Verdict(UNPARSED, error=f"off scale: {score.value:g} is not on {scale}")
    first, second = (score.value for score in pair)
    return Verdict(JUDGED, first, second, "tie" if first == second else "first" if first > second else "second")


def _in_words(lines: Sequence[str]) -> Verdict | None:
    """The one that sentences choose or call the better one; None where they choose none, or call both good."""
    sentences = list(sentences_of(lines))
    if any(NEITHER.search(sentence) for sentence in sentences):
        return None
    matches = [
        found
        for sentence in sentences
        for pattern in PROSE
        for found in pattern.finditer(sentence)
        if is_meant(sentence, found)
    ]
    if lines and (last := LAST.fullmatch(lines[-1])):
        matches.append(last)
    names = {group.lower() for found in matches for group in found.groups() if group}
    chosen = {"first" if name in "1a" else "second" for name in names}
    if len(chosen) > 1:
        return Verdict(UNPARSED, error="contradiction: each of the two is called the better one")
    return Verdict(JUDGED, winner="first" if "first" in chosen else "second") if chosen else None
