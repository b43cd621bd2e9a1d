"""From a lost prompt back to the rows of the dataset that are like it."""

import base64
import gzip
import json
from pathlib import Path

import numpy as np

from alpagasus_ray.config import Arm, Ingest, Pick, Report
from alpagasus_ray.reporting.like_rows import LikeRows, Shard, like_any, like_rows
from alpagasus_ray.reporting.report_data import report_contents
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from report_runs import LOSE, WIN, judge, rate

TEXTS = ["Sort a list in Python", "Name a river of France", "Sort the words of a list in Python", "Bake a loaf of rye bread"]
SCORES = [4.5, 5.0, 3.5, 4.0]


def _shard(rows: slice, kept: tuple[bool, ...] = (True, True, False, False)) -> Shard:
    return Shard([f"toy:{row}" for row in range(4)][rows], TEXTS[rows], np.array(kept)[rows], np.array(SCORES)[rows])


def test_shards_are_looked_through_one_after_the_other_and_the_most_alike_of_all_come_first() -> None:
    (found,) = like_rows(["Sort a list of words in Python"], [_shard(slice(0, 2)), _shard(slice(2, 4))])
    assert [row[0] for row in found.rows][:2] in (["toy:0", "toy:2"], ["toy:2", "toy:0"])
    assert found.words.startswith("rows like it: 1 kept, 1 dropped with a score of 3.5")


def test_a_row_that_is_like_several_prompts_counts_once() -> None:
    found = like_any(["Sort a list in Python", "Sort the words of a list in Python"], _shard(slice(0, 4)))
    assert found.words == "rows like it: 1 kept, 1 dropped with a score of 3.5"


def test_what_is_like_nothing_says_so() -> None:
    assert like_rows(["???"], [_shard(slice(0, 4))]) == [LikeRows("rows like it: 0 kept, 0 dropped", [])]


def test_the_page_has_them_beside_prompts_that_the_reports_arm_has_lost_and_beside_no_other(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    asked = ["Question about math sums", "Question about writing letters", "About math", "Bake bread"]
    source.write_text("".join(json.dumps({"instruction": one, "output": "So it is."}) + "\n" for one in asked))
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=str(source), name="toy", rows_per_shard=2), run)
    rate(run, [5.0, 4.5, 3.5, 4.0])
    pick_subset(Pick(arms=(Arm(name="best", policy="top", k=2), Arm(name="full", policy="full"))), run)
    judge(run, ("best", "full"), [LOSE, WIN])
    packed = report_contents(Report(arm="best"), finished_stages(run)).sides
    assert packed is not None
    data = json.loads(gzip.decompress(base64.b64decode(packed)))
    (lost,) = (row for row in data["comparisons"][0]["rows"] if row[3] == "lose")
    assert data["comparisons"][0]["explains"]
    assert list(data["like"]) == [str(lost[0])]
    (like,) = data["like"].values()
    assert like["words"].endswith("dropped with a score of 3.5")
    assert "About math: False" in [f"{row[1]}: {row[3]}" for row in like["rows"]]
