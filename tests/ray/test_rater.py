"""A judge in somebody's own Ray Data pipeline, and rows that come from a cluster."""

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import ray.data

import alpagasus_ray as ag
from alpagasus_ray.errors import UsageError
from loopback import JudgeStarter

ROWS = [
    {"instruction": f"Name {n} fruits.", "input": "", "output": ", ".join(["apple"] * n), "topic": "odd" if n % 2 else "even"}
    for n in range(1, 41)
]


@pytest.fixture
def pipeline() -> Callable[[], ray.data.Dataset]:
    return lambda: ray.data.from_items(ROWS, override_num_blocks=8)


def test_a_rater_rates_the_batches_of_a_pipeline_and_pays_once_however_they_are_cut(
    judge: JudgeStarter, pipeline: Callable[[], ray.data.Dataset], tmp_path: Path
) -> None:
    server = judge("--latency", "0.02")
    rater = ag.Rater(judge="toy", base_url=server.base_url, folder=tmp_path / "kept")
    rows = pipeline().map_batches(rater, concurrency=4).take_all()
    assert {row["topic"] for row in rows} == {"odd", "even"}
    assert len(rows) == len(ROWS)
    assert all(0 <= row["score"] <= 5 and row["reason"] is None for row in rows)
    assert len(server.taken()) == len(ROWS)
    kwargs = {"judge": "toy", "base_url": server.base_url, "folder": str(tmp_path / "kept")}
    again = pipeline().map_batches(
        ag.Rater,
        fn_constructor_kwargs=kwargs,
        batch_size=3,
        batch_format="pandas",
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    scores = {row["instruction"]: row["score"] for row in again.take_all()}
    assert scores == {row["instruction"]: row["score"] for row in rows}
    assert len(server.taken()) == len(ROWS)


def test_a_ray_dataset_is_rated_on_its_cluster(
    judge: JudgeStarter, pipeline: Callable[[], ray.data.Dataset], tmp_path: Path
) -> None:
    server = judge()
    rated = ag.rate(pipeline(), "toy", base_url=server.base_url, run=tmp_path / "run")
    assert sorted(row["instruction"] for row in rated.records) == sorted(row["instruction"] for row in ROWS)
    assert rated.unscored == {}
    assert len(server.taken()) == len(ROWS)
    here = ray.get_runtime_context().gcs_address
    assert ag.rate(ROWS, kind="rules", run=tmp_path / "other", ray=here).unscored == {}
    with pytest.raises(UsageError, match="this process is on the cluster at"):
        ag.rate(ROWS, kind="rules", ray="127.0.0.1:1")
