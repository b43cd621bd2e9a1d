"""A trial is drawn from the whole dataset, and a larger one holds the smaller."""

import json
from pathlib import Path

import pytest
from scipy.stats import chisquare

from alpagasus_ray.config import Ingest
from alpagasus_ray.inference.spec import Task
from alpagasus_ray.inference.trial import drawn
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import FileEntry, Manifest, Run, shard_name
from toy_runs import toy_run


def manifest(*rows: int) -> Manifest:
    files = [FileEntry(name=shard_name(number), rows=count, bytes=1, sha256="x") for number, count in enumerate(rows)]
    return Manifest(
        stage="examples", settings={}, settings_hash="x", inputs={}, files=files, rows=sum(rows), seconds=0, versions={}
    )


@pytest.mark.parametrize("limit", [1, 7, 249, 250, 251, 10_000])
def test_a_trial_has_as_many_rows_as_were_asked_for_each_once_and_all_of_them_exist(limit: int) -> None:
    listed = manifest(100, 50, 100)
    found = drawn(listed, limit)
    assert sum(map(len, found.values())) == min(limit, 250)
    for entry in listed.parts():
        places = found.get(entry.name, ())
        assert list(places) == sorted(set(places))
        assert all(0 <= place < entry.rows for place in places)


def test_a_larger_trial_holds_every_smaller_one_so_that_no_reply_is_bought_for_nothing() -> None:
    listed = manifest(*[1_000] * 20)
    rows = [{(name, place) for name, places in drawn(listed, limit).items() for place in places} for limit in (10, 500, 9_000)]
    assert rows[0] < rows[1] < rows[2]


def test_the_draw_is_even_over_the_whole_dataset() -> None:
    found = drawn(manifest(*[1_000] * 50), 5_000)
    assert chisquare([len(found[shard_name(number)]) for number in range(50)]).pvalue > 1e-4


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert drawn(manifest(*[1_000] * 4), 6) == DRAWN_6_OF_4000


DRAWN_6_OF_4000 = {
    "part-00000.parquet": (599, 803),
    "part-00001.parquet": (612, 708),
    "part-00002.parquet": (179,),
    "part-00003.parquet": (980,),
}


def test_a_dataset_sorted_by_kind_is_tried_on_both_kinds(tmp_path: Path) -> None:
    source = tmp_path / "sorted.json"
    kinds = ["easy"] * 200 + ["hard"] * 200
    source.write_text(json.dumps([{"instruction": f"{kind} {n}", "input": "", "output": "x"} for n, kind in enumerate(kinds)]))
    run = Run.open(str(tmp_path / "run"))
    listed = ingest(Ingest(source=str(source), rows_per_shard=50), run)
    tasks = [Task(name, places) for name, places in drawn(listed, 40).items()]
    rows = [text for task in tasks for text in task.read(run.examples())["instruction"].to_pylist()]
    assert len(rows) == 40
    assert min(sum(text.startswith(kind) for text in rows) for kind in ("easy", "hard")) >= 8


def test_a_task_without_places_is_the_whole_shard(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 5)
    assert len(Task(shard_name(0)).read(run.examples())) == 5
