"""The main job on its real input: all 52,002 Alpaca rows."""

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from alpagasus_ray.config import Arm, Ingest, Judge, Pick, Score
from alpagasus_ray.data.readers import natural
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from toy_runs import ids, ratings

ROWS, SOME = 52_002, 5_000
HISTOGRAMS = {
    "gpt-4o-mini": [8_274, 15_973, 18_624, 8_017, 1_092, 22],
    "llama-3.1-8b-instruct": [2_203, 10_254, 9_843, 23_081, 6_345, 276],
    "mistral-7b-v0.3-instruct": [565, 8_551, 13_328, 22_758, 6_795, 5],
}
FIRST = next(iter(HISTOGRAMS))
CSV = "ratings/alpaca52k_three_llm_scores.csv"


def _recorded(shared: Path, judge: str) -> Score:
    columns = {"index": "alpaca_index", "score": judge}
    return Score(name=judge, judge=Judge(kind="recorded", ratings=str(shared / CSV), columns=columns))


def _subset(run: Run, arm: str) -> str:
    return run.subset(arm).storage.read("subset.json").decode()


def _original(shared: Path) -> list[dict[str, str]]:
    files = sorted(map(str, (shared / "alpaca52k").glob("*.json")), key=natural)
    return [row for file in files for row in json.loads(Path(file).read_text())]


def test_all_rows_exported_again_are_the_original_ones_byte_for_byte(alpaca_run: Run, shared: Path) -> None:
    (manifest,) = pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), alpaca_run)
    assert manifest.rows == ROWS
    assert _subset(alpaca_run, "full") == json.dumps(_original(shared), indent=4)


@pytest.mark.parametrize("judge", [pytest.param(name, marks=[pytest.mark.long] * (name != FIRST)) for name in HISTOGRAMS])
def test_recorded_ratings_have_the_known_histogram(alpaca_run: Run, shared: Path, judge: str) -> None:
    manifest = score(_recorded(shared, judge), alpaca_run)
    assert manifest.details["histogram"] == {str(value): count for value, count in enumerate(HISTOGRAMS[judge])}


def test_top_returns_exactly_as_many_as_the_paper_kept_and_the_same_ones_everywhere(alpaca_run: Run, shared: Path) -> None:
    score(_recorded(shared, "gpt-4o-mini"), alpaca_run)
    arms = (Arm(name="top9k", policy="top", k=9_229), Arm(name="random9k", policy="random"), Arm(name="low9k", policy="lowest"))
    top, random, _ = pick_subset(Pick(ratings="gpt-4o-mini", arms=arms), alpaca_run)
    assert top.rows == random.rows == 9_229
    kept = pa.concat_tables(alpaca_run.subset("top9k").tables(top))
    assert Counter(kept["score"].to_pylist()) == {5.0: 22, 4.0: 1_092, 3.0: 8_017, 2.0: 98}
    dropped = [e.name for e in top.files if e.name.startswith("dropped-")]
    rows = pa.concat_tables(alpaca_run.subset("top9k").storage.read_table(name) for name in dropped)
    assert sorted(kept["example_id"].to_pylist() + rows["example_id"].to_pylist()) == ids(alpaca_run)
    assert set(rows["reason"].to_pylist()) == {"not among the best 9,229 (the last of them scored 2)"}
    # the content of the file, as first made; the choice must not depend on machine, process or order of reading
    assert next(e.sha256 for e in top.files if e.name == "subset.json")[:16] == TOP9K


TOP9K = "9a0d825a65c37a7a"


def test_the_published_helpfulness_subset_comes_back_byte_for_byte(alpaca_run: Run, shared: Path, tmp_path: Path) -> None:
    published = (shared / "published_subsets/helpfulness_t45.json").read_text()
    chosen = Counter(json.dumps(row) for row in json.loads(published))
    file = tmp_path / "membership.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["index", "score"])
        for index, row in enumerate(_original(shared)):
            writer.writerow([index, 4.5 if json.dumps(row) in chosen else 4.0])
    score(Score(name="published", judge=Judge(kind="recorded", ratings=str(file))), alpaca_run)
    arms = (Arm(name="helpfulness_t45", policy="threshold", threshold=4.5),)
    (manifest,) = pick_subset(Pick(ratings="published", arms=arms), alpaca_run)
    assert manifest.rows == 2_022
    assert _subset(alpaca_run, "helpfulness_t45") == published


@pytest.fixture(scope="module", params=[SOME, pytest.param(ROWS, marks=pytest.mark.long)])
def sized_run(shared: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    """The first Alpaca rows."""
    folder = tmp_path_factory.mktemp("sized")
    (folder / "rows.json").write_text(json.dumps(_original(shared)[: request.param]))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json"), name="alpaca"), run)
    return run


def test_the_release_format_is_joined_by_its_triplets_and_half_a_rating_file_is_refused(
    sized_run: Run, shared: Path, tmp_path: Path
) -> None:
    rows = len(ids(sized_run))
    there = {json.dumps(row) for row in _original(shared)[:rows]}
    published = json.loads((shared / "published_subsets/helpfulness_t45.json").read_text())
    published = [row for row in published if json.dumps(row) in there]
    triplet = "###Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}\n\n"
    release = [{"triplet": triplet.format_map(row), "review": "4.5\nHelpful.", "score": 4.5} for row in reversed(published)]
    file = tmp_path / "release.json"
    file.write_text(json.dumps(release))
    manifest = score(Score(name="release", judge=Judge(kind="recorded", ratings=str(file))), sized_run)
    left = rows - len(published)
    assert manifest.counts == {"scored": len(published), "failed": left}
    assert len(published) == 2_022 or rows < ROWS
    arms = (Arm(name="from_release", policy="threshold"),)
    with pytest.raises(StageFailed, match=rf"{left:,} of {rows:,} rows \(9\d\.\d%\) have no score: {left:,} failed"):
        pick_subset(Pick(ratings="release", arms=arms), sized_run)
    pick_subset(Pick(ratings="release", arms=arms, max_unscored=0.98), sized_run)
    assert json.loads(_subset(sized_run, "from_release")) == published


def test_rules_rate_all_rows_and_agree_somewhat_with_llm_judges(sized_run: Run, shared: Path) -> None:
    rows = len(ids(sized_run))
    manifest = score(Score(name="rules", judge=Judge(kind="rules")), sized_run)
    assert manifest.counts == {"scored": rows}
    mine = ratings(sized_run, "rules")["score"].to_pylist()
    with (shared / CSV).open(newline="") as stream:
        theirs = {int(row["alpaca_index"]): float(row[FIRST]) for row in csv.DictReader(stream)}
    assert spearmanr(mine, [theirs[index] for index in range(rows)]).statistic > 0.4


def test_an_arm_that_would_be_empty_is_refused_before_anything_is_written(alpaca_run: Run, shared: Path) -> None:
    score(_recorded(shared, "gpt-4o-mini"), alpaca_run)
    arms = (Arm(name="some", policy="top", k=5), Arm(name="none", policy="threshold", threshold=5.5))
    with pytest.raises(UsageError, match=r"'none' would be empty \(the highest score is 5\)"):
        pick_subset(Pick(ratings="gpt-4o-mini", arms=arms), alpaca_run)
    assert alpaca_run.subset("some").manifest() is None
