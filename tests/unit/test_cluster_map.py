"""The map of an arm's clusters: bounded, named, and true to the shares; and on the page of a real pick."""

import json
import re

import numpy as np
import pytest

from alpagasus_ray import __main__ as command
from alpagasus_ray.config import Arm, Ingest, Judge, Pick, Score
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


def test_the_page_of_a_pick_has_a_map_of_each_arm_with_the_clusters_terms(run: Run) -> None:
    assert command.main(["report", run.storage.root]) == 0
    page = run.report().storage.read("index.html").decode()
    told = json.loads(run.report().storage.read("report.json"))
    [panel] = [one for one in told["panels"] if one["id"] == "breadth"]
    assert [one["arm"] for one in panel["maps"]] == ["best", "drawn"]
    assert sum(one["rows"] for one in panel["maps"][0]["clusters"]) == 600
    assert sum(one["kept"] for one in panel["maps"][0]["clusters"]) == 100
    assert "What best is about" in page
    assert page.count('class="cluster ') == sum(len(one["clusters"]) for one in panel["maps"])
    assert "<canvas" not in page
