"""One way to ask a judge, alone in this process: rows a second are what the server saw, and here is the CPU that a row takes.

    python benchmarks/client_alone.py KIND RUN BASE_URL ROWS IN_FLIGHT

KIND is `aiohttp` (a loop of aiohttp and orjson, nothing else), `openai` (the `openai` package's own client), `engine` (ours,
without limits and ledger), `worker` (a whole worker, without Ray) or `split` (the same with clocks, which take some CPU
themselves, and tell where it goes). Prints one JSON object.
"""

import asyncio
import functools
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any
from unittest import mock

import aiohttp
import orjson
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.engines import openai_api
from alpagasus_ray.engines.base import Request
from alpagasus_ray.engines.http_client import HttpClient
from alpagasus_ray.engines.openai_api import OpenAIEngine
from alpagasus_ray.engines.prices import Tariff
from alpagasus_ray.inference.dispatcher import Dispatcher
from alpagasus_ray.inference.ledger import Ledger
from alpagasus_ray.inference.open_rows import OpenRows
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.inference.worker import Worker
from alpagasus_ray.judging import rubric
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run

One = Callable[[Request], Awaitable[object]]
PARTS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("client", HttpClient, ("post",)),
    ("client", ClientRequest, ("write_bytes",)),
    ("client", ResponseHandler, ("data_received",)),
    ("prompts", RatingTask, ("request",)),
    ("replies", openai_api, ("read_reply", "storable")),
    ("replies", RatingTask, ("result",)),
    ("limits", Dispatcher, ("enter", "answered", "dispatch", "through")),
    ("limits", OpenRows, ("acquire",)),
    ("limits", Tariff, ("need", "charge")),
    ("ledger", Ledger, ("add",)),
    ("ledger_elsewhere", Ledger, ("flush",)),
)
"""What the CPU of a worker is counted as: part, class or module, functions of it. Ledgers are written in other threads."""


def requests_of(run: Run, rows: int) -> list[Request]:
    """The first rows of a run as the accuracy rubric asks about them."""
    work = RatingTask(Judge(kind="api", model="toy"), rubric.load("accuracy"))
    examples = run.examples()
    taken: list[Request] = []
    for shard in examples.tables(examples.finished()):
        taken += [work.request(row) for row in shard.to_pylist()]
        if len(taken) >= rows:
            break
    return taken[:rows]


async def _aiohttp(base_url: str, ask: Callable[[One], Awaitable[float]]) -> float:
    url, body = f"{base_url}/chat/completions", {"model": "toy", "temperature": 0.0, "max_tokens": 256}
    headers = {"Authorization": "Bearer none", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def one(request: Request) -> str:
            async with session.post(url, data=orjson.dumps({**body, "messages": request.messages})) as response:
                return str(orjson.loads(await response.read())["choices"][0]["message"]["content"])

        return await ask(one)


async def _openai(base_url: str, ask: Callable[[One], Awaitable[float]]) -> float:
    import httpx2 as httpx
    from openai import AsyncOpenAI, DefaultAioHttpClient

    transport = DefaultAioHttpClient(limits=httpx.Limits(max_connections=4096, max_keepalive_connections=4096))
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, http_client=transport) as client:

        async def one(request: Request) -> str | None:
            messages: Any = request.messages
            made = await client.chat.completions.create(model="toy", temperature=0.0, max_tokens=256, messages=messages)
            return made.choices[0].message.content

        return await ask(one)


async def _engine(base_url: str, ask: Callable[[One], Awaitable[float]]) -> float:
    engine = OpenAIEngine(Judge(kind="api", model="toy", base_url=base_url))
    try:
        return await ask(engine.complete)
    finally:
        await engine.close()


CLIENTS = {"aiohttp": _aiohttp, "openai": _openai, "engine": _engine}


def alone(kind: str, requests: list[Request], base_url: str, in_flight: int) -> dict[str, Any]:
    """Ask all requests by a client, so many at a time."""

    async def ask(one: One) -> float:
        waiting = iter(requests)

        async def line() -> None:
            for request in waiting:
                await one(request)

        before = time.process_time()
        await asyncio.gather(*(line() for _ in range(in_flight)))
        return time.process_time() - before

    seconds = asyncio.run(CLIENTS[kind](base_url, ask))
    return {"cpu_us": seconds / len(requests) * 1e6}


class Meter:
    """CPU seconds of all threads by part: what a function takes itself, without the parts that it calls."""

    def __init__(self) -> None:
        self._threads: list[Counter[str]] = []
        self._here = threading.local()

    @property
    def spent(self) -> Counter[str]:
        """By part."""
        return sum(self._threads, Counter())

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; of a coroutine each of its steps."""

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            made = self.time(part, function, *arguments, **named)
            return Steps(self, part, made) if asyncio.iscoroutine(made) else made

        return timed

    def time(self, part: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call it; the time is that of `part`."""
        before = self._switch(part)
        try:
            return function(*arguments, **named)
        finally:
            self._switch(before)

    def _switch(self, part: str | None) -> str | None:
        here, now = self._here, time.thread_time()
        before: str | None = getattr(here, "part", None)
        if before is not None:
            here.spent[before] += now - here.since
        elif not hasattr(here, "spent"):
            here.spent = Counter()
            self._threads.append(here.spent)
        here.part, here.since = part, now
        return before


class Steps(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are timed."""

    def __init__(self, meter: Meter, part: str, inner: Coroutine[Any, Any, Any]) -> None:
        self._time, self._inner = functools.partial(meter.time, part), inner

    def send(self, value: Any) -> Any:
        return self._time(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._time(self._inner.throw, *error)

    def close(self) -> None:
        self._inner.close()

    def __next__(self) -> Any:
        return self.send(None)

    def __iter__(self) -> Any:
        return self

    __await__ = __iter__


def worker(run: Run, base_url: str, rows: int, in_flight: int, *, split: bool) -> dict[str, Any]:
    """Rate rows by a whole worker in this process, without Ray; with `split`, where its CPU goes."""
    meter, marks = Meter(), []
    start, end = Worker._start, Worker._end_background  # noqa: SLF001 - to measure in between

    async def started(self: Worker) -> None:
        await start(self)
        marks.append((time.process_time(), time.thread_time()))

    async def ended(self: Worker) -> None:
        marks.append((time.process_time(), time.thread_time()))
        await end(self)

    config = Score(judge=Judge(kind="api", model="toy", base_url=base_url), concurrency=in_flight, actors=1, limit=rows)
    with ExitStack() as patched:
        for name, function in (("_start", started), ("_end_background", ended)):
            patched.enter_context(mock.patch.object(Worker, name, function))
        for part, owner, names in PARTS if split else ():
            for name in names:
                patched.enter_context(mock.patch.object(owner, name, meter.wrapped(part, getattr(owner, name))))
        score(config, run, in_process=True)
    process_s, loop_s = (after - before for before, after in zip(*marks, strict=True))
    seconds = {"cpu_us": process_s, "loop_us": loop_s, **meter.spent}
    return {name: spent / rows * 1e6 for name, spent in seconds.items()}


def main() -> None:
    kind, folder, base_url, rows, in_flight = sys.argv[1:]
    os.environ["OPENAI_API_KEY"] = "unused"
    run = Run.open(folder)
    if kind in ("worker", "split"):
        told = worker(run, base_url, int(rows), int(in_flight), split=kind == "split")
    else:
        told = alone(kind, requests_of(run, int(rows)), base_url, int(in_flight))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
