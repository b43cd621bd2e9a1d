"""Rows on their way to an engine: outages, pauses, limits, money and several endpoints, against real HTTP on loopback.

Server, client and coordinator live on one event loop whose clock leaps (`fast_clock.py`): an outage of 40 minutes takes none.
"""

import asyncio
import bisect
import json
import math
import socket
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, Self, get_args

import pytest
from aiohttp import web

import fast_clock
from alpagasus_ray.config import Judge, Price
from alpagasus_ray.engines.base import Engine, Rate, Reply, Request
from alpagasus_ray.engines.openai_api import OpenAIEngine
from alpagasus_ray.engines.prices import Need, Tariff
from alpagasus_ray.errors import EngineUnusable, RowRefused, TryAgain
from alpagasus_ray.inference.budget import at_most_spent
from alpagasus_ray.inference.coordinator import Cap, Coordinator
from alpagasus_ray.inference.counts import Counts, RequestEnd
from alpagasus_ray.inference.dispatcher import Dispatcher, Stopping
from alpagasus_ray.inference.endpoint import FIRST_ANSWER_S, RequestLimits
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.retry import MANY, AttemptLog, complete_with_retries
from alpagasus_ray.store.storage import Storage

ATTEMPTS = 6
OUTAGE_S = 2400.0
FREE = Tariff(None, 1.0, 100)
PAID = Tariff(Price(input=1.0, output=10.0), 1.0, 100)
NO_LIMIT = (Rate(),)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-77")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # to read all certificates takes longer than a test


# the other end


@dataclass
class Answer:
    """What a server says to a request: a status, headers, the tokens of the reply."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    tokens_out: int = 5


class Place:
    """A server on the loop of the test, which can go away and come back."""

    def __init__(self, behave: Callable[[float, str], Answer], latency_s: float) -> None:
        self._behave, self._latency_s = behave, latency_s
        self._held: socket.socket | None = None
        self.port = 0
        self.asked: list[tuple[float, str]] = []
        self.answered: list[str] = []

    @property
    def at(self) -> list[float]:
        """When requests arrived."""
        return [at for at, _ in self.asked]

    def between(self, start: float, end: float) -> int:
        return bisect.bisect_left(self.at, end) - bisect.bisect_left(self.at, start)

    async def come(self) -> None:
        if self._held is not None:
            self._held.close()
        self._server = web.Server(self._handle, access_log=None)
        self._listening = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def go(self) -> None:
        """Connections are refused from now on, those that are open are closed."""
        self._listening.close()
        await self._server.shutdown(0)
        self._held = socket.socket()  # bound and not listening, so that nobody else gets the port
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", self.port))

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        name = json.loads(await request.read())["messages"][-1]["content"].strip()
        now = asyncio.get_running_loop().time()
        self.asked.append((now, name))
        answer = self._behave(now, name)
        if answer.status != 200:
            return web.json_response({"error": {"message": "not now"}}, status=answer.status, headers=answer.headers)
        await asyncio.sleep(self._latency_s)
        self.answered.append(name)
        usage = {"prompt_tokens": 20, "completion_tokens": answer.tokens_out}
        body = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}], "usage": usage}
        return web.json_response(body, headers=answer.headers)


@asynccontextmanager
async def _place(behave: Callable[[float, str], Answer] = lambda *_: Answer(), latency_s: float = 0.5) -> AsyncIterator[Place]:
    place = Place(behave, latency_s)
    await place.come()
    yield place
    await place.go()


@asynccontextmanager
async def _engine(port: int) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(Judge(kind="api", model="toy", base_url=f"http://127.0.0.1:{port}/v1"))
    yield engine
    await engine.close()


class Toy:
    """An engine without a server: what `behave` returns is raised, else there is a reply."""

    address = "toy"

    def __init__(
        self,
        behave: Callable[[float, str], Exception | None] = lambda *_: None,
        latency_s: float = 0.3,
        tokens: tuple[int, int] = (20, 5),
    ) -> None:
        self._behave, self._latency_s, self._tokens = behave, latency_s, tokens
        self.stated = Rate()
        self.at: list[float] = []
        self.asked: list[str] = []

    async def complete(self, request: Request) -> Reply:
        now = asyncio.get_running_loop().time()
        self.at.append(now)
        self.asked.append(request.key)
        error = self._behave(now, request.key)
        await asyncio.sleep(0.01 if error else self._latency_s)
        if error:
            raise error
        return Reply("4", "stop", *self._tokens)


class Busy(Toy):
    """Takes so many requests at a time and turns away the others."""

    def __init__(self, capacity: Callable[[float], int], latency_s: float) -> None:
        super().__init__(self._turn_away, latency_s)
        self._capacity = capacity
        self._in_work = 0
        self.answered: list[float] = []

    def _turn_away(self, now: float, _: str) -> Exception | None:
        if self._in_work >= self._capacity(now):
            return TryAgain("http 429", "", "refused")
        self._in_work += 1
        return None

    async def complete(self, request: Request) -> Reply:
        reply = await super().complete(request)
        self._in_work -= 1
        self.answered.append(asyncio.get_running_loop().time())
        return reply


# this end


@dataclass
class Link:
    """A plain coordinator, as far away as is wanted."""

    coordinator: Coordinator
    one_way_s: float = 0.0
    is_away: Callable[[float], bool] = lambda _: False
    calls: Counter[str] = field(default_factory=Counter)

    async def call(self, method: str, *arguments: Any) -> Any:
        self.calls[method] += 1
        await asyncio.sleep(self.one_way_s)
        away = self.is_away(asyncio.get_running_loop().time())
        answer = None if away else getattr(self.coordinator, method)(*arguments)
        await asyncio.sleep(self.one_way_s)
        return answer


def _coordinator(rates: Sequence[Rate] = NO_LIMIT, cap: Cap | None = None) -> Coordinator:
    return Coordinator(rates, cap, asyncio.get_running_loop().time)


def _limits(rates: Sequence[Rate] = NO_LIMIT, **changes: Any) -> RequestLimits:
    return RequestLimits(16, tuple(rates), 1, capped=False, adaptive=True, max_outage_s=14_400.0)._replace(**changes)


class Asker:
    """A worker's endpoints, with the part of a worker that tells the coordinator how things are."""

    def __init__(self, engines: Sequence[Engine], link: Link, limits: RequestLimits, name: str = "worker") -> None:
        self.dispatcher = Dispatcher(name, engines, limits, link)
        self.link, self._name = link, name
        self.stopped: str | None = None
        self.tariff = PAID if limits.capped else FREE
        self.noted: list[Outcome] = []
        self.has_failed = False

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self.dispatcher.supply.release_dollars()
            answered = Counts(requests=Counter(answered=self.dispatcher.counts.requests["answered"]))
            directive = await self.link.call("report", self._name, answered, {}, self.dispatcher.endpoints.unreported_pauses())
            if directive is None:
                continue
            self.dispatcher.endpoints.pause(directive.pauses)
            self.stopped = (
                self.stopped or directive.stop or self.dispatcher.endpoints.why_hopeless(ever_answered=directive.answered)
            )
            if self.stopped:
                self.dispatcher.stop()

    async def __aenter__(self) -> Self:
        self._telling = asyncio.create_task(self._tell())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.dispatcher.stop()
        self._telling.cancel()

    async def row(self, name: str) -> Outcome | None:
        """One row; None where the stage stops before there is an outcome."""
        await self.dispatcher.open_rows.acquire(name)
        try:
            return await complete_with_retries(
                self.dispatcher,
                _request(name),
                self.tariff,
                ATTEMPTS,
                AttemptLog(self.noted.append),
                has_failed=self.has_failed,
            )
        except Stopping:
            return None
        finally:
            self.dispatcher.through(name)

    async def rows(self, count: int) -> list[Outcome | None]:
        return await asyncio.gather(*[self.row(f"row {n}") for n in range(count)])

    async def keep_asking(self) -> None:
        """Rows without end."""
        while await self.row("some row"):
            pass


