"""Scenarios on an object store that hangs, or is killed and comes back with what it had acknowledged."""

import json
import os
import signal
import time

from alpagasus_ray.config import Ingest
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import LOCK, Run
from faults.arena import Arena
from faults.findings import Finding, Pace
from faults.object_store import ObjectStore

CONCURRENCY = 8
SETTINGS = {"concurrency": CONCURRENCY}


def away(arena: Arena, rows: int, seconds: float, *, killed: bool) -> Finding:
    """The store is away for a while in the middle of a run, which goes on, or stops with a message and then goes on."""
    what = "killed and started again" if killed else "hanging"
    found, store = Finding(f"s3: {what} for {seconds:g} s"), ObjectStore(arena.folder / "store", "toy")
    arena.at_end(store.close)
    server = arena.judge("--latency", "0.1")
    location, run = store.uri("run"), Run.open(store.uri("run"))
    ingest(Ingest(source=f"{os.path.dirname(arena.toy(rows).storage.root)}/toy.json", rows_per_shard=100), run)
    with Pace(server) as pace:
        driver = arena.start(location, server, SETTINGS)
        found.expect(arena.wait(lambda: len(server.taken()) > rows // 3, driver), "the run ended early")
        store.kill() if killed else store.stop()
        time.sleep(seconds)
        store.restart() if killed else store.go_on()
        ended, stops = driver.wait(), 0
        found.faults[f"store {what}"] += 1
        while ended.code and stops < 3:
            stops += 1
            found.expect(ended.message.count("error:") == 1 and "Traceback" not in ended.message, f"it said {ended.message}")
            arena.wait(lambda: not _is_locked(run))
            ended = arena.score(location, server, SETTINGS)
        found.faults["same command again"] += stops
        found.ended(ended)
        found.count(run, server, bound=pace.bound(stops, CONCURRENCY))
    return found


def replaced(arena: Arena, rows: int) -> Finding:
    """A driver is stopped in the middle of its work while its workers go on, another takes the run over, and the first one
    wakes up: it and its workers send nothing once the second one's do, and it ends with a message."""
    found, store = Finding("s3: a driver is stopped, replaced, and goes on"), ObjectStore(arena.folder / "store", "toy")
    arena.at_end(store.close)
    first, second = arena.judge("--latency", "0.3"), arena.judge("--latency", "0.3")
    location, run = store.uri("run"), Run.open(store.uri("run"))
    ingest(Ingest(source=f"{os.path.dirname(arena.toy(rows).storage.root)}/toy.json", rows_per_shard=50), run)
    with Pace(first, second) as pace:
        driver = arena.start(location, first, {"concurrency": 2})
        found.expect(arena.wait(lambda: len(first.taken()) > rows // 10, driver), "the run ended early")
        os.kill(driver.pid, signal.SIGSTOP)
        other = arena.start(location, second, {"concurrency": CONCURRENCY, "judge.other_address": True})
        found.expect(arena.wait(lambda: len(second.taken()) > 0, other), "the second driver did not begin")
        before = len(first.taken())
        os.kill(driver.pid, signal.SIGCONT)
        ended, done = driver.wait(), other.wait()
        found.faults["driver stopped and replaced"] += 1
    found.ended(ended, 1)
    found.expect("this driver has lost" in ended.message, f"the first one said: {ended.message}")
    found.expect(len(first.taken()) == before, "the first one paid after the second had begun")
    found.ended(done)
    found.count(run, first, second, bound=pace.bound(1, CONCURRENCY))
    return found


def _is_locked(run: Run) -> bool:
    """Whether a driver that could not let go of its lock, because the store was away, still seems to be there."""
    if not run.storage.exists(LOCK):
        return False
    return time.time() - float(json.loads(run.storage.read(LOCK))["time"]) < lock.STALE_S
