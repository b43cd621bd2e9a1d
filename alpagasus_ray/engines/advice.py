"""What to do about a sentence with which a server refuses every request."""

from collections.abc import Sequence
from typing import NamedTuple


class Advice(NamedTuple):
    """All of these words in a sentence, in small letters, and what helps then; `{judge}` is the section of the recipe."""

    marks: Sequence[str]
    knob: str
    value: str


KNOWN = (
    Advice(("system", "role"), "system", "merge"),
    Advice(("system", "not supported"), "system", "merge"),
    Advice(("developer instruction",), "system", "merge"),
    Advice(("roles must alternate",), "system", "merge"),
    Advice(("max_completion_tokens",), "max_tokens_field", "max_completion_tokens"),
    Advice(("temperature",), "temperature", "null"),
    Advice(("top_p",), "top_p", "null"),
    Advice(("logprobs",), "expected", "false"),
    Advice(("response_format",), "constrained", "off"),
    Advice(("structured_outputs",), "constrained", "off"),
    Advice(("guided",), "constrained", "off"),
    Advice(("seed",), "seed", "null"),
)


def advice(sentence: str, judge: str) -> str | None:
    """What to set in the recipe's section `judge` where the sentence is one that is known, e.g. `score.judge.system: merge`."""
    said = sentence.lower()
    fits = (entry for entry in KNOWN if all(mark in said for mark in entry.marks))
    return next((f"{judge}.{entry.knob}={entry.value}" for entry in fits), None)
