"""Scenarios in which processes die: workers, the coordinator, drivers, at random moments and at every point of a write."""

from pathlib import Path

from alpagasus_ray.store.storage import FAILPOINT
from faults import sabotage
from faults.arena import COORDINATOR, WORKER, Arena
from faults.findings import Finding, Pace, torn
from toy_runs import prompt_hashes, ratings

CONCURRENCY = 8
SETTINGS = {"concurrency": CONCURRENCY}
LATENCY = ("--latency", "0.1")


def moments(arena: Arena, rows: int, kills: int) -> list[int]:
    """Random numbers of requests taken, in order, at which something is to happen."""
    return sorted(arena.random.sample(range(1, int(0.9 * rows)), kills))


def actor_kills(arena: Arena, rows: int, kills: int) -> Finding:
    """SIGKILL of a judge's worker at random moments."""
    found, run, server = Finding("a worker is killed"), arena.toy(rows), arena.judge(*LATENCY)
    with Pace(server) as pace:
        driver = arena.start(run, server, SETTINGS)
        for moment in moments(arena, rows, kills):
            if arena.wait(lambda moment=moment: len(server.taken()) >= moment, driver):  # type: ignore[misc]
                found.faults["worker killed"] += arena.kill_one(WORKER, driver)
        ended = driver.wait()
    found.ended(ended)
    found.count(run, server, bound=pace.bound(found.faults["worker killed"], CONCURRENCY))
    return found


def coordinator_kills(arena: Arena, rows: int, kills: int) -> Finding:
    """SIGKILL of the actor that counts and hands out: the run goes on without a break, and nothing is asked again."""
    found, run, server = Finding("the coordinator is killed"), arena.toy(rows), arena.judge(*LATENCY)
    driver = arena.start(run, server, {**SETTINGS, "requests_per_minute": 60_000})
    for moment in moments(arena, rows, kills):
        if arena.wait(lambda moment=moment: len(server.taken()) >= moment, driver):  # type: ignore[misc]
            found.faults["coordinator killed"] += arena.kill_one(COORDINATOR, driver)
    ended = driver.wait()
    found.ended(ended)
    found.count(run, server, bound=0)
    return found


def driver_kills(arena: Arena, rows: int, kills: int, *, own_ray: bool = False) -> Finding:
    """SIGKILL of the driver at random moments; the same command goes on, at once or when the workers are gone."""
    name = "the driver and its Ray are killed" if own_ray else "the driver is killed"
    found, run, server = Finding(name), arena.toy(rows), arena.judge(*LATENCY)
    with Pace(server) as pace:
        for moment in moments(arena, rows, kills):
            driver = arena.start(run, server, SETTINGS, own_ray=own_ray)
            if arena.wait(lambda moment=moment: len(server.taken()) >= moment, driver):  # type: ignore[misc]
                driver.kill()
                found.faults["driver killed"] += 1
            if arena.random.random() < 0.5:
                arena.until_quiet()
                found.expect(not torn(run), f"partial output was visible: {torn(run)}")
            found.expect(run.ratings("judge").manifest() is None, "there was a manifest before the end")
        ended = arena.score(run, server, SETTINGS, own_ray=own_ray)
    found.ended(ended)
    found.count(run, server, bound=pace.bound(kills, CONCURRENCY))
    return found


def cut_off(arena: Arena, rows: int, how: str) -> Finding:
    """A run is ended while requests are under way that take longer than any grace: each that is bought again is counted, by
    the row itself, with nothing allowed besides."""
    found, run = Finding(f"requests under way are cut off by {how}"), arena.toy(rows)
    server = arena.judge("--latency", "6")
    driver = arena.start(run, server, SETTINGS)
    arena.wait(lambda: len(server.taken()) >= CONCURRENCY, driver)
    if how == "SIGKILL":
        driver.kill()
    else:
        driver.terminate()
    code = driver.wait().code
    found.expect(code == (-9 if how == "SIGKILL" else 1), f"exit code {code}")
    found.faults[f"driver ended by {how}"] += 1
    arena.until_quiet()
    server.control(latency=0.05)
    found.ended(arena.score(run, server, SETTINGS))
    found.count(run, server, bound=0)
    found.expect(found.billed_twice > 0, "nothing was cut off")
    return found


DRIVER_POINTS = (
    "after-rename:stage.json:1",
    "before-rename:manifest.json:1",
    "after-rename:manifest.json:1",
    "before-delete:stage.json:1",
    "before-delete:done:1",
    "before-delete:ledger:1",
    "before-rename:recipe.yaml:1",
)
"""Where a driver can die between two steps of its own."""
WORKER_POINTS = (
    "before-rename:part-*.parquet:1",
    "after-rename:part-*.parquet:1",
    "before-rename:part-*.parquet.json:1",
    "after-rename:part-*.parquet.json:1",
    "before-delete:part-*:1",
    "before-rename:*.jsonl:1",
    "after-rename:*.jsonl:2",
)
"""Where a worker can die: at a shard's output, its commit record, its ledger."""


