"""The held-out loss is that of the written model, whatever computes it, and a training that goes on has it too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import SettingsChanged, StageFailed
from alpagasus_ray.stages.finetune import COMPARISON, finetune
from alpagasus_ray.store.run import STATE, Run
from alpagasus_ray.training.checkpoints import newest
from trainings import plain_heldout, run_with_arms, tiny

pytestmark = pytest.mark.long
ARMS = ("zero3", "padded", "lora", "resumed")
FIRST, LAST = 296, 333
IN_ARM, TOO_LONG = 4, 2
CLOSE = 1e-4


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Arms of the same 300 real examples, and beside the run 37 that are held out: 4 of these, and 33 others."""
    source = shared / "published_subsets/random_9k.json"
    folder = tmp_path_factory.mktemp("heldout")
    (folder / "heldout.json").write_text(json.dumps(json.loads(source.read_text())[FIRST:LAST]))
    return run_with_arms(folder, source, 300, ARMS)


def config_of(run: Run, shared: Path, **changes: Any) -> Finetune:
    return tiny(shared, steps=12, heldout=str(Path(run.storage.root).parent / "heldout.json"), **changes)


def measured(run: Run, arm: str, config: Finetune) -> dict[str, Any]:
    (manifest,) = finetune(config, run, [arm])
    told: dict[str, Any] = manifest.details["heldout"]
    return told


@pytest.fixture(scope="module")
def zero3(run: Run, shared: Path, local_ray: None) -> dict[str, Any]:
    """What packs on two workers tell, with ZeRO-3."""
    return measured(run, "zero3", config_of(run, shared))


def test_the_held_out_loss_is_that_of_the_written_model(run: Run, shared: Path, zero3: dict[str, Any]) -> None:
    loss, labels = plain_heldout(run.model("zero3").storage.root, config_of(run, shared))
    assert zero3["loss"] == pytest.approx(loss, abs=CLOSE)
    assert (zero3["examples"], zero3["label_tokens"], zero3["left_out"]) == (LAST - FIRST - TOO_LONG, labels, TOO_LONG)


def test_whatever_computes_it_the_held_out_loss_is_the_same(run: Run, shared: Path, zero3: dict[str, Any]) -> None:
    alone = measured(run, "padded", config_of(run, shared, workers=1, packing=False, micro_batch=3))
    assert alone.pop("loss") == pytest.approx(zero3["loss"], abs=CLOSE)
    assert alone.items() < zero3.items()


def test_nothing_is_left_out_at_random_of_what_is_measured(run: Run, shared: Path, zero3: dict[str, Any]) -> None:
    config = config_of(run, shared, zero_stage=0, lora={"rank": 4, "dropout": 0.9})
    assert measured(run, "lora", config)["loss"] == pytest.approx(
        plain_heldout(run.model("lora").storage.root, config)[0], abs=CLOSE
    )


def test_what_is_in_the_arm_too_is_counted(run: Run, zero3: dict[str, Any]) -> None:
    assert zero3["in_arm"] == IN_ARM


def test_the_comparison_of_arms_has_it(run: Run, zero3: dict[str, Any]) -> None:
    arms: Sequence[dict[str, Any]] = json.loads(run.storage.read(COMPARISON))["arms"]
    assert next(arm["heldout"] for arm in arms if arm["arm"] == "zero3") == zero3


def test_a_training_that_goes_on_from_its_last_state_has_it_too(run: Run, shared: Path, zero3: dict[str, Any]) -> None:
    config = config_of(run, shared, checkpoint={"every_steps": 11}, max_failures=0)
    home = run.model("resumed").storage
    blocking = Path(home.path("config.json"))  # a directory where the model has to be written
    (blocking / "in the way").mkdir(parents=True)
    with pytest.raises(StageFailed):
        finetune(config, run, ["resumed"])
    mark = newest(home.at(STATE))
    assert mark is not None
    assert mark.step == 11
    (blocking / "in the way").rmdir()
    blocking.rmdir()
    assert measured(run, "resumed", config)["loss"] == pytest.approx(zero3["loss"], abs=1e-9)


def test_other_held_out_examples_are_not_mixed_with_a_finished_model(
    run: Run, shared: Path, zero3: dict[str, Any], tmp_path: Path
) -> None:
    config = config_of(run, shared)
    assert measured(run, "zero3", config) == zero3
    other = tmp_path / "heldout.json"
    other.write_text(Path(str(config.heldout)).read_text().replace("a", "e", 1))
    with pytest.raises(SettingsChanged, match=r"heldout\.json"):
        finetune(config.model_copy(update={"heldout": str(other)}), run, ["zero3"])
