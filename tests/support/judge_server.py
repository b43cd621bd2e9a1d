"""A chat API on loopback that answers like a judge: real HTTP, chosen scores, a log of every request it took.

    python tests/support/judge_server.py --scores scores.json --latency 0.2 --log accepted.log

Prints its port on stdout, serves until its parent is gone or `--lifetime` is over. The log has one line a request,
`<hash of the user message> <fate>`, on disk before the reply is sent: it is the truth that tests count by. The fate is
`billed` where the server did the work, whether or not the reply arrives whole, and `refused` where it did nothing. What is
billed has its tokens beside it, whatever the reply's usage says. A request with a wrong key is in no log and in no rate.

A request is looked at in this order: the key, an outage (`POST /control`), `--limit-headers`, `--capacity`, `--faults`. The
first three after the key turn it away at once; a fault takes as long as a sound reply, then goes wrong.

The parts: `judge_log.py`, `judge_faults.py`, `judge_rates.py`, `judge_batches.py`.
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from judge_batches import Batches, add_batch_options
from judge_faults import Rule, Schedule, as_rule, file_or_json, misbehave, retry_headers
from judge_log import RequestLog
from judge_rates import Arrivals, Capacity, Limits

CHAT = "/v1/chat/completions"
LARGEST_UPLOAD = 2**28
LIMITS = ("max_tokens", "max_completion_tokens")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def message_hash(user_message: str) -> str:
    """What a request is known by in the scores file and in the log."""
    return hashlib.blake2b(user_message.encode(), digest_size=8).hexdigest()


def prompt_tokens(messages: list[dict[str, str]]) -> int:
    """What `--usage-from-text` bills for a prompt: a quarter of the bytes of its messages' texts."""
    return sum(len(message["content"].encode()) for message in messages) // 4


def pair_scores(user_message: str) -> str:
    """What `--pairs` says of two answers: the more words, the better, 1 to 10."""
    answers = (re.search(rf"<{name} (\w+)>\n(.*)\n</{name} \1>", user_message, re.DOTALL) for name in ("first", "second"))
    return " ".join(f"{min(10, 1 + len(found[2].split()) / 10):g}" if found else "1" for found in answers)


class Judge:
    """The server's state: scores by message hash, the log, what it limits, and what it has seen."""

    def __init__(self, options: argparse.Namespace) -> None:
        now = time.monotonic()
        self.options = options
        self.scores = json.loads(Path(options.scores).read_text()) if options.scores else {}
        self.usage = [int(number) for number in options.tokens.split(",")]
        self.log = RequestLog(options.log)
        self.latency: float = options.latency
        self.down: Rule | None = None
        self.limits = Limits(options.limit_headers, now) if options.limit_headers else None
        self.capacity = Capacity(file_or_json(options.capacity))
        self.schedule = Schedule(Rule(**given) for given in [*file_or_json(options.faults), *_every_nth(options)])
        self.batches = Batches(options, self.completion, self.note)
        self.arrivals = Arrivals()
        self.kinds: Counter[str] = Counter()
        self.in_flight = self.peak = self.wrong_key = self.listed = 0
        self.answered: list[float] = []

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        now = time.monotonic()
        tokens_in, tokens_out, _ = self._tokens(body)
        self.arrivals.add(tokens_in + tokens_out, now)
        turned_away = self.down or self._beyond_limits(tokens_in + tokens_out, now) or self._beyond_capacity(now)
        rule = turned_away or self.schedule.pick(body["messages"][-1]["content"], now - self.arrivals.first)
        durable = self.note(body, rule.fate if rule else "billed")
        if turned_away:
            await durable
            return await self._misbehave(request, turned_away, body)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.latency)
            await durable
            if rule is not None:
                return await self._misbehave(request, rule, body)
        finally:
            self.in_flight -= 1
        now = time.monotonic()
        self.answered.append(now)
        self.capacity.note_answer(now)
        return web.Response(
            body=orjson.dumps(self.completion(body)), content_type="application/json", headers=self._limit_headers(now)
        )

    def note(self, body: dict[str, Any], fate: str) -> Awaitable[None]:
        """Log a request by its body; done when that is on disk."""
        did = ",".join(map(str, self._tokens(body))) if fate == "billed" else ""
        return self.log.add(message_hash(body["messages"][-1]["content"]), fate, did)

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The sound reply."""
        asked = body["messages"][-1]["content"]
        said = self.scores.get(message_hash(asked), pair_scores(asked) if self.options.pairs else self.options.says)
        text = f"{said}\nThe response does what was asked."
        tokens_in, tokens_out, cached = self._tokens(body)
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        return {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {**usage, "prompt_tokens_details": {"cached_tokens": cached}},
        }

    def _tokens(self, body: dict[str, Any]) -> tuple[int, int, int]:
        """Tokens of the prompt, of the reply, and cached ones: what is billed, and what a usage that is true says. A reply is
        no longer than the largest limit that was sent."""
        tokens_in, tokens_out, cached = (*self.usage, 0)[:3]
        allowed = [body[name] for name in LIMITS if isinstance(body.get(name), int)]
        tokens_out = min([tokens_out, *([max(allowed)] if allowed else [])]) * body.get("n", 1)
        return (
            (prompt_tokens(body["messages"]), tokens_out, 0)
            if self.options.usage_from_text
            else (tokens_in, tokens_out, cached)
        )

    def _beyond_limits(self, tokens: int, now: float) -> Rule | None:
        beyond = self.limits.take(tokens, now) if self.limits else None
        if beyond is None:
            return None
        name, wait_s = beyond
        hint = {"after": math.ceil(wait_s), "ms": math.ceil(wait_s * 1000)}
        return Rule("429", retry_after=hint, message=f"Rate limit reached for {name} per min", code="rate_limit_exceeded")

    def _beyond_capacity(self, now: float) -> Rule | None:
        wait_s = self.capacity.wait_s(self.in_flight, now)
        if wait_s is None:
            return None
        return Rule("429", retry_after=f"{math.ceil(wait_s * 1000) / 1000}" if wait_s else None)

    def _limit_headers(self, now: float) -> dict[str, str]:
        return self.limits.headers(now) if self.limits else {}

    async def _misbehave(self, request: web.Request, rule: Rule, body: dict[str, Any]) -> web.StreamResponse:
        self.kinds[rule.kind] += 1
        headers = {**self._limit_headers(time.monotonic()), **retry_headers(rule.retry_after, time.time())}
        return await misbehave(request, rule, self.completion(body), headers)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The key, for everything that a provider has; and an outage, which the chat handles itself, for it logs."""
        if not request.path.startswith("/v1/"):
            return await handler(request)
        if self.options.key and request.headers.get("Authorization") != f"Bearer {self.options.key}":
            self.wrong_key += 1
            await request.read()
            return web.json_response({"error": {"message": "invalid key"}}, status=401)
        if self.down is not None and request.path != CHAT:
            await request.read()
            headers = retry_headers(self.down.retry_after, time.time())
            return await misbehave(request, self.down, {"choices": [{}], "usage": {}}, headers)
        return await handler(request)

    async def models(self, request: web.Request) -> web.Response:
        self.listed += 1
        known = {"id": self.options.model, "object": "model", "created": 0, "owned_by": "loopback"}
        return web.json_response({"object": "list", "data": [known]})

    async def control(self, request: web.Request) -> web.Response:
        """Change the server while it runs; what is not named stays. Phases and fault counts that are set begin anew."""
        changes = orjson.loads(await request.read())
        if unknown := set(changes) - {"down", "capacity", "latency", "faults", "batch_seconds"}:
            return web.json_response({"error": {"message": f"no such control: {sorted(unknown)}"}}, status=400)
        self.latency = changes.get("latency", self.latency)
        self.batches.seconds = changes.get("batch_seconds", self.batches.seconds)
        if "down" in changes:
            self.down = as_rule(changes["down"])
        if "capacity" in changes:
            given = changes["capacity"] or []
            self.capacity = Capacity([given] if isinstance(given, dict) else given)
        if "faults" in changes:
            self.schedule = Schedule(Rule(**given) for given in changes["faults"] or [])
        return web.json_response({"changed": sorted(changes)})

    async def stats(self, request: web.Request) -> web.Response:
        """Requests taken, peak in flight, seconds from the first request to the last reply, the sustained rate (replies a
        second between the first and the last tenth of them), and what the parts report."""
        tenth = len(self.answered) // 10
        middle = self.answered[tenth : len(self.answered) - tenth]
        sustained = (len(middle) - 1) / (middle[-1] - middle[0]) if len(middle) > 1 else 0.0
        return web.json_response(
            {
                "taken": self.arrivals.count,
                "listed": self.listed,
                "answered": len(self.answered),
                "peak": self.peak,
                "seconds": self.answered[-1] - self.arrivals.first if self.answered else 0.0,
                "sustained": sustained,
                **self.arrivals.report(),
                "phases": self.capacity.report(),
                "fates": self.log.fates,
                "kinds": self.kinds,
                "wrong_key": self.wrong_key,
                "batches": len(self.batches),
            }
        )


