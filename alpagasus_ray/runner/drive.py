"""The driver's side of work on shards: start the workers, show how it goes, stop cleanly when asked or when it is hopeless."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import ray
import ray.exceptions

from alpagasus_ray.errors import StageFailed
from alpagasus_ray.runner.board import Board, BoardHandle
from alpagasus_ray.runner.progress import Progress
from alpagasus_ray.runner.shards import Finished, Job, Task, run

POLL_S = 0.5
GRACE_S = 2.5
"""How long an interrupted driver waits for its workers to write down what they have; Ray gives a stopped job 3 s."""

Verdict = Callable[[Mapping[str, int]], str | None]
"""Looks at the counts so far and says why to stop, or None."""


def drive(job: Job, tasks: Sequence[Task], actors: int, progress: Progress, hopeless: Verdict) -> None:
    """Do all tasks. Raises `StageFailed` with the reason when they could not all be done; what is done stays done."""
    board = Board.remote()  # type: ignore[attr-defined]
    results: queue.Queue[Finished | BaseException | None] = queue.Queue()
    threading.Thread(target=_consume, args=(job, tasks, actors, board, results), daemon=True).start()
    try:
        reason = _watch(board, results, progress, hopeless)
    except KeyboardInterrupt:
        _wind_up(board, results)
        raise StageFailed("interrupted; every reply received so far is kept, and the same command goes on from here") from None
    except BaseException:
        _wind_up(board, results)
        raise
    if reason is not None:
        raise StageFailed(f"stopped: {reason}. What is done is kept, and the same command goes on from here")


def _consume(
    job: Job, tasks: Sequence[Task], actors: int, board: BoardHandle, results: "queue.Queue[Finished | BaseException | None]"
) -> None:
    """Feed results to the driver's thread, and at the end None or what ended it."""
    try:
        for finished in run(job, tasks, actors, board):
            results.put(finished)
        results.put(None)
    except BaseException as error:  # noqa: BLE001 - handed to the driver's thread, which raises it
        results.put(error)


def _watch(
    board: BoardHandle, results: "queue.Queue[Finished | BaseException | None]", progress: Progress, hopeless: Verdict
) -> str | None:
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
            _look(board, progress, hopeless)


def _look(board: BoardHandle, progress: Progress, hopeless: Verdict) -> None:
    counts, _ = ray.get(board.snapshot.remote())
    progress.show(counts.get("rows", 0), counts)
    reason = hopeless(counts)
    if reason is not None:
        ray.get(board.stop.remote(reason))


def _wind_up(board: BoardHandle, results: "queue.Queue[Finished | BaseException | None]") -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(board.stop.remote("interrupted"), timeout=GRACE_S)
    deadline = time.monotonic() + GRACE_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            result = results.get(timeout=left)
        except queue.Empty:
            return
        if result is None or isinstance(result, BaseException):
            return
