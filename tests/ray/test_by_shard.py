"""Work on shards by Ray's workers comes to the same as in one process: vectors, clusters, signatures, bands, a small judge."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from alpagasus_ray.config import Arm, Clean, Distill, Ingest, Judge, Pick, Score, TestSet
from alpagasus_ray.distill import saved
from alpagasus_ray.inference.pointers import expected_scores
from alpagasus_ray.raycluster import by_shard
from alpagasus_ray.stages.distill import distill
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run

ROWS = 600


def _run(folder: Path) -> Run:
    dice, words = np.random.default_rng(0), "river bank water song choir tempo loop class list stone green market".split()
    rows = [{"instruction": " ".join(dice.choice(words, 12)), "input": "", "output": f"{n} it is, " * 9} for n in range(ROWS)]
    rows[500] = {**rows[20], "output": rows[20]["output"] + "indeed"}
    rows[77]["instruction"] = "Name the eight longest rivers of the whole northern world"
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "tests.jsonl").write_text(json.dumps({"id": 1, "instruction": rows[77]["instruction"]}) + "\n")
    (folder / "known.csv").write_text("index,score\n" + "".join(f"{n},{n % 6}\n" for n in range(ROWS)))
    made = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json"), rows_per_shard=50), made)
    judge = Judge(kind="recorded", ratings=str(folder / "known.csv"))
    score(Score(judge=judge), made, in_process=True)
    distill(Distill(ratings="judge"), Score(judge=judge), made, in_process=True)
    return made


def _picked(run: Run, folder: Path) -> tuple[list[str], dict[str, object]]:
    clean = Clean(tests=(TestSet(name="t", path=str(folder / "tests.jsonl")),), near=0.8)
    arm = Arm(name="a", policy="top", k=150, spread="clusters")
    [made] = pick_subset(Pick(arms=(arm,), clean=clean), run)
    chosen = pa.concat_tables(run.subset("a").tables(made))["example_id"].to_pylist()
    student, examples = saved.of_run(run, "student").student, run.examples()
    scores = expected_scores(student, examples, examples.finished())
    return chosen, {"clean": made.details["clean"], "breadth": made.details["breadth"], "scores": scores.tolist()}


def test_what_is_mapped_over_shards_and_bands_is_the_same_on_ray_as_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "ray"):
        (tmp_path / name).mkdir()
    alone = _picked(_run(tmp_path / "one"), tmp_path / "one")
    monkeypatch.setattr(by_shard, "IN_PROCESS", 0)
    assert _picked(_run(tmp_path / "ray"), tmp_path / "ray") == alone
    assert (alone[1]["clean"]["contaminated"], alone[1]["clean"]["near_repeats"]) == (1, 1)  # type: ignore[index]


def test_results_come_in_order_and_what_fails_there_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_shard, "IN_PROCESS", 0)
    offset = np.arange(200_000)
    assert list(by_shard.map_items(lambda n: int(offset[n]) * 2, range(40), rows=1)) == [2 * n for n in range(40)]
    with pytest.raises(ZeroDivisionError):
        list(by_shard.map_items(lambda n: 1 // n, [1, 0], rows=1))
