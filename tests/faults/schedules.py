"""A property over random schedules of faults: whatever the server does and whoever is killed, in the end every row is there
once, and what was billed twice is within the bound. A seed decides all that is up to us.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from alpagasus_ray.store.run import Run
from drivers import Driver
from faults.answers import ODD, TURNED_AWAY, UNKNOWN, Rule, rule
from faults.arena import COORDINATOR, WORKER, Arena
from faults.crashes import moments
from faults.findings import Finding, Pace
from loopback import LoopbackJudge

PASSING = (*TURNED_AWAY, *UNKNOWN, *ODD, "429, a fraction", "429, milliseconds", "429, nothing", "429, nonsense")
KILLS = ("driver", WORKER, COORDINATOR)
WORDS = {"driver": "driver killed", WORKER: "worker killed", COORDINATOR: "coordinator killed"}
MOST_FAULTY = 0.3
"""Share of requests that are spoiled, at most."""


@dataclass(frozen=True)
class Schedule:
    """What a seed stands for."""

    rules: list[Rule]
    kills: list[tuple[int, str]]
    """After so many requests, who."""
    rows_per_shard: int
    settings: dict[str, Any]


def draw(arena: Arena, rows: int) -> Schedule:
    """A random schedule."""
    chance = arena.random
    kinds = chance.sample(PASSING, chance.randint(1, 5))
    rules = [rule(kind, share=chance.uniform(0.01, MOST_FAULTY / len(kinds)), seed=chance.randrange(1000)) for kind in kinds]
    kills = [(moment, chance.choice(KILLS)) for moment in moments(arena, rows, chance.choice([0, 1, 1, 2]))]
    settings = {
        "concurrency": chance.choice([4, 8, 16]),
        "actors": chance.choice([1, 1, 2]),
        "judge.timeout_s": 1,
        "judge.max_attempts": 20,
    }
    return Schedule(rules, kills, chance.choice([50, 100, 200, 500]), settings)


def schedule(arena: Arena, rows: int) -> Finding:
    """Play a random schedule to its end."""
    drawn = draw(arena, rows)
    found, run = Finding("random schedule"), arena.toy(rows, drawn.rows_per_shard)
    server = arena.judge("--latency", "0.03", faults=drawn.rules)
    with Pace(server) as pace:
        driver = arena.start(run, server, drawn.settings)
        for moment, victim in drawn.kills:
            driver = _kill(arena, found, server, (driver, moment, victim)) or arena.start(run, server, drawn.settings)
        found.ended(driver.wait())
        _retry_set_aside(arena, found, run, server)
    in_flight = drawn.settings["concurrency"] * drawn.settings["actors"]
    crashes = found.faults[WORDS["driver"]] + found.faults[WORDS[WORKER]]
    found.faults += Counter(server.stats()["kinds"])
    found.count(run, server, bound=pace.bound(crashes, in_flight))
    return found


def _kill(arena: Arena, found: Finding, server: LoopbackJudge, blow: tuple[Driver, int, str]) -> Driver | None:
    """Strike when the moment comes; the driver, unless it is gone now."""
    driver, moment, victim = blow
    if not arena.wait(lambda: len(server.taken()) >= moment, driver):
        return driver
    if victim == "driver":
        driver.kill()
        found.faults[WORDS[victim]] += 1
        return None
    found.faults[WORDS[victim]] += arena.kill_one(victim, driver)
    return driver


def _retry_set_aside(arena: Arena, found: Finding, run: Run, server: LoopbackJudge) -> None:
    """A row that was under way at two deaths is set aside, rightly or not; asked again, it gets its rating."""
    manifest = run.ratings("judge").manifest()
    if manifest is None or not manifest.counts.get("failed"):
        return
    reasons = manifest.details["reasons"]
    found.expect(set(reasons) == {"deadly"}, f"rows failed: {reasons}")
    found.expect(found.faults[WORDS[WORKER]] > 1, "rows were set aside after fewer than two deaths")
    found.ended(arena.score(run, server, flags=("--retry-failed",)))
