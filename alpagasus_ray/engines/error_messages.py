"""What a server says of an error, wherever it says it: in the body of an error status, inside a 200, in place of a reply.

Its words stand here where they mean something else than its status does: a content filter's 400, a wrong key's 400, the quota
of a day behind a 429, a 503 of a server that took nothing. Only words that are listed mean anything.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

STATUSES = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "insufficient_quota": 402,
    "billing_error": 402,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "not_found": 404,
    "content_filter": 400,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "timeout": 408,
    "internal_error": 500,
    "internal_server_error": 500,
    "server_error": 500,
    "api_error": 500,
    "internal": 500,
    "unavailable": 503,
    "service_unavailable": 503,
    "deadline_exceeded": 504,
    "overloaded_error": 529,
}
"""Words that stand for a status in the bodies of OpenAI, Anthropic, Google and those who follow them."""
FILTERED = (
    "content_filter",
    "content management policy",
    "content_policy_violation",
    "responsibleaipolicyviolation",
    "data_inspection_failed",
    "input was flagged",
)
"""What content filters say when they turn a prompt away: Azure, OpenAI, DashScope, OpenRouter."""
WRONG_KEY = ("api key not valid", "api_key_invalid", "api key expired", "invalid api key", "incorrect api key")
NOT_TAKEN = (
    "overloaded",
    "loading model",
    "model is loading",
    "currently loading",
    "no healthy upstream",
    "no available server",
    "connection refused",
    "too many requests",
    "server is busy",
    "slow down",
)
"""What a 503 says that did nothing: OpenAI and Gemini (overloaded), llama.cpp and TGI (loading), Envoy and Traefik (nowhere to
send it)."""
DAILY = re.compile(r"per[\s_-]?day|daily (?:limit|quota)", re.IGNORECASE)
GOOGLE_DAILY = re.compile(r'"quotaId"\s*:\s*"\w*PerDay', re.IGNORECASE)
"""Google names a delay of seconds beside a quota of a day: the quota holds."""


class SaidError(NamedTuple):
    """An error as a server tells it."""

    status: int | None
    """The status that its code stands for; None where it names none that is known."""
    message: str
    words: str
    """All that says what kind it is, in small letters: its codes and its message."""


def said_error(body: Any) -> SaidError | None:
    """The error in a body (`{"error": ...}`, that in a list as Gemini has it, `{"object": "error", ...}`) or in its first
    choice; None where there is none."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, Mapping):
        return None
    found = body.get("error") or (body if body.get("object") == "error" else None) or _of_choice(body)
    if not found:
        return None
    if not isinstance(found, Mapping):
        return SaidError(_status(found), str(found), str(found).lower())
    codes = [found.get(name) for name in ("code", "status", "status_code", "type")]
    codes += [inner.get("code") for inner in (found.get("innererror"), found.get("inner_error")) if isinstance(inner, Mapping)]
    # `code` is a number here and a word there; the first of the fields that says something known counts
    status = next((known for code in codes if (known := _status(code)) is not None), None)
    message = str(found.get("message") or found)
    return SaidError(status, message, " ".join(str(word) for word in (*codes, message) if word is not None).lower())


def is_filtered(status: int, error: SaidError | None) -> bool:
    """Whether a content filter has declined the prompt."""
    return status in (400, 403) and error is not None and any(mark in error.words for mark in FILTERED)


def is_wrong_key(status: int, error: SaidError | None) -> bool:
    """Whether a 400 means what elsewhere is a 401."""
    return status == 400 and error is not None and any(mark in error.words for mark in WRONG_KEY)


def is_daily(status: int, body: str, retry_after_s: float | None) -> bool:
    """Whether a 429 is the quota of a day, with no hour named at which there is more."""
    return status == 429 and bool(GOOGLE_DAILY.search(body) or (retry_after_s is None and DAILY.search(body)))


def was_turned_away(body: str, retry_after_s: float | None) -> bool:
    """Whether a 503 says that nothing was done."""
    return retry_after_s is not None or any(mark in body.lower() for mark in NOT_TAKEN)


def _of_choice(body: Mapping[str, Any]) -> Any:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first.get("error") if isinstance(first, Mapping) else None


def _status(code: Any) -> int | None:
    """An HTTP status of an error, by its number or by its word."""
    text = str(code).strip().lower()
    if text.isascii() and text.isdigit() and len(text) == 3:
        return int(text) if 400 <= int(text) < 600 else None
    return STATUSES.get(text)
