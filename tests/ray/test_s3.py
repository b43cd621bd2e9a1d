"""A whole run on an object store: sources, shards, ledger, manifests and the lock."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from alpagasus_ray import recipe
from alpagasus_ray.config import Answerer, Arm, Ingest, Pick, Score
from alpagasus_ray.engines.weights import at_hand
from alpagasus_ray.errors import RunLocked, UsageError
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store import lock, object_lock
from alpagasus_ray.store.run import Run, shard_name
from alpagasus_ray.store.storage import Storage
from loopback import JudgeStarter
from toy_runs import api_judge, ids, prompt_hashes, ratings


def test_a_recipe_may_lie_on_s3(bucket: str) -> None:
    Storage.open(f"{bucket}/recipes").write("mine.yaml", b"score: {name: afar}")
    assert recipe.load(f"{bucket}/recipes/mine.yaml", ["score.concurrency=3"]).recipe.score.name == "afar"
    with pytest.raises(UsageError, match=r"recipes/other\.yaml"):
        recipe.load(f"{bucket}/recipes/other.yaml", [])


def test_a_run_on_s3_is_the_same_as_one_on_disk(bucket: str, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lock, "SETTLE_S", 0.1)
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    source = Storage.open(f"{bucket}/source")
    for part in (2, 10):
        rows = [{"instruction": f"Say {part} {n}.", "input": "", "output": "Done."} for n in range(50)]
        source.write(f"rows-{part}.json", json.dumps(rows).encode())
    run = Run.open(f"{bucket}/run")
    server = judge()
    with lock.held(run) as mine:
        with pytest.raises(RunLocked), lock.held(Run.open(f"{bucket}/run")):
            pass
        ingest(Ingest(source=f"{bucket}/source/rows-*.json", rows_per_shard=30), mine)
        score(Score(judge=api_judge(server.base_url), limit=40), mine)
        assert len(mine.ratings("judge").storage.at("ledger", "part-00000").names()) >= 1
        score(Score(judge=api_judge(server.base_url)), mine)
        (arm,) = pick_subset(Pick(arms=(Arm(name="best", policy="top", k=20),)), mine)
    assert ratings(run)["example_id"].to_pylist() == ids(run)
    assert sorted(server.taken()) == sorted(prompt_hashes(run))
    assert arm.rows == len(json.loads(run.subset("best").storage.read("subset.json"))) == 20
    run.ratings("judge").verify(run.ratings("judge").finished())
    assert {entry.shard for entry in run.ratings("judge").finished().parts()} == {shard_name(n) for n in range(4)}
    assert run.storage.names() == []


def test_the_checkpoint_of_an_arm_is_fetched_once_for_each_node_without_the_state_of_its_training(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = Run.open(f"{bucket}/trained").model("selected").storage
    for name, content in {"config.json": b"{}", "model.safetensors": b"weights", "state/optimizer.pt": b"large"}.items():
        home.write(name, content)
    model = Answerer(name="selected", arm="selected")
    folder = str(at_hand(model, home).model)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    before = os.stat(f"{folder}/model.safetensors").st_mtime_ns
    assert at_hand(model, home).model == folder
    assert os.stat(f"{folder}/model.safetensors").st_mtime_ns == before, "it is there already"
    home.write("model.safetensors", b"trained again")
    assert at_hand(model, home).model != folder
