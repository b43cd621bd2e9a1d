"""Any OpenAI-compatible chat API as an engine: one client per process, one attempt per call, typed failures.

Retries are not made here, so that each one can be counted and limited (`inference/retry.py`).
"""

import socket
from typing import Any

import httpx2 as httpx
import orjson

from alpagasus_ray.config import OPENAI, EngineConfig
from alpagasus_ray.config.extra_fields import collision
from alpagasus_ray.engines import score_grammar as scores_of
from alpagasus_ray.engines.access import access, from_environment
from alpagasus_ray.engines.base import ANY_FORM, EMPTY, NO_RATE, Message, Rate, Reply, ReplyForm, Request, Wanted
from alpagasus_ray.engines.http_client import Answer, HttpClient
from alpagasus_ray.engines.messages import merged
from alpagasus_ray.engines.openai_reply import error_text, outcome_of, read_reply, short, storable
from alpagasus_ray.engines.rate_headers import retry_after, stated_rate
from alpagasus_ray.errors import UNREADABLE, EngineUnusable, RowRefused, TryAgain, UsageError

NO_KEY = "none"
HIDDEN = "(the key)"
MOST_STOPS = 4
"""Texts to stop at that OpenAI takes; replies are cut at the others once they are here."""
TOP_LOGPROBS = 20
"""The most that OpenAI gives."""


class OpenAIEngine:
    """Asks one model at one address."""

    def __init__(self, judge: EngineConfig, form: ReplyForm = ANY_FORM) -> None:
        self._judge = judge
        self._body = request_body(judge, form)
        # all of a body but its last value, so that only the messages are encoded for a request
        self._head = _head(self._body)
        self.stated = Rate()
        self._key, carried = read_key(judge), access(judge)
        self._secrets = carried.secrets
        base = httpx.URL(judge.base_url.rstrip("/"))
        url = httpx.URL(f"{base}/chat/completions", params=carried.query)
        self._client = HttpClient(str(url), carried.sent_with(self._key), timeouts(judge), self._safe)
        self.address = shown_address(base)

    async def complete(self, request: Request) -> Reply:
        if not request.messages:
            raise RowRefused(EMPTY)
        try:
            reply = storable(await self._complete(request))
            return reply if request.wanted is None else stopped(reply, request.wanted)
        except UNREADABLE as error:
            raise TryAgain("malformed reply", self._safe(f"{type(error).__name__}: {error}")) from None

    async def _complete(self, request: Request) -> Reply:
        messages = orjson.dumps(messages_of(self._judge, request))
        head = self._head if request.wanted is None else _head({**self._body, **self._own(request.wanted)})
        answer = await self._client.post(b"%b%b}" % (head, messages))
        if not 200 <= answer.status < 300:
            return self._in_place_of_a_reply(answer)
        stated = stated_rate(answer.headers)
        if stated != NO_RATE:
            self.stated = stated
        return read_reply(answer.content, self._safe)

    def _own(self, wanted: Wanted) -> dict[str, Any]:
        """What one request wants of its own, as a body has it."""
        if wanted.continuations or wanted.rolling:
            raise RowRefused("no probabilities", "an API does not tell how probable a given text is")
        own: dict[str, Any] = {
            "temperature": wanted.temperature,
            "top_p": wanted.top_p,
            self._judge.max_tokens_field: wanted.max_tokens,
            "stop": list(wanted.stop[:MOST_STOPS]) or None,
        }
        return {key: value for key, value in own.items() if value is not None}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()

    def _safe(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return safe(text, self._key)

    def _in_place_of_a_reply(self, answer: Answer) -> Reply:
        """What an error status comes to: an error that is raised, or the answer of a content filter."""
        detail = self._safe(error_text(answer.content))
        if answer.status == 401 and self._key == NO_KEY:
            raise key_wanted(self._judge, detail)
        text = answer.content.decode("utf-8", "replace")
        # a prompt that a content filter turned away has an error's status, and is answered
        came = outcome_of(answer.status, detail, text, retry_after(answer.headers))
        if isinstance(came, Reply):
            return came
        raise came


def _head(body: dict[str, Any]) -> bytes:
    return orjson.dumps(body)[:-1] + b',"messages":'


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
