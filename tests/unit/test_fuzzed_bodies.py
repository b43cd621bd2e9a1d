"""Whatever a server answers, one request ends in a reply that can be kept or in a failure of its row: 2,000 spoiled bodies."""

import asyncio
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

import fast_clock
from alpagasus_ray.config import Judge
from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.engines.base import Reply, ReplyForm, Request
from alpagasus_ray.engines.bounded_read import LARGEST
from alpagasus_ray.engines.openai_api import OpenAIEngine
from alpagasus_ray.errors import EngineError, TryAgain
from alpagasus_ray.inference.ledger import Ledger, Outcome
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.judging import rubric

BODIES = 2000
SOUND: dict[str, Any] = {
    "id": "c",
    "model": "m",
    "system_fingerprint": "f",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "4\nGood.", "refusal": None, "reasoning": "hm"},
            "finish_reason": "stop",
            "logprobs": {"content": [{"token": "4", "logprob": -0.1, "top_logprobs": [{"token": "4", "logprob": -0.1}]}]},
        }
    ],
    "usage": {
        "prompt_tokens": 300,
        "completion_tokens": 20,
        "total_tokens": 320,
        "prompt_tokens_details": {"cached_tokens": 1},
    },
}
ODD: list[Any] = [
    None, True, -1, 0, 1.5, 2**63, 2**64, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "4", "\x00\x1b[2J", "é" * 9,
    [], {}, [[]], {"": None}, ["4", 4], {"text": "4"}, {"type": "text"}, [{"type": "text", "text": 5}], {"code": 429},
    {"code": 10**30},
]  # fmt: skip
STATUSES = [200] * 8 + [400, 401, 404, 408, 418, 429, 500, 503, 529]
HEADERS = [
    "Content-Type: application/json; charset=klingon",
    "Content-Type: text/html; charset=utf-16",
    "Content-Encoding: br",
    "Content-Encoding: gzip",
    "Retry-After: 99999999999999999999999999",
    "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT",
    "Retry-After: Mon, 99 Foo 0000 99:99:99 +9999999",
    "Retry-After: -5",
    f"Retry-After: {'9' * 400}h",
    "retry-after-ms: 1e999",
    "x-ratelimit-limit-requests: nan",
    "x-ratelimit-reset-tokens: 1e308s",
]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in it, with each key."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _body(draw: random.Random) -> bytes:
    made = json.loads(json.dumps(SOUND))
    for _ in range(draw.randint(1, 3)):
        container, key = draw.choice(list(_places(made)))
        if draw.random() < 0.2:
            del container[key]
        else:
            container[key] = draw.choice(ODD)
        if not list(_places(made)):
            break
    body = json.dumps(made).encode()
    match draw.randint(0, 9):
        case 0:
            return body[: draw.randrange(len(body))]
        case 1:
            spoiled = bytearray(body)
            for _ in range(5):
                spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
            return bytes(spoiled)
        case 2:
            return body.replace(b"Good.", rb"\ud800 \udfff", 1)
        case 3:
            return b"[" * draw.randint(1, 9000) + body
        case _:
            return body


def _kept(reply: Reply, work: RatingTask, ledger: Ledger) -> None:
    """The way of a reply: into the ledger, read, into a file."""
    outcome = Outcome(reply, None, 1, 1.0)
    ledger.add("key", "row", outcome)
    row = {"example_id": "a", "instruction": "x", "input": "", "output": "y", "content_hash": "h", "system": ""}
    result = work.result(row, Request("key", [], row), outcome)
    pa.RecordBatch.from_pylist([result], schema=RATINGS)


