"""Any OpenAI-compatible chat API as an engine: one client per process, one attempt per call, typed failures.

Retries are not made here, so that each one can be counted and limited (`runner/ask.py`). The client's own are off.
"""

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import aiohttp
import httpx2 as httpx
import openai
import orjson
from aiohttp.http_exceptions import HttpProcessingError
from openai import AsyncOpenAI, DefaultAioHttpClient

from alpagasus_ray.config import OPENAI, EngineConfig
from alpagasus_ray.config.extra_fields import collision
from alpagasus_ray.engines import bounded_read
from alpagasus_ray.engines import score_grammar as scores_of
from alpagasus_ray.engines.access import access, from_environment
from alpagasus_ray.engines.base import ANY_FORM, CONTENT_FILTER, EMPTY, REFUSAL, Message, Rate, Reply, ReplyForm, Request, Tree
from alpagasus_ray.engines.error_messages import (
    SaidError,
    is_daily,
    is_filtered,
    is_wrong_key,
    said_error,
    was_turned_away,
)
from alpagasus_ray.engines.finish_reasons import ERROR, finish_reason
from alpagasus_ray.engines.messages import merged
from alpagasus_ray.engines.rate_headers import retry_after, stated_rate
from alpagasus_ray.engines.usage import read_usage
from alpagasus_ray.errors import UNREADABLE, EngineUnusable, RowRefused, TryAgain, UsageError

NO_KEY = "none"
HIDDEN = "(the key)"
LATE = "no reply in time"
DETAIL_LIMIT = 300
MOST_PLACES = 32
"""Places in a reply at which probabilities are kept."""
TINY_ABOVE_ZERO = 1e-3
"""A server's rounding may make that of a logarithm of 1."""
TOP_LOGPROBS = 20
"""The most that OpenAI gives."""
CONNECTIONS = 4096
"""Above any sensible number in flight: the runner bounds that, and the client's own limit must never queue behind it."""
TURNED_AWAY = (409, 425, 429, 529)
"""Statuses of a request that was not carried out, as is a 503 that says so (`said_errors.was_turned_away`); after the others of
a server's errors, a 408 among them, it may have been, and billed."""
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


class OpenAIEngine:
    """Asks one model at one address."""

    def __init__(self, judge: EngineConfig, form: ReplyForm = ANY_FORM) -> None:
        self._judge = judge
        self._body = request_body(judge, form)
        self.stated = Rate()
        self._access = access(judge)
        self._client = AsyncOpenAI(
            api_key=read_key(judge),
            base_url=judge.base_url,
            **self._access.arguments,
            max_retries=0,
            timeout=timeouts(judge),
            http_client=DefaultAioHttpClient(
                limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
                headers={"Accept-Encoding": bounded_read.ACCEPTED},
                event_hooks={"request": [self._access.cleared_later], "response": [bounded_read.bound]},
            ),
        )
        self.address = shown_address(self._client.base_url)

    async def complete(self, request: Request) -> Reply:
        if not request.messages:
            raise RowRefused(EMPTY)
        try:
            return storable(await self._complete(request))
        except (*UNREADABLE, openai.OpenAIError) as error:
            raise TryAgain("malformed reply", self._safe(f"{type(error).__name__}: {error}")) from None

    async def _complete(self, request: Request) -> Reply:
        try:
            # the client's own timeout begins anew with every byte
            async with asyncio.timeout(self._judge.timeout_s):
                # the untyped call skips building and checking models for every message: a third of the client's time
                response = await self._client.post(
                    "/chat/completions",
                    cast_to=httpx.Response,
                    body={**self._body, "messages": messages_of(self._judge, request)},
                )
        except openai.APIStatusError as error:
            return self._answer_of(error.response)
        except openai.APIConnectionError as error:
            raise self._connection_error(error) from None
        except (aiohttp.ClientError, HttpProcessingError) as error:  # what is no HTTP at all comes through as it is
            raise TryAgain("connection", self._safe(str(error))) from None
        except TimeoutError:
            raise TryAgain("timeout", LATE) from None
        stated = stated_rate(response.headers)
        if stated != Rate():
            self.stated = stated
        return read_reply(response.content, self._safe)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    def _safe(self, text: str) -> str:
        for secret in self._access.secrets:
            text = text.replace(secret, HIDDEN)
        return safe(text, self._client.api_key)

    def _connection_error(self, error: openai.APIConnectionError) -> TryAgain:
        """What became of a request whose connection failed. The transport calls nearly all of that a timeout, a server that
        hangs up on a request it has read as well, so the first cause decides: only a connection that was never made has
        certainly cost nothing."""
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, aiohttp.ClientError | TryAgain):
            cause = cause.__cause__
        if isinstance(cause, TryAgain):  # the body that is read cannot be taken
            return cause
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return TryAgain("connection", self._safe(str(cause)), "unreached")
        broken = isinstance(cause, aiohttp.ClientError) and not isinstance(cause, aiohttp.ServerTimeoutError)
        if isinstance(error, openai.APITimeoutError) and not broken:
            return TryAgain("timeout", LATE)
        return TryAgain("connection", self._safe(str(cause)))

    def _answer_of(self, response: httpx.Response) -> Reply:
        """What an error status comes to: an error that is raised, or the answer of a content filter."""
        detail = self._safe(error_text(response.content))
        if response.status_code == 401 and self._client.api_key == NO_KEY:
            raise key_wanted(self._judge, detail)
        text = response.content.decode("utf-8", "replace")
        came = outcome_of(response.status_code, detail, text, retry_after(response.headers))
        if isinstance(came, Reply):
            return came
        raise came


