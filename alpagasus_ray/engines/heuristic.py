"""The offline judge: it finds mechanical failures of a response, without a model and without a network.

A baseline, not an LLM: it cannot tell whether a statement is true (sums of two numbers apart). Each failure it finds caps the
score; every further one takes half a point more. Where it finds none, the score grows from 3 to 5 with how much is said:
of the mechanical signs, length is the one that agrees with LLM judges (`docs/benchmarks.md` has the measured rank
correlations). The reply has the form that a judge's reply has: the score alone, then the reasons.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from alpagasus_ray.engines.base import Rate, Reply, Request
from alpagasus_ray.engines.heuristic_checks import CHECKS, Case, nothing_said

DISCLAIMER = "(Found by mechanical rules, a baseline; no language model read this.)"

CJK, SOUTH_EAST_ASIAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
UNSPACED = re.compile(rf"[{CJK}{SOUTH_EAST_ASIAN}\u3000-\u303f\uff00-\uff0f]")
CHARACTERS_A_WORD = {re.compile(rf"[{CJK}]"): 1.7, re.compile(rf"[{SOUTH_EAST_ASIAN}]"): 5.0}
"""About as many characters of these scripts say as much as a word of a language with blanks."""


class RulesEngine:
    """Rates the row of a request; the messages are not looked at."""

    address = "the rules"
    stated = Rate()

    async def complete(self, request: Request) -> Reply:
        score, reasons = rate(request.row)
        return Reply(f"{score:g}\n{'; '.join(reasons)}. {DISCLAIMER}")


class PairRulesEngine:
    """Compares the two answers in the row of a request: rates each, on a scale from 1 to 10, and replies in the form asked."""

    address = "the rules"
    stated = Rate()

    def __init__(self, form: Literal["scores", "verdict"]) -> None:
        self._form = form

    async def complete(self, request: Request) -> Reply:
        rated = [rate({**request.row, "output": request.row[place]}) for place in ("first", "second")]
        scores = [1 + 1.8 * score for score, _ in rated]
        reasons = "\n".join(f"{name}: {'; '.join(why)}." for name, (_, why) in zip(("First", "Second"), rated, strict=True))
        if self._form == "verdict":
            mark = "C" if scores[0] == scores[1] else "A" if scores[0] > scores[1] else "B"
            return Reply(f"{reasons}\n{DISCLAIMER}\n[[{mark}]]")
        return Reply(f"{scores[0]:g} {scores[1]:g}\n{reasons}\n{DISCLAIMER}")


def rate(row: Mapping[str, Any]) -> tuple[float, list[str]]:
    """Score (0 to 5 in half points) of an example and the reasons for it."""
    output = row["output"].strip()
    case = Case(row["instruction"].strip(), row["input"].strip(), output, words_of(output), row["instruction"].lower())
    first = nothing_said(case)
    if first is not None:
        return first.cap, [first.reason]
    failures = [failure for check in CHECKS if (failure := check(case)) is not None]
    if not failures:
        return _substance(case.words), [f"no mechanical failure found, {case.words} words"]
    worst = min(failure.cap for failure in failures)
    return max(0.0, worst - 0.5 * (len(failures) - 1)), [failure.reason for failure in failures]


def words_of(text: str) -> int:
    """How many words a text is long, also in scripts that put no blanks between words: those count by their characters."""
    apart = UNSPACED.sub(" ", text)
    return len(apart.split()) + round(sum(len(pattern.findall(text)) / each for pattern, each in CHARACTERS_A_WORD.items()))


def _substance(words: int) -> float:
    return next(score for limit, score in ((5, 3.0), (20, 3.5), (40, 4.0), (80, 4.5), (math.inf, 5.0)) if words < limit)
