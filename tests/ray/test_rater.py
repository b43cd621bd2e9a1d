"""A judge in somebody's own Ray Data pipeline, and rows that come from a cluster."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
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


def test_a_rater_takes_each_kind_of_batch_and_says_why_a_row_has_no_score(tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow as pa

    rater = ag.Rater(kind="rules", folder=tmp_path)
    rows = [*ROWS[:2], {"instruction": "", "input": "", "output": "x", "topic": "none"}]
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for batch in (arrays, pd.DataFrame(rows), pa.Table.from_pylist(rows)):
        done = rater(batch)
        assert type(done) is type(batch)
        scores, reasons = (list(map(_plain, done[name])) for name in ("score", "reason"))
        assert [score is None or np.isnan(score) for score in scores] == [False, False, True]
        assert reasons[:2] == [None, None]
        assert reasons[2].startswith("no example")


def _plain(value: object) -> object:
    return value.as_py() if hasattr(value, "as_py") else value


def test_a_rater_refuses_what_it_cannot_keep_for_all_rows() -> None:
    with pytest.raises(UsageError, match=r"ag\.rate\(ds, max_cost_usd=…\) can"):
        ag.Rater(judge="toy", max_cost_usd=5)
    with pytest.raises(UsageError, match="did you mean 'concurrency'"):
        ag.Rater(judge="toy", concurency=5)
