"""All fault scenarios, and what they are played with in the long matrix (`make faults`) and in the short one (`make test`)."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from faults import answers, crashes, disks, money, nodes, reruns, schedules, stores
from faults.arena import Arena, NotHere
from faults.findings import Finding

SEEDS = 50
Given = dict[str, Any]


class Scenario(NamedTuple):
    """One line of the table: a scenario, played once or several times."""

    name: str
    play: Callable[..., Finding]
    long: list[Given]
    short: Sequence[Given] = ()
    title: str = ""
    """Of the line, where it sums up several."""


def each(key: str, values: Any, **given: Any) -> list[Given]:
    """The same with each of some values."""
    return [{key: value, **given} for value in values]


MATRIX = (
    Scenario("worker", crashes.actor_kills, [{"rows": 2000, "kills": 4}]),
    Scenario("deadly", crashes.deadly_row, [{"rows": 1000}], [{"rows": 60}]),
    Scenario("loop", crashes.worker_dies_for_ever, [{"rows": 200}]),
    Scenario("coordinator", crashes.coordinator_kills, [{"rows": 2000, "kills": 4}], [{"rows": 150, "kills": 1}]),
    Scenario("node", nodes.node_kills, [{"rows": 1000, "kills": 2}], [{"rows": 150, "kills": 1}]),
    Scenario("driver", crashes.driver_kills, [{"rows": 2000, "kills": 6}], [{"rows": 150, "kills": 1}]),
    Scenario("driver_ray", crashes.driver_kills, [{"rows": 1500, "kills": 3, "own_ray": True}]),
    Scenario("cut_off", crashes.cut_off, each("how", ("SIGTERM", "SIGKILL"), rows=100), [{"rows": 40, "how": "SIGTERM"}]),
    Scenario(
        "driver_points",
        crashes.driver_failpoint,
        each("point", crashes.DRIVER_POINTS, rows=250),
        [{"rows": 60, "point": "before-delete:done:1"}],
        f"the driver dies at {len(crashes.DRIVER_POINTS)} points of its writes",
    ),
    Scenario(
        "worker_points",
        crashes.worker_failpoint,
        each("point", crashes.WORKER_POINTS, rows=250),
        [{"rows": 60, "point": "before-rename:part-*.parquet.json:1"}],
        f"a worker dies at {len(crashes.WORKER_POINTS)} points of its writes",
    ),
    Scenario(
        "ingest_points",
        reruns.ingest_failpoint,
        each("point", reruns.INGEST_POINTS, rows=1000),
        [{"rows": 250, "point": "before-rename:manifest.json:1"}],
        f"ingest dies at {len(reruns.INGEST_POINTS)} points of its writes",
    ),
    Scenario(
        "rescore_points",
        reruns.rescore_failpoint,
        each("point", reruns.RESCORE_POINTS, rows=250),
        [{"rows": 60, "point": "before-delete:manifest.json:1"}],
        title=f"--rescore dies at {len(reruns.RESCORE_POINTS)} points of its writes",
    ),
    Scenario(
        "pick_points",
        reruns.pick_failpoint,
        each("point", reruns.PICK_POINTS, rows=250),
        [{"rows": 60, "point": "before-rename:manifest.json:2"}],
        title=f"pick_subset dies at {len(reruns.PICK_POINTS)} points of its writes",
    ),
    Scenario("two_drivers", crashes.two_drivers, [{"rows": 500}], [{"rows": 100}]),
    Scenario("mixed", answers.mixed, [{"rows": 8 * len(answers.kinds())}], [{"rows": len(answers.kinds())}]),
    Scenario(
        "single",
        answers.single,
        each("kind", answers.kinds(), rows=60),
        [{"rows": 50, "kind": "500"}],
        f"server: each of {len(answers.kinds())} kinds of fault alone, every fifth request",
    ),
    Scenario("server", answers.crash_of_the_server, [{"rows": 600, "seconds": 10}], [{"rows": 60, "seconds": 1}]),
    Scenario(
        "outage",
        answers.outage,
        each("down", ("503", "500", "hang", "429, nothing"), rows=600, seconds=15),
        title="server: every request ends badly for 15 s, in 4 ways",
    ),
    Scenario("stopped", answers.stopped_in_trouble, [{"rows": 300}], [{"rows": 60}]),
    Scenario("retried", answers.failed_and_retried, [{"rows": 300}], [{"rows": 60}]),
    Scenario("full_disk", disks.full_disk, [{"rows": 2000}], [{"rows": 300}]),
    Scenario("full_disk_cap", disks.full_disk, [{"rows": 2000, "capped": True}]),
    Scenario(
        "read_only",
        disks.read_only,
        each("below", (".", "ratings"), rows=100),
        [{"rows": 30, "below": "."}],
        "read-only run, read-only stage",
    ),
    Scenario(
        "ledger",
        disks.ledger_damage,
        each("kind", disks.DAMAGE, rows=200),
        [{"rows": 60, "kind": "a segment is cut in half"}],
        f"ledger: {', '.join(disks.DAMAGE)}",
    ),
    Scenario("wrong_key", money.wrong_key, [{"rows": 500}], [{"rows": 100}]),
    Scenario("cap", money.half, [{"rows": 1000}], [{"rows": 150}]),
    Scenario(
        "cap_usage",
        money.false_usage,
        [{"kinds": [kind], "rows": 200} for kind in money.USAGES] + [{"kinds": money.USAGES, "rows": 800}],
        [{"kinds": money.USAGES, "rows": 120}],
        f"a cap, and usage that is not true in {len(money.USAGES)} ways, each alone and all mixed",
    ),
    Scenario("cap_kills", money.with_kills, [{"rows": 1500, "kills": 4}]),
    Scenario("cap_faults", money.with_faults, [{"rows": 1000}]),
    Scenario("cap_points", money.spend_file, [{"rows": 300, "point": "before-rename:spend.json:6"}]),
    Scenario(
        "s3",
        stores.away,
        [{"rows": 600, "seconds": s, "killed": killed} for s in (5, 30) for killed in (False, True)],
        [{"rows": 100, "seconds": 2, "killed": True}],
        "s3: hangs, or is killed and started again, for 5 s and for 30 s",
    ),
    Scenario("replaced", stores.replaced, [{"rows": 600}]),
    Scenario(
        "random",
        schedules.schedule,
        each("seed", range(1, SEEDS + 1), rows=500),
        [{"seed": 7, "rows": 150}],
        f"random schedules of faults and kills, {SEEDS} seeds",
    ),
)


def play(scenario: Scenario, given: Given, ray_address: str) -> Finding:
    """Play it once, in an arena of its own; an unforeseen error is a broken promise too."""
    rest = {key: value for key, value in given.items() if key != "seed"}
    seed = given.get("seed", random.Random(scenario.name).randrange(2**32))
    with Arena(ray_address, seed) as arena:
        try:
            found = scenario.play(arena, **rest)
        except NotHere:
            raise
        except Exception as error:  # noqa: BLE001
            found = Finding(scenario.name, broken=[f"{type(error).__name__}: {error}"])
    if "seed" in given:
        found.scenario += f", seed {seed}"
    return found


def short() -> Iterator[tuple[Scenario, Given]]:
    """What `make test` plays."""
    for scenario in MATRIX:
        for given in scenario.short:
            yield scenario, given
