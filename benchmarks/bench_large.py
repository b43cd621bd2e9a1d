"""From a million rows on: what rating by a distilled judge, picking and reporting take, and what the driver holds.

    python benchmarks/bench_large.py --rows 100000,1000000

Rows are Alpaca's instructions and inputs, each with the output of another row, so that hardly any two are alike. Each step
runs in a process of its own, on one core and without Ray, and is measured by that process's own seconds and peak memory.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from alpagasus_ray.config import Arm, Clean, Distill, Ingest, Judge, Pick, Report, Score, TestSet
from alpagasus_ray.data.schema import EXAMPLES
from alpagasus_ray.stages.distill import distill
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.report import report
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Begun, FileEntry, Run, shard_name
from measure import ALPACA, RATINGS, ROOT, Table, machine

SHARD = 10_000
TESTS = ROOT.parent / "shared/data/test_sets"
LABELLED = Judge(kind="recorded", ratings=str(RATINGS), columns={"index": "alpaca_index", "score": "gpt-4o-mini"})


def make(folder: str, rows: int, alpaca: str) -> None:
    """A run of so many examples, with the judge that was distilled on Alpaca."""
    real, run = Run.open(alpaca), Run.open(folder)
    stage = real.examples()
    table = pa.concat_tables(stage.tables(stage.finished())).combine_chunks()
    home, dice = run.examples(), np.random.default_rng(0)
    begun, files = Begun(settings={"rows": rows}, inputs={}), []
    for number, start in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - start)
        part = table.take(pa.array(dice.integers(0, len(table), count)))
        columns = {name: part[name] for name in EXAMPLES.names}
        columns["output"] = table["output"].take(pa.array(dice.integers(0, len(table), count)))
        ids = [f"made:{row:09d}" for row in range(start, start + count)]
        columns |= {"example_id": pa.array(ids), "content_hash": pa.array(ids), "row": pa.array(range(start, start + count))}
        columns |= {"duplicate_of": pa.nulls(count, pa.string()), "record": pa.nulls(count, pa.string())}
        name = shard_name(number)
        written = home.storage.write_table(name, pa.table(columns).cast(EXAMPLES))
        files.append(FileEntry(name=name, rows=count, **written._asdict()))
    home.finish(home.build(begun, files))
    for name in ("model.npz", "fit.json", "manifest.json"):
        run.judge("student").storage.write(name, real.judge("student").storage.read(name))


def _label(folder: str) -> None:
    run = Run.open(folder)
    ingest(Ingest(source=f"{ALPACA}/*.json", name="alpaca"), run)
    distill(Distill(labels=1000, cut=3), Score(judge=LABELLED), run, in_process=True)


def _score(folder: str) -> None:
    score(Score(name="student", judge=Judge(kind="distilled", model="student")), Run.open(folder), in_process=True)


def _pick(tokens: int, clean: Clean | None = None, *, spread: bool = False) -> Callable[[str], None]:
    def work(folder: str) -> None:
        kind = f"{'near' if clean and clean.near else bool(clean)}-{spread}"
        selected = Arm(name=f"selected-{kind}", policy="top", tokens=tokens, spread="clusters" if spread else None)
        random = Arm(name=f"random-{kind}", policy="random", tokens=tokens)
        vectors: Literal["words", "none"] = "words" if spread else "none"
        pick_subset(Pick(ratings="student", arms=(selected, random), clean=clean, vectors=vectors), Run.open(folder))

    return work


def _report(folder: str) -> None:
    report(Report(arm="selected-True-True"), Run.open(folder))


def _tests() -> tuple[TestSet, ...]:
    return tuple(TestSet(name=file.stem, path=str(file)) for file in sorted(TESTS.glob("*test_set*")))


STEPS: dict[str, Callable[[str], None]] = {
    "score: distilled": _score,
    "pick: 10 million tokens": _pick(10_000_000),
    "pick: spread": _pick(10_000_000, spread=True),
    "pick: spread and clean of test sets": _pick(10_000_000, Clean(tests=_tests()), spread=True),
    "pick: near repeats": _pick(10_000_000, Clean(tests=(), near=0.8)),
    "report": _report,
}


class Measured(NamedTuple):
    """Seconds by the clock and of CPU, and the peak of resident memory, of one process."""

    wall: float
    cpu: float
    gib: float


def in_own_process(work: Callable[[str], None], folder: str) -> Measured:
    """What a fresh process takes for some work."""
    fresh = multiprocessing.get_context("spawn")
    told: multiprocessing.Queue[Measured] = fresh.Queue()
    process = fresh.Process(target=_measured, args=(work, folder, told))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"a process ended with {process.exitcode}")
    return told.get()


def _step(name: str, folder: str) -> None:
    STEPS[name](folder)


def _measured(work: Callable[[str], None], folder: str, told: "multiprocessing.Queue[Measured]") -> None:
    started = time.monotonic()
    work(folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # not ru_maxrss, which begins with what the process that started this one held
    [peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    told.put(Measured(time.monotonic() - started, used.ru_utime + used.ru_stime, int(peak) / 2**20))


def _row(table: Table, rows: int, name: str, folder: str) -> None:
    wall, seconds, gib = in_own_process(partial(_step, name), folder)
    table.row(name, f"{rows:,}", f"{wall:,.0f} s", f"{seconds:,.0f} s", f"{rows / seconds:,.0f}", f"{gib:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,1000000", help="comma-separated numbers of rows")
    parser.add_argument("--steps", default=",".join(STEPS), help="comma-separated steps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="alpagasus-large-") as work:
        alpaca = str(Path(work) / "alpaca")
        _label(alpaca)
        table = Table("Large datasets, one process and no Ray", "step", "rows", "wall", "CPU", "rows/s of CPU", "peak memory")
        for rows in map(int, options.rows.split(",")):
            folder = str(Path(work) / str(rows))
            make(folder, rows, alpaca)
            for name in options.steps.split(","):
                _row(table, rows, name, folder)
            if (page := Path(folder) / "report/index.html").exists():
                table.row("size of the report's page", f"{rows:,}", "", "", "", f"{page.stat().st_size / 1e6:.1f} MB")
    if options.json:
        print(json.dumps(table.as_json()))


if __name__ == "__main__":
    main()
