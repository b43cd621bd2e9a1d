"""Trainings in short: whatever carries one out and whatever happens to it, it ends where a plain PyTorch loop ends.

The longer forms, each of one thing, are in the files beside this one.
"""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import drivers
from alpagasus_ray.config import Finetune
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.errors import SettingsChanged
from alpagasus_ray.stages.finetune import COMPARISON, finetune
from alpagasus_ray.store.run import STATE, Run
from trainings import (
    State,
    curve,
    differences,
    gap,
    in_the_background,
    losses,
    plain_heldout,
    plain_training,
    run_with_arms,
    saved,
    tiny,
    train,
    wait,
    weights,
    workers,
)

pytestmark = pytest.mark.timeout(600)  # trainings take half a minute to start, and twice that on a busy machine
STEPS, ROWS, IN_ARM, HELDOUT = 12, 120, 4, 24
CLOSE = 1e-4
"""Of losses and weights in float32, added up in another order."""
TRAINED = {"config.json", "model.safetensors", "tokenizer.json", "curve.parquet"}


@pytest.fixture(scope="module")
def heldout(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Real examples, of which the first four are in the arms too."""
    records = json.loads((shared / "published_subsets/random_9k.json").read_text())[ROWS - IN_ARM : ROWS - IN_ARM + HELDOUT]
    file = tmp_path_factory.mktemp("heldout") / "heldout.json"
    file.write_text(json.dumps(records))
    return str(file)


@pytest.fixture(scope="module")
def run(shared: Path, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """On an object store, with arms of the same real examples."""
    source = shared / "published_subsets/random_9k.json"
    return run_with_arms(tmp_path_factory.mktemp("rows"), source, ROWS, ("killed", "alone"), f"{bucket}/training")


def config_of(shared: Path, heldout: str, **changes: Any) -> Finetune:
    return tiny(shared, steps=STEPS, heldout=heldout, checkpoint={"every_steps": 4}, **changes)


def fetched(run: Run, arm: str, folder: Path) -> Path:
    """The checkpoint of an arm, on this machine."""
    home = run.model(arm).storage
    for entry in run.model(arm).finished().files:
        if "/" not in entry.name:
            pafs.copy_files(
                home.path(entry.name),
                str(folder / entry.name),
                source_filesystem=home.fs,
                destination_filesystem=pafs.LocalFileSystem(),
            )
    return folder


@pytest.fixture(scope="module")
def killed(run: Run, shared: Path, heldout: str, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of packs on two workers with ZeRO-3, one of which was killed half way."""
    with in_the_background(config_of(shared, heldout, tensorboard=True), run, "killed"):
        wait(lambda: saved(run, "killed") >= 4)
        workers()[-1].kill()
    return fetched(run, "killed", tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def plain(run: Run, shared: Path, heldout: str, killed: Path) -> tuple[list[float], State]:
    """Losses and weights of the plain loop on the tokens of that training."""
    return plain_training(run, "killed", config_of(shared, heldout))


def test_packs_on_workers_of_which_one_is_killed_end_where_a_plain_loop_ends(
    run: Run, killed: Path, plain: tuple[list[float], State]
) -> None:
    rows = curve(run, "killed")
    assert gap(losses(rows), plain[0]) < CLOSE
    assert differences(weights(killed), plain[1]) < CLOSE
    assert plain[0][-1] < plain[0][0] - 0.5
    assert sum(row["padding"] for row in rows) == 0
    stage = run.model("killed")
    manifest = stage.finished()
    stage.verify(manifest)
    assert manifest.details["wall_s"]["lost"] > 0
    assert manifest.details["examples_seen"] == STEPS * 16
    assert {entry.name for entry in manifest.files} >= TRAINED
    assert any(name.startswith("tensorboard/") for name in stage.storage.all_names())
    assert not stage.storage.at(STATE).all_names()


def test_padded_rows_on_one_worker_without_zero_end_there_too(
    run: Run, shared: Path, heldout: str, plain: tuple[list[float], State], tmp_path: Path
) -> None:
    config = config_of(shared, heldout, workers=1, zero_stage=0, packing=False, micro_batch=3)
    rows = train(run, "alone", config)
    assert gap(losses(rows), plain[0]) < CLOSE
    assert differences(weights(fetched(run, "alone", tmp_path)), plain[1]) < CLOSE
    assert [row["label_tokens"] for row in rows] == [row["label_tokens"] for row in curve(run, "killed")]
    assert sum(row["padding"] for row in rows) > 500
    here, there = (run.model(arm).finished().details["heldout"] for arm in ("alone", "killed"))
    assert here["loss"] == pytest.approx(there["loss"], abs=CLOSE)


def test_the_held_out_loss_is_that_of_the_written_model(run: Run, shared: Path, heldout: str, killed: Path) -> None:
    told = run.model("killed").finished().details["heldout"]
    loss, labels = plain_heldout(killed, config_of(shared, heldout))
    assert told["loss"] == pytest.approx(loss, abs=CLOSE)
    assert (told["label_tokens"], told["examples"] + told["left_out"], told["in_arm"]) == (labels, HELDOUT, IN_ARM)
    arms: Sequence[dict[str, Any]] = json.loads(run.storage.read(COMPARISON))["arms"]
    assert next(arm["heldout"] for arm in arms if arm["arm"] == "killed") == told


def test_a_finished_model_is_left_as_it_is_and_other_held_out_examples_are_not_mixed_with_it(
    run: Run, shared: Path, heldout: str, killed: Path, tmp_path: Path
) -> None:
    config = config_of(shared, heldout, tensorboard=True)
    assert finetune(config, run, ["killed"]) == [run.model("killed").finished()]
    other = tmp_path / "heldout.json"
    other.write_text(Path(heldout).read_text().replace("a", "e", 1))
    with pytest.raises(SettingsChanged, match=r"heldout\.json"):
        finetune(config.model_copy(update={"heldout": str(other)}), run, ["killed"])


def test_transformers_opens_what_was_trained(killed: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(killed)
    assert tokenizer.pad_token == "<unk>"
    said = [{"role": "user", "content": "Name a colour."}]
    text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    assert text == "<s>" + alpaca_prompt("Name a colour.", "")
    assert AutoModelForCausalLM.from_pretrained(killed).config.model_type == "llama"


def test_a_stopped_training_of_adapters_goes_on_with_fewer_workers(shared: Path, local_ray: None, tmp_path: Path) -> None:
    """Padded rows with ZeRO-2 on two workers, stopped by Ctrl-C, and ended by one."""
    run = run_with_arms(tmp_path, shared / "published_subsets/random_9k.json", ROWS, ("whole", "stopped"))
    adapters = {"zero_stage": 2, "lora": {"rank": 4, "dropout": 0.0}, "learning_rate": 1e-2}
    config = tiny(shared, steps=STEPS, packing=False, micro_batch=2, checkpoint={"every_steps": 2}, **adapters)
    whole = train(run, "whole", config.model_copy(update={"workers": 1}))
    recipe = tmp_path / "recipe.yaml"
    settings = config.model_dump(mode="json", exclude_unset=True)
    recipe.write_text(yaml.safe_dump({"finetune": {**settings, "arms": ["stopped"]}}))
    arguments = ["--run", run.storage.root, "--recipe", str(recipe)]
    driver = drivers.start("finetune", arguments, tmp_path / "driver", drivers.ray_here())
    wait(lambda: saved(run, "stopped") >= 2 or not driver.is_alive)
    os.kill(driver.pid, signal.SIGINT)
    ended = driver.wait()
    assert (ended.code, "Traceback" in ended.message) == (1, False), ended.message
    with pytest.raises(SettingsChanged, match="learning_rate"):
        finetune(config.model_copy(update={"learning_rate": 2e-2}), run, ["stopped"])
    stopped = train(run, "stopped", config.model_copy(update={"workers": 1}))
    assert gap(losses(whole), losses(stopped)) < CLOSE
    before, merged, again = (
        AutoModelForCausalLM.from_pretrained(place).state_dict()
        for place in (config.model, run.model("whole").storage.root, run.model("stopped").storage.root)
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (merged[name] - before[name]).abs().max() > 1e-3
    assert (merged[name] - again[name]).abs().max() < 1e-3
    assert not [key for key in merged if "lora" in key]