@asynccontextmanager
async def _served(
    behave: Callable[[float, str], Answer] = lambda *_: Answer(), latency_s: float = 0.5, **limits: Any
) -> AsyncIterator[tuple[Place, Asker]]:
    """A server, and a worker that asks it through the real engine."""
    async with (
        _place(behave, latency_s) as place,
        _engine(place.port) as engine,
        Asker([engine], Link(_coordinator()), _limits(**limits)) as worker,
    ):
        yield place, worker


def _request(name: str) -> Request:
    return Request(name, [{"role": "user", "content": f"{name:40}"}], {})


def _failed(outcomes: Iterable[Outcome | None]) -> list[str | None]:
    """Reasons of the rows that have no reply."""
    return [outcome and outcome.error for outcome in outcomes if outcome is None or outcome.reply is None]


def _most_in_a_minute(at: Sequence[float]) -> int:
    window: deque[float] = deque()
    most = 0
    for now in at:
        window.append(now)
        while window[0] <= now - 60:
            window.popleft()
        most = max(most, len(window))
    return most


# outages


def _down(start: float, answer: Answer, seconds: float = OUTAGE_S) -> Callable[[float, str], Answer]:
    return lambda now, _: answer if start <= now < start + seconds else Answer()


def test_forty_minutes_of_503_fail_no_row_and_cost_few_requests() -> None:
    async def scene() -> None:
        async with _served(_down(3.0, Answer(503))) as (place, worker):
            outcomes = await worker.rows(100)
            assert not _failed(outcomes)
            assert place.between(30.0, OUTAGE_S) <= OUTAGE_S / 15 + 10, "a probe now and then"
            assert worker.dispatcher.now() < 3.0 + OUTAGE_S + 120
            assert worker.dispatcher.counts.outages == 1
            assert len(place.answered) == 100

    fast_clock.run(scene())


def test_forty_minutes_without_a_server_fail_no_row_and_cost_nothing() -> None:
    async def scene() -> None:
        async with _served() as (place, worker):
            asking = asyncio.create_task(worker.rows(100))
            await asyncio.sleep(2.75)
            await place.go()
            assert 0 < len(place.answered) < 100
            await asyncio.sleep(OUTAGE_S)
            assert worker.dispatcher.endpoints.down == 1
            unreached = worker.dispatcher.counts.requests["unreached"]
            await place.come()
            outcomes = await asking
            assert not _failed(outcomes)
            assert unreached <= OUTAGE_S / 15 + 30
            assert worker.dispatcher.now() < 3.0 + OUTAGE_S + 120
            assert worker.dispatcher.endpoints.down == 0

    fast_clock.run(scene())


