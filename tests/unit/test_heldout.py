"""Held-out examples are read from any layout, made the same tokens of as an arm's, and found where they are in an arm too."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from alpagasus_ray.config import Arm, Finetune, Ingest, Pick
from alpagasus_ray.data.schema import TOKENS
from alpagasus_ray.errors import UsageError
from alpagasus_ray.reporting.terminal_training import trained_lines
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from alpagasus_ray.training import heldout
from alpagasus_ray.training.arms import heldout_print, settings_of
from alpagasus_ray.training.heldout import HeldOut
from alpagasus_ray.training.token_files import Tokens, encode_shard
from toy_runs import ROOT

MODEL = str(ROOT / "examples/tiny_model")
ROWS = [{"instruction": f"Say {number}.", "input": "", "output": f"It is {number}."} for number in range(5)]
SAID = [{"role": role, "content": text} for role, text in (("user", "Hi?"), ("assistant", "Hi!"), ("user", "So?"))]
SENT = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi!"}, {"from": "human", "value": "So?"}]


def config_of(folder: Path, rows: list[Any], **changes: Any) -> Finetune:
    path = folder / "heldout.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return Finetune(model=MODEL, heldout=str(path), **changes)


def held_of(config: Finetune) -> HeldOut:
    held = heldout.read(config)
    assert held is not None
    return held


def run_of(folder: Path, rows: list[dict[str, str]]) -> Run:
    """A run with one arm of these examples, in shards of two."""
    (folder / "rows.json").write_text(json.dumps(rows))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json"), rows_per_shard=2), run)
    pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), run)
    return run


def told(folder: Path, held: list[Any], arm: list[dict[str, str]], **changes: Any) -> dict[str, int]:
    stage = run_of(folder, arm).subset("full")
    return held_of(config_of(folder, held, **changes)).told(stage, stage.finished())


# reading


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Hi?", "input": "", "output": "Hi!"},
        {"instruction": "Hi?", "context": "", "response": "Hi!", "category": "open_qa"},
        {"messages": SAID},
        {"conversations": SENT},
        {"prompt": {"role": "prompter", "text": "Hi?", "replies": [{"role": "assistant", "text": "Hi!"}]}},
    ],
    ids=["alpaca", "dolly", "messages", "sharegpt", "oasst"],
)
def test_any_layout_is_read_of_a_conversation_the_first_turn(tmp_path: Path, row: dict[str, Any]) -> None:
    assert held_of(config_of(tmp_path, [row, row])).contents == [("Hi?", "", "Hi!")] * 2


def test_all_files_of_a_glob_are_held_out(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"part-{number}.json").write_text(json.dumps(ROWS[number : number + 1]))
    held = held_of(Finetune(model=MODEL, heldout=str(tmp_path / "part-*.json")))
    assert [instruction for instruction, _, _ in held.contents] == ["Say 0.", "Say 1.", "Say 2."]


def test_held_out_examples_have_the_tokens_that_an_arm_has_of_them(tmp_path: Path) -> None:
    rows = [*ROWS, {"instruction": "Go on.", "input": "one two", "output": "three " * 200}]
    config, run = config_of(tmp_path, rows, max_length=128), run_of(tmp_path, rows)
    for part in run.subset("full").finished().parts():
        encode_shard(config, run.subset("full"), run.tokens("full"), part.name)
    names = sorted(name for name in run.tokens("full").storage.all_names() if name.endswith(".arrow"))
    batches = [pa.ipc.open_file(run.tokens("full").storage.path(name)).get_batch(0) for name in names]
    held, arm = held_of(config).tokens, pa.Table.from_batches(batches)
    assert held.schema == TOKENS
    for column in ("input_ids", "prompt_tokens"):
        assert held.column(column).to_pylist() == arm[column].to_pylist()
    assert Tokens([held]).lengths.max() == 128


def test_without_the_knob_nothing_is_held_out() -> None:
    config = Finetune(model=MODEL)
    assert heldout.read(config) is None
    assert heldout_print(config) == {}


# what is refused


def refused(config: Finetune) -> str:
    with pytest.raises(UsageError) as refusal:
        heldout.read(config)
    return str(refusal.value)


def test_a_file_that_is_not_there_is_told_with_the_knob_before_anything_is_made(tmp_path: Path) -> None:
    run = run_of(tmp_path, ROWS)
    with pytest.raises(UsageError, match=r"finetune\.heldout: nothing found at /no/such/file"):
        finetune(Finetune(model=MODEL, heldout="/no/such/file"), run, ["full"])
    assert not run.storage.at("models").all_names()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["empty (0 bytes)"]),
        ([" "], ["nothing but white space"]),
        ([{"instruction": "Hi?"}], ["line 1", "no known layout has the fields instruction", "output"]),
        ([ROWS[0], {"instruction": "Hi?"}], ["line 2", "no `output`"]),
        ([ROWS[0], "{"], ["line 2", "not valid JSON"]),
    ],
    ids=["nothing", "white space", "no layout", "no output", "broken"],
)
def test_what_cannot_be_read_is_told_with_knob_and_place(tmp_path: Path, rows: list[Any], words: list[str]) -> None:
    message = refused(config_of(tmp_path, rows))
    assert message.startswith("finetune.heldout: ")
    assert all(word in message for word in [*words, "heldout.jsonl"])


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("instruction,input,output\n")
    assert "there is no example in" in refused(Finetune(model=MODEL, heldout=str(tmp_path / "rows.csv")))


def test_examples_without_a_trainable_token_are_refused_with_reason_and_knob(tmp_path: Path) -> None:
    message = refused(config_of(tmp_path, ROWS, max_length=8))
    assert "none of the 5 examples of" in message
    assert "5 no trainable token" in message
    assert "finetune.max_length (now 8)" in message


# leakage


def test_what_the_arm_has_too_is_counted_once_for_each_held_out_example(tmp_path: Path) -> None:
    arm = [ROWS[0], ROWS[0], ROWS[1], {**ROWS[2], "output": "Two."}, {**ROWS[3], "input": "three"}]
    assert told(tmp_path, ROWS, arm)["in_arm"] == 2
    assert told(tmp_path, [ROWS[1], ROWS[1]], arm)["in_arm"] == 2


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    long = {"instruction": "Go on.", "input": "", "output": "three " * 200}
    assert told(tmp_path, [*ROWS, long], ROWS[:1], max_length=128, too_long="drop") == {"in_arm": 1, "left_out": 1}


# identity


def test_models_from_before_the_knob_stay_the_same() -> None:
    assert "heldout" not in settings_of(Finetune())
    assert settings_of(Finetune(heldout="x"))["heldout"] == "x"


def test_another_content_of_the_file_is_another_input(tmp_path: Path) -> None:
    before = heldout_print(config_of(tmp_path, ROWS))
    assert list(before) == ["heldout heldout.jsonl"]
    assert heldout_print(config_of(tmp_path, ROWS)) == before
    assert heldout_print(config_of(tmp_path, ROWS[1:])) != before


# the terminal


def _lines(measured: dict[str, Any] | None, curve: list[dict[str, float]] | None = None) -> list[str]:
    plain = dict.fromkeys(("mfu", "dollars", "epochs", "label_tokens"))
    numbers = dict.fromkeys(("examples", "steps", "tokens", "tokens_per_s", "minutes", "training_minutes", "workers"), 1)
    words = {"name": "full", "location": "models/full", "device": "CPU", "wall_s": {}, "counts": {"whole": 1}}
    losses = {"loss": {"first": 3, "last_tenth": 2}, "heldout": measured, "heldout_curve": curve}
    return list(trained_lines([plain | numbers | words | losses]))


def test_the_terminal_tells_the_held_out_loss_and_what_spoils_it() -> None:
    measured = {"loss": 2.5, "examples": 90, "label_tokens": 999, "in_arm": 0, "left_out": 0}
    line, place = _lines(measured)
    assert "loss 3.000 -> 2.000, held-out loss 2.500, " in line
    assert _lines(measured | {"in_arm": 3, "left_out": 6})[:2] == [line, place]
    leak, left = _lines(measured | {"in_arm": 3, "left_out": 6})[2:]
    assert "3 of 96 held-out examples are in the arm too" in leak
    assert "6 of 96 held-out examples were left out" in left


def test_the_terminal_tells_the_held_out_loss_from_which_a_model_began() -> None:
    measured = {"loss": 2.5, "examples": 90, "label_tokens": 999, "in_arm": 0, "left_out": 0}
    line, _ = _lines(measured, [{"step": 0, "loss": 3.25}, {"step": 5, "loss": 2.5}])
    assert "held-out loss 3.250 -> 2.500, " in line
    line, _ = _lines(measured, [{"step": 5, "loss": 2.5}])  # of a training that an earlier version began
    assert "held-out loss 2.500, " in line


def test_where_nothing_is_held_out_the_terminal_is_silent_about_it() -> None:
    assert not any("held-out" in line for line in _lines(None))
