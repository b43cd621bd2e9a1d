"""What leaves for a server: one request for each attempt, over kept connections, by a proxy where the environment names one."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from yarl import URL

from alpagasus_ray.config import Judge
from alpagasus_ray.engines.access import Access
from alpagasus_ray.engines.base import Reply, Request
from alpagasus_ray.engines.openai_api import OpenAIEngine
from alpagasus_ray.engines.prices import Tariff
from alpagasus_ray.engines.proxies import proxy_of
from alpagasus_ray.errors import TryAgain
from alpagasus_ray.inference.coordinator import Coordinator
from alpagasus_ray.inference.dispatcher import Dispatcher
from alpagasus_ray.inference.endpoint import RequestLimits
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.local_driver import InProcess
from alpagasus_ray.inference.retry import AttemptLog, complete_with_retries

BODY = json.dumps({"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}).encode()
SOUND = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
PROXY = "http://proxy.test:3128"
Answers = Callable[[int], bytes | None]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-77")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # to read all certificates takes longer than a test


class Counting:
    """A server that knows bytes alone: it reads whole requests, and answers each by its number, or closes the connection."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.connections = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(line for line in head.lower().splitlines() if line.startswith("content-length"))
                self.bodies.append(await reader.readexactly(int(length.split(":")[1])))
                self.heads.append(head)
                answer = self._answers(len(self.heads))
                if answer is None:
                    return
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _with(server: Counting, work: Callable[[OpenAIEngine], Awaitable[object]], **judge: object) -> None:
    async def scene() -> None:
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
            engine = OpenAIEngine(Judge.model_validate({"model": "toy", "base_url": address, **judge}))
            try:
                await work(engine)
            finally:
                await engine.close()

    asyncio.run(scene())


async def _ask(engine: OpenAIEngine) -> Reply:
    return await engine.complete(Request("key", [{"role": "user", "content": 'Räte "it".\n'}], {}))


def test_a_kept_connection_that_closes_after_it_has_read_a_request_sees_it_once_and_it_may_be_billed() -> None:
    server = Counting(lambda number: SOUND if number == 1 else None)

    async def work(engine: OpenAIEngine) -> None:
        await _ask(engine)
        for _ in range(2):
            with pytest.raises(TryAgain) as raised:
                await _ask(engine)
            assert (raised.value.category, raised.value.cause) == ("connection", "unknown")

    _with(server, work)
    assert len(server.heads) == 3
    # the second request was on the connection of the first, the third had to make one
    assert server.connections == 2


def test_each_attempt_of_a_row_is_one_request_on_the_wire_and_those_without_an_answer_are_on_record_as_maybe_billed() -> None:
    server = Counting(lambda number: SOUND if number in (1, 4) else None)
    recorded: list[Outcome] = []

    async def work(engine: OpenAIEngine) -> None:
        limits = RequestLimits(8, (), 1, capped=False, adaptive=False, max_outage_s=60.0)
        dispatcher = Dispatcher("w", [engine], limits, InProcess(Coordinator(())))
        for attempts, maybe_billed in ((1, 0), (3, 2)):
            request = Request("key", [{"role": "user", "content": "Rate it."}], {})
            outcome = await complete_with_retries(dispatcher, request, Tariff(None, 1.0, 9), 5, AttemptLog(recorded.append))
            assert (outcome.attempts, outcome.maybe_billed_twice) == (attempts, maybe_billed)

    _with(server, work)
    assert len(server.heads) == 4
    assert [(outcome.attempts, outcome.maybe_billed_twice) for outcome in recorded] == [(1, 1), (2, 2)]


def test_requests_share_connections_and_say_that_nothing_is_to_be_compressed() -> None:
    server = Counting(lambda _: SOUND)

    async def work(engine: OpenAIEngine) -> None:
        for _ in range(3):
            await asyncio.gather(*(_ask(engine) for _ in range(4)))

    _with(server, work)
    assert server.connections == 4
    for head in server.heads:
        assert "accept-encoding: identity" in head.lower()
        assert "content-type: application/json" in head.lower()
        assert "authorization: bearer canary-77" in head.lower()


def test_the_body_is_json_with_the_knobs_of_the_judge_and_the_messages_of_the_row() -> None:
    server = Counting(lambda _: SOUND)
    _with(server, _ask, extra={"reasoning_effort": "lów"}, max_tokens=9)
    messages = [{"role": "user", "content": 'Räte "it".\n'}]
    knobs = {"model": "toy", "temperature": 0.0, "max_tokens": 9, "reasoning_effort": "lów"}
    assert [json.loads(body) for body in server.bodies] == [knobs | {"messages": messages}]


