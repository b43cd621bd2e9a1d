"""What the limits cost and what they reach: many actors, a stated rate, a server whose capacity changes.

Each bench gives a table; `run.py` runs them with the others.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from alpagasus_ray.config import Ingest, Judge, Score
from alpagasus_ray.raycluster import connect
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from measure import ALPACA, Table, copy_examples, server

ACTORS = 20
LATENCY_S = 0.2
PHASE_S = 40


def bench_limiter(_: Run, work: Path) -> Table:
    """20 actors, 8 requests in flight each, 0.5 s a reply: 320 rows/s is the most there can be."""
    table = Table(
        f"The limiter's cost, {ACTORS} actors, 8 in flight each, in turns; the limits do not bind",
        "turn", "no limits, rows/s", "requests and tokens a minute limited", "limited / not",
    )  # fmt: skip
    limits = {"requests_per_minute": 60_000, "tokens_per_minute": 60_000_000}
    small = ingested(work / "small", rows_per_shard=250)
    with _many_cpus(ACTORS):
        for turn in (1, 2, 3):
            rates = []
            for name, given in (("off", {}), ("on", limits)):
                stats = _judged(
                    copy_examples(small, work / f"limiter-{turn}-{name}"), 10_000, 0.5, actors=ACTORS, concurrency=8, **given
                )
                rates.append(stats["sustained"])
            table.row(turn, f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"{rates[1] / rates[0]:.3f}")
    return table


def bench_rate(_: Run, work: Path) -> Table:
    """A stated limit over two and a half minutes, by four actors."""
    table = Table("A limit of 3,000 requests a minute, 4 actors", "what", "figure")
    small = ingested(work / "rate", rows_per_shard=250)
    with _many_cpus(4):
        stats = _judged(small, 7_500, LATENCY_S, actors=4, requests_per_minute=3_000)
    table.row(
        "requests a minute from first to last", f"{stats['per_minute']:.0f} ({stats['per_minute'] / 3000:.1%} of the limit)"
    )
    table.row("most in any 60 seconds, as the server saw it", f"{stats['most_per_minute']:,}")
    return table


def bench_adaptive(run: Run, work: Path) -> Table:
    """One actor that may have 256 in flight, against a server that turns away what it cannot take."""
    title = f"Adaptive concurrency, one actor, at most 256 in flight; the server's capacity changes every {PHASE_S} s"
    table = Table(title, "capacity", "rows/s possible", "rows/s", "of it", "turned away")
    for kind, sizes in (("in_flight", (40, 12, 60)), ("per_second", (120, 40, 200))):
        phases = [{"until_s": PHASE_S * (number + 1), kind: size} for number, size in enumerate(sizes)]
        possible = [size / LATENCY_S if kind == "in_flight" else size for size in sizes]
        rows = int(sum(possible) * PHASE_S * 0.97)
        target = copy_examples(run, work / f"adaptive-{kind}")
        stats = _judged(target, rows, LATENCY_S, "--capacity", json.dumps(phases), actors=1, concurrency=256)
        for size, phase, most in zip(sizes, stats["phases"], possible, strict=True):
            rate = phase["per_second"]
            table.row(f"{size} {kind}", f"{most:g}", f"{rate:.1f}", f"{rate / most:.1%}", f"{phase['refused']:,}")
        there_was = sum(most * phase["seconds"] for most, phase in zip(possible, stats["phases"], strict=True))
        table.row(f"{kind}, all", "", "", f"{sum(phase['answered'] for phase in stats['phases']) / there_was:.1%}", "")
    return table


def ingested(folder: Path, rows_per_shard: int) -> Run:
    run = Run.open(str(folder))
    ingest(Ingest(source=f"{ALPACA}/*.json", name="alpaca", rows_per_shard=rows_per_shard), run)
    return run


def _judged(run: Run, rows: int, latency_s: float, *options: str, **settings: Any) -> dict[str, Any]:
    with server("--latency", str(latency_s), *options) as judge:
        score(Score(judge=Judge(model="toy", base_url=judge.base_url, max_attempts=100), limit=rows, **settings), run)
        return judge.stats()


@contextmanager
def _many_cpus(count: int) -> Iterator[None]:
    """A local Ray that takes this machine to have so many CPUs: what is measured is waiting, not computing."""
    ray.shutdown()
    ray.init(address="local", num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
        connect.connect()
