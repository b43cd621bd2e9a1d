"""How a judge server misbehaves on purpose: which requests, in which way, and whether it counts as work done.

Knows HTTP, and nothing of scores, logs or limits. A schedule is a JSON list of rules, the first that holds for a request wins:

    [{"kind": "429", "every": 5, "retry_after": {"ms": 250}}, {"kind": "disconnect", "match": "number 7.", "first": 2}]
"""

import asyncio
import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

FALSE_USAGE: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "usage_zero": lambda prompt, made: _usage(0, 0, 0),
    "usage_negative": lambda prompt, made: _usage(-prompt, -made, -prompt - made),
    "usage_huge": lambda prompt, made: _usage(prompt, 2**64 - 1, 2**64 - 1),
    "usage_text": lambda prompt, made: _usage(str(prompt), f"{made}", None),
    "usage_without_reasoning": lambda prompt, made: _usage(prompt, 1, prompt + made),
    "usage_of_the_prompt": lambda prompt, made: _usage(prompt, 0, prompt),
    "usage_cached_beyond": lambda prompt, made: {
        **_usage(prompt, made, prompt + made),
        "prompt_tokens_details": {"cached_tokens": 50 * prompt},
    },
}
"""What a usage says where it is not true, from the tokens of prompt and reply that are billed."""
INSIDE = {"error_429": 429, "error_500": 500, "error_402": 402}
"""Statuses that stand in the body of a 200."""
WITH_200 = (
    *("empty_choices", "refusal", "truncated", "no_usage", "cut_json", "html", "finish_error", "other_model"),
    *FALSE_USAGE,
    *INSIDE,
)
ON_THE_WIRE = ("disconnect", "slow_body", "cut_body", "hang")
KINDS = (*WITH_200, *ON_THE_WIRE, "insufficient_quota")
DONE_BELOW_500 = (408,)
TURNED_AWAY = (529,)
"""Statuses below 500 after which the work may have been done, and was here; and those from 500 on that say that nothing was
done, as a 503 does where it says when to come back."""
HANG_S = 60.0
COUNTED = ("prompt_tokens", "completion_tokens")
RetryAfter = str | float | dict[str, Any] | None