def messages_of(judge: EngineConfig, request: Request) -> list[Message]:
    """The messages as they are sent."""
    return merged(request.messages) if judge.system == "merge" else request.messages


def timeouts(judge: EngineConfig) -> httpx.Timeout:
    """Those of one attempt. That to connect is over first, so that a request that was never sent is told apart."""
    return httpx.Timeout(judge.timeout_s, connect=min(10.0, judge.timeout_s / 2))


def shown_address(url: httpx.URL) -> str:
    """An address as messages name it: without a query."""
    return f"{url.scheme}://{url.netloc.decode()}{url.path}".rstrip("/")


def safe(text: str, key: str) -> str:
    """What a server said, for messages and ratings: short, and without the key, which some servers repeat."""
    return short(text if key in ("", NO_KEY) else text.replace(key, HIDDEN))


def short(text: str) -> str:
    """The beginning of a text, in one line; what a terminal would take for a command is spelled out."""
    line = " ".join(text.split())[:DETAIL_LIMIT]
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def key_wanted(judge: EngineConfig, detail: str) -> EngineUnusable:
    """A server wants a key (status 401) where none was found."""
    name, here = judge.api_key_env, socket.gethostname()
    return EngineUnusable("http 401", f"the server wants a key, and on {here} neither {name} nor {name}_FILE is set: {detail}")


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
    meant = 402 if status == 429 and "insufficient_quota" in body else 401 if is_wrong_key(status, _said(body)) else status
    hopeless = HOPELESS.get(meant)
    if hopeless is not None:
        return EngineUnusable(f"http {status}", f"{hopeless}: {detail}")
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


def request_body(judge: EngineConfig, form: ReplyForm = ANY_FORM) -> dict[str, Any]:
    """All of a request but its messages."""
    sampling = {
        "temperature": judge.temperature,
        "top_p": judge.top_p,
        judge.max_tokens_field: judge.max_tokens,
        "seed": judge.seed,
    }
    given = {key: value for key, value in sampling.items() if value is not None}
    body = {"model": judge.model, **given, **_formed(form)}
    twice = collision(body, judge.extra)
    if twice is not None:
        raise UsageError(f"{judge.where}.extra holds {twice!r}, which the judge's own knobs say already; take it out there")
    return {**body, **judge.extra}


def _formed(form: ReplyForm) -> dict[str, Any]:
    """What makes replies have their form: a regex as vLLM's server takes it, or the schema of a JSON object."""
    if form.constrained == "json":
        scores = {"type": "number", "enum": [float(score) for score in form.scores]}
        fields = {"score": scores} | ({} if form.score_only else {"explanation": {"type": "string"}})
        schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "rating", "strict": True, "schema": schema}}}
    made: dict[str, Any] = {"stop": [scores_of.END]} if form.score_only else {}
    if form.constrained == "regex":
        made["structured_outputs"] = {"regex": scores_of.pattern(form.scores)}
    if form.probabilities:
        made |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return made


def read_key(judge: EngineConfig) -> str:
    """The API key from the environment, or from the file that the environment names."""
    key = _read_key(judge)
    if any(sign.isspace() or not sign.isprintable() for sign in key):
        raise UsageError(f"the key of {judge.api_key_env} holds spaces or line breaks; it should be one word")
    return key


def _read_key(judge: EngineConfig) -> str:
    name = judge.api_key_env
    key = from_environment(name)
    if key is not None:
        return key
    if judge.base_url != OPENAI or access(judge).has_key:
        return NO_KEY
    raise UsageError(
        f"no API key: set {name}, or {name}_FILE to a file that holds it ({judge.where}.api_key_env names the variable)"
    )


def read_reply(content: bytes, tellable: Callable[[str], str] = short) -> Reply:
    """The reply in a response's body. A body that is none (HTML, cut JSON, no choices) may be asked for again, an error inside
    of a 200 is that error, and `tellable` makes of what the server said what may be told."""
    try:
        body = orjson.loads(content)
        error = said_error(body)
        if error is not None and error.status is not None:
            return _in_place_of_a_reply(error, content, tellable)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), message.get("refusal")
        thought = _reasoning(message)
        ended = REFUSAL if refusal else finish_reason(choice.get("finish_reason"))
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
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
    return short(said)[:NAME_LIMIT] if isinstance(said, str) and said else None


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
