"""How throughput grows with nodes, and what a driver takes at 100,000 shards. Each bench gives a table; `run.py` runs them.

The nodes are Ray nodes of one CPU each on this machine: they share its cores, so that what waits (an API judge) can grow with
their number, and what computes (the rules) only with the cores.
"""

import json
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from alpagasus_ray.config import Judge, Score, digest
from alpagasus_ray.engines.base import Rate
from alpagasus_ray.inference import shards
from alpagasus_ray.inference.backlog import Backlog
from alpagasus_ray.inference.coordinator import Coordinator
from alpagasus_ray.inference.counts import Counts
from alpagasus_ray.inference.spec import Task
from alpagasus_ray.raycluster import connect
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import DONE, FileEntry, Manifest, Run
from bench_limits import ingested
from measure import Table, server

NODES = (1, 4)
LATENCY_S, IN_FLIGHT = 0.5, 8
API_ROWS, RULES_ROWS = 600, 20_000
"""Rows for each node."""
SHARDS, ROWS_EACH = 100_000, 1_000
SLOTS = (2, 200, 2_000)
FIRST = 3_000
WORKERS, SAID, AT_ONCE = 1_000, 20_000, 500


def bench_nodes(_: Run, work: Path) -> Table:
    """An API judge and the rules on one node and on four, in turns."""
    table = Table(
        f"Nodes of one CPU each; API judge of {LATENCY_S:g} s latency with {IN_FLIGHT} requests in flight for each, and rules",
        "judge", "turn", "1 node, rows/s", "4 nodes, rows/s", "grown",
    )  # fmt: skip
    for kind, rate, rows, turns in (("API", _api_rate, API_ROWS, 3), ("rules", _rules_rate, RULES_ROWS, 2)):
        for turn in range(1, turns + 1):
            rates = []
            for count in NODES:
                run = ingested(work / f"{kind}-{turn}-{count}", rows_per_shard=100)
                with _nodes(count):
                    rates.append(rate(run, count, rows * count))
            table.row(kind, turn, f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"{rates[1] / rates[0]:.2f}x")
    return table


def _api_rate(run: Run, count: int, rows: int) -> float:
    with server("--latency", str(LATENCY_S)) as judge:
        asked = Judge(model="toy", base_url=judge.base_url)
        score(Score(judge=asked, actors=count, concurrency=IN_FLIGHT, limit=rows), run)
        return float(judge.stats()["sustained"])


def _rules_rate(run: Run, count: int, rows: int) -> float:
    manifest = score(Score(judge=Judge(kind="rules"), actors=count, limit=min(rows, 52_002)), run)
    return manifest.rows / manifest.seconds


@contextmanager
def _nodes(count: int) -> Iterator[None]:
    """A cluster whose head runs no work, and so many nodes of one CPU."""
    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(count):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
        made.shutdown()  # type: ignore[no-untyped-call]
        connect.connect()


def bench_planner(_: Run, work: Path) -> Table:
    """What the driver of 100 million rows does before, between and after the work, each in a process of its own."""
    table = Table(f"The driver at {SHARDS:,} shards of {ROWS_EACH:,} rows", "what", "seconds", "memory of the driver, MiB")
    run = _planned(work / "planned")
    for name, does in (("manifest written", _write), ("manifest read, and what is missing listed", _read)):
        table.row(name, *_apart(does, run))
    for slots in SLOTS:
        table.row(f"the same, and Ray Data's plan for {slots:,} calls at a time", *_apart(_plan, run, slots))
    table.row(f"{FIRST:,} commit records written, listed and read", *_apart(_records, run))
    return table


def _planned(folder: Path) -> Run:
    run = Run.open(str(folder))
    _write(run)
    return run


def _write(run: Run) -> None:
    entries = [_entry(number) for number in range(SHARDS)]
    manifest = Manifest(
        stage="examples", settings={}, settings_hash=digest({}), inputs={}, files=entries, rows=SHARDS * ROWS_EACH, counts={},
        usage={}, seconds=0.0, versions={}, details={"reasons": {}},
    )  # fmt: skip
    run.examples().finish(manifest)