def test_the_account_and_headers_of_the_environment_are_those_that_a_batch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-team: a\nno header\nx-own: environment")
    sent = Access({"X-Own": "recipe"}, {}, ("recipe",)).sent_with("k")
    account = {"OpenAI-Organization": "org-1", "OpenAI-Project": "proj-1"}
    assert dict(sent) == {"Authorization": "Bearer k", **account, "x-team": "a", "X-Own": "recipe"}
    assert "Authorization" not in Access({"api-key": "k"}, {}, ("k",)).sent_with("none")


def test_a_redirect_is_followed_and_the_key_stays_with_the_host_it_is_for() -> None:
    elsewhere = Counting(lambda _: SOUND)

    async def scene() -> None:
        async with await asyncio.start_server(elsewhere, "127.0.0.1", 0) as other:
            target = f"http://localhost:{other.sockets[0].getsockname()[1]}/v1/chat/completions"
            moved = Counting(lambda _: f"HTTP/1.1 307 X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
            async with await asyncio.start_server(moved, "127.0.0.1", 0) as listening:
                port = listening.sockets[0].getsockname()[1]
                engine = OpenAIEngine(Judge(model="toy", base_url=f"http://127.0.0.1:{port}/v1"))
                assert (await _ask(engine)).text == "4"
                await engine.close()
            assert moved.bodies == elsewhere.bodies

    asyncio.run(scene())
    assert "canary-77" not in elsewhere.heads[0]


# proxies


@pytest.fixture
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("_no_proxies")
def test_a_request_goes_by_the_proxy_of_the_environment_with_the_proxys_own_password(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Counting(lambda _: SOUND)

    async def scene() -> None:
        async with await asyncio.start_server(proxy, "127.0.0.1", 0) as listening:
            monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{listening.sockets[0].getsockname()[1]}")
            engine = OpenAIEngine(Judge(model="toy", base_url="http://judge.test/v1"))
            assert (await _ask(engine)).text == "4"
            await engine.close()

    asyncio.run(scene())
    assert proxy.heads[0].startswith("POST http://judge.test/v1/chat/completions HTTP/1.1")
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in proxy.heads[0]


@pytest.mark.usefixtures("_no_proxies")
def test_a_proxy_that_is_not_there_has_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://me:secret@127.0.0.1:9")

    async def scene() -> None:
        engine = OpenAIEngine(Judge(model="toy", base_url="http://judge.test/v1"))
        with pytest.raises(TryAgain, match="connection") as raised:
            await _ask(engine)
        await engine.close()
        assert raised.value.cause == "unreached"
        assert "secret" not in str(raised.value)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("given", "address", "proxy"),
    [
        ({"https_proxy": PROXY}, "https://api.test/v1", PROXY),
        ({"https_proxy": "proxy.test:3128"}, "https://api.test/v1", PROXY),
        ({"https_proxy": PROXY}, "http://api.test/v1", None),
        ({"all_proxy": PROXY}, "http://api.test/v1", PROXY),
        ({"all_proxy": "http://other.test", "http_proxy": PROXY}, "http://api.test/v1", PROXY),
        ({"all_proxy": PROXY, "no_proxy": "localhost, api.test"}, "http://api.test/v1", None),
        ({"all_proxy": PROXY, "no_proxy": "test"}, "http://api.test/v1", None),
        ({"all_proxy": PROXY, "no_proxy": ".api.test"}, "http://api.test/v1", PROXY),
        ({"all_proxy": PROXY, "no_proxy": "*.api.test"}, "http://eu.api.test/v1", None),
        ({"all_proxy": PROXY, "no_proxy": "pi.test"}, "http://api.test/v1", PROXY),
        ({"all_proxy": PROXY, "no_proxy": "a, *"}, "http://api.test/v1", None),
        ({"all_proxy": PROXY, "no_proxy": "10.0.0.0/8"}, "http://10.1.2.3:8000/v1", None),
        ({"all_proxy": PROXY, "no_proxy": "10.0.0.0/8,::1"}, "http://[::1]:8000/v1", None),
        ({"all_proxy": PROXY, "no_proxy": "10.0.0.0/8"}, "http://11.1.2.3:8000/v1", PROXY),
        ({"all_proxy": PROXY, "no_proxy": "api.test:8000"}, "http://api.test:8000/v1", None),
        ({"all_proxy": PROXY, "no_proxy": "api.test:8000"}, "http://api.test:9000/v1", PROXY),
        ({"all_proxy": PROXY, "no_proxy": "https://api.test"}, "http://api.test/v1", PROXY),
        ({"all_proxy": PROXY, "no_proxy": ","}, "http://api.test/v1", PROXY),
    ],
)
@pytest.mark.usefixtures("_no_proxies")
def test_the_environment_says_which_hosts_are_asked_by_which_proxy(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], address: str, proxy: str | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(URL(address)) == (proxy and URL(proxy))
