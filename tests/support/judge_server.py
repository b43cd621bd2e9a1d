"""A chat API on loopback that answers like a judge: real HTTP, chosen scores, a log of every request it took.

    python tests/support/judge_server.py --scores scores.json --latency 0.2 --log accepted.log

Prints its port on stdout, serves until its parent is gone, stdin is closed, or `--lifetime` is over. The log has one line a
request, the hash of its user message, written before the reply is sent: it is the truth that tests count by.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import orjson
from aiohttp import web


def message_hash(user_message: str) -> str:
    """What a request is known by in the scores file and in the log."""
    return hashlib.blake2b(user_message.encode(), digest_size=8).hexdigest()


class Judge:
    """The server's state: scores by message hash, the log, and what it has seen."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.scores = json.loads(Path(options.scores).read_text()) if options.scores else {}
        self.log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if options.log else None
        self.taken = self.in_flight = self.peak = 0
        self.first = 0.0
        self.answered: list[float] = []

    async def chat(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if self.options.key and request.headers.get("Authorization") != f"Bearer {self.options.key}":
            return web.json_response({"error": {"message": "invalid key"}}, status=401)
        key = message_hash(body["messages"][-1]["content"])
        self._note(key)
        fault = self._fault()
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(self.options.latency)
        self.in_flight -= 1
        if fault is not None:
            return fault
        self.answered.append(time.monotonic())
        text = f"{self.scores.get(key, 3)}\nThe response does what was asked."
        reply = orjson.dumps(
            {
                "id": "chatcmpl-0",
                "object": "chat.completion",
                "model": body["model"],
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 300, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 128}},
            }
        )
        return web.Response(body=reply, content_type="application/json")

    def _note(self, key: str) -> None:
        self.taken += 1
        self.first = self.first or time.monotonic()
        if self.log is not None:
            os.write(self.log, f"{key}\n".encode())

    def _fault(self) -> web.Response | None:
        """Every n-th request fails in the way that `--fault` names."""
        every = self.options.fault_every
        if not every or self.taken % every:
            return None
        kind = self.options.fault
        if kind == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.05"})
        if kind == "html":
            return web.Response(text="<html>gateway</html>", content_type="text/html")
        return web.json_response({"error": {"message": "broken"}}, status=int(kind))

    async def stats(self, request: web.Request) -> web.Response:
        """Requests taken, peak in flight, seconds from the first request to the last reply, and the sustained rate: replies
        a second between the first and the last tenth of them."""
        tenth = len(self.answered) // 10
        middle = self.answered[tenth : len(self.answered) - tenth]
        sustained = (len(middle) - 1) / (middle[-1] - middle[0]) if len(middle) > 1 else 0.0
        seconds = self.answered[-1] - self.first if self.answered else 0.0
        return web.json_response({"taken": self.taken, "peak": self.peak, "seconds": seconds, "sustained": sustained})


async def serve(options: argparse.Namespace) -> None:
    judge = Judge(options)
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", judge.chat)
    app.router.add_get("/stats", judge.stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port, backlog=2048)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    parent = os.getppid()
    deadline = time.monotonic() + options.lifetime
    while time.monotonic() < deadline and os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of a parent's end
        await asyncio.sleep(0.5)
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scores")
    parser.add_argument("--log")
    parser.add_argument("--key")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--lifetime", type=float, default=900.0)
    parser.add_argument("--fault", default="429")
    parser.add_argument("--fault-every", type=int, default=0)
    options = parser.parse_args()
    if sys.platform == "linux":
        import uvloop

        uvloop.run(serve(options))
    else:
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
