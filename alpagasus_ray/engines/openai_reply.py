"""What a response of an OpenAI-compatible API holds: a reply, or a typed failure. Pure functions of its body and status.

A field that is not known is never read as a good answer: a finish reason that nobody has heard of, an error inside of a 200.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from alpagasus_ray.engines import score_grammar as scores_of
from alpagasus_ray.engines.base import CONTENT_FILTER, REFUSAL, Reply, Tree
from alpagasus_ray.engines.error_messages import SaidError, is_daily, is_filtered, is_wrong_key, said_error, was_turned_away
from alpagasus_ray.engines.finish_reasons import ERROR, finish_reason
from alpagasus_ray.engines.usage import read_usage
from alpagasus_ray.errors import EngineUnusable, RowRefused, TryAgain

DETAIL_LIMIT = 300
MOST_PLACES = 32
"""Places in a reply at which probabilities are kept."""
TINY_ABOVE_ZERO = 1e-3
"""A server's rounding may make that of a logarithm of 1."""
TURNED_AWAY = (409, 425, 429, 529)
"""Statuses of a request that was not carried out, as is a 503 that says so (`error_messages.was_turned_away`); after the others
of a server's errors, a 408 among them, it may have been, and billed."""
AGAIN = (408, *TURNED_AWAY)
"""Statuses below 500, and that of an overload, after which the same request may be answered."""
NAME_LIMIT = 200
"""Characters of a model's name that are kept."""
HOPELESS = {
    401: "the server refuses the key",
    402: "the account has no money left",
    404: "no such model or address",
}
"""Statuses that every request would get."""
TOO_LONG = (
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "too many tokens",
    "prompt is too long",
    "max_model_len",
    "context length",
    "context size",
    "context limit",
    "maximum prompt length",
    "maximum input length",
    "input is too long",
    "input is longer than",
    "prompt too long",
    "too many input tokens",
    "input token count",
    "request exceeds the maximum size",
    "reduce the length",
    "`inputs` tokens + `max_new_tokens`",
    "`inputs` must have less than",
    "exceed_context_size",
    "string_above_max_length",
)
"""What servers say of a prompt that does not fit: OpenAI, vLLM, SGLang, llama.cpp, Ollama, TGI, Mistral, Groq, Gemini,
Anthropic, Bedrock, xAI."""


def short(text: str) -> str:
    """The beginning of a text, in one line; what a terminal would take for a command is spelled out."""
    line = " ".join(text.split())[:DETAIL_LIMIT]
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def outcome_of(
    status: int, detail: str, body: str, retry_after_s: float | None = None
) -> Reply | RowRefused | TryAgain | EngineUnusable:
    """What an error status comes to; a prompt that a content filter turned away has its answer, which may be billed."""
    if is_filtered(status, _said(body)):
        return Reply("", CONTENT_FILTER)
    return failure(status, detail, body, retry_after_s)


def failure(status: int, detail: str, body: str, retry_after_s: float | None = None) -> RowRefused | TryAgain | EngineUnusable:
    """What an error status means; `detail` is what may be told of it, `body` all that the server said."""
    if is_daily(status, body, retry_after_s):
        return EngineUnusable("http 429", f"the quota of the day is used up: {detail}")
    # some servers say by a 429 that the money is gone, and by a 400 that the key is wrong; waiting helps with neither
    meant = 402 if status == 429 and "insufficient_quota" in body else 401 if is_wrong_key(status, _said(body)) else status
    hopeless = HOPELESS.get(meant)
    if hopeless is not None:
        return EngineUnusable(f"http {status}", f"{hopeless}: {detail}")
    # whatever the status: what does not fit never will, and some servers say so as if the error were theirs
    if is_too_long(status, detail.lower()):
        return RowRefused("too long", detail)
    if status in AGAIN or not 400 <= status < 500:
        refused = status in TURNED_AWAY or (status == 503 and was_turned_away(body, retry_after_s))
        return TryAgain(f"http {status}", detail, "refused" if refused else "unknown", retry_after_s)
    return RowRefused(f"http {status}", detail)


def is_too_long(status: int, said: str) -> bool:
    """Whether a request does not fit: the model's context or, alone, the limit of a minute."""
    if status == 429:
        return "request too large" in said
    return status == 413 or any(mark in said for mark in TOO_LONG)


