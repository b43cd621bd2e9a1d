"""Models of versions that trained otherwise: finished ones stay, what was only begun is not mixed with what is done now."""

import logging
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Finetune
from alpagasus_ray.engines.identity import checkpoint_print
from alpagasus_ray.errors import SettingsChanged
from alpagasus_ray.reporting import training_data
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.store.run import STATE, Begun, Manifest, Run
from alpagasus_ray.training.arms import FORM, former_settings, settings_of
from alpagasus_ray.training.checkpoints import WHOLE, CheckpointInfo, name_of
from trainings import run_with_arms, tiny

ARM = "arm"


@pytest.fixture
def run(shared: Path, tmp_path: Path) -> Run:
    return run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", 5, (ARM,))


def inputs_of(run: Run, config: Finetune) -> dict[str, str]:
    subset = run.subset(ARM).finished()
    return {f"subsets/{ARM}": subset.content_hash()} | checkpoint_print("model", config.model)


def finish(run: Run, config: Finetune, settings: dict[str, Any]) -> Manifest:
    told = dict.fromkeys((*training_data.MEASURES, *training_data.COMPARED, "examples"), 1)
    manifest = Manifest(
        stage=f"models/{ARM}",
        settings=settings,
        settings_hash="",
        inputs=inputs_of(run, config),
        files=[],
        rows=5,
        seconds=1.0,
        versions={},
        details=told,
    )
    run.model(ARM).finish(manifest)
    return manifest


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 4}, "learning_rate": None}, {"weight_decay": 0.1}], ids=str)
def test_a_finished_model_of_an_earlier_version_is_left_as_it_is_and_told(
    run: Run, shared: Path, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(shared, **changes)
    made = finish(run, config, former_settings(config))
    with caplog.at_level(logging.WARNING):
        (found,) = finetune(config, run, [ARM])
    assert found == made
    assert "was trained by an earlier version" in caplog.text
    assert run.model(ARM).storage.root in caplog.text


def test_one_of_this_version_is_left_without_a_word(run: Run, shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = finish(run, tiny(shared), settings_of(tiny(shared)))
    assert made.settings["form"] == FORM
    with caplog.at_level(logging.WARNING):
        assert finetune(tiny(shared), run, [ARM]) == [made]
    assert "earlier version" not in caplog.text


def test_other_settings_than_those_of_an_earlier_version_are_refused(run: Run, shared: Path) -> None:
    finish(run, tiny(shared), former_settings(tiny(shared)))
    with pytest.raises(SettingsChanged, match="learning_rate"):
        finetune(tiny(shared, learning_rate=1e-4), run, [ARM])


def test_a_state_of_an_earlier_version_is_refused_with_what_to_do(run: Run, shared: Path) -> None:
    config, home = tiny(shared), run.model(ARM)
    home.begin(Begun(settings=former_settings(config), inputs=inputs_of(run, config)))
    mark = CheckpointInfo(step=3, workers=2, seconds={})
    home.storage.at(STATE, name_of(3)).write(WHOLE, mark.model_dump_json().encode())
    with pytest.raises(SettingsChanged, match=r"let that version finish it, or delete .*models/arm to train it anew"):
        finetune(config, run, [ARM])


def test_a_state_of_an_earlier_version_is_still_read() -> None:
    assert CheckpointInfo.model_validate_json('{"step": 3, "workers": 2, "seconds": {"train": 1.5}}').heldout == {}
