"""A run whose arms are published subsets of Alpaca, and a random control of the smaller one's size.

Who is a member is told by ratings: 5 for a record of the published file and 0 for all others, joined by the text of a record,
so that the arms are picked as any others are.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpagasus_ray.config import Arm, Ingest, Judge, Pick, Score
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run

SELECTED, CONTROL, LARGE = "helpfulness_t45", "random_2k", "random_9k"
"""The published selection (2,022 records), as many drawn at random, the published random control (9,229 records)."""
FIELDS = ("instruction", "input", "output")


def published_arms(folder: Path, shared: Path) -> Run:
    """All of Alpaca, rated by membership, and the three arms. Ray has to be up."""
    run = Run.open(str(folder / "published"))
    ingest(Ingest(source=str(shared / "alpaca52k" / "*.json"), name="alpaca"), run)
    controls = {SELECTED: (Arm(name=CONTROL, policy="random"),), LARGE: ()}
    for name, more in controls.items():
        ratings = folder / f"{name}.csv"
        _write_ratings(run, shared / "published_subsets" / f"{name}.json", ratings)
        score(Score(name=name, judge=Judge(kind="recorded", ratings=str(ratings))), run)
        pick_subset(Pick(ratings=name, arms=(Arm(name=name, policy="threshold", threshold=4.5), *more)), run)
    return run


def _write_ratings(run: Run, published: Path, target: Path) -> None:
    members = {_text(record) for record in json.loads(published.read_text())}
    rated = [(row["example_id"], 5 if _text(row) in members else 0) for row in _examples(run)]
    found = sum(rating == 5 for _, rating in rated)
    assert found == len(members), f"{found} of the {len(members)} records of {published.name} are in Alpaca"
    with target.open("w", newline="") as stream:
        csv.writer(stream).writerows([("example_id", "score"), *rated])


def _text(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(record[field] for field in FIELDS)


def _examples(run: Run) -> Iterator[dict[str, Any]]:
    stage = run.examples()
    for table in stage.tables(stage.finished(), ["example_id", *FIELDS]):
        yield from table.to_pylist()
