"""What a server says that a request used, read as one reads a bill: what cannot be is not known, and of two readings the dearer
one holds. Where it is not known the request counts as the most it can have cost (`prices.py`)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_TOKENS = 10_000_000
"""More than any model takes or gives at once; a larger number is none."""


class Usage(NamedTuple):
    """Tokens of one request; None is not known."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None


def read_usage(said: Any, *, has_text: bool) -> Usage:
    """The usage in a response's body, `has_text` where the reply is not empty.

    The reply is at least what the total leaves beside the prompt, and more than its own reasoning: some servers leave reasoning
    out of `completion_tokens`. More cached tokens than the prompt has are taken to be on top of it. A prompt of no tokens, and
    a text of none, are not known.
    """
    if not isinstance(said, Mapping):
        return Usage()
    prompt = _count(said.get("prompt_tokens")) or None
    cached = _count(_inner(said, "prompt_tokens_details").get("cached_tokens"))
    made = _made(said, prompt)
    if made == 0 and has_text:
        # a text of no tokens: the server does not count, and the reply is not free
        made = None
    if prompt is not None and cached is not None and cached > prompt:
        prompt += cached
    return Usage(prompt, made, cached)


def _made(said: Mapping[str, Any], prompt: int | None) -> int | None:
    """Tokens of the reply."""
    made, total = _count(said.get("completion_tokens")), _count(said.get("total_tokens"))
    reasoning = _count(_inner(said, "completion_tokens_details").get("reasoning_tokens")) or 0
    if made is not None and reasoning > made:
        # more reasoning than tokens of the reply: it was left out of them, and is billed all the same
        made += reasoning
    left = total - prompt if total is not None and prompt is not None else None
    if made is None:
        return left if left is not None and left > 0 else None
    return max(made, left or 0)


def _inner(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = said.get(name)
    return found if isinstance(found, Mapping) else {}


def _count(value: Any) -> int | None:
    """A number of tokens; True is none, though Python counts it as 1."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None
