"""The map of an arm's clusters: bounded, named, and true to the shares; and on the page of a real pick."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alpagasus_ray import __main__ as command
from alpagasus_ray.config import Arm, Ingest, Judge, Pick, Score
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.reporting import cluster_map
from alpagasus_ray.reporting.cluster_map import MOST
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run

KINDS = {
    "rivers": "river bank water flood delta",
    "music": "violin chord tempo song choir",
    "code": "python loop class list <b>",
}


def _cluster(name: str, rows: int, kept: int, x: float = 0.0, y: float = 0.0) -> dict[str, object]:
    return {"name": name, "rows": rows, "kept": kept, "x": x, "y": y}


def test_a_circle_is_coloured_by_the_arms_share_beside_the_datasets() -> None:
    shown = cluster_map.cluster_map("a", [_cluster("x", 60, 30), _cluster("y", 30, 5, 1), _cluster("z, & co", 10, 5, 0, 1)])
    assert [one.ratio for one in shown.clusters] == [1.25, 0.417, 1.25]
    drawn = str(cluster_map.drawn(shown))
    assert re.findall(r'class="cluster ([a-z-]+)"', drawn) == ["kept", "lose", "kept"]
    assert "z, &amp; co: 10 examples, 5 kept, 1.25 times its share" in drawn


def test_of_many_clusters_the_largest_are_on_the_map_and_few_have_a_name() -> None:
    dice = np.random.default_rng(0)
    places = dice.uniform(-1, 1, (300, 2)).round(4).tolist()
    shown = cluster_map.cluster_map("a", [_cluster(f"term {n}", 400 - n, 3, *place) for n, place in enumerate(places)])
    assert (len(shown.clusters), shown.left_out) == (MOST, 100)
    drawn = str(cluster_map.drawn(shown))
    assert drawn.count("<circle") == MOST
    assert 5 < drawn.count("<text") <= cluster_map.MOST_NAMED
    assert len(drawn) < 60_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, dice = tmp_path_factory.mktemp("map"), np.random.default_rng(0)
    words = [(kind, said.split()) for kind, said in KINDS.items()]
    rows = []
    for n in range(600):
        kind, own = words[n % 3]
        rows.append(
            {"instruction": f"Tell of {kind}: {' '.join(dice.choice(own, 6))} {n}", "input": "", "output": f"{n} it is."}
        )
    (folder / "rows.json").write_text(json.dumps(rows))
    made = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json")), made)
    score(Score(judge=Judge(kind="rules")), made, in_process=True)
    arms = (Arm(name="best", policy="top", k=100), Arm(name="drawn", policy="random"))
    pick_subset(Pick(arms=arms), made)
    return made


def test_vectors_of_a_file_take_the_place_of_words_and_every_example_needs_one(run: Run, tmp_path: Path) -> None:
    stage = run.examples()
    ids = [row for table in stage.tables(stage.finished()) for row in table["example_id"].to_pylist()]
    dice = np.random.default_rng(1)
    groups = np.eye(4)[np.arange(600) % 4] + dice.normal(0, 0.01, (600, 4))
    np.savez(tmp_path / "v.npz", ids=np.array(ids[::-1]), vectors=groups[::-1])
    table = pa.table({"example_id": ids, "vector": groups.tolist()})
    pq.write_table(table, tmp_path / "v.parquet")
    arm = Arm(name="spread", policy="top", k=100, spread="clusters")
    made = [pick_subset(Pick(arms=(arm,), vectors=str(tmp_path / f"v.{kind}")), run)[0] for kind in ("npz", "parquet")]
    assert made[0].details["breadth"] == made[1].details["breadth"]
    [by_words] = pick_subset(Pick(arms=(arm,)), run)
    assert by_words.inputs != made[0].inputs
    pq.write_table(table.slice(0, 599), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=f"example '{ids[599]}' has none"):
        pick_subset(Pick(arms=(arm,), vectors=str(tmp_path / "v.parquet")), run)
    (tmp_path / "v.parquet").write_bytes(b"PAR1 it is not")
    with pytest.raises(InputError, match="this is no file of vectors"):
        pick_subset(Pick(arms=(arm,), vectors=str(tmp_path / "v.parquet")), run)
    with pytest.raises(UsageError, match=r"pick\.vectors: nothing found at "):
        pick_subset(Pick(arms=(arm,), vectors="words2"), run)


def test_the_page_of_a_pick_has_a_map_of_each_arm_with_the_clusters_terms(run: Run) -> None:
    assert command.main(["report", run.storage.root]) == 0
    page = run.report().storage.read("index.html").decode()
    told = json.loads(run.report().storage.read("report.json"))
    [panel] = [one for one in told["panels"] if one["id"] == "breadth"]
    maps = {one["arm"]: one["clusters"] for one in panel["maps"]}
    assert {"best", "drawn"} <= set(maps)
    assert sum(one["rows"] for one in maps["best"]) == 600
    assert sum(one["kept"] for one in maps["best"]) == 100
    assert "What best is about" in page
    assert page.count('class="cluster ') == sum(len(one["clusters"]) for one in panel["maps"])
    assert "<canvas" not in page