async def _answer(stream: asyncio.StreamReader, writer: asyncio.StreamWriter, bodies: Iterator[bytes]) -> None:
    try:
        while True:
            head = await stream.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length"))
            await stream.readexactly(int(length.split(b":")[1]))
            writer.write(next(bodies))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _engine(port: int) -> OpenAIEngine:
    judge = Judge(kind="api", model="toy", base_url=f"http://127.0.0.1:{port}/v1", timeout_s=30, expected=True)
    return OpenAIEngine(judge, ReplyForm(scores=("4", "5"), probabilities=True))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-77")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


def _http(status: int, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def test_whatever_a_server_answers_costs_its_row_at_most(tmp_path: Path) -> None:
    from alpagasus_ray.store.storage import Storage

    draw = random.Random(7)
    answers = (
        _http(draw.choice(STATUSES), _body(draw), *([draw.choice(HEADERS)] if draw.random() < 0.3 else []))
        for _ in range(BODIES)
    )
    work = RatingTask(Judge(kind="api", model="toy", expected=True), rubric.load("accuracy"), ReplyForm(scores=("4", "5")))
    ledger, ends = Ledger(Storage.open(str(tmp_path / "ledger"))), {"replies": 0, "failures": 0}

    told: list[tuple[str, float | None]] = []

    async def scene() -> None:
        async with await asyncio.start_server(lambda r, w: _answer(r, w, answers), "127.0.0.1", 0) as listening:
            engine = _engine(listening.sockets[0].getsockname()[1])
            for _ in range(BODIES):
                try:
                    reply = await engine.complete(Request("key", [{"role": "user", "content": "Rate it."}], {}))
                except EngineError as error:
                    ends["failures"] += 1
                    told.append((str(error), getattr(error, "retry_after_s", None)))
                else:
                    ends["replies"] += 1
                    _kept(reply, work, ledger)
            await engine.close()

    fast_clock.run(scene())
    orjson.dumps(told)
    assert all(seconds is None or 0 <= seconds < 1e9 for _, seconds in told)
    assert sum(ends.values()) == BODIES
    assert min(ends.values()) > BODIES / 10
    ledger.flush()
    assert len(ledger.load().replies) == 1


def _one(answer: bytes) -> Reply:
    async def scene() -> Reply:
        async with await asyncio.start_server(lambda r, w: _answer(r, w, iter([answer])), "127.0.0.1", 0) as listening:
            engine = _engine(listening.sockets[0].getsockname()[1])
            try:
                return await engine.complete(Request("key", [{"role": "user", "content": "Rate it."}], {}))
            finally:
                await engine.close()

    return fast_clock.run(scene())


SOUND_BODY = json.dumps(SOUND).encode()
LARGE = json.dumps({**SOUND, "padding": "x" * LARGEST}).encode()


def test_a_body_is_read_up_to_a_bound_and_its_row_fails_beyond() -> None:
    with pytest.raises(TryAgain, match="malformed reply: its body is larger than 16 MiB"):
        _one(_http(200, LARGE))


def test_a_small_body_that_unpacks_to_a_large_one_is_read_up_to_the_bound() -> None:
    packed = gzip.compress(LARGE)
    assert len(packed) < LARGEST / 100
    with pytest.raises(TryAgain, match="malformed reply: its body is larger than 16 MiB"):
        _one(_http(200, packed, "Content-Encoding: gzip"))


def test_a_body_that_is_compressed_as_was_asked_for_is_a_reply() -> None:
    assert _one(_http(200, gzip.compress(SOUND_BODY), "Content-Encoding: gzip")).text == "4\nGood."


def test_a_body_that_is_compressed_in_a_way_nobody_asked_for_is_none() -> None:
    with pytest.raises(TryAgain, match="malformed reply: its body is compressed as 'br'"):
        _one(_http(200, SOUND_BODY, "Content-Encoding: br"))


@pytest.mark.parametrize("charset", ["klingon", "utf-16", ""])
def test_the_text_is_read_whatever_charset_is_said(charset: str) -> None:
    assert _one(_http(200, SOUND_BODY, f"Content-Type: application/json; charset={charset}")).text == "4\nGood."
