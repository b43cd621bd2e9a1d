"""What other trainers are given of an arm: their own keys, the same training as far as they know it, every row; and back."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from alpagasus_ray import __main__ as command
from alpagasus_ray.config import Answerer, Finetune, Generate
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.tasks.answer import AnswerTask, resolved
from alpagasus_ray.recipe import load
from alpagasus_ray.store.run import Run
from alpagasus_ray.training.trainer_configs import WRITERS, Files, batch_of, files
from alpagasus_ray.training.trainer_rows import rows_of
from toy_runs import ROOT, toy_run

SCHEMAS = json.loads((ROOT / "tests/data/trainers.json").read_text())
"""The fields of each trainer's configuration that are written, as the release named there takes them. The configurations of
`CASES` were read by those releases' own parsers as well (docs/trainers.md)."""
TRAINERS = sorted(WRITERS)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chat": {"template": "chat", "chat_template_kwargs": {"enable_thinking": False}},
    "lora": {"lora": {"rank": 8}, "wandb": "mine"},
    "some modules": {"lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}, "steps": 10, "gradient_checkpointing": True},
    "workers": {"workers": 4, "schedule": "constant", "precision": "float32", "max_grad_norm": None, "revision": "v2"},
    "scratch": {"from_scratch": True, "too_long": "drop", "weight_decay": 0.1, "heldout": "others.jsonl", "epochs": 1.5},
}


def asked(trainer: str, **knobs: Any) -> Finetune:
    return Finetune.model_validate({"with": trainer, "model": "some/model", **knobs})


def made(trainer: str, **knobs: Any) -> Files:
    if trainer == "trl":
        knobs.pop("from_scratch", None)
    return files(asked(trainer, **knobs), 1000)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("case", CASES)