def _entry(number: int) -> FileEntry:
    name = f"part-{number:05d}.parquet"
    return FileEntry(name=name, rows=ROWS_EACH, bytes=1 << 20, sha256=f"{number:064x}", counts={"scored": ROWS_EACH})


def _read(run: Run) -> list[Task]:
    names = [entry.name for entry in run.examples().finished().parts()]
    done = {name.removesuffix(".json") for name in run.ratings("judge").storage.at(DONE).names()}
    return [Task(name) for name in names if name not in done]


def _plan(run: Run, slots: int) -> None:
    calls = shards.in_calls(_read(run), slots)
    ray.data.from_items([{"tasks": json.dumps(call)} for call in calls], override_num_blocks=len(calls))


def _records(run: Run) -> None:
    home = run.ratings("judge")
    for number in range(FIRST):
        shards.record(home, _entry(number))
    assert len(Backlog(home).done()) == FIRST


def _apart(does: Callable[..., Any], run: Run, *given: Any) -> tuple[str, str]:
    """Seconds, Ray's start left out, and peak memory of a process that does nothing else."""
    parent, child = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_measured, args=(child, does, run.storage.root, given))
    process.start()
    seconds, memory = parent.recv()
    process.join()
    return f"{seconds:.2f}", f"{memory / 1024:,.0f}"


def _measured(answer: Any, does: Callable[..., Any], root: str, given: tuple[Any, ...]) -> None:
    if does is _plan:
        connect.connect()
    started = time.monotonic()
    does(Run.open(root), *given)
    seconds = time.monotonic() - started
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    answer.send((seconds, int(peak.split()[1])))


def bench_coordinator(_: Run, __: Path) -> Table:
    """The actor that all workers of a stage speak to: processor time for each word, as a plain object and in its actor, where
    Ray takes its share."""
    table = Table(
        f"The coordinator with {WORKERS:,} workers, microseconds of processor time for a word", "word", "itself", "with Ray"
    )
    for name, words in WORDS.items():
        plain = Coordinator((Rate(6e6, 6e9),))
        started = time.process_time()
        for number in range(SAID):
            getattr(plain, name)(*words(number))
        alone = (time.process_time() - started) / SAID
        table.row(name, f"{alone * 1e6:.0f}", f"{_in_actor(name, words) * 1e6:.0f}")
    return table


def _in_actor(name: str, words: Callable[[int], tuple[Any, ...]]) -> float:
    actor: Any = ray.remote(Coordinator).options(num_cpus=0).remote((Rate(6e6, 6e9),))
    process = psutil.Process(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))
    before = process.cpu_times()
    for start in range(0, SAID, AT_ONCE):
        ray.get([getattr(actor, name).remote(*words(number)) for number in range(start, start + AT_ONCE)])
    now = process.cpu_times()
    ray.kill(actor)
    return float(now.user - before.user + now.system - before.system) / SAID


def _worker(number: int) -> str:
    return f"worker-{number % WORKERS}"


def _report(number: int) -> tuple[Any, ...]:
    """Half a second of a worker with 64 requests of 2 s in flight, on two shards."""
    counts = Counts(rows=number, statuses=Counter(scored=number))
    news = Counts(requests=Counter({"answered": 16}), tokens=Counter({"in": 4_800, "out": 200}), usd_billed=0.01, waited_s=0.1)
    return _worker(number), news, {f"s{number % (2 * WORKERS)}": counts, f"s{number % (2 * WORKERS) + 1}": counts}, {}


WORDS: dict[str, Callable[[int], tuple[Any, ...]]] = {
    "report": _report,
    "mark_in_flight": lambda number: (f"s{number % WORKERS}", list(range(16)), list(range(16))),
    "permits": lambda _: (0, 16.0, 8_000.0, Rate()),
}
