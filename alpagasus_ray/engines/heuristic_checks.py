"""Mechanical failures of a response, each found by one small function; most come from reading real Alpaca rows.

A check errs on the side of silence: where a pattern has honest uses (a rewritten sentence that needed no change), it says
nothing or takes little. Knows nothing of requests or replies.
"""

import math
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import py3langid


class Failure(NamedTuple):
    """One thing that is wrong, and the highest score that a response with it can have."""

    cap: float
    reason: str


class Case(NamedTuple):
    """An example, prepared once for all checks."""

    instruction: str
    input: str
    output: str
    words: int
    task: str
    """Instruction in lower case."""


Check = Callable[[Case], Failure | None]


PLACEHOLDER = re.compile(
    r"[<\[({]?\s*(?:no\s?(?:in|out)put(?:\s(?:required|needed|provided))?|none|n/?a|null|nil|nan|nothing|todo|"
    r"tbd|placeholder|lorem ipsum.*|"
    r"(?:insert|sketch|cropped|attached|see|picture|image|photo|drawing|diagram|table|chart|graph|"
    r"word cloud)\b[^>\])}]{0,40})\s*[>\])}]?\.?",
    re.IGNORECASE,
)
BRACKETED_ONLY = re.compile(r"[<\[({].*[>\])}]\.?", re.DOTALL)


def nothing_said(case: Case) -> Failure | None:
    """A response that is empty, without letters and digits, or a placeholder; None for any other."""
    if not case.output:
        return Failure(0.0, "the response is empty")
    if not any(character.isalnum() for character in case.output) and not case.input:
        return Failure(0.5, "the response holds neither letters nor digits")
    bare_word = PLACEHOLDER.fullmatch(case.output)
    asked_for_word = "none" in case.task or "null" in case.task or "nothing" in case.task
    if bare_word and (BRACKETED_ONLY.fullmatch(case.output) or not asked_for_word) and len(case.output) < 60:
        return Failure(0.0, "the response is a placeholder")
    return None


def _folded(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).strip().lower()


TRANSFORMS = re.compile(
    r"\b(?:correct|edit|fix|proofread|punctuat|capitali|uppercase|lowercase|grammar|identify|find|extract|"
    r"repeat|copy|sort|order|spell|insert|"
    r"add|transform|convert|format|align|merge|combine|join|colon|comma|hyphen)",
    re.IGNORECASE,
)


def _echo(case: Case) -> Failure | None:
    if case.output == case.input:
        return Failure(1.5 if TRANSFORMS.search(case.task) else 0.5, "the response repeats the input unchanged")
    if len(case.output) < 12:
        return None
    said, asked = _folded(case.output), _folded(case.instruction)
    if said and said == asked:
        return Failure(0.5, "the response repeats the instruction")
    if (
        len(said) > 25
        and said == _folded(case.input)
        and not TRANSFORMS.search(case.task)
        and not CODE_LIKE.search(case.output)
    ):
        return Failure(1.0, "the response repeats the input but for punctuation and case")
    return None


DANGLING = re.compile(
    r"(?:\b(?:and|or|the|a|an|of|to|in|with|for|that|which|because|such as|including|by|from|is|are)|[,(:–])$", re.IGNORECASE
)
CODE_LIKE = re.compile(r"[{};=<>]|^\s*(?:def|class|import|from|SELECT|#include|<\w+)", re.MULTILINE)


def _cut_off(case: Case) -> Failure | None:
    if case.output.count("```") % 2:
        return Failure(2.0, "a code block is never closed")
    last_line = case.output.rsplit("\n", 1)[-1]
    code = re.search(r"\breturn\b|[{}=<>]", last_line)
    if case.words >= 12 and DANGLING.search(case.output) and not code:
        return Failure(2.0, "the response breaks off in the middle of a sentence")
    prose = len(last_line) > 200 and case.output[-1].isalnum() and not code
    if prose and ". " in last_line and not last_line.split()[-1].startswith(("#", "@", "www", "http")):
        return Failure(2.5, "the last sentence has no end")
    return None


