"""API judging: rows a second beside other clients in one run, the CPU that a row takes, and what the ledger costs.

Each bench gives a table; `run.py` runs them with the others.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import ray

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.engines.openai_api import OpenAIEngine
from alpagasus_ray.inference.spec import Job
from alpagasus_ray.inference.stage import InferenceStage, Target
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from client_alone import requests_of
from measure import ROOT, Table, copy_examples, server

LATENCY_S = 0.2
OURS, PLAIN, SDK = "alpagasus-ray, one actor", "a plain loop of aiohttp and orjson", "the bare `openai` client"
ENGINE = "the engine alone, no Ray, limits or ledger"
ALONE = ROOT / "benchmarks/client_alone.py"
Stats = dict[str, float]


def bench_api(run: Run, work: Path) -> Table:
    """Clients one after the other, at both numbers in flight in turns."""
    columns = ("client", "in flight", "rows", "rows/s from first to last", "rows/s sustained", "of ideal", "of plain aiohttp")
    table = Table(f"API judge, {LATENCY_S * 1000:.0f} ms latency; the ideal is in flight / latency", *columns)
    for in_flight, rows in ((64, 9_600), (512, 30_000)):
        for turn in (1, 2):
            plain = _alone(run, "aiohttp", rows, in_flight)
            for name, took, stats in (
                (PLAIN, rows, plain),
                (OURS, rows, rated(run, work / f"api-{in_flight}-{turn}", in_flight, rows)),
                (ENGINE, rows, _alone(run, "engine", rows, in_flight)),
                (SDK, rows // 2, _alone(run, "openai", rows // 2, in_flight)),
            ):
                _row(table, name, took, in_flight, stats, f"{stats['sustained'] / plain['sustained']:.2f}")
    _row(table, "batches of 5, each waited for (the original's way)", 400, 64, _batches_of_five(run, 400))
    _row(table, "Ray's HTTP processor, batch 64, concurrency 1", 128, 64, _ray_http_processor(run, 128))
    return table


def bench_client(run: Run, work: Path) -> Table:
    """The CPU of the process that asks, 512 in flight; each kind has a process of its own."""
    table = Table("CPU of one row, 512 in flight, in microseconds of the process that asks", "what", "turn 1", "turn 2")
    turns = [_cpu(run, work / f"cpu-{turn}") for turn in (1, 2)]
    for name in turns[0]:
        table.row(name, *(f"{turn[name]:.0f}" for turn in turns))
    return table


def _cpu(run: Run, folder: Path) -> dict[str, float]:
    rows, in_flight = 10_000, 512
    told = {kind: _alone(run, kind, rows, in_flight) for kind in ("aiohttp", "openai", "engine")}
    whole, split = (_alone(copy_examples(run, folder / kind), kind, rows, in_flight) for kind in ("worker", "split"))
    parts = {f"… {name}": split[name] for name in ("client", "prompts", "replies", "limits", "ledger")}
    rest = split["loop_us"] - sum(parts.values())
    parts["… ledger"] += split["ledger_elsewhere"]
    elsewhere = split["cpu_us"] - split["loop_us"] - split["ledger_elsewhere"]
    return {
        PLAIN: told["aiohttp"]["cpu_us"],
        SDK: told["openai"]["cpu_us"],
        ENGINE: told["engine"]["cpu_us"],
        "a whole worker without Ray": whole["cpu_us"],
        "the same with its clocks": split["cpu_us"],
        **parts,
        "… event loop, tasks, retries, rows under way": rest,
        "… other threads: reading and writing shards, progress": elsewhere,
    }


def _alone(run: Run, kind: str, rows: int, in_flight: int) -> Stats:
    """A client in a process of its own; what the server saw, and what the process says of its CPU."""
    with server("--latency", str(LATENCY_S)) as judge:
        command = [sys.executable, str(ALONE), kind, run.storage.root, judge.base_url, str(rows), str(in_flight)]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True).stdout
        of_process: Stats = json.loads(said.splitlines()[-1])
        return judge.stats() | of_process


def rated(run: Run, folder: Path, concurrency: int, rows: int, *, with_ledger: bool = True) -> Stats:
    """Rate `rows` rows through Ray, by one actor; what the server saw."""
    with server("--latency", str(LATENCY_S)) as judge:
        asked = Judge(kind="api", model="toy", base_url=judge.base_url)
        config = Score(judge=asked, concurrency=concurrency, actors=1, limit=rows)
        make = InferenceStage.job  # the ledger cannot be switched off otherwise, and should not be

        def job(stage: InferenceStage, target: Target) -> Job:
            made = make(stage, target)
            return replace(made, spec=replace(made.spec, paid=with_ledger))

        with mock.patch.object(InferenceStage, "job", job):
            score(config, copy_examples(run, folder))
        return judge.stats()


def _row(table: Table, name: str, rows: int, wanted: int, stats: Stats, of_plain: str = "") -> None:
    ideal = wanted / LATENCY_S
    whole = stats["taken"] / stats["seconds"]
    table.row(
        name,
        f"{stats['peak']:.0f}",
        f"{rows:,}",
        f"{whole:.1f}",
        f"{stats['sustained']:.1f}",
        f"{stats['sustained'] / ideal:.1%}",
        of_plain,
    )


def _batches_of_five(run: Run, rows: int) -> Stats:
    requests = requests_of(run, rows)

    async def in_batches(engine: OpenAIEngine) -> None:
        for start in range(0, rows, 5):
            await asyncio.gather(*(engine.complete(request) for request in requests[start : start + 5]))

    return _with_engine(in_batches)


def _with_engine(work: Callable[[OpenAIEngine], Awaitable[None]]) -> Stats:
    async def opened(base_url: str) -> None:
        engine = OpenAIEngine(Judge(kind="api", model="toy", base_url=base_url))
        await work(engine)
        await engine.close()

    with server("--latency", str(LATENCY_S)) as judge:
        asyncio.run(opened(judge.base_url))
        return judge.stats()


def _ray_http_processor(run: Run, rows: int) -> Stats:
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    messages = [{"messages": json.dumps(request.messages)} for request in requests_of(run, rows)]
    with server("--latency", str(LATENCY_S)) as judge:
        config = HttpRequestProcessorConfig(url=f"{judge.base_url}/chat/completions", concurrency=1, batch_size=64)
        processor = build_processor(
            config,
            preprocess=lambda row: {"payload": {"model": "toy", "messages": json.loads(row["messages"])}},
            postprocess=lambda row: {"reply": row["http_response"]["choices"][0]["message"]["content"]},
        )
        assert processor(ray.data.from_items(messages)).count() == rows
        return judge.stats()


def bench_ledger(run: Run, work: Path) -> Table:
    table = Table(
        "The ledger's cost, one actor, 512 in flight, 20,000 rows, in turns", "turn", "off, rows/s", "on, rows/s", "on / off"
    )
    for turn in (1, 2, 3):
        off = rated(run, work / f"off-{turn}", 512, 20_000, with_ledger=False)["sustained"]
        on = rated(run, work / f"on-{turn}", 512, 20_000)["sustained"]
        table.row(turn, f"{off:.0f}", f"{on:.0f}", f"{on / off:.3f}")
    return table
