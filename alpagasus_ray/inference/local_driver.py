"""The driver's side of work on shards without Ray: one worker in this process, for inputs that are soon through.

The worker, its ledger, limits, retries and budget are those of a cluster; the coordinator is a plain object beside it.
"""

import gc
import json
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from alpagasus_ray.inference import failures
from alpagasus_ray.inference.coordinator import Cap, Coordinator
from alpagasus_ray.inference.counts import StopRule, errors, in_words
from alpagasus_ray.inference.shards import overlap
from alpagasus_ray.inference.spec import Job, Task
from alpagasus_ray.inference.worker import Worker
from alpagasus_ray.progress import Progress

LOOK_S = 0.1


class InProcess:
    """The coordinator in this process: the worker calls it from its event loop, the driver from its thread."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator, self._lock = coordinator, threading.Lock()

    async def call(self, method: str, *arguments: Any) -> Any:
        """What a worker calls."""
        return self.ask(method, *arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the driver calls."""
        with self._lock:
            return getattr(self._coordinator, method)(*arguments)


def drive(jobs: Sequence[Job], tasks: Sequence[Task], cap: Cap | None, progress: Progress, rule: StopRule) -> None:
    """Do all tasks, as `driver.drive` does on a cluster, and with the same errors."""
    # an engine that dies ends its process, which here is the user's
    assert not jobs[0].spec.engine.in_job, "a model in the job has workers of its own"
    coordinator = InProcess(Coordinator(jobs[0].spec.limits.rates, cap))
    # a worker sets them for its own process, and this one is the user's
    thresholds, switch_s = gc.get_threshold(), sys.getswitchinterval()
    worker = Worker(jobs, coordinator)
    try:
        with ThreadPoolExecutor(overlap(jobs[0].spec.limits.concurrency, len(tasks), workers=1)) as pool:
            calls = [pool.submit(worker, {"tasks": [json.dumps([task])]}) for task in tasks]
            try:
                while wait(calls, LOOK_S).not_done:
                    _look(coordinator, progress, rule)
            except KeyboardInterrupt:
                coordinator.ask("stop", "interrupted")
                # until the worker has written its ledger: what was received is paid for
                wait(calls)
                raise KeyboardInterrupt(failures.INTERRUPTED) from None
            reasons = [reason for call in calls for reason in call.result()["stopped"] if reason]
        _look(coordinator, progress, rule)
    finally:
        worker.close()
        coordinator.ask("close_budget")
        gc.unfreeze()  # what a worker's own process may keep for good, the user's may not
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(switch_s)
    if reasons:
        raise failures.why_stopped(coordinator.ask("snapshot").kind, reasons[0])


def _look(coordinator: InProcess, progress: Progress, rule: StopRule) -> None:
    seen = coordinator.ask("snapshot")
    progress.show(seen.counts.rows, seen.counts.stored, in_words(seen.counts), errors(seen.counts))
    reason = rule(seen.counts)
    if reason is not None:
        coordinator.ask("stop", reason)
