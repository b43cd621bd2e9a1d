"""All measurements, side by side in one run; `make bench` writes the tables to docs/benchmarks.md.

    python benchmarks/run.py [--only NAME,…] [--write FILE] [--json]

The judge is a real HTTP server on loopback in a process of its own, which shares this machine's cores with what is measured.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

import pyarrow as pa
import ray
from bench_race import bench_race
from bench_report import bench_report
from bench_training import bench_arms, bench_gpu, bench_packing, bench_trainer

from alpagasus_ray.config import Ingest, Judge, Score
from alpagasus_ray.judging import rubric
from alpagasus_ray.raycluster import connect
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from bench_client import LATENCY_S, bench_api, bench_client, bench_ledger
from bench_cluster import bench_coordinator, bench_nodes, bench_planner
from bench_compare import bench_compare
from bench_limits import bench_adaptive, bench_limiter, bench_rate
from bench_vllm import bench_answers, bench_processor, bench_replies, bench_vllm
from judge_server import message_hash
from measure import ALPACA, GIB, RATINGS, ROOT, PeakMemory, Table, copy_examples, machine, server, timed

ROWS = 52_002


def bench_rules(run: Run, work: Path) -> Table:
    from scipy.stats import spearmanr

    table = Table("The offline judge over 52,002 rows", "what", "figure")
    copied = copy_examples(run, work / "rules")
    started = time.monotonic()
    score(Score(judge=Judge(kind="rules")), copied)
    table.row("rate all, after Ray has started", f"{timed(started):.1f} s")
    started = time.monotonic()
    score(Score(judge=Judge(kind="rules")), copied)
    table.row("the same command again", f"{timed(started):.3f} s")
    stage = copied.ratings("judge")
    mine = pa.concat_tables(stage.tables(stage.finished(), ["score"]))["score"].to_pylist()
    with RATINGS.open() as stream:
        theirs = list(csv.DictReader(stream))
    judges = [name for name in theirs[0] if name != "alpaca_index"]
    for judge in judges:
        table.row(
            f"rank correlation (Spearman) with {judge}", f"{spearmanr(mine, [float(row[judge]) for row in theirs])[0]:.3f}"
        )
    for first, second in ((0, 1), (0, 2), (1, 2)):
        a, b = judges[first], judges[second]
        both = spearmanr([float(row[a]) for row in theirs], [float(row[b]) for row in theirs])[0]
        table.row(f"for comparison: {a} with {b}", f"{both:.3f}")
    return table


def bench_scale(run: Run, work: Path) -> Table:
    columns = ("rows", "ingest s", "rows/s", "driver MiB", "rules s", "rows/s", "driver MiB", "judge actor MiB")
    table = Table("Time and memory against rows (Alpaca's rows again and again, made different)", *columns)
    for rows in (ROWS, 250_000, 1_000_000):
        source = work / f"rows-{rows}.jsonl"
        _many_rows(run, source, rows)
        grown = Run.open(str(work / f"grown-{rows}"))
        cells = [f"{rows:,}"]
        with PeakMemory() as memory:
            started = time.monotonic()
            ingest(Ingest(source=str(source)), grown)
            seconds = timed(started)
        cells += [f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{memory.of('driver') / GIB * 1024:.0f}"]
        with PeakMemory() as memory:
            started = time.monotonic()
            score(Score(judge=Judge(kind="rules")), grown)
            seconds = timed(started)
        cells += [f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{memory.of('driver') / GIB * 1024:.0f}"]
        table.row(*cells, f"{memory.of('MapBatches') / GIB * 1024:.0f}")
        source.unlink()
        shutil.rmtree(work / f"grown-{rows}")
    return table


def _many_rows(run: Run, target: Path, rows: int) -> None:
    examples = run.examples()
    fields = ["instruction", "input", "output"]
    originals = [row for shard in examples.tables(examples.finished(), fields) for row in shard.to_pylist()]
    with target.open("w") as stream:
        for number in range(rows):
            row = originals[number % len(originals)]
            stream.write(json.dumps({**row, "instruction": f"{row['instruction']} ({number // len(originals)})"}) + "\n")


def bench_whole(run: Run, work: Path) -> Table:
    """All 52,002 rows in one go, and with the driver killed half way; the recorded scores are the server's replies."""
    table = Table("All 52,002 rows by API, 512 in flight; driver killed (SIGKILL) half way", "what", "figure")
    scores, hashes = _recorded_replies(run, work / "scores.json")
    log = work / "accepted.log"
    target = copy_examples(run, work / "whole")
    with server("--latency", str(LATENCY_S), "--scores", str(work / "scores.json"), "--log", str(log)) as judge:
        command = [sys.executable, str(ROOT / "jobs/score.py"), "--run", target.storage.root, "--json"]
        command += ["--set", "score.judge.model=toy", "--set", f"score.judge.base_url={judge.base_url}"]
        command += ["--set", "score.concurrency=512"]
        driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        while not log.exists() or log.read_bytes().count(b"\n") < ROWS // 2:
            time.sleep(0.2)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        time.sleep(5)
        before = log.read_text().splitlines()
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        taken = Counter(line.split()[0] for line in log.read_text().splitlines())
    stage = target.ratings("judge")
    ratings = pa.concat_tables(stage.tables(stage.finished(), ["example_id", "score"]))
    wanted = [float(scores[key]) for key in hashes]
    table.row("requests taken when the driver died", f"{len(before):,}")
    table.row("rows without a rating after the second call", ROWS - len(ratings))
    table.row(
        "rows whose score is not the server's", sum(a != b for a, b in zip(ratings["score"].to_pylist(), wanted, strict=True))
    )
    table.row("requests never sent", len(set(hashes) - set(taken)))
    table.row("requests sent twice (bound: 512 in flight + 2 s of replies)", sum(taken.values()) - len(taken))
    table.row("second call", f"{json.loads(again.stdout.splitlines()[-1])['call_seconds']:.1f} s")
    return table


