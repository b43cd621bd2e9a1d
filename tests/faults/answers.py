"""Scenarios in which the judge's server misbehaves: it turns requests away, breaks replies, goes away for a while."""

import time
from collections import Counter
from typing import Any

from alpagasus_ray.store.run import Run
from drivers import Ended
from faults.arena import Arena
from faults.findings import Finding
from loopback import LoopbackJudge
from toy_runs import ratings

Rule = dict[str, Any]
CONCURRENCY = 16
SETTINGS = {"concurrency": CONCURRENCY, "judge.timeout_s": 1, "judge.max_attempts": 8}
RETRY_AFTER: dict[str, Any] = {
    "seconds": 1,
    "a fraction": "0.3",
    "a date": {"date_in_s": 1},
    "milliseconds": {"ms": 200},
    "a reset time": {"reset": "250ms"},
    "two that differ": {"after": 2, "ms": 100},
    "nothing": None,
    "nonsense": "soon",
}
TURNED_AWAY = ("409", "425", "503, to come back later", "529", "error_429")
"""Nothing was done: such a request may be repeated at no cost."""
UNKNOWN = (
    "408",
    "500",
    "502",
    "503",
    "504",
    "error_500",
    "finish_error",
    "disconnect",
    "slow_body",
    "cut_body",
    "cut_json",
    "html",
    "empty_choices",
    "hang",
)
"""The work may have been done, and here it was: the server counts it as billed."""
ODD = {"refusal": "refused", "truncated": "scored", "no_usage": "scored"}
"""Answers that are none to read a score from, or that lack something; they are paid for and not asked again."""
SLOW_S = 3.0
"""How long `slow_body` and `hang` last: beyond the timeout."""


def kinds() -> list[str]:
    """All single faults, by the names of the table."""
    return [f"429, {form}" for form in RETRY_AFTER] + [*TURNED_AWAY, *UNKNOWN, *ODD]


def rule(kind: str, **when: Any) -> Rule:
    """A server's rule for a fault of this name."""
    if kind.startswith("429"):
        return {"kind": "429", "retry_after": RETRY_AFTER[kind.removeprefix("429, ")], **when}
    if kind.startswith("503,"):
        return {"kind": "503", "retry_after": "0.2", **when}
    return {"kind": kind, **({"delay_s": SLOW_S} if kind in ("slow_body", "hang") else {}), **when}


def single(arena: Arena, rows: int, kind: str, every: int = 5) -> Finding:
    """One kind of fault, in bursts: every n-th request, retries among them."""
    server = arena.judge("--latency", "0.02", faults=[rule(kind, every=every)])
    return _faulty(arena, arena.toy(rows), server, Finding(f"server: {kind}"), Counter({kind: rows // every}))


def mixed(arena: Arena, rows: int) -> Finding:
    """All kinds in one run: each row meets one of them, at its first request."""
    run, every_kind = arena.toy(rows), kinds()
    met = [every_kind[number % len(every_kind)] for number in range(rows)]
    rules = [rule(kind, match=f"number {number}.\n", first=1) for number, kind in enumerate(met)]
    server = arena.judge("--latency", "0.02", faults=rules)
    return _faulty(arena, run, server, Finding("server: all kinds, mixed"), Counter(met))


def _faulty(arena: Arena, run: Run, server: LoopbackJudge, found: Finding, met: Counter[str]) -> Finding:
    # a server that hangs is waited for as long as a request may take; from others an answer comes, however busy this machine is
    ended = arena.score(run, server, SETTINGS if "hang" in met else {**SETTINGS, "judge.timeout_s": 20})
    _finish(found, run, server, ended)
    statuses = Counter(ratings(run)["status"].to_pylist())
    for kind, status in ODD.items():
        if status != "scored" and kind in met:
            least = met[kind]
            found.expect(statuses[status] >= least, f"{statuses[status]} rows are {status}, not at least {least}")
    if not set(met) & set(UNKNOWN):
        found.expect(found.bound == 0, f"{found.bound} requests count as maybe billed twice, though none can be")
    return found


def _finish(found: Finding, run: Run, server: LoopbackJudge, ended: Ended) -> None:
    found.ended(ended)
    found.faults += Counter({f"{kind}": count for kind, count in server.stats()["kinds"].items()})
    found.count(run, server, bound=0)


def crash_of_the_server(arena: Arena, rows: int, seconds: float) -> Finding:
    """The server is killed and comes back on the same port after a while; nothing fails, and the run goes on."""
    found, run, server = Finding(f"server: killed, back after {seconds:g} s"), arena.toy(rows), arena.judge("--latency", "0.1")
    driver = arena.start(run, server, SETTINGS)
    arena.wait(lambda: len(server.taken()) > rows // 3, driver)
    server.kill()
    before = len(server.taken())
    time.sleep(seconds)
    found.expect(driver.is_alive, "the run ended while its server was away")
    server.restart()
    ended = driver.wait()
    found.expect(len(server.taken()) > before, "the run was through before the server was killed")
    _finish(found, run, server, ended)
    found.faults["server killed"] += 1
    return found


def outage(arena: Arena, rows: int, down: str, seconds: float) -> Finding:
    """For a while every request ends the same bad way."""
    found, run, server = Finding(f"server: {down} for {seconds:g} s"), arena.toy(rows), arena.judge("--latency", "0.1")
    driver = arena.start(run, server, SETTINGS)
    arena.wait(lambda: len(server.taken()) > rows // 3, driver)
    server.control(down=rule(down))
    time.sleep(seconds)
    found.expect(driver.is_alive, "the run ended in the outage")
    server.control(down=None)
    _finish(found, run, server, driver.wait())
    return found


def stopped_in_trouble(arena: Arena, rows: int) -> Finding:
    """A run is stopped (SIGTERM) while rows wait for another attempt: their earlier ones stay counted as maybe billed."""
    found, run, server = Finding("server: 500, then the run is stopped"), arena.toy(rows), arena.judge(faults=[rule("500")])
    driver = arena.start(run, server, {**SETTINGS, "judge.max_attempts": 100})
    arena.wait(lambda: len(server.taken()) > CONCURRENCY, driver)
    driver.terminate()
    found.ended(driver.wait(), 1)
    server.control(faults=[])
    _finish(found, run, server, arena.score(run, server, SETTINGS))
    return found


def failed_and_retried(arena: Arena, rows: int) -> Finding:
    """Rows fail for good after attempts that may have been billed, and are asked again later: the count goes on."""
    found, run, server = Finding("server: 500, rows fail, --retry-failed"), arena.toy(rows), arena.judge()
    server.control(faults=[rule("500", match="7.\n")])
    found.ended(arena.score(run, server, {**SETTINGS, "judge.max_attempts": 2, "max_failed": 1}))
    found.expect("failed" in run.ratings("judge").finished().counts, "no row failed")
    server.control(faults=[])
    _finish(found, run, server, arena.score(run, server, SETTINGS, flags=("--retry-failed",)))
    return found