@pytest.mark.parametrize(("kind", "cause"), [("http 503", "refused"), ("connection", "unreached")])
def test_several_outages_of_a_quarter_of_an_hour_fail_no_row(kind: str, cause: Any) -> None:
    def behave(now: float, _: str) -> Exception | None:
        return TryAgain(kind, "", cause) if now % 1000 > 100 else None

    async def scene() -> None:
        engine = Toy(behave, latency_s=20.0)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert not _failed(await worker.rows(200))
            assert worker.dispatcher.counts.outages >= 2

    fast_clock.run(scene())


def test_forty_minutes_of_500_fail_no_row() -> None:
    async def scene() -> None:
        engine = Toy(lambda now, _: TryAgain("http 500") if 0.1 < now < OUTAGE_S else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            outcomes = await worker.rows(20)
            assert worker.stopped is None
            assert not _failed(outcomes)

    fast_clock.run(scene())


def test_an_address_where_nobody_is_is_given_up_after_a_minute() -> None:
    async def scene() -> None:
        async with _place() as place, _engine(place.port) as engine:
            await place.go()
            async with Asker([engine], Link(_coordinator()), _limits()) as worker:
                assert await worker.rows(3) == [None, None, None]
                assert worker.stopped is not None
                assert worker.stopped.startswith(f"{engine.address} has not answered for 6")
                assert FIRST_ANSWER_S < worker.dispatcher.now() < FIRST_ANSWER_S + 5

    fast_clock.run(scene())


def test_a_server_that_has_answered_before_is_waited_for_as_long_as_the_recipe_says() -> None:
    async def scene() -> None:
        engine = Toy(lambda now, _: TryAgain("http 503", "", "refused") if now > 1 else None)
        async with Asker([engine], Link(_coordinator()), _limits(max_outage_s=600.0)) as worker:
            assert None in await worker.rows(100)
            assert worker.stopped is not None
            assert "has not answered for 600 s" in worker.stopped
            assert 600 < worker.dispatcher.now() < 605

    fast_clock.run(scene())


def test_a_server_that_wants_to_be_left_alone_for_longer_than_an_outage_may_last_ends_the_stage() -> None:
    async def scene() -> None:
        engine = Toy(lambda *_: TryAgain("http 429", "", "refused", 86_400.0))
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert set(await worker.rows(20)) == {None}
            assert worker.stopped is not None
            assert "wants to be left alone for" in worker.stopped
            assert worker.dispatcher.now() < 2

    fast_clock.run(scene())


def test_a_row_that_the_server_cannot_take_fails_after_its_attempts_and_the_others_go_on() -> None:
    async def scene() -> None:
        engine = Toy(lambda _, row: TryAgain("http 500", "broken") if row == "row 7" else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            outcomes = await worker.rows(100)
            assert _failed(outcomes) == ["http 500: broken"]
            assert engine.asked.count("row 7") == ATTEMPTS
            assert outcomes[7] is not None
            assert outcomes[7][2:] == (ATTEMPTS, None, ATTEMPTS)
            assert [noted.maybe_billed_twice for noted in worker.noted] == list(range(1, ATTEMPTS + 1))
            assert worker.dispatcher.counts.outages == 0

    fast_clock.run(scene())


def test_rows_that_no_server_takes_are_no_outage_when_they_are_the_last_ones() -> None:
    async def scene() -> None:
        engine = Toy(lambda _, row: TryAgain("http 500") if int(row.split()[1]) % 6 == 0 else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert len(_failed(await worker.rows(120))) == 20
            assert worker.dispatcher.counts.outages == 0

    fast_clock.run(scene())


def test_rows_that_have_failed_before_fail_again_after_their_attempts_though_nothing_else_is_asked() -> None:
    async def scene() -> None:
        engine = Toy(lambda *_: TryAgain("http 500"))
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            worker.has_failed = True
            assert len(_failed(await worker.rows(20))) == 20
            assert worker.stopped is None
            assert len(engine.asked) == 20 * ATTEMPTS

    fast_clock.run(scene())


def test_many_rows_that_have_failed_before_are_asked_once_more_when_nothing_is_answered() -> None:
    async def scene() -> None:
        engine = Toy(lambda *_: TryAgain("http 500"))
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            worker.has_failed = True
            assert len(_failed(await worker.rows(300))) == 300
            assert worker.stopped is None
            assert len(engine.asked) < 300 + 2 * MANY * ATTEMPTS

    fast_clock.run(scene())


@pytest.mark.parametrize("cause", ["unknown", "refused"])
def test_an_outage_is_one_though_most_rows_under_way_have_failed_before(cause: Any) -> None:
    def behave(now: float, row: str) -> Exception | None:
        return TryAgain("http 500", "", cause) if now > 5 or (now < 2 and int(row.split()[1]) % 2) else None

    async def scene() -> None:
        engine = Toy(behave)
        async with Asker([engine], Link(_coordinator()), _limits(concurrency=64, max_outage_s=900.0)) as worker:
            outcomes = await worker.rows(4000)
            assert worker.stopped is not None
            assert "has not answered for" in worker.stopped
            assert len([outcome for outcome in outcomes if outcome and not outcome.reply]) < MANY

    fast_clock.run(scene())


def test_refusals_count_a_tenth_of_an_attempt() -> None:
    async def scene() -> None:
        engine = Toy(lambda _, row: TryAgain("http 429", "", "refused") if row == "row 7" else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert _failed(await worker.rows(10)) == ["http 429"]
            assert engine.asked.count("row 7") == 10 * ATTEMPTS

    fast_clock.run(scene())


@pytest.mark.parametrize("error", [RowRefused("too long"), EngineUnusable("http 401")])
def test_what_cannot_be_helped_by_asking_again_is_asked_once(error: Exception) -> None:
    async def scene() -> None:
        engine = Toy(lambda *_: error)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            if isinstance(error, RowRefused):
                assert _failed(await worker.rows(1)) == ["too long"]
            else:
                with pytest.raises(EngineUnusable):
                    await worker.rows(1)
            assert engine.asked == ["row 0"]
            assert worker.dispatcher.endpoints.in_flight == 0

    fast_clock.run(scene())


def test_a_server_that_is_back_but_busy_is_not_taken_for_down() -> None:
    def behave(now: float, _: str) -> Exception | None:
        return TryAgain("http 503" if now < 100 else "http 429", "", "refused") if 0.1 < now < 130 else None

    async def scene() -> None:
        engine = Toy(behave)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert not _failed(await worker.rows(30))
            assert max(later - at for at, later in zip(engine.at, engine.at[1:], strict=False)) <= 31

    fast_clock.run(scene())


# pauses that servers ask for

FORMS: list[Callable[[], dict[str, str]]] = [
    lambda: {"Retry-After": "600"},
    lambda: {"Retry-After": "600.5"},
    lambda: {"Retry-After": formatdate(math.ceil(time.time()) + 601, usegmt=True)},
    lambda: {"Retry-After": "10m0s"},
    lambda: {"retry-after-ms": "600000"},
    lambda: {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "10m0s"},
]


@pytest.mark.parametrize(("status", "form"), [(503, 0), *((429, form) for form in range(len(FORMS)))])
def test_the_pause_that_a_server_names_is_kept_in_every_form(status: int, form: int) -> None:
    async def scene() -> None:
        answer = Answer(status, FORMS[form]())
        async with _served(_down(0.0, answer, 300.0)) as (place, worker):
            assert not _failed(await worker.rows(20))
            assert place.between(0.0, 1.0) <= 8
            assert place.between(1.0, 600.0) == 0
            assert worker.dispatcher.now() < 600 * 1.1 + 10

    fast_clock.run(scene())


def test_a_pause_holds_for_all_workers() -> None:
    async def scene() -> None:
        engine = Toy(lambda now, _: TryAgain("http 503", "", "refused", 600.0) if now < 1 else None)
        link = Link(_coordinator())
        async with Asker([engine], link, _limits(), "one") as first, Asker([engine], link, _limits(), "two") as second:
            asked = asyncio.create_task(first.rows(20))
            await asyncio.sleep(2)
            assert not _failed([*await second.rows(20), *await asked])
            assert not [at for at in engine.at if 1 < at < 600]

    fast_clock.run(scene())


def test_a_pause_does_not_grow_on_its_way_to_the_coordinator_and_back() -> None:
    async def scene() -> None:
        engine = Toy(lambda now, _: TryAgain("http 503", "", "refused", 600.0) if now < 1 else None)
        async with Asker([engine], Link(_coordinator(), one_way_s=0.05), _limits()) as worker:
            assert not _failed(await worker.rows(20))
            assert worker.dispatcher.now() < 600 * 1.1 + 10

    fast_clock.run(scene())


def test_a_long_pause_is_told_though_a_shorter_one_is_heard_of_meanwhile() -> None:
    async def scene() -> None:
        engine = Toy()
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            endpoint = await worker.dispatcher.enter("row", FREE.need(_request("row").messages))
            error = TryAgain("http 503", "", "refused", 600.0)
            worker.dispatcher.failed(endpoint, FREE.need(_request("row").messages), error, "row", 0.0, row_fault=False)
            worker.dispatcher.endpoints.pause({0: 5.0})
            assert worker.dispatcher.endpoints.unreported_pauses().get(0, 0.0) >= 600

    fast_clock.run(scene())


def test_rows_outlast_a_minute_of_refusals_that_name_no_time_to_wait() -> None:
    async def scene() -> None:
        answer = Answer(429, {"Retry-After": "0"})
        async with _served(_down(0.0, answer, 60.0)) as (_, worker):
            assert not _failed(await worker.rows(5))

    fast_clock.run(scene())


# two endpoints


def test_where_one_of_two_endpoints_is_down_all_rows_go_through_the_other() -> None:
    async def scene() -> None:
        async with _place() as gone, _place() as there, _engine(gone.port) as first, _engine(there.port) as second:
            await gone.go()
            async with Asker([first, second], Link(_coordinator((Rate(), Rate()))), _limits((Rate(), Rate()))) as worker:
                assert not _failed(await worker.rows(200))
                assert sorted(there.answered) == sorted(f"row {n}" for n in range(200))
                assert worker.dispatcher.counts.requests["unreached"] < 30
                await asyncio.sleep(600)
                assert worker.stopped is None

    fast_clock.run(scene())


def test_where_one_of_two_endpoints_asks_to_be_left_alone_its_rows_go_to_the_other_at_once() -> None:
    async def scene() -> None:
        busy = Toy(lambda now, _: TryAgain("http 429", "", "refused", 600.0) if now < 500 else None)
        free = Toy()
        async with Asker([busy, free], Link(_coordinator((Rate(), Rate()))), _limits((Rate(), Rate()))) as worker:
            assert not _failed(await worker.rows(60))
            assert worker.dispatcher.now() < 10
            assert len(busy.at) <= 8

    fast_clock.run(scene())


def test_two_endpoints_share_the_work() -> None:
    async def scene() -> None:
        engines = [Toy(), Toy()]
        async with Asker(engines, Link(_coordinator((Rate(), Rate()))), _limits((Rate(), Rate()))) as worker:
            assert not _failed(await worker.rows(200))
            assert min(len(engine.at) for engine in engines) >= 80

    fast_clock.run(scene())


# limits


async def _keep_asking(workers: Sequence[Asker], seconds: float, rows_each: int = 60) -> None:
    asking = [asyncio.create_task(worker.keep_asking()) for worker in workers for _ in range(rows_each)]
    await asyncio.sleep(seconds)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


@asynccontextmanager
async def _cluster(engine: Engine, rate: Rate, workers: int, link: Link) -> AsyncIterator[list[Asker]]:
    """Workers that share a limit and a coordinator."""
    limits = _limits([rate], workers=workers, concurrency=64)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Asker([engine], link, limits, f"worker {n}")) for n in range(workers)]


def test_a_limit_of_3000_a_minute_is_kept_and_used_to_97_percent() -> None:
    async def scene() -> None:
        rate, engine = Rate(3000), Toy()
        async with _cluster(engine, rate, 3, Link(_coordinator([rate]), 0.02)) as workers:
            await _keep_asking(workers, 66)
        assert _most_in_a_minute(engine.at) <= 3000
        assert sum(5 <= at < 65 for at in engine.at) >= 0.97 * 3000

    fast_clock.run(scene())


def test_the_server_counts_no_more_than_its_limit_in_any_minute() -> None:
    async def scene() -> None:
        rate = Rate(180)
        async with _place(latency_s=0.1) as place, _engine(place.port) as engine:
            async with _cluster(engine, rate, 2, Link(_coordinator([rate]), 0.002)) as workers:
                await _keep_asking(workers, 75)
            assert _most_in_a_minute(place.at) <= 180
            assert place.between(10, 70) >= 0.97 * 180

    fast_clock.run(scene())


def test_a_limit_that_the_server_states_is_kept_without_being_given() -> None:
    async def scene() -> None:
        stated = {
            "x-ratelimit-limit-requests": "120",
            "x-ratelimit-remaining-requests": "119",
            "x-ratelimit-reset-requests": "500ms",
        }
        async with _place(lambda *_: Answer(headers=stated)) as place, _engine(place.port) as engine:
            async with _cluster(engine, Rate(), 1, Link(_coordinator())) as workers:
                await _keep_asking(workers, 75)
            assert 0.97 * 120 <= place.between(10, 70) <= 120

    fast_clock.run(scene())


def test_a_limit_of_tokens_is_kept() -> None:
    async def scene() -> None:
        rate, engine = Rate(None, 10_000), Toy()
        async with _cluster(engine, rate, 2, Link(_coordinator([rate]), 0.002)) as workers:
            await _keep_asking(workers, 90)
        tokens = 25 * _most_in_a_minute([at for at in engine.at if at > 10])
        assert 0.95 * 10_000 <= tokens <= 10_000

    fast_clock.run(scene())


@pytest.mark.parametrize("workers", [1, 20])
def test_a_small_limit_is_kept_however_many_workers_share_it(workers: int) -> None:
    async def scene() -> None:
        rate, engine = Rate(30), Toy()
        async with _cluster(engine, rate, workers, Link(_coordinator([rate]))) as all_workers:
            await _keep_asking(all_workers, 130, rows_each=3)
        assert 0.9 * 30 <= _most_in_a_minute(engine.at) <= 30

    fast_clock.run(scene())


def test_while_the_coordinator_is_away_each_worker_keeps_to_its_share() -> None:
    async def scene() -> None:
        rate, engine, other = Rate(400), Toy(), Toy()
        link = Link(_coordinator([rate]), is_away=lambda now: 20 <= now < 90)
        limits = _limits([rate], workers=4)
        async with Asker([engine], link, limits) as worker, Asker([other], link, limits, "idle"):
            await _keep_asking([worker], 115)
        share = sum(25 <= at < 85 for at in engine.at)
        assert 0.97 * 100 <= share <= 100
        assert sum(95 <= at < 115 for at in engine.at) > 100, "it is back"

    fast_clock.run(scene())


@pytest.mark.parametrize("limit", [60, 200])
def test_a_coordinator_that_is_some_way_off_costs_little_of_a_limit(limit: int) -> None:
    async def scene() -> None:
        rate, engine = Rate(limit), Toy()
        async with _cluster(engine, rate, 1, Link(_coordinator([rate]), 0.05)) as workers:
            await _keep_asking(workers, 75, rows_each=20)
        assert 0.95 * limit <= sum(10 <= at < 70 for at in engine.at) <= limit

    fast_clock.run(scene())


def test_when_the_coordinator_goes_away_the_workers_together_still_keep_to_the_limit() -> None:
    async def scene() -> None:
        rate, engine = Rate(60), Toy()
        link = Link(_coordinator([rate]), is_away=lambda now: 20 <= now < 80)
        async with _cluster(engine, rate, 16, link) as workers:
            await _keep_asking(workers, 100, rows_each=3)
        assert _most_in_a_minute(engine.at) <= 60

    fast_clock.run(scene())


def test_permits_are_asked_for_in_stocks_and_not_for_each_request() -> None:
    async def scene() -> None:
        rate, engine = Rate(6000), Toy()
        link = Link(_coordinator([rate]), 0.002)
        async with _cluster(engine, rate, 1, link) as workers:
            await _keep_asking(workers, 5)
        assert len(engine.at) > 300
        assert link.calls["permits"] <= 5 * 10 + 5

    fast_clock.run(scene())


# requests in flight


def test_what_a_server_takes_at_a_time_is_found_out_and_used_to_nine_tenths() -> None:
    async def scene() -> None:
        busy = Busy(lambda now: 16 if now < 30 or now >= 60 else 8, latency_s=1.0)
        async with Asker([busy], Link(_coordinator()), _limits(concurrency=64)) as worker:
            await _keep_asking([worker], 90)
        assert 0.9 <= len(busy.answered) / (60 * 16 + 30 * 8) <= 1.0

    fast_clock.run(scene())


# money


def _cost(reply_tokens: int) -> float:
    dollars = PAID.dollars(20, reply_tokens)
    assert dollars is not None
    return dollars


def _reserved() -> float:
    dollars = PAID.need(_request("row 0").messages).usd
    assert dollars is not None
    return dollars


@pytest.mark.parametrize("workers", [1, 3])
def test_spending_ends_below_the_cap_and_the_exact_sum_is_on_storage(workers: int, tmp_path: Path) -> None:
    async def scene() -> None:
        storage = Storage.open(str(tmp_path))
        cap = 40.5 * _cost(50)
        coordinator = _coordinator(cap=Cap(storage, cap, 0.0))
        link = Link(coordinator, 0.002)
        async with _place(lambda *_: Answer(tokens_out=50)) as place, _engine(place.port) as engine:
            async with AsyncExitStack() as stack:
                limits = _limits(capped=True)
                all_workers = [await stack.enter_async_context(Asker([engine], link, limits, str(n))) for n in range(workers)]
                outcomes = await asyncio.gather(*[worker.rows(60) for worker in all_workers])
                await asyncio.sleep(1)
            answered = [row for rows in outcomes for row in rows if row is not None]
            paid = math.fsum(row.reply.cost_usd or 0.0 for row in answered if row.reply)
            coordinator.close_budget()
            assert coordinator.snapshot().kind == "budget"
            assert len(answered) == len(place.answered)
            assert cap - _reserved() < paid <= cap
            assert at_most_spent(storage) == pytest.approx(paid)

    fast_clock.run(scene())


def test_every_request_is_covered_by_the_bound_on_storage_before_it_leaves(tmp_path: Path) -> None:
    async def scene() -> None:
        storage = Storage.open(str(tmp_path))
        coordinator = _coordinator(cap=Cap(storage, 60 * _reserved(), 0.0))
        bounds: list[float] = []

        def note(_: float, __: str) -> Exception | None:
            bounds.append(at_most_spent(storage))
            return TryAgain("timeout") if len(bounds) % 5 == 0 else None

        async with Asker([Toy(note)], Link(coordinator, 0.002), _limits(capped=True)) as worker:
            assert not _failed(await worker.rows(50))
            spent_before = [n * _cost(5) for n in range(len(bounds))]
            assert all(bound >= spent + _reserved() for bound, spent in zip(bounds, spent_before, strict=True))

    fast_clock.run(scene())


def test_what_may_have_been_billed_counts_and_what_was_turned_away_does_not(tmp_path: Path) -> None:
    async def scene() -> None:
        storage = Storage.open(str(tmp_path))
        coordinator = _coordinator(cap=Cap(storage, 1.0, 0.0))
        errors = iter([TryAgain("timeout"), TryAgain("http 429", "", "refused"), TryAgain("connection", "", "unreached")])
        async with Asker([Toy(lambda *_: next(errors, None))], Link(coordinator), _limits(capped=True)) as worker:
            outcome = await worker.row("row 0")
            await asyncio.sleep(1)
            coordinator.close_budget()
            assert outcome is not None
            assert outcome.attempts == 4
            assert outcome.maybe_billed_twice == 1
            assert at_most_spent(storage) == pytest.approx(_reserved() + _cost(5))
            assert worker.dispatcher.counts.usd_maybe_billed == pytest.approx(_reserved())

    fast_clock.run(scene())


def test_while_the_coordinator_is_away_nothing_is_borrowed_and_no_request_leaves(tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = _coordinator(cap=Cap(Storage.open(str(tmp_path)), 10.0, 0.0))
        engine = Toy(tokens=(100, 100))
        link = Link(coordinator, is_away=lambda now: 5 <= now < 50)
        async with Asker([engine], link, _limits(capped=True)) as worker:
            asking = asyncio.create_task(worker.rows(600))
            assert not _failed(await asking)
            assert [at for at in engine.at if at < 5]
            assert not [at for at in engine.at if 7 < at < 50], "what was borrowed before is used up by then"

    fast_clock.run(scene())


def test_a_cap_that_is_a_multiple_of_a_request_is_used_up_and_ends_the_stage(tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = _coordinator(cap=Cap(Storage.open(str(tmp_path)), 30 * _reserved(), 0.0))
        async with Asker([Toy(tokens=(104, 100))], Link(coordinator, 0.002), _limits(capped=True)) as worker:
            async with asyncio.timeout(60):
                await worker.rows(64)
            assert coordinator.snapshot().kind == "budget"

    fast_clock.run(scene())


def test_a_row_that_is_sent_alone_borrows_for_itself_whatever_waits_before_it(tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = _coordinator(cap=Cap(Storage.open(str(tmp_path)), 1.0, 0.0))
        async with Asker([Toy()], Link(coordinator, 0.01), _limits(capped=True)) as worker:
            async with asyncio.timeout(60), worker.dispatcher.alone("large"):
                small = asyncio.create_task(worker.row("small"))
                await asyncio.sleep(1)
                worker.dispatcher.supply.budget._prefetch.at_hand = 1.5 * _reserved()
                endpoint = await worker.dispatcher.enter("large", Need(100, 10 * _reserved()))
                worker.dispatcher.rejected(endpoint, Need(100, 10 * _reserved()))
            assert await small is not None

    fast_clock.run(scene())


def test_permits_at_hand_are_no_burst_after_a_pause() -> None:
    async def scene() -> None:
        coordinator = _coordinator([Rate(600)])
        async with Asker([Toy()], Link(coordinator, 0.01), _limits([Rate(600)])) as worker:
            await worker.rows(200)
            (endpoint,) = worker.dispatcher.endpoints
            endpoint.requests.at_hand = 50.0
            endpoint.pause(worker.dispatcher.now() + 10)
            assert endpoint.requests.at_hand == 0.0

    fast_clock.run(scene())


def test_a_row_that_comes_while_the_worker_repays_is_sent(tmp_path: Path) -> None:
    async def scene() -> None:
        coordinator = _coordinator(cap=Cap(Storage.open(str(tmp_path)), 1.0, 0.0))
        async with Asker([Toy()], Link(coordinator, 0.05), _limits(capped=True)) as worker:
            await worker.row("row 0")
            repaying = asyncio.create_task(worker.dispatcher.supply.release_dollars())
            await asyncio.sleep(0.01)
            async with asyncio.timeout(60):
                await worker.row("row 1")
            await repaying

    fast_clock.run(scene())


def test_rows_that_wait_for_money_borrow_together(tmp_path: Path) -> None:
    async def scene() -> None:
        link = Link(_coordinator(cap=Cap(Storage.open(str(tmp_path)), 1.0, 0.0)), 0.002)
        async with Asker([Toy()], link, _limits(capped=True, concurrency=32)) as worker:
            assert not _failed(await worker.rows(64))
            assert link.calls["reserve"] <= 10 * worker.dispatcher.now() + 5

    fast_clock.run(scene())


# the queue


def test_a_stop_ends_rows_that_wait_and_lets_those_in_flight_end() -> None:
    async def scene() -> None:
        engine = Toy(lambda _, row: TryAgain("http 500") if row == "row 3" else None, latency_s=5.0)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            asking = asyncio.create_task(worker.rows(20))
            await asyncio.sleep(0.05)
            worker.dispatcher.stop()
            outcomes = await asking
            assert sum(outcome is not None for outcome in outcomes) == 8
            assert outcomes[3] is None
            assert worker.dispatcher.now() == pytest.approx(5.01)
            assert len(engine.at) == 9
            assert await worker.row("late") is None

    fast_clock.run(scene())


def test_a_row_that_is_cancelled_in_the_queue_holds_up_no_other() -> None:
    async def scene() -> None:
        async with Asker([Toy(latency_s=5.0)], Link(_coordinator()), _limits()) as worker:
            rows = [asyncio.create_task(worker.row(f"row {n}")) for n in range(20)]
            await asyncio.sleep(1)
            rows[8].cancel()
            await asyncio.gather(*rows, return_exceptions=True)
            assert sum(not row.cancelled() for row in rows) == 19
            assert worker.dispatcher.endpoints.in_flight == 0

    fast_clock.run(scene())


def test_everything_that_was_sent_is_counted_once_by_its_end() -> None:
    errors = [
        RowRefused("too long"),
        TryAgain("http 500"),
        TryAgain("http 503", "", "refused"),
        TryAgain("dns", "", "unreached"),
    ]
    left = {f"row {n}": errors[n % 4] for n in range(40)}

    def behave(_: float, row: str) -> Exception | None:
        return left.pop(row, None)

    async def scene() -> None:
        engine = Toy(behave)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            await worker.rows(100)
            counts = worker.dispatcher.counts
            ends = [counts.requests[end] for end in get_args(RequestEnd)]
            assert ends == [90, 10, 10, 10, 10]
            assert len(engine.at) == 130
            assert (counts.tokens["in"], counts.tokens["out"]) == (90 * 20, 90 * 5)
            assert worker.dispatcher.endpoints.in_flight == 0

    fast_clock.run(scene())


# one bad thing among many


BLOCK = range(400, 460)


def test_sixty_bad_rows_side_by_side_hold_up_the_others_little() -> None:
    """In a queue that keeps their order; a worker asks the rows of a shard in an order that spreads them besides."""

    def seconds(bad: range) -> float:
        async def scene() -> float:
            names = {f"row {n}" for n in bad}
            async with _served(lambda _, name: Answer(500) if name in names else Answer()) as (_, worker):
                done = asyncio.get_running_loop().time
                ends: dict[str, float] = {}

                async def row(name: str) -> None:
                    outcome = await worker.row(name)
                    ends[name] = done()
                    assert outcome is not None
                    assert (outcome.reply is None) == (name in names)

                await asyncio.gather(*[row(f"row {n}") for n in range(1000)])
                assert worker.stopped is None
                return max(end for name, end in ends.items() if name not in names)

        return fast_clock.run(scene())

    assert seconds(BLOCK) <= 1.3 * seconds(range(0))


def test_while_a_server_is_down_it_is_tried_with_rows_that_have_not_failed() -> None:
    async def scene() -> None:
        engine = Toy(lambda now, _: TryAgain("http 500") if 0.1 < now < 200.0 else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert not _failed(await worker.rows(60))
            probes = [name for now, name in zip(engine.at, engine.asked, strict=True) if 1.0 < now < 200.0]
            assert len(set(probes)) == len(probes)
            assert len(probes) > 3

    fast_clock.run(scene())


def _once(error: Exception, row: str = "row 50") -> Callable[[float, str], Exception | None]:
    left = [error]
    return lambda _, name: left.pop() if name == row and left else None


@pytest.mark.parametrize("status", ["http 401", "http 404"])
def test_one_refusal_of_the_key_among_many_answers_is_tried_again(status: str) -> None:
    async def scene() -> None:
        engine = Toy(_once(EngineUnusable(status, "invalid key")))
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            outcomes = await worker.rows(100)
            assert not _failed(outcomes)
            assert [outcome.attempts for outcome in outcomes if outcome] == [1] * 50 + [2] + [1] * 49

    fast_clock.run(scene())


def test_a_key_that_is_refused_from_some_moment_on_ends_the_stage_after_a_few_requests() -> None:
    async def scene() -> None:
        engine = Toy(lambda now, _: EngineUnusable("http 401", "invalid key") if now > 2.0 else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            with pytest.raises(EngineUnusable, match="http 401: invalid key"):
                await worker.rows(1000)
            assert sum(at > 2.0 for at in engine.at) <= 16 + 3

    fast_clock.run(scene())


def test_an_account_without_money_is_no_accident() -> None:
    async def scene() -> None:
        engine = Toy(_once(EngineUnusable("http 402", "the account has no money left")))
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            with pytest.raises(EngineUnusable, match="no money left"):
                await worker.rows(100)

    fast_clock.run(scene())


def test_an_endpoint_whose_key_is_refused_is_left_out_and_the_others_do_the_work() -> None:
    async def scene() -> None:
        wrong, right = Toy(lambda *_: EngineUnusable("http 401", "invalid key")), Toy()
        async with Asker([wrong, right], Link(_coordinator((Rate(), Rate()))), _limits((Rate(), Rate()))) as worker:
            assert not _failed(await worker.rows(100))
            assert len(wrong.asked) <= 16
            assert worker.dispatcher.endpoints.down == 1
            assert worker.stopped is None

    fast_clock.run(scene())


def test_the_last_endpoint_that_is_left_out_ends_the_stage_with_the_reason_of_each() -> None:
    async def scene() -> None:
        engines = [Toy(lambda *_: EngineUnusable("http 401", "wrong")), Toy(lambda *_: EngineUnusable("http 404", "none"))]
        async with Asker(engines, Link(_coordinator((Rate(), Rate()))), _limits((Rate(), Rate()))) as worker:
            with pytest.raises(EngineUnusable, match=r"no endpoint is left \(toy: http 401: wrong; toy: http 404: none\)"):
                await worker.rows(100)

    fast_clock.run(scene())


def test_one_wish_to_be_left_alone_for_a_year_is_not_granted() -> None:
    async def scene() -> None:
        engine = Toy(_once(TryAgain("http 429", "", "refused", 31_536_000.0)))
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert not _failed(await worker.rows(100))
            assert worker.stopped is None
            assert worker.dispatcher.now() < 120

    fast_clock.run(scene())


def test_the_first_dozen_of_equal_refusals_ends_the_stage_in_the_servers_words() -> None:
    async def scene() -> None:
        numbers = iter(range(1000))
        engine = Toy(lambda *_: RowRefused("http 400", f"System role not supported (request {next(numbers)})"))
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            with pytest.raises(EngineUnusable, match=r"http 400: System role not supported \(request \d+\)"):
                await worker.rows(1000)
            assert len(engine.asked) <= 12 + 16

    fast_clock.run(scene())


def test_equal_refusals_among_answers_are_those_of_their_rows() -> None:
    async def scene() -> None:
        engine = Toy(lambda _, row: RowRefused("http 400", "no") if int(row.split()[1]) % 2 else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            assert _failed(await worker.rows(100)) == ["http 400: no"] * 50

    fast_clock.run(scene())


def test_a_request_that_ends_in_a_way_nobody_foresaw_holds_no_room_in_flight() -> None:
    async def scene() -> None:
        engine = Toy(lambda _, row: ZeroDivisionError() if row == "bad" else None)
        async with Asker([engine], Link(_coordinator()), _limits()) as worker:
            with pytest.raises(ZeroDivisionError):
                await worker.row("bad")
            asking = asyncio.create_task(worker.row("cancelled"))
            await asyncio.sleep(0.1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert worker.dispatcher.endpoints.in_flight == 0
            assert worker.dispatcher.counts.requests["unknown"] == 2
            assert not _failed(await worker.rows(3))

    fast_clock.run(scene())
