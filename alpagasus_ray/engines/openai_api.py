"""Any OpenAI-compatible chat API as an engine: one client per process, one attempt per call, typed failures.

Retries are not made here, so that each one can be counted and limited (`inference/retry.py`). The client's own are off.
"""

import asyncio
import socket
from typing import Any

import aiohttp
import httpx2 as httpx
import openai
from aiohttp.http_exceptions import HttpProcessingError
from openai import AsyncOpenAI, DefaultAioHttpClient

from alpagasus_ray.config import OPENAI, EngineConfig
from alpagasus_ray.config.extra_fields import collision
from alpagasus_ray.engines import bounded_read
from alpagasus_ray.engines import score_grammar as scores_of
from alpagasus_ray.engines.access import access, from_environment
from alpagasus_ray.engines.base import ANY_FORM, EMPTY, Message, Rate, Reply, ReplyForm, Request, Wanted
from alpagasus_ray.engines.messages import merged
from alpagasus_ray.engines.openai_reply import error_text, outcome_of, read_reply, short, storable
from alpagasus_ray.engines.rate_headers import retry_after, stated_rate
from alpagasus_ray.errors import UNREADABLE, EngineUnusable, RowRefused, TryAgain, UsageError

NO_KEY = "none"
HIDDEN = "(the key)"
LATE = "no reply in time"
MOST_STOPS = 4
"""Texts to stop at that OpenAI takes; replies are cut at the others once they are here."""
TOP_LOGPROBS = 20
"""The most that OpenAI gives."""
CONNECTIONS = 4096
"""Above any sensible number in flight: the runner bounds that, and the client's own limit must never queue behind it."""


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
            reply = storable(await self._complete(request))
            return reply if request.wanted is None else stopped(reply, request.wanted)
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
                    body={**self._body, **self._own(request), "messages": messages_of(self._judge, request)},
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

    def _own(self, request: Request) -> dict[str, Any]:
        """What one request wants of its own, as a body has it."""
        wanted = request.wanted
        if wanted is None:
            return {}
        if wanted.continuations or wanted.rolling:
            raise RowRefused("no probabilities", "an API does not tell how probable a given text is")
        own: dict[str, Any] = {
            "temperature": wanted.temperature,
            "top_p": wanted.top_p,
            self._judge.max_tokens_field: wanted.max_tokens,
        }
        own["stop"] = list(wanted.stop[:MOST_STOPS]) or None
        return {key: value for key, value in own.items() if value is not None}

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
        # down the chain to what the transport itself raised; its wrappers call nearly everything a timeout
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
        # a prompt that a content filter turned away has an error's status, and is answered
        came = outcome_of(response.status_code, detail, text, retry_after(response.headers))
        if isinstance(came, Reply):
            return came
        raise came


def stopped(reply: Reply, wanted: Wanted) -> Reply:
    """A reply up to the first of the texts that it was to stop at."""
    ends = [place for text in wanted.stop if (place := reply.text.find(text)) >= 0]
    return reply._replace(text=reply.text[: min(ends)]) if ends else reply


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


def key_wanted(judge: EngineConfig, detail: str) -> EngineUnusable:
    """A server wants a key (status 401) where none was found."""
    name, here = judge.api_key_env, socket.gethostname()
    return EngineUnusable("http 401", f"the server wants a key, and on {here} neither {name} nor {name}_FILE is set: {detail}")


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
        # an enumeration and no range: steps of the scale are kept by the grammar itself
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
