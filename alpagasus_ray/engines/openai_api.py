"""Any OpenAI-compatible chat API as an engine: one client per process, one attempt per call, typed failures.

Retries are not made here, so that each one can be counted and limited (`runner/ask.py`). The client's own are off.
"""

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import httpx2 as httpx
import openai
import orjson
from aiohttp.http_exceptions import HttpProcessingError
from openai import AsyncOpenAI, DefaultAioHttpClient

from alpagasus_ray.config import OPENAI, EngineConfig
from alpagasus_ray.engines import scores as scores_of
from alpagasus_ray.engines.base import ANY_FORM, EMPTY, Rate, Reply, ReplyForm, Request, Tree
from alpagasus_ray.engines.headers import retry_after, stated_rate
from alpagasus_ray.errors import EngineUnusable, RowRefused, TryAgain, UsageError

NO_KEY = "none"
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
TURNED_AWAY = (408, 409, 425, 429, 503, 529)
"""Statuses of a request that was not carried out; after the others of a server's errors it may have been, and billed."""
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
)


class OpenAIEngine:
    """Asks one model at one address."""

    def __init__(self, judge: EngineConfig, form: ReplyForm = ANY_FORM) -> None:
        self._judge = judge
        self._body = request_body(judge, form)
        self.stated = Rate()
        self._client = AsyncOpenAI(
            api_key=read_key(judge),
            base_url=judge.base_url,
            max_retries=0,
            timeout=timeouts(judge),
            http_client=DefaultAioHttpClient(
                limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
            ),
        )
        self.address = shown_address(self._client.base_url)

    async def complete(self, request: Request) -> Reply:
        if not request.messages:
            raise RowRefused(EMPTY)
        try:
            # the client's own timeout begins anew with every byte
            async with asyncio.timeout(self._judge.timeout_s):
                # the untyped call skips building and checking models for every message: a third of the client's time
                response = await self._client.post(
                    "/chat/completions", cast_to=httpx.Response, body={**self._body, "messages": request.messages}
                )
        except openai.APIStatusError as error:
            raise self._status_error(error.response) from None
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
        return safe(text, self._client.api_key)

    def _connection_error(self, error: openai.APIConnectionError) -> TryAgain:
        """What became of a request whose connection failed. The transport calls nearly all of that a timeout, a server that
        hangs up on a request it has read as well, so the first cause decides: only a connection that was never made has
        certainly cost nothing."""
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, aiohttp.ClientError):
            cause = cause.__cause__
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return TryAgain("connection", self._safe(str(cause)), "unreached")
        broken = isinstance(cause, aiohttp.ClientError) and not isinstance(cause, aiohttp.ServerTimeoutError)
        if isinstance(error, openai.APITimeoutError) and not broken:
            return TryAgain("timeout", LATE)
        return TryAgain("connection", self._safe(str(cause)))

    def _status_error(self, response: httpx.Response) -> RowRefused | TryAgain | EngineUnusable:
        detail = self._safe(_error_text(response))
        if response.status_code == 401 and self._client.api_key == NO_KEY:
            return key_wanted(self._judge, detail)
        return failure(response.status_code, detail, response.text, retry_after(response.headers))


def timeouts(judge: EngineConfig) -> httpx.Timeout:
    """Those of one attempt. That to connect is over first, so that a request that was never sent is told apart."""
    return httpx.Timeout(judge.timeout_s, connect=min(10.0, judge.timeout_s / 2))


def shown_address(url: httpx.URL) -> str:
    """An address as messages name it: without a query."""
    return f"{url.scheme}://{url.netloc.decode()}{url.path}".rstrip("/")


def safe(text: str, key: str) -> str:
    """What a server said, for messages and ratings: short, and without the key, which some servers repeat."""
    return short(text if key in ("", NO_KEY) else text.replace(key, "(the key)"))


def short(text: str) -> str:
    """The beginning of a text, in one line."""
    return " ".join(text.split())[:DETAIL_LIMIT]


def key_wanted(judge: EngineConfig, detail: str) -> EngineUnusable:
    """A server wants a key (status 401) where none was found."""
    name, here = judge.api_key_env, socket.gethostname()
    return EngineUnusable("http 401", f"the server wants a key, and on {here} neither {name} nor {name}_FILE is set: {detail}")


def failure(status: int, detail: str, body: str, retry_after_s: float | None = None) -> RowRefused | TryAgain | EngineUnusable:
    """What an error status means; `detail` is what may be told of it, `body` all that the server said."""
    hopeless = HOPELESS.get(402 if status == 429 and "insufficient_quota" in body else status)
    if hopeless is not None:
        return EngineUnusable(f"http {status}", f"{hopeless}: {detail}")
    too_large = status == 429 and "request too large" in detail.lower()  # alone above the limit of a minute: never fits
    if not too_large and (status in TURNED_AWAY or not 400 <= status < 500):
        return TryAgain(f"http {status}", detail, "refused" if status in TURNED_AWAY else "unknown", retry_after_s)
    if too_large or any(mark in detail.lower() for mark in TOO_LONG):
        return RowRefused("too long", detail)
    return RowRefused(f"http {status}", detail)


def request_body(judge: EngineConfig, form: ReplyForm = ANY_FORM) -> dict[str, Any]:
    """All of a request but its messages."""
    sampling = {"temperature": judge.temperature, "top_p": judge.top_p, "max_tokens": judge.max_tokens, "seed": judge.seed}
    given = {key: value for key, value in sampling.items() if value is not None}
    return {"model": judge.model, **given, **_formed(form), **judge.extra}


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
    if os.environ.get(name):
        return os.environ[name].strip()
    file = os.environ.get(f"{name}_FILE")
    if file:
        try:
            return Path(file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
            raise UsageError(f"{name}_FILE names {file}, which cannot be read: {reason}") from None
    if judge.base_url != OPENAI:
        return NO_KEY
    raise UsageError(
        f"no API key: set {name}, or {name}_FILE to a file that holds it ({judge.where}.api_key_env names the variable)"
    )


def read_reply(content: bytes, tellable: Callable[[str], str] = short) -> Reply:
    """The reply in a response's body; a body that is none (HTML, cut JSON, no choices) may be asked for again, and
    `tellable` makes of it what may be told."""
    try:
        body = orjson.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = _text(message.get("content")), message.get("refusal")
        usage = body.get("usage") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        raise TryAgain("malformed reply", tellable(content.decode("utf-8", "replace"))) from None
    return Reply(
        text=str(refusal or text),
        finish_reason="refusal" if refusal else str(choice.get("finish_reason") or "stop"),
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        tokens_cached=_count(cached),
        logprobs=_at_numbers(choice),
    )


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


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _error_text(response: httpx.Response) -> str:
    try:
        body = orjson.loads(response.content)
        error = body.get("error", body)
        return str(error.get("message") or error) if isinstance(error, dict) else str(error)
    except (orjson.JSONDecodeError, AttributeError):
        return response.content.decode("utf-8", "replace")
