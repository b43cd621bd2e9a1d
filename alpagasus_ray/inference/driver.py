"""The driver's side of work on shards: start the workers, show how it goes, stop cleanly when asked or when it is hopeless."""

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alpagasus_ray.engines.base import Rate
from alpagasus_ray.inference import failures
from alpagasus_ray.inference.coordinator import Cap, Coordinator, Snapshot
from alpagasus_ray.inference.counts import StopRule, errors, in_words
from alpagasus_ray.inference.metrics import DriverMetrics
from alpagasus_ray.inference.shards import in_calls, overlap
from alpagasus_ray.inference.spec import Job, Task
from alpagasus_ray.inference.worker import Finished, Worker
from alpagasus_ray.progress import Progress
from alpagasus_ray.raycluster import connect
from alpagasus_ray.terminal import say

POLL_S = 0.5
GRACE_S = 2.5
"""How long an interrupted driver waits for its workers to write down what they have; Ray gives a stopped job 3 s."""

Results = queue.Queue[Finished | BaseException | None]


@dataclass(frozen=True)
class RayCoordinator:
    """The coordinator in its actor."""

    actor: Any

    @classmethod
    def start(cls, rates: Sequence[Rate], cap: Cap | None) -> "RayCoordinator":
        """Start the actor beside the driver, whose end is the stage's end anyway."""
        # not on a worker's node: with a spot node limits, dollars and the memory of crashed rows would go away too
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(Coordinator).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote(rates, cap)
        return cls(actor)

    async def call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self.actor, method).remote(*arguments)
        except ray.exceptions.RayActorError:
            return None

    def ask(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """The same for the driver's threads; `RayError` where it cannot be reached."""
        return ray.get(getattr(self.actor, method).remote(*arguments), timeout=timeout_s)


def drive(jobs: Sequence[Job], tasks: Sequence[Task], cap: Cap | None, progress: Progress, rule: StopRule) -> None:
    """Do all tasks of jobs that have all but their places in common, on one pool of workers. What is done stays done where
    they could not all be: `StageFailed` has the reason, `BudgetReached` is raised when that is the cap, and `UsageError` when
    the workers find that what they are to work with is wrong."""
    free = connect.free()
    coordinator = RayCoordinator.start(jobs[0].spec.limits.rates, cap)
    look = Look(coordinator, progress, rule, DriverMetrics(jobs[0].home.name, cap.usd if cap else None))
    results: queue.Queue[Finished | BaseException | None] = queue.Queue()
    # Ray Data's iterator blocks, and is not to be interrupted in the middle: the main thread watches, and takes Ctrl-C
    threading.Thread(target=_consume, args=(jobs, tasks, coordinator, results), daemon=True).start()
    try:
        reason = _watch(results, look)
        seen: Snapshot = coordinator.ask("snapshot")
        look.show(seen)
    except KeyboardInterrupt:
        _wind_up(coordinator, results)
        raise KeyboardInterrupt(failures.INTERRUPTED) from None
    except BaseException:
        _wind_up(coordinator, results)
        raise
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            coordinator.ask("close_budget", timeout_s=GRACE_S)
    # the next stage, a training say, would find GPUs whose memory the engines' processes have not let go of yet
    if jobs[0].spec.pool.gpus:
        connect.wait_until(free)
    if reason is not None:
        raise failures.why_stopped(seen.kind, reason)


def _consume(jobs: Sequence[Job], tasks: Sequence[Task], coordinator: RayCoordinator, results: Results) -> None:
    """Feed results to the driver's thread, and at the end None or what ended it."""
    try:
        for finished in _run(jobs, tasks, coordinator):
            results.put(finished)
        results.put(None)
    except BaseException as error:  # noqa: BLE001 - handed to the driver's thread, which raises it
        results.put(error)


def _run(jobs: Sequence[Job], tasks: Sequence[Task], coordinator: RayCoordinator) -> Iterator[Finished]:
    """Do the tasks on a pool of workers; results come as they finish."""
    context, pool = ray.data.DataContext.get_current(), jobs[0].spec.pool
    # the driver shows rows, not blocks; what Ray Data has to tell stands in its own log files
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.enable_progress_bars = False
    # a shard may rightly take hours under a low rate limit or in an outage; progress is watched per row, not per block
    context.execution_no_progress_timeout_s = -1
    # by its own label of pools, Ray Data asks the autoscaler for nodes of that pool alone
    context.execution_options.label_selector = dict(pool.labels) or None
    at_a_time = overlap(jobs[0].spec.limits.concurrency, len(tasks), pool.most)
    calls = in_calls(tasks, at_a_time * pool.most)
    dataset = ray.data.from_items([{"tasks": json.dumps(call)} for call in calls], override_num_blocks=len(calls)).map_batches(
        Worker,
        fn_constructor_args=(jobs, coordinator),
        # a row is one call, whose shards the worker takes by itself
        batch_size=1,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
        compute=ray.data.ActorPoolStrategy(
            # all at once, so that the autoscaler hears of all: a pool that may grow gets none beyond what present nodes hold,
            # and Ray Data asks for more nodes only once calls have ended, which take hours. Work begins with the first worker;
            # those without a node wait, and one that has nothing left to do goes.
            size=min(pool.most, len(calls)),
            max_tasks_in_flight_per_actor=at_a_time,
            max_concurrent_calls_per_actor=at_a_time,
            enable_true_multi_threading=True,
        ),
    )
    for row in dataset.iter_rows():
        yield Finished(row["shard"], row["stopped"] or None)


def _watch(results: Results, look: "Look") -> str | None:
    """Show progress until all results are in; the answer is why some are missing, or None."""
    stopped: str | None = None
    looked = 0.0
    while True:
        with contextlib.suppress(queue.Empty):
            result = results.get(timeout=POLL_S)
            if result is None:
                return stopped
            if isinstance(result, BaseException):
                raise result
            stopped = stopped or result.stopped
        if time.monotonic() - looked >= POLL_S:
            looked = time.monotonic()
            # the coordinator may be away for a moment; it comes back
            with contextlib.suppress(ray.exceptions.RayActorError):
                look.once()


@dataclass(frozen=True)
class Look:
    """Looks at the coordinator, and tells the terminal, Ray's metrics, and the workers if there is no hope."""

    coordinator: RayCoordinator
    progress: Progress
    rule: StopRule
    metrics: DriverMetrics
    told: set[str] = field(default_factory=set)

    def once(self) -> None:
        seen = self.coordinator.ask("snapshot")
        self.show(seen)
        reason = self.rule(seen.counts)
        if reason is not None:
            self.coordinator.ask("stop", reason)

    def show(self, seen: Snapshot) -> None:
        done = seen.counts.rows
        self.progress.show(done, seen.counts.stored, in_words(seen.counts), errors(seen.counts))
        for note in seen.notes:
            if note not in self.told:
                self.told.add(note)
                say(f"note: {note}")
        self.metrics.publish(self.progress.left(done), seen.spent_usd)


def _wind_up(coordinator: RayCoordinator, results: Results) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        coordinator.ask("stop", "interrupted", timeout_s=GRACE_S)
    # results are taken until then, so that workers can write their ledgers; what is not written is lost with the process
    deadline = time.monotonic() + GRACE_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            result = results.get(timeout=left)
        except queue.Empty:
            return
        if result is None or isinstance(result, BaseException):
            return
