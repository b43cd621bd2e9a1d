"""The API engine: what it makes of every kind of answer, over real HTTP on loopback."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import Reply, Request
from alpagasus_ray.engines.openai_api import OpenAIEngine, read_key, request_body
from alpagasus_ray.errors import EngineError, EngineUnusable, RowRefused, TryAgain, UsageError

KEY = "canary-77"


class Server(HTTPServer):
    answer: tuple[int, bytes, dict[str, str]]
    asked: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    running = Server(("127.0.0.1", 0), Handler)
    running.asked = []
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def _ask(server: Server, status: int, body: object, **headers: str) -> Reply:
    server.answer = (status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)
    judge = Judge(kind="api", model="toy", base_url=f"http://127.0.0.1:{server.server_port}/v1", timeout_s=10)

    async def once() -> Reply:
        engine = OpenAIEngine(judge)
        try:
            return await engine.complete(Request("key", [{"role": "user", "content": "Rate it."}], {}))
        finally:
            await engine.close()

    return asyncio.run(once())


def _chat(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": more.pop("finish_reason", "stop")}], **more}


def test_a_reply_is_taken_with_its_tokens(server: Server) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    assert _ask(server, 200, _chat({"content": "4.5"}, usage=usage)) == Reply("4.5", "stop", 9, 2, 4)
    assert server.asked == [
        {"model": "toy", "temperature": 0.0, "max_tokens": 256, "messages": [{"role": "user", "content": "Rate it."}]}
    ]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None}, ""),
        (
            {"content": [{"type": "text", "text": "4"}, {"type": "reasoning", "text": "hm"}, {"type": "text", "text": ".5"}]},
            "4.5",
        ),
    ],
)
def test_text_comes_in_several_forms(server: Server, message: dict[str, Any], text: str) -> None:
    assert _ask(server, 200, _chat(message)).text == text


def test_a_refusal_of_the_provider_is_marked_as_one(server: Server) -> None:
    assert _ask(server, 200, _chat({"content": None, "refusal": "No."}))[:2] == ("No.", "refusal")


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "9", "completion_tokens": 1.5, "prompt_tokens_details": None}])
def test_token_counts_that_are_none_are_not_known(server: Server, usage: object) -> None:
    assert _ask(server, 200, _chat({"content": "4"}, usage=usage))[2:5] == (None, None, None)


@pytest.mark.parametrize(
    "body", [b"<html>gateway</html>", b'{"choices": [', {"choices": []}, {"error": "?"}, [], {"choices": [{"message": None}]}]
)
def test_a_body_that_is_no_reply_may_be_asked_for_again(server: Server, body: object) -> None:
    with pytest.raises(TryAgain, match="malformed reply"):
        _ask(server, 200, body)


@pytest.mark.parametrize(
    ("status", "message", "error", "told"),
    [
        (400, "bad field", RowRefused, "http 400: bad field"),
        (400, "This model's maximum context length is 2048 tokens", RowRefused, "too long: This model's"),
        (403, "blocked by policy", RowRefused, "http 403: blocked"),
        (401, f"wrong key {KEY}", EngineUnusable, r"refuses the key: wrong key \(the key\)"),
        (404, "no such model", EngineUnusable, "no such model or address"),
        (402, "pay", EngineUnusable, "no money left"),
        (429, "slow down", TryAgain, "http 429"),
        (500, "broken", TryAgain, "http 500"),
        (529, "overloaded", TryAgain, "http 529"),
    ],
)
def test_each_status_has_its_consequence_and_no_message_holds_the_key(
    server: Server, status: int, message: str, error: type[EngineError], told: str
) -> None:
    with pytest.raises(error, match=told) as raised:
        _ask(server, status, {"error": {"message": message}})
    assert KEY not in str(raised.value)


def test_an_account_without_money_stops_the_stage_though_its_status_says_slow_down(server: Server) -> None:
    with pytest.raises(EngineUnusable, match="no money left"):
        _ask(server, 429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})


def test_the_pause_that_a_server_asks_for_is_passed_on(server: Server) -> None:
    with pytest.raises(TryAgain) as raised:
        _ask(server, 429, {}, **{"Retry-After": "1.5"})
    assert raised.value.retry_after_s == 1.5


def test_nobody_there_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    idle = HTTPServer(("127.0.0.1", 0), Handler)
    idle.server_close()
    gone = Server.__new__(Server)
    gone.server_port, gone.asked = idle.server_port, []
    with pytest.raises(TryAgain, match="connection"):
        _ask(gone, 200, b"")


def test_the_key_comes_from_the_environment_or_a_file_it_names(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(kind="api", model="toy")
    with pytest.raises(UsageError, match="set OPENAI_API_KEY, or OPENAI_API_KEY_FILE"):
        read_key(judge)
    file = tmp_path / "key"
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(file))
    with pytest.raises(UsageError, match="cannot be read"):
        read_key(judge)
    file.write_text("from-file\n")
    assert read_key(judge) == "from-file"
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    assert read_key(judge) == "from-environment"


def test_null_leaves_a_field_out_and_extra_fields_are_added() -> None:
    judge = Judge(model="toy", temperature=None, max_tokens=None, extra={"max_completion_tokens": 9})
    assert request_body(judge) == {"model": "toy", "max_completion_tokens": 9}
