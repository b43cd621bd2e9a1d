"""How often a run's storage is asked: a fixed number of times for each shard. docs/benchmarks.md states these numbers."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Arm, Ingest, Judge, Pick, Score
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from alpagasus_ray.store.storage import Storage

KINDS = {"read": "reads", "read_table": "reads", "write": "writes", "put": "writes", "exists": "looks", "names": "lists"}
SHARDS = (10, 30)


@contextmanager
def _counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Calls of a storage, each of which is a request to an object store."""
    calls: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for name, kind in KINDS.items():
            own = getattr(Storage, name)

            def call(self: Storage, *given: Any, own: Any = own, kind: str = kind, **named: Any) -> Any:
                calls[kind] += 1
                return own(self, *given, **named)

            patch.setattr(Storage, name, call)
        yield calls


def test_requests_a_shard_are_those_that_the_docs_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, list[Counter[str]]] = {}
    for shards in SHARDS:
        folder = tmp_path / str(shards)
        folder.mkdir()
        rows = [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(5 * shards)]
        (folder / "rows.json").write_text(json.dumps(rows))
        run = Run.open(str(folder / "run"))
        ingest(Ingest(source=str(folder / "rows.json"), rows_per_shard=5), run)
        with _counted(monkeypatch) as scoring:
            score(Score(judge=Judge(kind="rules")), run, in_process=True)
        with _counted(monkeypatch) as picking:
            pick_subset(Pick(arms=(Arm(name="top", policy="top", k=20),), vectors="none"), run)
        seen[shards] = [scoring, picking]
    few, many = (seen[shards] for shards in SHARDS)
    a_shard = [
        {kind: (more[kind] - some[kind]) / 20 for kind in ("reads", "writes", "looks", "lists")}
        for some, more in zip(few, many, strict=True)
    ]
    assert a_shard == [
        {"reads": 3, "writes": 2, "looks": 1, "lists": 0},
        {"reads": 9, "writes": 0, "looks": 0, "lists": 0},
    ]
