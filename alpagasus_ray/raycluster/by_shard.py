"""The same work on each shard of a stage, or on each part of some other whole: in this process, or as Ray tasks where there are
many rows."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from alpagasus_ray.store.run import FileEntry, Manifest, StageDir

IN_PROCESS = 1_000_000
"""Up to so many rows the start of Ray and the way to its workers cost more than they bring."""
AHEAD = 2
"""Tasks for each CPU that are handed out at a time: their results wait for their turn in memory."""
Item = TypeVar("Item")
T = TypeVar("T")
Work = Callable[[StageDir, FileEntry], T]


def map_shards(work: Work[T], stage: StageDir, listed: Manifest, *, in_process: bool = False) -> Iterator[T]:
    """What `work` makes of each of the stage's parts, in order. `in_process` starts no Ray, however many rows there are."""
    return map_items(partial(work, stage), listed.parts(), rows=listed.rows, in_process=in_process)


def map_items(work: Callable[[Item], T], items: Sequence[Item], *, rows: int, in_process: bool = False) -> Iterator[T]:
    """What `work` makes of each item, in order. What `work` holds is sent once and shared: arrays are not copied for each task.
    `rows`: of the whole, by which it is decided where the work is done."""
    if in_process or rows <= IN_PROCESS:
        yield from map(work, items)
    else:
        yield from _by_ray(work, items)


def _by_ray(work: Callable[[Item], T], items: Sequence[Item]) -> Iterator[T]:
    import ray

    from alpagasus_ray.raycluster import connect

    connect.connect()
    task, sent = ray.remote(_work).options(num_cpus=1), ray.put(work)
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(task.remote(sent, item))
        if len(waiting) >= most:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


def _work(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)
