"""A chat API on loopback that gives every request the same answer, byte for byte, and the API engine asking it once."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import Reply, Request
from alpagasus_ray.engines.openai_api import OpenAIEngine
from servers import serving


class FixedServer(HTTPServer):
    """What it answers, and what it was asked."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = (status, body, headers)
        self.asked: list[dict[str, Any]] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: FixedServer

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, body, headers = self.server.answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def as_bytes(body: object) -> bytes:
    """A body as it goes out: text as it is, anything else as JSON."""
    return body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()


@contextmanager
def answering(status: int, body: object, headers: Mapping[str, str] | None = None) -> Iterator[FixedServer]:
    """A server that does, while the block runs."""
    server = FixedServer(status, as_bytes(body), headers or {})
    with serving(server):
        yield server


def ask(server: FixedServer, **judge: Any) -> Reply:
    """The engine's answer to one request; whatever it raises is raised."""

    async def once() -> Reply:
        engine = OpenAIEngine(Judge(**{"kind": "api", "model": "m", "base_url": server.base_url, "timeout_s": 10, **judge}))
        try:
            return await engine.complete(Request("key", [{"role": "user", "content": "Rate it."}], {}))
        finally:
            await engine.close()

    return asyncio.run(once())
