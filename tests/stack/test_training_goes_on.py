"""Trainings that lose workers, nodes and drivers, or go on with other numbers of workers, end where an undisturbed one does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import SettingsChanged, StageFailed
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.store.run import STATE, Run
from toy_runs import ROOT
from trainings import LIMIT_S, curve, gap, in_the_background, losses, run_with_arms, saved, tiny, train, wait, workers

STEPS = 60
SAME = 1e-9
"""Of the same number of workers: the additions are the same, in the same order."""
CLOSE = 1e-4
"""Of another number of workers, in float32."""


def sixty(shared: Path, **changes: Any) -> Finetune:
    return tiny(shared, steps=STEPS, checkpoint={"every_steps": 10}, **changes)


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    arms = ("whole", "killed", "stopped", "node", "diverged")
    return run_with_arms(tmp_path_factory.mktemp("goes-on"), shared / "published_subsets/random_9k.json", 300, arms)


@pytest.fixture(scope="module")
def whole(run: Run, shared: Path, local_ray: None) -> list[dict[str, Any]]:
    """The curve of a training that nothing happens to."""
    return train(run, "whole", sixty(shared))


@pytest.mark.long
def test_a_killed_worker_changes_nothing(run: Run, shared: Path, whole: list[dict[str, Any]]) -> None:
    with in_the_background(sixty(shared), run, "killed"):
        wait(lambda: saved(run, "killed") >= 30)
        time.sleep(0.3)
        workers()[-1].kill()
    assert gap(losses(curve(run, "killed")), losses(whole)) < SAME
    manifest = run.model("killed").finished()
    assert manifest.details["wall_s"]["lost"] > 0
    assert manifest.details["examples_seen"] == STEPS * 16
    assert not run.model("killed").storage.at(STATE).all_names()


@contextmanager
def job(run: Run, arm: str, config: Finetune, recipe: Path, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """`jobs/finetune.py` as a user starts it."""
    recipe.write_text(yaml.safe_dump({"finetune": {**config.model_dump(mode="json", exclude_unset=True), "arms": [arm]}}))
    command = [sys.executable, str(ROOT / "jobs/finetune.py"), "--run", run.storage.root, "--recipe", str(recipe)]
    with (recipe.with_suffix(".log")).open("w") as log:
        known = {**os.environ, **environment}
        process = subprocess.Popen(command, env=known, stdout=log, stderr=log, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


@pytest.mark.long
def test_a_stopped_job_goes_on_with_one_worker_and_then_with_two(
    run: Run, shared: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    for number, until in ((2, 20), (1, 40)):
        with job(run, "stopped", sixty(shared, workers=number), tmp_path / "recipe.yaml") as process:
            wait(lambda until=until: saved(run, "stopped") >= until or process.poll() is not None)  # type: ignore[misc]
            assert process.poll() is None, (tmp_path / "recipe.log").read_text()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 1
    with pytest.raises(SettingsChanged, match="learning_rate"):
        finetune(sixty(shared, learning_rate=2e-3), run, ["stopped"])
    with job(run, "stopped", sixty(shared, workers=2), tmp_path / "recipe.yaml") as process:
        assert process.wait(LIMIT_S) == 0, (tmp_path / "recipe.log").read_text()
    assert gap(losses(curve(run, "stopped")), losses(whole)) < CLOSE
    assert not [process for process in workers() if process.is_running()]


@pytest.mark.timeout(600)
def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_state(run: Run, shared: Path) -> None:
    wild = tiny(shared, steps=20, learning_rate=1e18, warmup=0.0, max_grad_norm=None, checkpoint={"every_steps": 1})
    with pytest.raises(StageFailed, match=r"loss is nan at step \d+ of 20.*state after step \d+ is kept"):
        finetune(wild, run, ["diverged"])
    assert saved(run, "diverged") >= 1
    with pytest.raises(SettingsChanged, match="warmup"):
        finetune(wild.model_copy(update={"warmup": 0.5}), run, ["diverged"])
