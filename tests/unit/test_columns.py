"""What arms are chosen by, as it is read from a run: joined by id, and no more of it in memory than is needed."""

import json
from pathlib import Path

import numpy as np
import pytest

from alpagasus_ray.config import Arm, Ingest, Judge, Pick, Score
from alpagasus_ray.errors import UsageError
from alpagasus_ray.picking import columns
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run


def _run(folder: Path, rows: int = 300) -> Run:
    kinds = ("coding", "math", "talk")
    records = [
        {"instruction": f"Say {n}.", "input": "", "output": "word " * (n % 7 + 1), "category": kinds[n % 3]}
        for n in range(rows)
    ]
    (folder / "rows.json").write_text(json.dumps(records))
    (folder / "known.csv").write_text("index,score\n" + "".join(f"{n},{n % 11 / 2}\n" for n in reversed(range(rows))))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json"), rows_per_shard=70, columns={"category": "category"}), run)
    score(Score(judge=Judge(kind="recorded", ratings=str(folder / "known.csv"))), run, in_process=True)
    return run


def test_columns_are_in_the_order_of_the_examples(tmp_path: Path) -> None:
    run = _run(tmp_path)
    examples, ratings = run.examples().finished("ingest"), run.ratings("judge").finished("score")
    loaded = columns.load(run, Pick(), examples, ratings)
    assert loaded.columns.score.tolist() == [n % 11 / 2 for n in range(300)]
    assert list(loaded.columns.category[:4]) == ["coding", "math", "talk", "coding"]
    assert [loaded.statuses[number] for number in np.unique(loaded.status)] == ["scored"]
    assert len(list(loaded.columns.ids)) == len(loaded.columns.ids) == 300


def test_budgets_shares_and_thresholds_of_categories_choose_what_they_say(tmp_path: Path) -> None:
    run = _run(tmp_path)
    arms = (
        Arm(name="tenth", policy="top", share=0.1),
        Arm(name="tokens", policy="top", tokens=200),
        Arm(name="control", policy="random"),
        Arm(name="mixed", policy="top", k=60, shares={"coding": 0.5}),
        Arm(name="cuts", policy="threshold", threshold=5, thresholds={"math": 4}),
    )
    tenth, tokens, control, mixed, cuts = pick_subset(Pick(arms=arms), run)
    assert tenth.rows == control.rows == 30
    assert 180 < tokens.details["tokens"]["kept"] <= 200
    by_category = {arm.stage: _categories(run, arm.stage) for arm in (mixed, cuts)}
    assert by_category["subsets/mixed"]["coding"] == 30 == mixed.rows - 30
    assert by_category["subsets/cuts"]["math"] > 2 * by_category["subsets/cuts"]["talk"]


def _categories(run: Run, stage: str) -> dict[str, int]:
    home = run.subset(stage.removeprefix("subsets/"))
    report = json.loads(home.storage.read("selection.json"))
    return {one["category"]: one["kept"] for one in report["categories"]}


def test_a_share_for_a_category_that_no_example_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'poetry', which no row has; there are: coding, math, talk"):
        pick_subset(Pick(arms=(Arm(name="a", policy="top", k=9, shares={"poetry": 0.5}),)), _run(tmp_path))