def _said(body: str) -> SaidError | None:
    try:
        return said_error(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None


def read_reply(content: bytes, tellable: Callable[[str], str] = short) -> Reply:
    """The reply in a response's body. A body that is none (HTML, cut JSON, no choices) may be asked for again, an error inside
    of a 200 is that error, and `tellable` makes of what the server said what may be told."""
    try:
        body = orjson.loads(content)
        error = said_error(body)
        # some servers answer 200 and put the error into the body
        if error is not None and error.status is not None:
            return _in_place_of_a_reply(error, content, tellable)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), message.get("refusal")
        thought = _reasoning(message)
        # a refusal has a field of its own, and `stop` beside it
        ended = REFUSAL if refusal else finish_reason(choice.get("finish_reason"))
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        # a proxy's page, a cut body: the model may have answered and billed, and the next attempt may come through
        raise TryAgain("malformed reply", tellable(content.decode("utf-8", "replace"))) from None
    if error is not None or ended == ERROR:
        raise TryAgain("error in the reply", tellable(error.message if error else text))
    usage = read_usage(body.get("usage"), has_text=bool(refusal or text or thought))
    return Reply(
        text=str(refusal or text),
        finish_reason=ended,
        **usage._asdict(),
        logprobs=_at_numbers(choice),
        reasoning=thought,
        model=_name(body.get("model")),
        fingerprint=_name(body.get("system_fingerprint")),
    )


def storable(reply: Reply) -> Reply:
    """The reply, if all of it can be written down: `TypeError` for half a character, or for a number beyond 64 bits."""
    orjson.dumps(reply._asdict())
    return reply


def _in_place_of_a_reply(error: SaidError, content: bytes, tellable: Callable[[str], str]) -> Reply:
    assert error.status is not None, "only an error with a status is one of the server's"
    came = outcome_of(error.status, tellable(error.message), content.decode("utf-8", "replace"))
    if isinstance(came, Reply):
        return came
    raise came


def _reasoning(message: Mapping[str, Any]) -> str | None:
    """What the model thought, where the server keeps it apart."""
    found = (message.get(name) for name in ("reasoning_content", "reasoning"))
    return next((text for text in found if isinstance(text, str) and text), None)


def _name(said: Any) -> str | None:
    """A name that a server gives: of its model, of what it runs."""
    return _short_name(said) if isinstance(said, str) and said else None


@functools.lru_cache(maxsize=64)
def _short_name(said: str) -> str:
    # a server gives the same few with every reply
    return short(said)[:NAME_LIMIT]


def _at_numbers(choice: Mapping[str, Any]) -> Tree | None:
    """The log probability of each text that may come next at the beginning of the reply, and wherever a token of it holds a
    digit
    (of many places the first and the last): which of these is the score's place is for its reader. Only where the server tells
    them in a shape that is known, and makes sense: a reply is good without."""
    try:
        told = [(str(one["token"]), one["top_logprobs"]) for one in choice["logprobs"]["content"]]
        starts = [0, *itertools.accumulate(len(token) for token, _ in told)]
        text = "".join(token for token, _ in told)
        places = [n for n, (token, _) in enumerate(told) if n == 0 or any(sign.isdigit() for sign in token)]
        kept = places if len(places) <= MOST_PLACES else [*places[: MOST_PLACES // 2], *places[-MOST_PLACES // 2 :]]
        return {text[: starts[n]]: scores_of.added_up(_next(told[n][1])) for n in kept} or None
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None


def _next(tokens: Any) -> Iterator[tuple[str, float]]:
    for token in tokens:
        logprob = float(token["logprob"])
        if not logprob <= TINY_ABOVE_ZERO:
            raise ValueError(f"{logprob} is the logarithm of no probability")
        yield str(token["token"]), logprob


def _text(content: Any) -> str:
    """The text of a message, also where it comes in parts."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if part.get("type", "text") == "text")


def error_text(content: bytes) -> str:
    """What the body of an error says."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content.decode("utf-8", "replace")
    error = said_error(body)
    if error is not None:
        return error.message
    return str(body.get("message") or body) if isinstance(body, dict) else str(body)