def _recorded_replies(run: Run, target: Path) -> tuple[dict[str, int], list[str]]:
    with RATINGS.open() as stream:
        recorded = [int(row["gpt-4o-mini"]) for row in csv.DictReader(stream)]
    asked = rubric.load("accuracy")
    examples = run.examples()
    rows = (row for shard in examples.tables(examples.finished()) for row in shard.to_pylist())
    hashes = [message_hash(asked.messages(row)[-1]["content"]) for row in rows]
    scores = dict(zip(hashes, recorded, strict=True))
    target.write_text(json.dumps(scores))
    return scores, hashes


BENCHES: dict[str, Callable[[Run, Path], Table]] = {
    "api": bench_api,
    "client": bench_client,
    "ledger": bench_ledger,
    "rules": bench_rules,
    "whole": bench_whole,
    "scale": bench_scale,
    "limiter": bench_limiter,
    "nodes": bench_nodes,
    "planner": bench_planner,
    "coordinator": bench_coordinator,
    "rate": bench_rate,
    "adaptive": bench_adaptive,
    "vllm": bench_vllm,
    "replies": bench_replies,
    "answers": bench_answers,
    "processor": bench_processor,
    "packing": bench_packing,
    "trainer": bench_trainer,
    "arms": bench_arms,
    "gpu": bench_gpu,
    "compare": bench_compare,
    "report": bench_report,
    "race": bench_race,
}


WITHOUT_RAY = {"race"}
"""Those that start Ray themselves, where they need it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHES), help="comma-separated names")
    parser.add_argument("--write", metavar="FILE", help="write the tables to this Markdown file")
    parser.add_argument("--json", action="store_true", help="print the tables as one JSON object on the last line of stdout")
    options = parser.parse_args()
    if not ALPACA.exists():
        sys.exit(f"the benchmarks need the real Alpaca rows at {ALPACA.relative_to(ROOT.parent)}")
    os.environ["OPENAI_API_KEY"] = "unused"
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        tables = _measure(options.only.split(","))
    if options.write:
        text = [f"Measured on {machine()}, ray {ray.__version__}, by `make bench`.", ""]
        Path(options.write).write_text("\n\n".join(["\n".join(text), *("\n".join(table.lines) for table in tables)]) + "\n")
    if options.json:
        about = {"machine": machine(), "ray": ray.__version__}
        print(json.dumps({**about, "tables": [table.as_json() for table in tables]}, ensure_ascii=False))


def _measure(names: Sequence[str]) -> list[Table]:
    print(f"{machine()}, ray {ray.__version__}")
    with tempfile.TemporaryDirectory(prefix="alpagasus-bench-") as folder:
        work = Path(folder)
        run = Run.open(str(work / "alpaca"))
        ingest(Ingest(source=f"{ALPACA}/*.json", name="alpaca"), run)
        if set(names) - WITHOUT_RAY:
            connect.connect()
        return [BENCHES[name](run, work) for name in names]


if __name__ == "__main__":
    main()
