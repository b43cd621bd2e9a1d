"""The API engine: what it makes of every kind of answer, over real HTTP on loopback."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixed_server import FixedServer, answering, as_bytes, ask
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import fast_clock
from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import Rate, Reply, Request
from alpagasus_ray.engines.openai_api import NO_KEY, OpenAIEngine, read_key, request_body
from alpagasus_ray.engines.openai_reply import read_reply
from alpagasus_ray.errors import EngineError, EngineUnusable, RowRefused, TryAgain, UsageError

unhurried = settings(deadline=None)
"""On a busy machine an example may take its time."""
KEY = "canary-77"


@pytest.fixture
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # to read all certificates takes longer than a test


@pytest.fixture
def server(_key: None) -> Iterator[FixedServer]:
    with answering(200, b"") as running:
        yield running


def _ask(server: FixedServer, status: int, body: object, **headers: str) -> Reply:
    server.answer = (status, as_bytes(body), headers)
    return ask(server, model="toy")


def _chat(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": more.pop("finish_reason", "stop")}], **more}


def test_a_reply_is_taken_with_its_tokens(server: FixedServer) -> None:
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
def test_text_comes_in_several_forms(server: FixedServer, message: dict[str, Any], text: str) -> None:
    assert _ask(server, 200, _chat(message)).text == text


def test_a_refusal_of_the_provider_is_marked_as_one(server: FixedServer) -> None:
    assert _ask(server, 200, _chat({"content": None, "refusal": "No."}))[:2] == ("No.", "refusal")


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "9", "completion_tokens": 1.5, "prompt_tokens_details": None}])
def test_token_counts_that_are_none_are_not_known(server: FixedServer, usage: object) -> None:
    assert _ask(server, 200, _chat({"content": "4"}, usage=usage))[2:5] == (None, None, None)


@pytest.mark.parametrize(
    "body", [b"<html>gateway</html>", b'{"choices": [', {"choices": []}, {"error": "?"}, [], {"choices": [{"message": None}]}]
)
def test_a_body_that_is_no_reply_may_be_asked_for_again(server: FixedServer, body: object) -> None:
    with pytest.raises(TryAgain, match="malformed reply"):
        _ask(server, 200, body)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
parts = ["choices", "message", "content", "refusal", "usage", "prompt_tokens", "prompt_tokens_details", "type", "text"]
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(parts), inner, max_size=4)
)


@unhurried
@given(anything | st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"message": anything}), max_size=2)}))
def test_any_json_is_a_reply_or_may_be_asked_for_again(body: object) -> None:
    try:
        reply = read_reply(json.dumps(body).encode())
    except TryAgain:
        return
    assert isinstance(reply.text, str)
    assert isinstance(reply.finish_reason, str)


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
    server: FixedServer, status: int, message: str, error: type[EngineError], told: str
) -> None:
    with pytest.raises(error, match=told) as raised:
        _ask(server, status, {"error": {"message": message}})
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("body", [f"<html>{KEY}</html>".encode(), {"told": KEY}, b"." * 297 + KEY.encode()])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_that_repeats_the_key_is_told_without_it(server: FixedServer, status: int, body: object) -> None:
    with pytest.raises(EngineError) as raised:
        _ask(server, status, body)
    assert KEY[:3] not in str(raised.value)


def test_a_server_that_wants_a_key_where_there_is_none_is_told_with_the_variable_and_the_machine(
    server: FixedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EngineUnusable) as raised:
        _ask(server, 401, {"error": {"message": f"{NO_KEY} is no key"}})
    missing = "neither OPENAI_API_KEY nor OPENAI_API_KEY_FILE is set"
    assert str(raised.value) == f"http 401: the server wants a key, and on {socket.gethostname()} {missing}: none is no key"


def test_an_account_without_money_stops_the_stage_though_its_status_says_slow_down(server: FixedServer) -> None:
    with pytest.raises(EngineUnusable, match="no money left"):
        _ask(server, 429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})


# what became of a request that got no answer

Wire = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SOUND = json.dumps({"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}).encode()


async def _complete(engine: OpenAIEngine) -> Reply:
    return await engine.complete(Request("key", [{"role": "user", "content": "Rate it."}], {}))


def _ask_at(base_url: str) -> Reply:
    """One request to this address, on a clock on which timeouts take no time."""

    async def once() -> Reply:
        engine = OpenAIEngine(Judge(kind="api", model="toy", base_url=base_url))
        try:
            return await _complete(engine)
        finally:
            await engine.close()

    return fast_clock.run(once())


def _ask_wire(wire: Wire, times: int = 1, scheme: str = "http") -> Reply:
    """Requests, one after the other, to a server of which only the bytes are known; the answer is that to the last."""

    async def ask() -> Reply:
        async with await asyncio.start_server(wire, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            engine = OpenAIEngine(Judge(kind="api", model="toy", base_url=f"{scheme}://127.0.0.1:{port}/v1"))
            try:
                replies = [await _complete(engine) for _ in range(times)]
                return replies[-1]
            finally:
                await engine.close()

    return fast_clock.run(ask())


def _after_reading(*said: bytes, reset: bool = False, hang: bool = False) -> Wire:
    """Read the request, say this much, and hang up, gently or not, or never."""

    async def wire(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        writer.writelines(said)
        await writer.drain()
        if hang:
            await reader.read()
        if reset:
            writer.transport.abort()
        writer.close()

    return wire


async def _hang_up_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("wire", "category"),
    [
        pytest.param(_hang_up_at_once, "connection", id="hangs up before it has read the request"),
        pytest.param(_after_reading(), "connection", id="hangs up after it has read the request"),
        pytest.param(_after_reading(reset=True), "connection", id="resets the connection"),
        pytest.param(_after_reading(_head("Content-Length: 99"), SOUND[:20]), "connection", id="half a body"),
        pytest.param(
            _after_reading(_head("Content-Length: 99"), SOUND[:20], reset=True), "connection", id="half a body, reset"
        ),
        pytest.param(_after_reading(_head("Transfer-Encoding: chunked"), b"9\r\n{"), "connection", id="half a chunk"),
        pytest.param(_after_reading(b"HTTP/1.1 200"), "connection", id="half a head"),
        pytest.param(
            _after_reading(_head("Content-Encoding: gzip", "Content-Length: 5"), b"plain"), "connection", id="no gzip"
        ),
        pytest.param(_after_reading(hang=True), "timeout", id="never answers"),
        pytest.param(_after_reading(_head("Content-Length: 99"), SOUND[:20], hang=True), "timeout", id="stops in the body"),
    ],
)
@pytest.mark.usefixtures("_key")
def test_what_happened_to_a_request_that_was_sent_is_unknown_when_no_whole_answer_comes(wire: Wire, category: str) -> None:
    with pytest.raises(TryAgain) as raised:
        _ask_wire(wire)
    assert (raised.value.category, raised.value.cause, raised.value.retry_after_s) == (category, "unknown", None)


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_head("Content-Length: 1000000"))
    while not writer.is_closing():
        writer.write(b" ")
        await asyncio.sleep(1)


@pytest.mark.usefixtures("_key")
def test_a_reply_that_comes_byte_by_byte_is_given_up_when_its_time_is_over() -> None:
    with pytest.raises(TryAgain, match="timeout: no reply in time") as raised:
        _ask_wire(_trickle)
    assert raised.value.cause == "unknown"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param([b"nonsense\r\n\r\n"], id="no status"),
        pytest.param([_head("Content-Length: -5"), SOUND], id="length below zero"),
        pytest.param([_head("Transfer-Encoding: chunked"), b"zz\r\n", SOUND], id="no length of a chunk"),
        pytest.param([_head(f"Server: {'x' * 100_000}", "Content-Length: 99"), SOUND], id="endless header"),
    ],
)
@pytest.mark.usefixtures("_key")
def test_an_answer_that_is_no_http_may_be_asked_for_again(said: list[bytes]) -> None:
    with pytest.raises(TryAgain) as raised:
        _ask_wire(_after_reading(*said))
    assert raised.value.cause == "unknown"


@pytest.mark.usefixtures("_key")
def test_a_connection_that_was_closed_while_it_was_idle_may_have_taken_the_next_request() -> None:
    with pytest.raises(TryAgain) as raised:
        _ask_wire(_after_reading(_head(f"Content-Length: {len(SOUND)}"), SOUND), times=2)
    assert (raised.value.category, raised.value.cause) == ("connection", "unknown")


@pytest.mark.usefixtures("_key")
def test_a_request_that_nobody_took_has_cost_nothing() -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(TryAgain, match="connection") as raised:
            _ask_at(f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
    assert raised.value.cause == "unreached"


@pytest.mark.usefixtures("_key")
def test_a_host_that_is_not_known_has_cost_nothing() -> None:
    with pytest.raises(TryAgain, match="connection") as raised:
        _ask_at("http://nowhere.invalid/v1")
    assert raised.value.cause == "unreached"


@pytest.mark.usefixtures("_key")
def test_a_connection_that_is_not_made_in_time_has_cost_nothing() -> None:
    waiting = []
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # nobody accepts them, so there is no room for another
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        with pytest.raises(TryAgain, match="connection") as raised:
            _ask_at(f"http://127.0.0.1:{full.getsockname()[1]}/v1")
        for client in waiting:
            client.close()
    assert raised.value.cause == "unreached"


@pytest.mark.usefixtures("_key")
def test_a_handshake_that_fails_has_cost_nothing() -> None:
    with pytest.raises(TryAgain, match="connection") as raised:
        _ask_wire(_after_reading(b"HTTP/1.1 400 Bad Request\r\n\r\n"), scheme="https")
    assert raised.value.cause == "unreached"


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        *((status, "refused") for status in (409, 425, 429, 503, 529)),
        *((status, "unknown") for status in (408, 500, 502, 504, 520, 599)),
    ],
)
def test_a_server_that_works_and_turns_away_has_billed_nothing_and_one_that_broke_may_have(
    server: FixedServer, status: int, cause: str
) -> None:
    with pytest.raises(TryAgain) as raised:
        _ask(server, status, {"error": {"message": "no"}}, **{"Retry-After": "3"})
    assert (raised.value.cause, raised.value.retry_after_s) == (cause, 3.0)


@pytest.mark.parametrize("body", [b"<html>gateway</html>", b'{"choices": [', b""])
def test_an_answer_that_is_no_reply_may_have_been_billed(server: FixedServer, body: bytes) -> None:
    with pytest.raises(TryAgain) as raised:
        _ask(server, 200, body)
    assert raised.value.cause == "unknown"


def test_a_request_that_is_too_large_for_the_limit_of_a_minute_is_the_rows_own_fault(server: FixedServer) -> None:
    with pytest.raises(RowRefused, match="too long"):
        _ask(
            server, 429, {"error": {"message": "Request too large for gpt-4o on tokens per min: Limit 30000, Requested 41000"}}
        )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "90"}, 90.0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"Retry-After": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "8.64s"}, 8.64),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "when it is over"}, None),
        ({}, None),
    ],
)
def test_the_pause_that_a_server_asks_for_is_passed_on(
    server: FixedServer, headers: dict[str, str], seconds: float | None
) -> None:
    with pytest.raises(TryAgain) as raised:
        _ask(server, 429, {}, **headers)
    assert raised.value.retry_after_s == seconds


@pytest.mark.parametrize("address", ["127.0.0.1:9/v1", "localhost:8000/v1", "ftp://host/v1", "http://", "/v1"])
def test_what_is_no_address_of_http_is_no_judge(address: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        Judge(kind="api", model="toy", base_url=address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9/v1", "ftp://host/v1", "http://127.0.0.1:99999/v1", "http://me:secret@host/v1"]
)
def test_an_address_that_can_never_work_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Judge(base_url=address)
    assert "secret" not in str(refused.value)


# limits that the server states


def _stated(answers: list[tuple[int, dict[str, str]]]) -> list[Rate]:
    """What the engine takes for the limits after each of these answers."""
    coming = iter(answers)

    async def wire(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, headers = next(coming)
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(SOUND)}", "Connection: close"]
        said = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()
        await _after_reading(said, SOUND)(reader, writer)

    async def ask() -> list[Rate]:
        async with await asyncio.start_server(wire, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            engine, found = OpenAIEngine(Judge(kind="api", model="toy", base_url=f"http://127.0.0.1:{port}/v1")), []
            for _ in answers:
                with contextlib.suppress(EngineError):
                    await _complete(engine)
                found.append(engine.stated)
            await engine.close()
            return found

    return fast_clock.run(ask())


def _minute(requests: int, tokens: int | None = None) -> dict[str, str]:
    said = {"x-ratelimit-limit-requests": str(requests)}
    return said if tokens is None else {**said, "x-ratelimit-limit-tokens": str(tokens)}


@pytest.mark.usefixtures("_key")
def test_the_limits_are_those_of_the_last_reply_that_states_any() -> None:
    answers = [(200, {}), (200, _minute(500, 30_000)), (200, {}), (200, _minute(5000)), (500, {})]
    assert _stated(answers) == [Rate(), Rate(500, 30_000), Rate(500, 30_000), Rate(5000), Rate(5000)]


@pytest.mark.usefixtures("_key")
def test_a_limit_a_day_is_no_limit_to_keep_pace_with() -> None:
    day = {**_minute(1000), "x-ratelimit-remaining-requests": "990", "x-ratelimit-reset-requests": "14m24s"}
    assert _stated([(200, day)]) == [Rate()]


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
    judge = Judge(model="toy", temperature=None, max_tokens=None, extra={"reasoning_effort": "low"})
    assert request_body(judge) == {"model": "toy", "reasoning_effort": "low"}


def test_the_longest_reply_is_told_under_the_name_that_a_model_wants() -> None:
    judge = Judge(model="toy", temperature=None, max_tokens=9, max_tokens_field="max_completion_tokens")
    assert request_body(judge) == {"model": "toy", "max_completion_tokens": 9}
