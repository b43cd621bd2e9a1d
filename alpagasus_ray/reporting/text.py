"""Words and numbers that several reports share."""

from collections.abc import Mapping
from typing import Any


def money(dollars: float | None) -> str:
    """Two places, or four of what is less than a dollar."""
    return "unknown" if dollars is None else f"{dollars:,.{2 if dollars >= 1 or not dollars else 4}f}"


def mean_answer_length(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mean length of a stage's answers, `value` (None where no answer says anything) and `unit`; older runs measured in
    words."""
    found: Mapping[str, Any] = details.get("mean_answer_length") or {"value": details.get("mean_answer_words"), "unit": "words"}
    return found