VERSE = re.compile(r"\b(?:song|poem|lyrics?|rap|verse|carol|chorus|routine|repeat|times|sound)", re.IGNORECASE)


def _repetition(case: Case) -> Failure | None:
    if CODE_LIKE.search(case.output) or "|" in case.output or VERSE.search(case.task):
        return None
    if case.words >= 40:
        raw = case.output.encode()
        if len(raw) / len(zlib.compress(raw, 6)) > 5:
            return Failure(1.5, "the response repeats the same text over and over")
    lines = [line for line in re.split(r"\n+|(?<=[.!?])\s+", case.output) if len(line) > 25]
    if len(lines) >= 3 and len(set(lines)) <= 0.6 * len(lines):
        return Failure(2.0, "sentences are repeated word for word")
    if re.search(r"\b([A-Za-z]{4,}) \1 \1\b", case.output):
        return Failure(2.5, "a word is repeated three times in a row")
    return None


REFUSAL = re.compile(
    r"(?:as an ai\b|as a (?:large )?language model|i(?:'|’)?m sorry,? but i|i am sorry,? but i|i(?: cannot|"
    r"(?:'|’| can)t| am unable to| am not able to) "
    r"(?:provide|do|help|assist|fulfill|complete|answer|access|generate|create|perform|comply|give|write|translate|browse)|"
    r"i do(?: not|n(?:'|’)t) have (?:access|the ability|enough information)|(?:it is|this is|sorry,?) not possible to|"
    r"not enough information (?:was |is |has been )?(?:provided|given))",
    re.IGNORECASE,
)


def _refusal(case: Case) -> Failure | None:
    if REFUSAL.match(case.output) and not re.search(r"\b(?:ai|chatbot|apolog|sorry|dialog|conversation|customer)\b", case.task):
        return Failure(1.0, "the response declines the request")
    return None


LEAK = re.compile(r"^\s*(?:#{2,}\s*(?:Instruction|Input|Response|Output)\b|(?:Instruction|Human|User)\s*:)", re.MULTILINE)
FILL_IN = re.compile(
    r"\[(?:your|insert|name|topic|company|date|description|customer|product|recipient|address)[^\]\n]{0,40}\]", re.IGNORECASE
)
GARBLED = re.compile(r"\ufffd|Ã[\x80-\xbf©¨¢]|â€|&(?:amp|lt|gt|quot|nbsp);|[\x00-\x08\x0b\x0c\x0e-\x1f]")


def _markers(case: Case) -> Failure | None:
    if LEAK.search(case.output) and not re.search(
        r"input|prompt|instruction|dialog|conversation|chat|interview|user", case.task
    ):
        return Failure(1.5, "markers of a prompt template stand in the response")
    if GARBLED.search(case.output) and "html" not in case.task:
        return Failure(2.0, "characters are garbled")
    if len(FILL_IN.findall(case.output)) >= 1 and not re.search(r"template|letter|email|e-mail|form\b|example", case.task):
        return Failure(2.5, "blanks were left to be filled in")
    return None


NEEDS_INPUT = re.compile(
    r"\b(?:the|this|these) (?:following|given|provided|above|attached) (?:sentence|text|paragraph|passage|"
    r"article|word|list|code|number|statement|"
    r"phrase|data|poem|quote|email|document|string|essay|story|image|picture|photo|table)s?\b",
    re.IGNORECASE,
)
NO_INPUT = re.compile(r"\W*(?:no\s?input(?:\s\w+)?|none|n/?a|not applicable|empty)\W*", re.IGNORECASE)
OTHER_SENSES = re.compile(r"\b(?:draw|sketch|paint|photograph|record|play|sing|film)\b (?:a|an|me|the|some)\b", re.IGNORECASE)


def _impossible(case: Case) -> Failure | None:
    absent = not case.input or NO_INPUT.fullmatch(case.input)
    if (
        absent
        and NEEDS_INPUT.search(case.instruction)
        and len(case.instruction) < 120
        and not re.search(r"[:\n\"“'‘]|[?.] +\w", case.instruction)
    ):
        return Failure(2.0, "the instruction is about a text that is not there")
    if OTHER_SENSES.match(case.instruction) and case.words < 20:
        return Failure(2.0, "the request asks for a picture or sound, which text cannot be")
    return None


