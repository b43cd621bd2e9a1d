"""What arms are chosen by, as it is read from a run: joined by id, and no more of it in memory than is needed."""

import json
from pathlib import Path

import numpy as np
import pytest

from alpagasus_ray.config import Arm, Clean, Ingest, Judge, Pick, Score, TestSet
from alpagasus_ray.errors import UsageError
from alpagasus_ray.pick_inputs import columns
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
    examples, ratings = run.examples().finished(), run.ratings("judge").finished()
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


def _dropped(run: Run, arm: str) -> dict[str, str]:
    """Why each row was dropped, by its number."""
    home = run.subset(arm)
    files = [entry.name for entry in home.finished().files if entry.name.startswith("dropped-")]
    rows = [row for name in files for row in home.storage.read_table(name).to_pylist()]
    return {row["example_id"].rsplit("#")[-1].rsplit(":")[-1]: row["reason"] for row in rows}


def _scored(folder: Path, records: list[dict[str, str]], scores: list[float | None]) -> Run:
    (folder / "rows.json").write_text(json.dumps(records))
    known = "".join(f"{n},{score}\n" for n, score in enumerate(scores) if score is not None)
    (folder / "known.csv").write_text("index,score\n" + known)
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json")), run)
    score(Score(judge=Judge(kind="recorded", ratings=str(folder / "known.csv"))), run, in_process=True)
    return run


def test_of_near_repeats_no_row_that_is_dropped_anyway_counts_as_the_kept_one(tmp_path: Path) -> None:
    long, other = (" ".join(f"{word}{n}" for n in range(120)) for word in ("river", "stone"))
    prompt = "Name the eight longest rivers of the whole northern world"
    rows = [
        ("Tell.", long + " indeed"),
        ("Tell.", long),
        ("Tell.", long),
        (prompt, other),
        ("Say more.", other),
        ("Go.", "x y z"),
    ]
    run = _scored(tmp_path, [{"instruction": a, "input": "", "output": b} for a, b in rows], [2, 3, 4, 5, 3, 1])
    (tmp_path / "tests.jsonl").write_text(json.dumps({"id": 1, "instruction": prompt}) + "\n")
    clean = Clean(tests=(TestSet(name="t", path=str(tmp_path / "tests.jsonl")),), near=0.8)
    pick_subset(Pick(arms=(Arm(name="a", policy="threshold", threshold=1),), clean=clean), run)
    kept = json.loads(run.subset("a").storage.read("subset.json"))
    assert [(row["instruction"], row["output"]) for row in kept] == [rows[1], rows[4], rows[5]]
    reasons = list(_dropped(run, "a").values())
    assert reasons[0].startswith("nearly repeats")
    assert reasons[1].startswith("an exact duplicate")
    assert reasons[2].startswith("test set t")


def test_a_test_prompt_in_an_earlier_turn_or_a_system_text_is_found_and_like_last_turns_alone_are_no_repeat(
    tmp_path: Path,
) -> None:
    prompt = "Name the eight longest rivers of the whole northern world"
    ending = [{"role": "user", "content": "And now in French, please."}, {"role": "assistant", "content": "word " * 40 + "end"}]
    talks: list[list[dict[str, str]]] = [
        [
            {"role": "user", "content": f"First {n}. " + " ".join(f"w{n}x{i}" for i in range(60))},
            {"role": "assistant", "content": "Yes."},
        ]
        for n in range(4)
    ]
    talks[0][0]["content"] = prompt.upper()
    talks[1][1]["content"] = f"I was asked: {prompt}?"
    talks[2].insert(0, {"role": "system", "content": prompt})
    talks.append([dict(turn) for turn in talks[3]])
    talks[4][1]["content"] = "Yes!"
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps({"messages": [*talk, *ending]}) + "\n" for talk in talks))
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=str(tmp_path / "talks.jsonl"), format="messages", turns="all"), run)
    (tmp_path / "tests.jsonl").write_text(json.dumps({"id": 1, "instruction": prompt}) + "\n")
    clean = Clean(tests=(TestSet(name="t", path=str(tmp_path / "tests.jsonl")),), near=0.8)
    [arm] = pick_subset(Pick(arms=(Arm(name="a", policy="full"),), clean=clean, duplicates="keep"), run)
    last = [one for one in _dropped(run, "a") if one]
    assert arm.details["clean"]["turns"] == "all"
    assert (arm.details["clean"]["contaminated"], len(last)) == (6, 6), "of each of three talks what follows the prompt as well"
    assert arm.details["clean"]["near_repeats"] == 2, "the same talk, turn by turn; those that only end alike are none"


def test_only_an_arm_that_goes_by_scores_drops_a_row_for_having_none(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "input": "", "output": "one word"} for n in range(20)]
    run = _scored(tmp_path, rows, [None, *[3.0] * 19])
    arms = (
        Arm(name="best", policy="top", tokens=20),
        Arm(name="lowest", policy="lowest", k=2),
        Arm(name="drawn", policy="random", tokens=20),
    )
    pick_subset(Pick(arms=arms, max_unscored=0.1), run)
    without = {arm.name: sum(reason.startswith("no score") for reason in _dropped(run, arm.name).values()) for arm in arms}
    assert without == {"best": 1, "lowest": 1, "drawn": 0}