def _usage(prompt: Any, made: Any, total: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": total}


def fate_of(kind: str, retry_after: RetryAfter = None) -> str:
    """`refused` where nothing was done, else `billed`: also where the reply is broken or never arrives."""
    status = 429 if kind == "insufficient_quota" else INSIDE.get(kind, int(kind) if kind.isdigit() else 200)
    below_500 = 300 <= status < 500 and status not in DONE_BELOW_500
    return "refused" if below_500 or status in TURNED_AWAY or (status == 503 and retry_after is not None) else "billed"


@dataclass
class Rule:
    """Which requests to spoil (all conditions that are given must hold) and how."""

    kind: str
    match: str = ""
    """Part of the user message."""
    between: tuple[float, float] | None = None
    """Seconds since the server's first request."""
    every: int | None = None
    """Of the requests for which `match` and `between` hold: each n-th, ..."""
    first: int | None = None
    """... the first n, ..."""
    share: float | None = None
    """... or each with this probability, independently."""
    seed: int = 0
    retry_after: RetryAfter = None
    delay_s: float | None = None
    """How long `slow_body` dawdles between the halves (1 s unless given), or how long `hang` lasts (60 s at most)."""
    message: str = ""
    code: str | None = None
    fate: str = ""
    """By default what the kind means."""
    body: Any = None
    """What goes with a status in place of the usual body."""
    _seen: int = field(default=0, init=False)
    _random: random.Random | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.kind = str(self.kind)
        if self.kind not in KINDS and not (self.kind.isdigit() and len(self.kind) == 3):
            raise ValueError(f"no such kind of fault: {self.kind!r}; there are HTTP statuses and {', '.join(KINDS)}")
        self.fate = self.fate or fate_of(self.kind, self.retry_after)
        if self.share is not None:
            self._random = random.Random(self.seed)

    def holds(self, message: str, seconds: float) -> bool:
        """Whether this request is to be spoiled; counts it, so ask once for each request."""
        if self.match not in message or (self.between and not self.between[0] <= seconds < self.between[1]):
            return False
        self._seen += 1
        if self.every is not None and self._seen % self.every:
            return False
        if self.first is not None and self._seen > self.first:
            return False
        return self._random is None or self._random.random() < (self.share or 0.0)


class Schedule:
    """Rules in order."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = list(rules)

    def pick(self, message: str, seconds: float) -> Rule | None:
        """The first rule that holds; all are asked, so that what one counts does not depend on the others."""
        return next(iter([rule for rule in self._rules if rule.holds(message, seconds)]), None)


def as_rule(given: str | dict[str, Any] | None) -> Rule | None:
    """A rule from its JSON; a bare kind is a rule for every request."""
    if given is None or given == "":
        return None
    return Rule(**given) if isinstance(given, dict) else Rule(given)


def file_or_json(given: str | None) -> list[dict[str, Any]]:
    """JSON objects from an option that is a file or the JSON itself; one object alone is a list of one."""
    if not given:
        return []
    loaded = json.loads(given if given.lstrip().startswith(("[", "{")) else Path(given).read_text())
    return [loaded] if isinstance(loaded, dict) else list(loaded)


def retry_headers(retry_after: RetryAfter, now: float) -> dict[str, str]:
    """What a reply says about when to come back, `now` being Unix seconds. A date is never earlier than was asked for."""
    if not isinstance(retry_after, dict):
        return {} if retry_after is None else {"Retry-After": str(retry_after)}
    names = {"after": "Retry-After", "date_in_s": "Retry-After", "ms": "retry-after-ms", "reset": "x-ratelimit-reset-requests"}
    dated = {"date_in_s": formatdate(math.ceil(now + retry_after.get("date_in_s", 0)), usegmt=True)}
    return {names[key]: dated.get(key, str(value)) for key, value in retry_after.items()}


def error_body(rule: Rule) -> dict[str, Any]:
    """The JSON that goes with an error status."""
    if rule.kind == "insufficient_quota":
        text, code = "You exceeded your current quota.", "insufficient_quota"
        return {"error": {"message": rule.message or text, "type": code, "code": rule.code or code}}
    text = "slow down" if rule.kind == "429" else "broken"
    return {"error": {"message": rule.message or text, **({"code": rule.code} if rule.code else {})}}


async def misbehave(
    request: web.Request, rule: Rule, completion: dict[str, Any], headers: dict[str, str]
) -> web.StreamResponse:
    """Answer as the rule says, `completion` being what a sound server would have said."""
    if rule.kind in WITH_200:
        return _spoiled(rule, completion, headers)
    if rule.kind == "hang":
        await _until_gone(request, min(HANG_S, HANG_S if rule.delay_s is None else rule.delay_s))
    if rule.kind in ("hang", "disconnect"):
        return drop(request)
    if rule.kind in ("slow_body", "cut_body"):
        return await _in_halves(request, rule, orjson.dumps(completion), headers)
    status = 429 if rule.kind == "insufficient_quota" else int(rule.kind)
    return web.json_response(rule.body if rule.body is not None else error_body(rule), status=status, headers=headers)


def drop(request: web.Request) -> web.Response:
    """Close the connection; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _spoiled(rule: Rule, completion: dict[str, Any], headers: dict[str, str]) -> web.Response:
    if rule.kind == "html":
        return web.Response(text="<html>gateway</html>", content_type="text/html", headers=headers)
    choice = completion["choices"][0]
    if rule.kind == "empty_choices":
        completion["choices"] = []
    elif rule.kind == "refusal":
        choice["message"] = {"role": "assistant", "content": None, "refusal": rule.message or "I cannot help with that."}
    elif rule.kind == "truncated":
        choice["finish_reason"] = "length"
    elif rule.kind == "no_usage":
        del completion["usage"]
    elif rule.kind == "finish_error":
        choice["finish_reason"] = "error"
    elif rule.kind == "other_model":
        completion["model"] = "another"
    elif rule.kind in FALSE_USAGE:
        completion["usage"] = FALSE_USAGE[rule.kind](*(completion["usage"][name] for name in COUNTED))
    elif rule.kind in INSIDE:
        completion = {
            "error": {"message": rule.message or "Provider error", "code": INSIDE[rule.kind]},
            "choices": None,
        }
    body = orjson.dumps(completion)
    if rule.kind == "cut_json":
        body = body[: len(body) // 2]
    return web.Response(body=body, content_type="application/json", headers=headers)


async def _in_halves(request: web.Request, rule: Rule, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Half the body, then the rest after a while (`slow_body`) or never (`cut_body`)."""
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json", "Content-Length": str(len(body))})
    try:
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if rule.kind == "cut_body":
            drop(request)
            return response
        await asyncio.sleep(1.0 if rule.delay_s is None else rule.delay_s)
        await response.write(body[len(body) // 2 :])
    except ConnectionError:  # the client has given up, as it may
        pass
    return response


async def _until_gone(request: web.Request, limit_s: float) -> None:
    """Until the client has closed its connection, which nothing but the transport tells."""
    for _ in range(int(limit_s / 0.05)):
        if request.transport is None or request.transport.is_closing():
            return
        await asyncio.sleep(0.05)