def _every_nth(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rule that `--fault` and `--fault-every` stand for."""
    if not options.fault_every:
        return []
    hint = {"retry_after": "0.05"} if options.fault == "429" else {}
    return [{"kind": options.fault, "every": options.fault_every, **hint}]


async def serve(options: argparse.Namespace) -> None:
    judge = Judge(options)
    app = web.Application(client_max_size=LARGEST_UPLOAD, middlewares=[judge.guard])
    app.router.add_post(CHAT, judge.chat)
    app.router.add_get("/v1/models", judge.models)
    app.router.add_routes(judge.batches.routes())
    app.router.add_get("/stats", judge.stats)
    app.router.add_post("/control", judge.control)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port, backlog=2048)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    parent = os.getppid()
    deadline = time.monotonic() + options.lifetime
    while time.monotonic() < deadline and os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of a parent's end
        await asyncio.sleep(0.5)
    await runner.cleanup()


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser()
    options.add_argument("--scores")
    options.add_argument("--pairs", action="store_true", help="score two answers by their lengths (`pair_scores`)")
    options.add_argument(
        "--says", default="3", help="the first line of a reply that has no other score, e.g. a sentence without one"
    )
    options.add_argument("--log")
    options.add_argument("--key")
    options.add_argument("--model", default="toy")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--latency", type=float, default=0.0)
    options.add_argument("--lifetime", type=float, default=900.0)
    options.add_argument("--tokens", default="300,12,128", help="usage that replies state: prompt, reply and, if given, cached")
    options.add_argument("--usage-from-text", action="store_true", help="the prompt's tokens from its text (`prompt_tokens`)")
    options.add_argument("--fault", default="429")
    options.add_argument("--fault-every", type=int, default=0)
    options.add_argument("--faults", help="rules (`judge_faults.Rule`), a JSON file or JSON")
    options.add_argument("--capacity", help="phases (`judge_rates.Phase`), a JSON file or JSON")
    options.add_argument("--limit-headers", help="requests and tokens a minute, e.g. 600,90000: held to and stated in replies")
    add_batch_options(options)
    return options


def main() -> None:
    options = parser().parse_args()
    if sys.platform == "linux":
        import uvloop

        uvloop.run(serve(options))
    else:
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
