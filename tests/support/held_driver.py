"""A driver with one worker in a process of its own, on storage that has no locks, and with a lock that is stale after 2 s.

    python tests/support/held_driver.py RUN LOG

The worker "pays" for each row by a line in LOG, and commits shard after shard. Ends with 0 when all is done, and with 1 and a
message when the run is lost.
"""

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.engines.base import Engine, Rate, Reply, ReplyForm, Request
from alpagasus_ray.errors import AlpagasusError
from alpagasus_ray.inference import lock_guard, shards
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.spec import AskSpec, Job
from alpagasus_ray.store import lease, lock, object_lock
from alpagasus_ray.store.run import Begun, Run
from alpagasus_ray.terminal import say

SECONDS = {
    "BEAT_S": 0.2,
    "STALE_S": 2.0,
    "TRUSTED_S": 1.0,
    "SETTLE_S": 0.05,
    "LOOK_EVERY_S": 0.1,
    "WATCH_S": 0.05,
    "LOOK_S": 0.1,
}
ROW_S = 0.05
STARTS = 5


class Paying:
    """Answers after a line in the log."""

    address, stated = "toy", Rate()

    def __init__(self, log: str, driver: int) -> None:
        self._log, self._driver = log, driver

    async def complete(self, request: Request) -> Reply:
        self._note(f"{self._driver} {request.key}\n")
        await asyncio.sleep(ROW_S)
        return Reply(f"4 by {os.getpid()}")

    def _note(self, line: str) -> None:
        with open(self._log, "a", encoding="utf-8") as stream:
            stream.write(line)


@dataclass(frozen=True)
class Work:
    """One request a row."""

    log: str
    driver: int
    """Process of the driver, in whose name every worker of it pays."""
    schema = RATINGS
    form = ReplyForm()

    def open_engines(self) -> Sequence[Engine]:
        return [Paying(self.log, self.driver)]

    def request(self, row: Mapping[str, Any]) -> Request:
        return Request(row["example_id"], [], row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        text = outcome.reply.text if outcome.reply else None
        found = {"attempts": 1, "maybe_billed_twice": 0, "finish_reason": "stop"}
        return {"example_id": row["example_id"], "status": "scored", "reply": text, "request_hash": request.key, **found}


def in_a_hurry() -> None:
    """Make the lock's seconds short."""
    for module in (lease, lock, object_lock, lock_guard):
        for name, seconds in SECONDS.items():
            if hasattr(module, name):
                setattr(module, name, seconds)


async def _work(job: Job) -> None:
    (engine,) = lock_guard.while_held(job.work.open_engines(), job.lease)
    assert job.lease is not None
    threading.Thread(target=_look, args=(job.lease,), daemon=True).start()
    for shard in job.backlog.open([entry.shard for entry in job.source.finished().parts()]):
        results = []
        for row in shards.rows_of(job.source.storage.read_table(shard)):
            request = job.work.request(row)
            results.append(job.work.result(row, request, Outcome(await engine.complete(request), None, 1, 0.1)))
        shards.commit(job, shard, results, job.ledger(shard))


def _look(held_by: lease.Lease) -> None:
    while True:
        held_by.look()
        time.sleep(SECONDS["BEAT_S"] / 2)


def _drive(location: str, log: str) -> None:
    with lock.held(Run.open(location)) as run:
        home = run.ratings("judge")
        judge = Judge(model="toy", max_attempts=3, max_outage_s=1.0)
        job = Job(
            Work(log, os.getpid()), AskSpec.of(Score(judge=judge, concurrency=1), judge), run.examples(), home, home.storage
        )
        home.begin(Begun(settings={}, inputs={}))
        found = job.backlog.records()
        with tempfile.NamedTemporaryFile() as told:
            pickle.dump(job, told)
            told.flush()
            for _ in range(STARTS):  # a worker that was kept from its lock for too long stops; another goes on
                if subprocess.run([sys.executable, __file__, "--worker", told.name], check=False).returncode == 0:
                    break
        files = job.backlog.done(found)
        home.finish(home.build(Begun(settings={}, inputs={}), files, ["scored"]))


def main() -> int:
    in_a_hurry()
    try:
        if sys.argv[1] == "--worker":
            with open(sys.argv[2], "rb") as told:
                job = pickle.load(told)
            asyncio.run(_work(job))
        else:
            _drive(*sys.argv[1:])
    except (AlpagasusError, FileNotFoundError) as error:  # a worker that comes after its driver finds no orders
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    # as the module that is imported, so that what is pickled has the same name in both processes
    import held_driver

    sys.exit(held_driver.main())