NUMBERS = {word: n for n, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)}
NUMBERS |= {"fifteen": 15, "twenty": 20}
COUNTED = re.compile(
    r"^(?:please )?(?:list|name|give|provide|suggest|write|generate|create|come up with|propose|brainstorm|"
    r"offer)\b(?: me| us| a list of| a set of| at least)?"
    r"(?: the| some| top)? "
    rf"(?P<count>\d{{1,2}}|{'|'.join(NUMBERS)}) (?P<noun>(?:\w+ ){{0,2}}?\w+s)\b",
    re.IGNORECASE,
)
NOT_ITEMS = re.compile(
    r"words?|letters?|characters?|syllables?|lines?|digits?|sentences?|paragraphs?|minutes?|hours?|days?|"
    r"people|numbers?|steps?|parts?|years?|ingredients?|stanzas?|chords?|notes?|dollars?",
    re.IGNORECASE,
)
ITEM_MARK = re.compile(r"^\s*(?:[-*•]|\(?[\dA-Za-z]{1,2}[.):])\s*", re.MULTILINE)


def _too_few(case: Case) -> Failure | None:
    """A list that was asked for with a number, and has fewer entries."""
    asked = COUNTED.search(case.instruction)
    if asked is None or NOT_ITEMS.fullmatch(asked["noun"].split()[-1]):
        return None
    count = int(asked["count"]) if asked["count"].isdigit() else NUMBERS[asked["count"].lower()]
    if count < 2:
        return None
    marked = len(ITEM_MARK.findall(case.output))
    apart = len([line for line in case.output.splitlines() if line.strip()])
    joined = len(re.findall(r",|;|\?|#|\band\b|\bor\b|\. ", case.output)) + 1
    if max(marked, apart, joined) < count:
        return Failure(2.0, f"{count} {asked['noun']} were asked for and fewer are given")
    return None


PROSE = re.compile(
    r"\b(?:write|compose|create|generate|draft)(?: me)? an? (?:(?!for|from|of|to|about|on|in|with|the|title|"
    r"quote|line|outline|summar)\w+[ -]){0,3}?"
    r"(?:essay|story|article|speech|blog post|report|letter|paragraph|review)\b(?! (?:starter|problem|"
    r"title|idea|prompt|name|headline))",
    re.IGNORECASE,
)
EXPLAIN = re.compile(r"^(?:please )?(?:explain|describe|discuss|elaborate)\b", re.IGNORECASE)
TRANSFORMED_TEXT = re.compile(r"(?:translate|delete|remove|summari[sz]e|edit|rewrite|reduce|shorten|condense)", re.IGNORECASE)
LENGTH_ASKED = re.compile(
    r"(?P<at_most>at most |under |less than |no more than |up to |maximum of |within |"
    r"fewer than )?(?P<count>\d{2,4})[ -]words?\b(?P<or_less> or (?:less|fewer))?",
    re.IGNORECASE,
)


def _too_short(case: Case) -> Failure | None:
    asked = LENGTH_ASKED.search(case.instruction)
    if asked:
        bounded_above = asked["at_most"] or asked["or_less"] or TRANSFORMED_TEXT.match(case.instruction)
        if not bounded_above and case.words < 0.5 * int(asked["count"]):
            return Failure(1.5, f"{case.words} words where {asked['count']} were asked for")
        return None
    wanted = 40 if PROSE.search(case.instruction) else 8 if EXPLAIN.search(case.instruction) else 0
    if (
        re.search(r"\b(?:one|single|short|brief|two|three|four|five|\d+)[ -](?:sentence|word|adjective|line|phrase)", case.task)
        or "headline" in case.task
    ):
        return None
    if case.words < wanted:
        return Failure(2.0, f"far too short for what is asked ({case.words} words)")
    return None


