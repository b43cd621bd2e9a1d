"""The same small work on every shard of a stage: in this process, or as Ray tasks where there are many rows."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from alpagasus_ray.store.run import FileEntry, Manifest, StageDir

IN_PROCESS = 1_000_000
"""Up to so many rows the start of Ray and the way to its workers cost more than they bring."""
AHEAD = 2
"""Tasks for each CPU that are handed out at a time: their results wait for their turn in memory."""
T = TypeVar("T")
Work = Callable[[StageDir, FileEntry], T]


def map_shards(work: Work[T], stage: StageDir, listed: Manifest, *, in_process: bool = False) -> Iterator[T]:
    """What `work` makes of each of the stage's parts, in order. `in_process` starts no Ray, however many rows there are."""
    entries = listed.parts()
    if in_process or listed.rows <= IN_PROCESS:
        yield from (work(stage, entry) for entry in entries)
    else:
        yield from _by_ray(work, stage, entries)


def _by_ray(work: Work[T], stage: StageDir, entries: list[FileEntry]) -> Iterator[T]:
    import ray

    from alpagasus_ray.raycluster import connect

    connect.connect()
    task, reader = ray.remote(_work).options(num_cpus=1), ray.put((work, stage))
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    waiting: deque[Any] = deque()
    for entry in entries:
        waiting.append(task.remote(reader, entry))
        if len(waiting) >= most:
            yield ray.get(waiting.popleft())
    while waiting:
        yield ray.get(waiting.popleft())


def _work(both: tuple[Work[Any], StageDir], entry: FileEntry) -> Any:
    work, stage = both
    return work(stage, entry)
