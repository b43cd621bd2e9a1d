"""Trainings on a cluster that loses a node, on an object store, with adapters; and what other programs make of their models."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from test_training_goes_on import CLOSE, STEPS, job, sixty
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpagasus_ray.config import Answerer, Arm, Finetune, Generate, Ingest, Pick, TestSet, Vllm
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.errors import StageFailed
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from toy_runs import ROOT
from trainings import LIMIT_S, curve, gap, in_the_background, losses, run_with_arms, saved, tiny, train, wait, workers

DEMO = str(ROOT / "examples/test_set/prompts.jsonl")


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    arms = ("whole", "node", "noticed", "lora", "lora-resumed", "bf16")
    return run_with_arms(tmp_path_factory.mktemp("places"), shared / "published_subsets/random_9k.json", 300, arms)


@contextmanager
def _cluster(folder: Path) -> Iterator[Any]:
    """A head without CPUs, and two nodes with one each; a session folder of its own."""
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {"temp_dir": str(folder), "include_dashboard": False}
    # Ray would note this cluster's address where other programs of this machine look for one to join
    with mock.patch("ray._private.utils.write_ray_address"):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **common})
    try:
        for _ in range(2):
            cluster.add_node(wait=False, num_cpus=1, **common)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _kill_a_node(cluster: Any) -> None:
    """SIGKILL of a node that trains, and of all that runs on it."""
    worker = next(process for process in workers() if process.is_running())
    for node in cluster.worker_nodes:
        raylets = [info.process for infos in node.all_processes.values() for info in infos]
        doomed = [child for process in raylets for child in psutil.Process(process.pid).children(recursive=True)]
        if worker in doomed:
            cluster.remove_node(node, allow_graceful=False)
            for process in doomed:
                if process.is_running():
                    process.send_signal(signal.SIGKILL)
            return
    pytest.fail("no node has a worker")


@pytest.mark.long
def test_a_killed_node_changes_nothing_though_one_worker_is_left(
    run: Run, shared: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path("/tmp") / f"ar-{tmp_path_factory.getbasetemp().name}"  # paths of sockets have to be short
    with _cluster(folder) as cluster:
        config = sixty(shared, workers=(1, 2))
        with job(run, "node", config, tmp_path / "recipe.yaml", RAY_ADDRESS=cluster.address) as process:
            wait(lambda: saved(run, "node") >= 40 or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "recipe.log").read_text()
            _kill_a_node(cluster)
            assert process.wait(LIMIT_S) == 0, (tmp_path / "recipe.log").read_text()
    assert run.model("node").finished().details["workers"] == 1
    assert gap(losses(curve(run, "node")), losses(train(run, "whole", sixty(shared)))) < CLOSE


@pytest.mark.timeout(600)
def test_a_notice_that_a_node_will_be_taken_away_saves_a_state(run: Run, shared: Path, tmp_path: Path) -> None:
    config = tiny(shared, steps=2000, workers=(1, 2), checkpoint={"every_minutes": 60}, tensorboard=True)
    events = run.model("noticed").storage.at("tensorboard")
    with (
        _cluster(Path("/tmp") / f"ar-{os.getpid()}n") as cluster,
        job(run, "noticed", config, tmp_path / "recipe.yaml", RAY_ADDRESS=cluster.address) as process,
    ):
        wait(lambda: bool(events.names()) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "recipe.log").read_text()
        assert saved(run, "noticed") == 0
        node = next(iter(cluster.worker_nodes)).node_id
        drain = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", cluster.address, "--node-id", node]
        drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"]
        subprocess.run([*drain, "--deadline-remaining-seconds", "120"], check=True, capture_output=True, timeout=60)
        wait(lambda: saved(run, "noticed") > 0 or process.poll() is not None)
        assert saved(run, "noticed") > 0, (tmp_path / "recipe.log").read_text()


@pytest.mark.long
def test_a_run_on_an_object_store_goes_on_after_a_killed_worker(
    shared: Path, bucket: str, tmp_path: Path, local_ray: None
) -> None:
    run = Run.open(f"{bucket}/trained")
    records = json.loads((shared / "published_subsets/random_9k.json").read_text())[:100]
    (tmp_path / "rows.json").write_text(json.dumps(records))
    ingest(Ingest(source=str(tmp_path / "rows.json"), name="rows"), run)
    pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), run)
    config = tiny(shared, steps=24, checkpoint={"every_steps": 8}, tensorboard=True)
    with in_the_background(config, run, "full"):
        wait(lambda: saved(run, "full") >= 8)
        workers()[0].kill()
    stage = run.model("full")
    manifest = stage.finished()
    stage.verify(manifest)
    assert {"config.json", "model.safetensors", "tokenizer.json", "curve.parquet"} <= {entry.name for entry in manifest.files}
    rows = pq.read_table(stage.storage.path("curve.parquet"), filesystem=stage.storage.fs).to_pylist()
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert any(name.startswith("tensorboard/") for name in stage.storage.all_names())


@pytest.mark.long
def test_adapters_are_merged_and_a_resumed_training_of_them_is_the_same(run: Run, shared: Path, local_ray: None) -> None:
    """On two workers, and the second half on one: the state holds the adapters alone."""
    config = tiny(
        shared, steps=12, zero_stage=2, lora={"rank": 4, "dropout": 0.0}, checkpoint={"every_steps": 6}, learning_rate=1e-2
    )
    whole = train(run, "lora", config)
    assert whole[-1]["loss"] < whole[0]["loss"]
    config = config.model_copy(update={"max_failures": 0})
    with pytest.raises(StageFailed, match="workers were lost more than 0 times"):
        _without_workers(config, run, "lora-resumed")
    resumed = train(run, "lora-resumed", config.model_copy(update={"workers": 1}))
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(whole, resumed, strict=True)) < CLOSE
    merged, again = (
        AutoModelForCausalLM.from_pretrained(run.model(arm).storage.root, dtype=torch.float32).state_dict()
        for arm in ("lora", "lora-resumed")
    )
    before = AutoModelForCausalLM.from_pretrained(str(shared / "tiny_llama"), dtype=torch.float32).state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (merged[name] - before[name]).abs().max() > 1e-3
    assert (merged[name] - again[name]).abs().max() < 1e-3
    assert not [key for key in merged if "lora" in key]


def _without_workers(config: Finetune, run: Run, arm: str) -> None:
    """A training whose workers are all killed half way."""
    with in_the_background(config, run, arm):
        wait(lambda: saved(run, arm) >= 6)
        for process in workers():
            process.kill()


@pytest.mark.long
def test_transformers_and_vllm_open_what_was_trained(run: Run, shared: Path, local_ray: None) -> None:
    train(run, "bf16", tiny(shared, steps=8, precision="bf16", zero_stage=2))
    place = run.model("bf16").storage.root
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    assert model.dtype == torch.bfloat16
    assert tokenizer.pad_token == "<unk>"
    said = [{"role": "user", "content": "Name a colour."}]
    text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    assert text == "<s>" + alpaca_prompt("Name a colour.", "")
    config = Generate(
        models=(Answerer(name="bf16", arm="bf16", prompt="alpaca", vllm=Vllm(enforce_eager=True, kv_cache_gib=1)),),
        test_sets=(TestSet(name="demo", path=DEMO),),
        max_new_tokens=8,
    )
    (manifest,) = generate(config, run)
    assert manifest.counts.get("failed", 0) == 0
    assert manifest.rows == 72


@pytest.mark.long
def test_the_largest_arm_is_what_the_others_are_compared_with(run: Run) -> None:
    found = json.loads(run.storage.read("models/comparison.json"))
    assert {arm["arm"] for arm in found["arms"]} >= {"whole", "bf16"}
    whole = next(arm for arm in found["arms"] if arm["arm"] == "whole")
    assert whole["steps"] == STEPS
    assert all(arm["times_less_than_largest"]["examples"] == pytest.approx(1, abs=0.2) for arm in found["arms"])