LANGUAGES = {
    "english": "en", "french": "fr", "spanish": "es", "german": "de", "italian": "it",
    "portuguese": "pt", "dutch": "nl", "russian": "ru",
    "chinese": "zh", "mandarin": "zh",
    "japanese": "ja", "korean": "ko", "arabic": "ar", "hindi": "hi", "turkish": "tr", "polish": "pl",
    "swedish": "sv", "greek": "el", "vietnamese": "vi",
    "indonesian": "id", "danish": "da", "finnish": "fi", "czech": "cs", "hebrew": "he",
}  # fmt: skip
INTO = re.compile(
    rf"\b(?:translat\w*|convert|write|rewrite|say|express|answer|respond|explain|describe)\b.{{0,80}}?\b(?:in|into|"
    rf"to)\s+(?P<language>{'|'.join(LANGUAGES)})\b",
    re.IGNORECASE | re.DOTALL,
)
SCRIPTS = {
    "han": re.compile(r"[\u4e00-\u9fff]"), "kana": re.compile(r"[\u3040-\u30ff]"), "hangul": re.compile(r"[\uac00-\ud7af]"),
    "cyrillic": re.compile(r"[\u0400-\u04ff]"), "arabic": re.compile(r"[\u0600-\u06ff]"),
    "devanagari": re.compile(r"[\u0900-\u097f]"),
    "latin": re.compile(r"[A-Za-z\u00c0-\u024f]"),
}  # fmt: skip


def _script(text: str) -> str | None:
    counts = {name: len(pattern.findall(text)) for name, pattern in SCRIPTS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] >= 10 and counts[best] > 0.6 * sum(counts.values()) else None


def _language(case: Case) -> Failure | None:
    asked = INTO.search(case.instruction)
    if asked is not None:
        wanted = LANGUAGES[asked["language"].lower()]
        # short texts and names are beyond what a language can be told from
        telling = case.words >= 6 and not re.search(r"[\"'“«]", case.output)
        if telling and wanted != "en" and py3langid.classify(case.output)[0] == "en":
            return Failure(1.5, f"the response is English where {asked['language'].capitalize()} was asked for")
        return None
    if case.instruction.isascii() and case.output.isascii():
        return None
    theirs, ours = _script(case.instruction), _script(case.output)
    mentions = re.search(r"translat|language|翻译|英文|英语|english", case.task)
    if theirs and ours and theirs != ours and not mentions and not CODE_LIKE.search(case.output):
        return Failure(2.0, f"the request is in {theirs} script, the response in {ours}")
    return None


SUM = re.compile(r"(?P<a>-?\d{1,9}(?:\.\d+)?)\s*(?P<sign>[+*x×/÷-])\s*(?P<b>\d{1,9}(?:\.\d+)?)(?P<rest>.{0,20})")
SIGNS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "x": lambda a, b: a * b, "×": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else math.nan, "÷": lambda a, b: a / b if b else math.nan,
}  # fmt: skip
PLAIN_SUM = re.compile(
    r"(?:what is|what's|calculate|compute|solve|find|evaluate|add|multiply)?\W*(?:the (?:sum|product|result|"
    r"value|answer)(?: of)?)?\W*",
    re.IGNORECASE,
)


def _wrong_sum(case: Case) -> Failure | None:
    """`What is 17 + 25?` with a response that does not hold 42."""
    text = f"{case.instruction} {case.input}".strip()
    found = SUM.search(text) if len(text) < 60 else None
    if found is None or re.search(r"[\w+*/=^(-]", found["rest"]) or not PLAIN_SUM.fullmatch(text[: found.start()]):
        return None
    right = SIGNS[found["sign"]](float(found["a"]), float(found["b"]))
    given = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", case.output.replace(",", ""))]
    if math.isnan(right) or not given or any(abs(number - right) <= 0.01 * max(1.0, abs(right)) for number in given):
        return None
    return Failure(0.5, f"the sum is wrong: {found['a']} {found['sign']} {found['b']} = {right:g}")


CHECKS: tuple[Check, ...] = (
    _echo, _cut_off, _repetition, _refusal, _markers, _impossible, _too_few, _too_short, _language, _wrong_sum,
)  # fmt: skip
