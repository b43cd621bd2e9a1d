"""Scenarios in which a job dies at a point of its writes that does not send anything: ingest, reading again, picking."""

import shutil
from pathlib import Path

from alpagasus_ray.store.run import Run
from alpagasus_ray.store.storage import FAILPOINT
from drivers import Ended
from faults.arena import Arena
from faults.findings import Finding
from toy_runs import ids, ratings

INGEST_POINTS = (
    "before-rename:part-*.parquet:1",
    "after-rename:part-*.parquet:2",
    "before-rename:manifest.json:1",
    "after-rename:manifest.json:1",
    "before-rename:recipe.yaml:1",
)


def ingest_failpoint(arena: Arena, rows: int, point: str) -> Finding:
    """`jobs/ingest.py` dies at a point of its writes; the same command makes what an undisturbed one makes."""
    found, run = Finding(f"ingest dies at {point}"), arena.toy(rows)
    again = Run.open(f"{run.storage.root}-again")
    source = str(Path(run.storage.root).parent / "toy.json")
    arguments = ["--run", again.storage.root, "--set", f"ingest.source={source}", "--set", "ingest.rows_per_shard=100"]
    found.ended(arena.start_job("ingest", arguments, {FAILPOINT: point}).wait(), -9)
    found.faults["driver killed"] += 1
    found.ended(arena.start_job("ingest", arguments).wait())
    out = ids(again)
    found.rows, found.lost, found.twice = rows, len(set(ids(run)) - set(out)), len(out) - len(set(out))
    same = again.examples().finished().content_hash() == run.examples().finished().content_hash()
    found.expect(same, "the examples differ from those of an undisturbed ingest")
    again.examples().verify(again.examples().finished())
    return found


RESCORE_POINTS = (
    "after-rename:stage.json:1",
    "before-delete:manifest.json:1",
    "before-rename:part-*.parquet:2",
    "after-rename:part-*.parquet:1",
    "before-rename:manifest.json:1",
)


def rescore_failpoint(arena: Arena, rows: int, point: str) -> Finding:
    """`--rescore` dies half way; nothing can be mixed with what it left, and the same command makes the ratings whole."""
    found, run, server = Finding(f"--rescore dies at {point}"), arena.toy(rows), arena.judge()
    found.ended(arena.score(run, server))
    before = ratings(run).to_pylist()
    found.ended(arena.score(run, server, flags=("--rescore",), environment={FAILPOINT: point}), -9)
    found.faults["driver killed"] += 1
    if run.ratings("judge").manifest() is None:
        found.ended(arena.score(run, server), 2)
    found.ended(arena.score(run, server, flags=("--rescore",)))
    found.expect(ratings(run).to_pylist() == before, "the ratings read again differ")
    found.count(run, server, bound=0)
    return found


PICK_POINTS = (
    "before-rename:subset.json:1",
    "after-rename:part-*.parquet:1",
    "before-rename:manifest.json:2",
    "after-rename:manifest.json:1",
)


ARMS = "pick.arms=[{name: one, policy: top, k: 20}, {name: two, policy: random}]"


def pick_failpoint(arena: Arena, rows: int, point: str) -> Finding:
    """`jobs/pick_subset.py` dies at a point of its writes; the same command writes what an undisturbed one writes."""
    found, run, server = Finding(f"pick_subset dies at {point}"), arena.toy(rows), arena.judge()
    found.ended(arena.score(run, server))
    calm = Run.open(shutil.copytree(run.storage.root, f"{run.storage.root}-calm"))
    found.ended(_pick(arena, calm), 0)
    found.ended(_pick(arena, run, environment={FAILPOINT: point}), -9)
    found.faults["driver killed"] += 1
    found.ended(_pick(arena, run))
    for arm in ("one", "two"):
        files = [place.subset(arm).finished().files for place in (calm, run)]
        found.expect(files[0] == files[1], f"arm {arm} differs from that of an undisturbed call")
    found.count(run, server, bound=0)
    return found


def _pick(arena: Arena, run: Run, environment: dict[str, str] | None = None) -> Ended:
    return arena.start_job("pick_subset", ["--run", run.storage.root, "--set", ARMS], environment).wait()