def test_a_configuration_has_only_fields_and_values_that_its_trainer_takes(trainer: str, case: str) -> None:
    told = made(trainer, **CASES[case])
    written = yaml.safe_load(yaml.safe_dump(told.config))
    jsonschema.Draft202012Validator(SCHEMAS[trainer]["config"]).validate(written)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMAS[trainer]["config"]).validate({**written, "learnig_rate": 1e-5})
    if written.get("deepspeed"):
        assert told.others[written["deepspeed"]]["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("case", CASES)
def test_every_trainer_is_told_the_same_training(trainer: str, case: str) -> None:
    config, told = asked("axolotl", **CASES[case]), made(trainer, **CASES[case]).config
    micro = told.get("micro_batch_size") or told["per_device_train_batch_size"]
    batch = micro * told["gradient_accumulation_steps"] * (config.workers or 1)
    assert batch == config.global_batch
    assert micro <= config.micro_batch
    assert told["seed"] == config.seed
    assert told["learning_rate"] == config.rate
    longest = [told[key] for key in ("sequence_len", "cutoff_len", "max_length") if key in told]
    assert longest == [config.max_length]
    epochs = [told[key] for key in ("num_epochs", "num_train_epochs") if key in told]
    assert (epochs, told.get("max_steps")) == (([], 10) if config.steps else ([config.epochs or 3.0], None))
    assert {told.get("sample_packing", False), told.get("packing", False)} == {False}, "else a batch would be another"


def test_what_a_trainer_does_otherwise_is_told() -> None:
    for trainer in TRAINERS:
        notes = " ".join(made(trainer, **CASES["scratch"]).notes)
        assert "finetune.heldout" in notes
        assert "embeddings" in notes
        assert ("too_long" in notes) is (trainer != "axolotl")
        assert "adapter" in " ".join(made(trainer, **CASES["lora"]).notes)
    told = made("trl", epochs=3)
    assert told.updates == 24, "8 an epoch, the last of them smaller"
    assert not any("updates" in note for note in made("trl", steps=24).notes)
    assert any(
        "preserve_thinking" in note for note in made("llama-factory", chat_template_kwargs={"preserve_thinking": 1}).notes
    )


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"workers": 3}, "multiple of 3"),
        ({"workers": [2, 8]}, "one number"),
        ({"from_scratch": True}, "from_scratch"),
    ],
)
def test_what_would_be_another_training_is_refused(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        files(asked("trl", **knobs), 1000)


def test_micro_batches_fill_an_update_and_are_no_larger_than_asked_for() -> None:
    for size, workers, most in ((128, 1, 4), (96, 2, 5), (7, 1, 4), (2, 2, 4)):
        found = batch_of(asked("trl", global_batch=size, workers=workers, micro_batch=most))
        assert found.micro * found.accumulation * found.workers == size
        assert found.micro <= most


# rows

PLAIN = {"instruction": "Add.", "input": "1 2", "output": "3", "system": None, "history": None, "learn": None}
TALK = {
    **PLAIN,
    "system": "Be kind.",
    "history": [{"instruction": "Hi", "output": "Hello"}, {"instruction": "Well?", "output": "Yes"}],
    "learn": [True, False],
}


@pytest.fixture
def with_end(tmp_path: Path) -> str:
    """A model whose tokenizer has an end token."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    return str(folder)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_alpacas_text_is_what_the_model_is_asked_with_to_the_letter(trainer: str, with_end: str) -> None:
    plain, talk = rows_of(asked(trainer, model=with_end), [PLAIN, TALK])
    end = "</s>" if trainer == "llama-factory" else ""  # the others add it
    assert plain == {"prompt": alpaca_prompt("Add.", "1 2"), "completion": f"3{end}"}
    before = f"{alpaca_prompt('Hi', '')}Hello</s>{alpaca_prompt('Well?', '')}Yes</s>"
    assert talk["prompt"] == f"Be kind.\n\n{before}{alpaca_prompt('Add.', '1 2')}"


def test_messages_end_with_the_answer_and_axolotl_is_told_which_of_them_are_learned() -> None:
    [row] = rows_of(asked("axolotl", template="chat"), [TALK])
    assert [message["role"] for message in row["messages"]] == ["system", *["user", "assistant"] * 3]
    assert [message["train"] for message in row["messages"]] == [False, False, True, False, False, False, True]
    [row] = rows_of(asked("llama-factory", template="chat"), [TALK])
    assert row["messages"][-1] == {"role": "assistant", "content": "3"}
    [row] = rows_of(asked("trl", template="chat", chat_template_kwargs={"enable_thinking": False}), [TALK])
    assert row["prompt"][-1] == {"role": "user", "content": "Add.\n\n1 2"}
    assert row["completion"] == [{"role": "assistant", "content": "3"}]
    assert row["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_tokenizer_without_an_end_token_is_told_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert list(rows_of(asked("trl", model=str(tmp_path)), [PLAIN]))
    with pytest.raises(UsageError, match="eos_token"):
        list(rows_of(asked("llama-factory", model=str(tmp_path)), [PLAIN]))


# a run


@pytest.fixture
def verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Carries out a verb on a run with two arms; the answer is the exit code and what it told."""
    toy_run(tmp_path, 30)

    def carry_out(name: str, *settings: str) -> tuple[int, str]:
        arms = "pick.arms=[{name: all, policy: full}, {name: few, policy: random, k: 10}]"
        options = [word for setting in (arms, *settings) for word in ("-s", setting)]
        code = command.main([name, str(tmp_path / "run"), *options, "--json"])
        told = capsys.readouterr()
        return code, told.err + told.out

    assert carry_out("pick")[0] == 0
    return carry_out


def checkpoint(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize("trainer", TRAINERS)
def test_arms_go_out_whole_and_come_back_by_the_path_that_is_told(
    trainer: str, verb: Callable[..., tuple[int, str]], with_end: str, tmp_path: Path
) -> None:
    settings = [f"finetune={{with: {trainer}, model: {with_end}, global_batch: 8}}"]
    code, told = verb("train", *settings)
    assert code == 0, told
    run = Run.open(str(tmp_path / "run"))
    for arm, rows in (("all", 30), ("few", 10)):
        home = Path(run.trainer(trainer, arm).storage.root)
        kept = [row["output"] for row in json.loads((tmp_path / "run/subsets" / arm / "subset.json").read_text())]
        written = [json.loads(line) for line in (home / "train.jsonl").read_text().splitlines()]
        assert [row["completion"].removesuffix("</s>") for row in written] == kept
        assert len(kept) == rows
        assert yaml.safe_load((home / "config.yaml").read_text())["seed"] == 0
    assert json.loads(told.splitlines()[-1])["trainers"][0]["command"] in told
    assert verb("train", *settings)[0] == 0, "what is written is left as it is"
    code, refused = verb("train", settings[0].replace("8", "4"))
    assert (code, "made with other settings" in refused) == (2, True)
    for arm in ("all", "few"):  # as the trainer would
        checkpoint(Path(run.trainer(trainer, arm).storage.root) / "model")
    advised = told.partition("name what was trained: -s ")[2].splitlines()[0]
    code, taken = verb("train", *settings, *shlex.split(advised))
    assert code == 0, taken
    answerer = resolved(Answerer(name="few", arm="few"), Generate(), run)
    assert answerer.model == f"{run.trainer(trainer, 'few').storage.root}/model"
    assert verb("train", *settings, *shlex.split(advised))[0] == 0
    assert verb("report")[0] == 0, "a model without a curve has its place in the report"


def test_a_checkpoint_that_was_overwritten_is_never_taken_for_the_one_that_answered(
    verb: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    place = checkpoint(tmp_path / "out")
    named = f"finetune.checkpoints={{all: {place}}}"
    only = "finetune.arms=[all]"
    assert verb("train", named, only)[0] == 0, "any trainer will do"
    run = Run.open(str(tmp_path / "run"))
    task = AnswerTask(resolved(Answerer(name="all", arm="all"), Generate(), run), ("x",), run.model("all"), run.weights("all"))
    before = task.inputs("x")
    checkpoint(place, b"others!")
    assert task.inputs("x") != before
    assert verb("train", named, only)[0] == 2


def test_a_directory_that_holds_no_model_is_refused_with_what_to_do(
    verb: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "config.json"):
        (tmp_path / "adapter" / name).write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    for given, told in {
        f"{{all: {tmp_path}/adapter}}": "merge",
        f"{{all: {tmp_path}/empty}}": "no such directory",
        f"{{all: {tmp_path}/nowhere}}": "no such directory",
        f"{{all: {tmp_path}/other}}": "holds no model",
        f"{{best: {tmp_path}/other}}": "'best', which is no arm",
    }.items():
        code, said = verb("train", "finetune.arms=[all]", f"finetune.checkpoints={given}")
        assert (code, told in said) == (2, True), said


def test_a_recipe_names_a_trainer_by_with_and_no_other(tmp_path: Path) -> None:
    assert load(None, ["finetune.with=trl"]).recipe.model_dump(mode="json")["finetune"]["with"] == "trl"
    for wrong in ("finetune.with=unsloth", "finetune.trainer=trl"):
        with pytest.raises(UsageError, match="finetune"):
            load(None, [wrong])
