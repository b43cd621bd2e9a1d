"""Scenarios with money: a cap that is reached, kills under a cap, a key that is wrong."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from alpagasus_ray.store.storage import FAILPOINT
from faults.answers import rule
from faults.arena import COORDINATOR, WORKER, Arena
from faults.crashes import moments
from faults.findings import Finding, Pace
from judge_faults import FALSE_USAGE
from loopback import LoopbackJudge
from toy_runs import ratings

CONCURRENCY = 8
TOKENS = (300, 12)
PRICE = {"input": 10.0, "output": 30.0}
EACH = (TOKENS[0] * PRICE["input"] + TOKENS[1] * PRICE["output"]) / 1e6
"""What every billed request costs."""
USAGES = ("no_usage", *FALSE_USAGE)
"""What a server may say of a request that it did and bills."""
SETTINGS: dict[str, Any] = {"concurrency": CONCURRENCY, "judge.price": PRICE, "judge.max_tokens": 64}
JUDGE = ("--latency", "0.1", "--tokens", f"{TOKENS[0]},{TOKENS[1]}")


def spent(server: LoopbackJudge) -> float:
    """Dollars, by the server's own log of what it did; what replies say of it has no part in that."""
    return sum(prompt * PRICE["input"] + made * PRICE["output"] for prompt, made, _ in server.bill()) / 1e6


def false_usage(arena: Arena, rows: int, kinds: Sequence[str]) -> Finding:
    """Replies whose usage is not true, each kind in its turn: what the server bills stays under the cap all the same, and no
    row costs less than nothing."""
    rules = [{"kind": kind, "match": "Say the number", "every": len(kinds) - n} for n, kind in enumerate(kinds)]
    found, run = Finding(f"usage: {', '.join(kinds)}"), arena.toy(rows)
    server, cap = arena.judge(*JUDGE, faults=rules), rows / 2 * EACH
    found.ended(arena.score(run, server, {**SETTINGS, "max_cost_usd": cap}), 3)
    found.spend(spent(server), cap)
    found.ended(arena.score(run, server, {**SETTINGS, "max_cost_usd": 100 * cap}))
    found.faults = Counter(server.stats()["kinds"])
    found.count(run, server, bound=0)
    costs = ratings(run)["cost_usd"].to_pylist()
    found.expect(min(costs) >= 0, f"a row costs ${min(costs)}")
    found.expect(sum(costs) >= spent(server) * (1 - 1e-9), f"rows cost ${sum(costs):.4f}, billed are ${spent(server):.4f}")
    return found


def half(arena: Arena, rows: int) -> Finding:
    """A cap at half the cost: a clean stop, most of the cap used, and the rest once it is raised."""
    found, run, server = Finding("a cap at half the cost"), arena.toy(rows), arena.judge(*JUDGE)
    cap = rows / 2 * EACH
    stopped = arena.score(run, server, {**SETTINGS, "max_cost_usd": cap})
    found.ended(stopped, 3)
    found.spend(spent(server), cap, least=0.9)
    found.expect(stopped.report.get("rows_left") == rows - len(server.billed()), f"rows left: {stopped.report}")
    found.expect(run.ratings("judge").manifest() is None, "there was a manifest at the cap")
    found.ended(arena.score(run, server, {**SETTINGS, "max_cost_usd": 4 * cap}))
    found.faults["cap reached"] += 1
    found.count(run, server, bound=0)
    return found


def with_kills(arena: Arena, rows: int, kills: int) -> Finding:
    """Drivers, workers and the coordinator are killed under a cap at half the cost: what was lent counts as spent, so the cap
    holds and may be reached early; in the end, with more money, all rows are there."""
    found, run, server = Finding("kills under a cap"), arena.toy(rows), arena.judge(*JUDGE)
    cap = rows / 2 * EACH
    settings = {**SETTINGS, "max_cost_usd": cap}
    with Pace(server) as pace:
        for moment in moments(arena, rows // 3, kills):
            driver = arena.start(run, server, settings)
            if arena.wait(lambda moment=moment: len(server.taken()) >= moment, driver):  # type: ignore[misc]
                victim = arena.random.choice(["driver", WORKER, COORDINATOR])
                if victim != "driver" and arena.kill_one(victim, driver):
                    found.faults[f"{'worker' if victim == WORKER else 'coordinator'} killed"] += 1
                    arena.wait(lambda moment=moment: len(server.taken()) > moment + 5, driver)  # type: ignore[misc]
                driver.kill()
                found.faults["driver killed"] += 1
            found.expect(spent(server) <= cap, f"${spent(server)} were spent after a kill")
        found.ended(arena.score(run, server, settings), 3)
        found.spend(spent(server), cap)
        found.ended(arena.score(run, server, {**SETTINGS, "max_cost_usd": 10 * cap}))
    found.count(run, server, bound=pace.bound(sum(found.faults.values()), CONCURRENCY))
    return found


def with_faults(arena: Arena, rows: int) -> Finding:
    """Under a cap, what may have been billed without an answer is paid for too."""
    kinds = ("500", "disconnect", "cut_json", "429, a fraction")
    server = arena.judge(*JUDGE, faults=[rule(kind, share=0.1, seed=n) for n, kind in enumerate(kinds)])
    found, run, cap = Finding("faults under a cap"), arena.toy(rows), rows / 2 * EACH
    found.ended(arena.score(run, server, {**SETTINGS, "max_cost_usd": cap, "judge.max_attempts": 20}), 3)
    found.spend(spent(server), cap)
    found.ended(arena.score(run, server, {**SETTINGS, "max_cost_usd": 10 * cap, "judge.max_attempts": 20}))
    found.faults = Counter(server.stats()["kinds"])
    found.count(run, server, bound=0)
    return found


def spend_file(arena: Arena, rows: int, point: str) -> Finding:
    """The coordinator dies while it writes down what is spent."""
    found, run, server = Finding(f"the coordinator dies at {point}"), arena.toy(rows), arena.judge(*JUDGE)
    cap = rows / 2 * EACH
    settings = {**SETTINGS, "max_cost_usd": cap}
    ended = arena.score(run, server, settings, own_ray=True, environment={FAILPOINT: point})
    found.faults["coordinator killed, again and again"] += 1
    found.expect(ended.code in (1, 3), f"exit code {ended.code}: {ended.message}")
    found.ended(arena.score(run, server, settings), 3)
    found.spend(spent(server), cap)
    found.ended(arena.score(run, server, {**SETTINGS, "max_cost_usd": 10 * cap}))
    found.count(run, server, bound=0)
    return found


def wrong_key(arena: Arena, rows: int) -> Finding:
    """A key that the server refuses is told before anything is asked, with one message; nothing is tried again."""
    found, run, server = Finding("a wrong key"), arena.toy(rows), arena.judge("--key", "right", *JUDGE)
    ended = arena.score(run, server, {"concurrency": CONCURRENCY, "judge.api_key_env": "WRONG_KEY"})
    refused = server.stats()["wrong_key"]
    found.ended(ended, 2)
    found.faults["401"] = refused
    found.expect(refused <= CONCURRENCY, f"{refused} requests were sent with a wrong key")
    found.expect(not server.taken(), f"{len(server.taken())} requests got through")
    errors = [line for line in ended.message.splitlines() if line.startswith("error:")]
    found.expect(len(errors) == 1 and "refuses the key" in ended.message, f"it said: {ended.message}")
    found.expect("a-wrong-key" not in ended.message, "the message holds the key")
    again = arena.judge(*JUDGE)
    found.ended(arena.score(run, again, {"concurrency": CONCURRENCY}))
    found.count(run, again, bound=0)
    return found