def driver_failpoint(arena: Arena, rows: int, point: str) -> Finding:
    """The driver kills itself at a point of its own writes; the same command finishes, and asks nothing again."""
    found, run, server = Finding(f"the driver dies at {point}"), arena.toy(rows), arena.judge(*LATENCY)
    ended = arena.score(run, server, SETTINGS, environment={FAILPOINT: point})
    found.ended(ended, -9)
    found.faults["driver killed"] += 1
    found.expect(not torn(run), f"partial output was visible: {torn(run)}")
    again = arena.score(run, server, SETTINGS)
    found.ended(again)
    found.count(run, server, bound=0)
    return found


def worker_failpoint(arena: Arena, rows: int, point: str, workers: int = 1) -> Finding:
    """The first workers kill themselves at a point of their writes; the next one finishes, within the bound."""
    found, run, server = Finding(f"workers die at {point}"), arena.toy(rows), arena.judge(*LATENCY)
    given = {sabotage.IN_WORKERS: point, sabotage.MOST: str(workers), sabotage.DEATHS: str(arena.folder / "deaths")}
    with Pace(server) as pace:
        ended = arena.score(run, server, SETTINGS, prepare=sabotage.failpoint_in_workers, environment=given)
    found.faults["worker killed"] = workers
    found.expect(_lines(arena.folder / "deaths") == workers, "the failpoint was not reached")
    found.ended(ended)
    found.count(run, server, bound=pace.bound(workers, CONCURRENCY))
    return found


def worker_dies_for_ever(arena: Arena, rows: int) -> Finding:
    """Every worker dies when it commits: after some deaths the stage stops and says so; nothing is asked a second time."""
    found, run, server = Finding("every worker dies at a commit"), arena.toy(rows), arena.judge(*LATENCY)
    deaths = arena.folder / "deaths"
    given = {sabotage.IN_WORKERS: "before-rename:part-*.parquet:1", sabotage.MOST: "1000", sabotage.DEATHS: str(deaths)}
    with Pace(server) as pace:
        stopped = arena.score(run, server, SETTINGS, prepare=sabotage.failpoint_in_workers, environment=given)
    found.faults["worker killed"] = _lines(deaths)
    found.ended(stopped, 1)
    found.expect("died" in stopped.message, f"it does not say that workers died: {stopped.message}")
    found.ended(arena.score(run, server, SETTINGS))
    found.count(run, server, bound=pace.bound(1, CONCURRENCY))
    return found


def two_drivers(arena: Arena, rows: int) -> Finding:
    """A second driver on the same run is refused, and sends nothing."""
    found, run, server = Finding("two drivers at once"), arena.toy(rows), arena.judge(*LATENCY)
    other = arena.judge(*LATENCY)
    first = arena.start(run, server, SETTINGS)
    arena.wait(lambda: len(server.taken()) > rows // 10, first)
    second = arena.score(run, other, SETTINGS)
    found.ended(second, 1)
    found.expect("another driver is working on" in second.message, f"the second driver said: {second.message}")
    found.expect(not other.taken(), f"the second driver sent {len(other.taken())} requests")
    found.faults["second driver"] += 1
    ended = first.wait()
    found.ended(ended)
    found.count(run, server, bound=0)
    return found


def deadly_row(arena: Arena, rows: int) -> Finding:
    """A row that kills its worker every time is set aside after two deaths; all others are rated."""
    found, run, server = Finding("a row kills its worker every time"), arena.toy(rows), arena.judge(*LATENCY)
    deaths, number = arena.folder / "deaths", arena.random.randrange(rows)
    with Pace(server) as pace:
        deadly = {sabotage.DEADLY: f"Say the number {number}.", sabotage.DEATHS: str(deaths)}
        ended = arena.score(run, server, SETTINGS, prepare=sabotage.deadly_row, environment=deadly)
    found.faults["worker killed"] = _lines(deaths)
    found.expect(_lines(deaths) == 2, f"{_lines(deaths)} workers died")
    found.ended(ended)
    found.count(run, server, bound=pace.bound(2, CONCURRENCY), failed=1)
    table = ratings(run).to_pylist()
    found.expect(table[number]["status"] == "failed", f"the row is {table[number]['status']}")
    found.expect(str(table[number]["error"]).startswith("deadly"), f"its reason: {table[number]['error']}")
    found.expect(prompt_hashes(run)[number] not in server.taken(), "the row was sent")
    return found


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
