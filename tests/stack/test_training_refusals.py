"""What a user gets wrong is told in one message, with the key and the fix, and costs nothing that was there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Arm, Pick
from alpagasus_ray.errors import UsageError
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from toy_runs import ROOT, job
from trainings import run_with_arms, tiny


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_with_arms(tmp_path_factory.mktemp("refused"), shared / "published_subsets/random_9k.json", 40, ("full",))


def refused(run: Run, arm: str, config: Any) -> str:
    with pytest.raises(UsageError) as refusal:
        finetune(config, run, [arm])
    return str(refusal.value)


def test_a_job_tells_of_a_model_that_is_not_there_and_exits_with_2(run: Run) -> None:
    done = job("finetune", run.storage.root, "--set", "finetune.model=/no/such/model", "--set", "finetune.arms=[full]")
    assert done.returncode == 2
    assert "finetune.model" in done.stderr
    assert "'/no/such/model' cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_without_a_name_is_told_what_to_give(run: Run, shared: Path) -> None:
    assert "`finetune.model` is not given" in refused(run, "full", tiny(shared, model=None))


def test_an_arm_that_was_not_picked_is_named(run: Run, shared: Path) -> None:
    assert "subsets/other/ is not finished in this run; run `alpagasus pick RUN` first" in refused(run, "other", tiny(shared))


def test_examples_without_a_trainable_token_are_told_with_the_knob(run: Run, shared: Path, local_ray: None) -> None:
    told = refused(run, "full", tiny(shared, max_length=8))
    assert "no trainable token" in told
    assert "max_length" in told


@pytest.mark.timeout(600)
def test_a_model_that_cannot_fit_is_told_with_what_it_needs_and_what_helps(
    run: Run, shared: Path, tmp_path: Path, local_ray: None
) -> None:
    large = tmp_path / "large"
    shutil.copytree(ROOT / "examples/tiny_model", large)
    shape = json.loads((large / "config.json").read_text())
    (large / "config.json").write_text(json.dumps({**shape, "hidden_size": 16384, "intermediate_size": 65536}))
    told = refused(run, "full", tiny(shared, model=str(large), from_scratch=True, zero_stage=2, max_failures=0))
    assert "a worker needs at least" in told
    assert "GiB free" in told
    for knob in ("finetune.zero_stage: 3", "finetune.workers", "finetune.lora", "finetune.precision: bf16"):
        assert knob in told


def test_more_workers_than_the_cluster_can_hold_are_refused(run: Run, shared: Path, local_ray: None) -> None:
    told = refused(run, "full", tiny(shared, workers=64))
    assert "64 processes need 1 CPU each" in told
    assert "finetune.workers" in told


def test_offload_without_a_gpu_is_refused(run: Run, shared: Path, local_ray: None) -> None:
    assert "the workers have no GPU" in refused(run, "full", tiny(shared, offload="optimizer"))


@pytest.mark.timeout(600)
def test_after_all_refusals_the_arm_can_be_trained_on(run: Run, shared: Path, local_ray: None) -> None:
    """None of the calls above has bound the next one to its settings."""
    assert run.model("full").manifest() is None
    (manifest,) = finetune(tiny(shared, steps=2), run, ["full"])
    assert manifest.details["steps"] == 2
    (again,) = finetune(tiny(shared, steps=2), run, ["full"])
    assert again == manifest


def test_an_empty_arm_is_named(shared: Path, tmp_path: Path, local_ray: None) -> None:
    run = run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", 5, ())
    pick_subset(Pick(arms=(Arm(name="none", policy="random", k=5),)), run)
    stage = run.subset("none")
    empty = stage.finished().model_copy(update={"rows": 0, "files": []})
    stage.finish(empty)
    assert "subsets/none is empty" in refused(run, "none", tiny(shared))
