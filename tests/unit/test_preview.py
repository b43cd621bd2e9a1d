"""A preview shows what is trained on and says what it predicts by whom; it touches nothing."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Arm, Finetune, Ingest, Pick
from alpagasus_ray.errors import UsageError
from alpagasus_ray.reporting import terminal
from alpagasus_ray.stages import preview as stage
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.preview import preview
from alpagasus_ray.store.run import Manifest, Run
from alpagasus_ray.training import devices, forecast
from alpagasus_ray.training.arms import settings_of
from alpagasus_ray.training.schedule import Order
from toy_runs import ROOT
from trainings import run_with_arms, tiny

ROWS = 200
CODES = re.compile(r"\x1b\[[\d;]*m")
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two arms of the same 200 real examples."""
    folder = tmp_path_factory.mktemp("previewed")
    return run_with_arms(folder, shared / "published_subsets/helpfulness_t45.json", ROWS, ("one", "two"))


@pytest.fixture(scope="module")
def report(run: Run, shared: Path) -> dict[str, Any]:
    return preview(tiny(shared), run, ["one", "two"])


def arm_of(run: Run, config: Finetune) -> dict[str, Any]:
    """What is told of the first arm."""
    (arm,) = preview(config, run, ["one"])["arms"]
    return dict(arm)


def shown(report: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    terminal.show(report, stream)
    return stream.getvalue()


def tree(run: Run) -> dict[str, tuple[int, bytes]]:
    root = Path(run.storage.root)
    return {
        str(file.relative_to(root)): (file.stat().st_mtime_ns, file.read_bytes()) for file in root.rglob("*") if file.is_file()
    }


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a model is tried on the CPU."""

    def tried(*_: Any) -> float:
        pytest.fail("the model was tried")

    monkeypatch.setattr(forecast, "_tried", tried)


def finish(run: Run, arm: str, config: Finetune, **details: Any) -> None:
    """A finished model, as far as a preview looks at one."""
    wall_s = {"start": 20.0, "load": 40.0, "train": 600.0, "save": 9.0}
    took = {"tokens_per_s": 1000.0, "tokens": 10**6, "workers": 2, "device": "CPU", "padding_share": 0.0, "wall_s": wall_s}
    manifest = Manifest(
        stage=f"models/{arm}",
        settings=settings_of(config),
        settings_hash="",
        inputs={},
        files=[],
        rows=ROWS,
        seconds=700.0,
        versions={},
        details={**took, **details},
    )
    run.model(arm).finish(manifest)


# what is trained on


def test_every_row_is_whole_cut_or_left_out_with_a_reason(report: dict[str, Any]) -> None:
    for arm in report["arms"]:
        assert arm["rows"] == arm["read"] == ROWS
        assert arm["examples"] == arm["whole"] + arm["cut"]
        assert arm["examples"] + sum(arm["left_out"].values()) == ROWS
        assert set(arm["left_out"]) == {"no trainable token"}
        assert 0 < arm["cut"] < ROWS
        assert not arm["estimate"]


def test_the_texts_of_an_example_are_its_prompt_and_its_response_with_the_end_token(run: Run, report: dict[str, Any]) -> None:
    subset = run.subset("one")
    rows = {row["example_id"]: row for table in subset.tables(subset.finished()) for row in table.to_pylist()}
    for told in report["arms"][0]["shown"]:
        row = rows[told["example_id"]]
        assert told["masked"].startswith("<s>")
        assert told["masked"].endswith("### Response:")
        assert row["instruction"].strip() in told["masked"]
        if told["cut"]:
            assert row["output"].strip().startswith(told["trained"].strip("\ufffd"))
            assert told["end"] == ""
        else:
            assert told["trained"].removesuffix(told["end"]).strip() == row["output"].strip()
            assert told["end"] == "</s>"


def test_three_examples_are_shown_the_first_a_cut_one_and_the_longest_whole_one(report: dict[str, Any]) -> None:
    told = report["arms"][0]["shown"]
    assert len({example["example_id"] for example in told}) == 3
    assert told[0]["example_id"] == "rows:000000000"
    assert any(example["cut"] and example["tokens"] == 256 for example in told)
    assert max(example["tokens"] for example in told if not example["cut"]) > 200


def test_tokens_of_the_whole_training_are_those_of_an_epoch_as_often_as_it_is_seen(report: dict[str, Any]) -> None:
    arm = report["arms"][0]
    assert arm["tokens_seen"] == 3 * arm["tokens"]
    assert arm["label_tokens_seen"] == 3 * arm["label_tokens"]
    assert arm["tokens_per_update"] == pytest.approx(arm["tokens_seen"] / arm["steps"], abs=1)
    assert 0 < arm["label_tokens"] < arm["tokens"]
    assert arm["mean_tokens"] < arm["longest"] == 256


@pytest.mark.parametrize("length", [{}, {"epochs": 2.5}, {"epochs": 0.1}, {"steps": 7}, {"global_batch": 500}])
def test_updates_are_those_of_the_order(run: Run, shared: Path, length: dict[str, Any]) -> None:
    config = tiny(shared, peak_tflops=100, **length)
    arm = arm_of(run, config)
    order = Order.of(arm["examples"], config.global_batch, 0, epochs=config.epochs, steps=config.steps)
    assert arm["steps"] == order.steps
    assert arm["epochs"] == order.seen / arm["examples"]


def test_padding_is_what_the_examples_leave_of_the_rows(run: Run, shared: Path) -> None:
    one, four = (
        arm_of(run, tiny(shared, peak_tflops=100, max_length=1024, packing=False, micro_batch=size)) for size in (1, 4)
    )
    one_by_one = one["padding_share"]
    assert one_by_one["to_longest"] == one_by_one["packed"] == 0
    assert 0 < four["padding_share"]["to_longest"] < four["padding_share"]["to_max_length"] < 1
    assert one_by_one["to_max_length"] == four["padding_share"]["to_max_length"]
    assert four["micro_batches"] == 2  # 16 examples on 2 workers


def test_a_large_arm_is_told_by_a_draw_that_the_seed_decides(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = arm_of(run, tiny(shared, peak_tflops=100))
    monkeypatch.setattr(stage, "READ_WHOLE", ROWS - 1)
    monkeypatch.setattr(stage, "DRAWN", 100)
    drawn = arm_of(run, tiny(shared, peak_tflops=100))
    assert drawn == arm_of(run, tiny(shared, peak_tflops=100))
    assert drawn["shown"] != arm_of(run, tiny(shared, peak_tflops=100, seed=1))["shown"]
    assert (drawn["read"], drawn["rows"], drawn["estimate"]) == (100, ROWS, True)
    assert drawn["examples"] == pytest.approx(whole["examples"], rel=0.1)
    assert drawn["tokens"] == pytest.approx(whole["tokens"], rel=0.1)
    assert "about" in shown({**preview(tiny(shared, peak_tflops=100), run, ["one"])}).splitlines()[1]


def test_a_draw_from_many_shards_takes_each_row_at_most_once_and_in_order(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(str(tmp_path))
    ingest(Ingest(source=str(shared / "published_subsets/helpfulness_t45.json"), name="rows", rows_per_shard=100), run)
    pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), run)
    monkeypatch.setattr(stage, "READ_WHOLE", 1000)
    monkeypatch.setattr(stage, "DRAWN", 500)
    monkeypatch.setattr(stage, "DRAWN_SHARDS", 7)
    subset = run.subset("full").finished()
    drawn = [row["example_id"] for row in stage._rows(run.subset("full"), subset, seed=3)]
    assert len(set(drawn)) == 500
    assert drawn == sorted(drawn)


def test_an_arm_of_which_nothing_can_be_trained_on_is_told_with_the_reasons(run: Run, shared: Path) -> None:
    told = preview(tiny(shared, max_length=8), run, ["one"])
    assert told["arms"][0]["examples"] == 0
    assert told["arms"][0]["left_out"] == {"no trainable token": ROWS}
    assert "200 left out (no trainable token)" in shown(told)
    assert "finetune.max_length" in shown(told)


# what it predicts


def test_without_a_gpu_the_model_itself_is_tried(report: dict[str, Any]) -> None:
    for arm in report["arms"]:
        assert 0 < arm["minutes"] < 10
        assert "a trial on this machine's CPU" in arm["predicted_by"]
        assert arm["dollars"] is None
    assert "minutes: about" in shown(report)
    assert "predicted by a trial on this machine's CPU" in shown(report)


def test_padded_rows_are_tried_as_they_are_trained(run: Run, shared: Path) -> None:
    arm = arm_of(run, tiny(shared, packing=False, pad_to_max=True, steps=2))
    assert arm["minutes"] > 0


def test_a_finished_model_of_the_run_tells_best(shared: Path, tmp_path: Path, no_trial: None) -> None:
    run = run_with_arms(tmp_path, shared / "published_subsets/helpfulness_t45.json", 60, ("one", "two"))
    config = tiny(shared, price_per_gpu_hour=2, peak_tflops=100)
    finish(run, "two", config)
    arm = arm_of(run, config)
    assert arm["minutes"] == pytest.approx((arm["tokens_seen"] / 1000 + 60) / 60)
    assert arm["dollars"] == pytest.approx(2 * 2 * arm["minutes"] / 60)
    assert "1,000 tokens/s" in arm["predicted_by"]
    assert "models/two" in arm["predicted_by"]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # by peft
@pytest.mark.parametrize(
    "change",
    [{"workers": 4}, {"gpu": True}, {"precision": "bf16"}, {"zero_stage": 0}, {"packing": False}, {"lora": {"rank": 4}}],
    ids=str,
)
def test_a_model_that_was_trained_otherwise_tells_nothing(shared: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    run = run_with_arms(tmp_path, shared / "published_subsets/helpfulness_t45.json", 60, ("one", "two"))
    finish(run, "two", tiny(shared))
    assert "assumed MFU" in arm_of(run, tiny(shared, peak_tflops=100, **change))["predicted_by"]


def test_a_gpu_that_is_known_or_told_predicts_by_an_assumed_mfu(
    run: Run, shared: Path, no_trial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = arm_of(run, tiny(shared, peak_tflops=100))
    assert "100 TFLOPS a worker (finetune.peak_tflops) with an assumed MFU of 45%" in told["predicted_by"]
    monkeypatch.setattr(devices, "seen_gpu", lambda config: H100)
    monkeypatch.setattr(devices, "name_of", lambda device: H100)
    seen = arm_of(run, tiny(shared, gpu=None))
    assert f"989 TFLOPS a worker ({H100}) with an assumed MFU of 35%" in seen["predicted_by"]
    assert seen["minutes"] * 989 * 0.35 == pytest.approx(told["minutes"] * 100 * 0.45)
    padded = arm_of(run, tiny(shared, gpu=None, packing=False, pad_to_max=True))
    assert padded["minutes"] == pytest.approx(seen["minutes"] / (1 - padded["padding_share"]["to_max_length"]))


def test_twice_the_workers_take_half_the_time_on_gpus(run: Run, shared: Path, no_trial: None) -> None:
    two, four = (arm_of(run, tiny(shared, peak_tflops=100, workers=n, price_per_gpu_hour=3)) for n in (2, 4))
    assert two["minutes"] == pytest.approx(2 * four["minutes"])
    assert two["dollars"] == pytest.approx(four["dollars"])


def test_what_nobody_can_predict_is_null_with_the_reason_and_the_knob(
    run: Run, shared: Path, no_trial: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in (tiny(shared, gpu=True), tiny(shared, gpu=None)):
        if config.gpu is None:
            monkeypatch.setattr(forecast, "LARGEST_TRIED", 1000)
        told = preview(config, run, ["one"])
        (arm,) = told["arms"]
        assert arm["minutes"] is arm["dollars"] is None
        assert "finetune.peak_tflops" in arm["predicted_by"]
        assert "minutes: unknown" in shown(told)


@pytest.mark.parametrize(
    ("workers", "number", "by"),
    [(None, 1, "finetune.workers is not given"), (3, 3, "finetune.workers"), ((2, 8), 8, "the upper number")],
)
def test_the_number_of_workers_is_told_with_where_it_comes_from(
    run: Run, shared: Path, workers: Any, number: int, by: str
) -> None:
    told = preview(tiny(shared, peak_tflops=100, workers=workers), run, ["one"])
    assert told["workers"] == number
    assert by in told["workers_by"]
    assert by in shown(told).splitlines()[0]


# what it says of the model


def test_it_tells_what_a_model_has_and_computes(run: Run, shared: Path) -> None:
    report = preview(tiny(shared, peak_tflops=100, steps=2), run, ["one"])
    assert report["parameters"] == report["trained"] == 444_352
    assert report["flops_a_token"] == 6 * (444_352 - 512 * 64)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # by peft
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"max_length": 4096, "pack_tokens": 4096}, "set finetune.max_length: 2048, or less"),
        ({"lora": {"targets": ["nowhere"]}}, "finetune.lora.targets"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_trained_so_is_refused_as_the_workers_would(
    run: Run, shared: Path, changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        preview(tiny(shared, **changes), run, ["one"])
    assert word in str(refusal.value)


# what it leaves alone, and refuses


def test_the_job_writes_nothing_loads_no_ray_and_its_report_is_json(run: Run, shared: Path) -> None:
    before = tree(run)
    program = f"""
import runpy, sys
try:
    runpy.run_path("{ROOT}/jobs/finetune.py", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
print([name for name in ("ray", "deepspeed") if name in sys.modules], file=sys.stderr)
"""
    knobs = (f"model={shared / 'tiny_llama'}", "arms=[one]", "steps=2", "precision=float32")
    told = [word for knob in knobs for word in ("--set", f"finetune.{knob}")]
    command = [sys.executable, "-c", program, "--run", run.storage.root, *told, "--preview", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert tree(run) == before
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["preview"] is True
    assert found["arms"][0]["steps"] == 2
    assert "nothing was trained or written" in done.stderr
    assert done.stderr.splitlines()[-1] == "[]", "Ray or DeepSpeed is loaded"


def test_what_is_missing_is_told_as_the_training_tells_it(run: Run, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"subsets/other/ is not finished in this run; run `alpagasus pick RUN` first"):
        preview(tiny(shared), run, ["one", "other"])
    with pytest.raises(UsageError, match=r"`finetune\.model` is not given"):
        preview(tiny(shared, model=None), run, ["one"])
    with pytest.raises(UsageError, match=r"finetune\.model '/no/such/model' cannot be loaded"):
        preview(tiny(shared, model="/no/such/model"), run, ["one"])
    empty = run_with_arms(tmp_path, shared / "published_subsets/helpfulness_t45.json", 5, ("none",))
    subset = empty.subset("none").finished()
    empty.subset("none").finish(subset.model_copy(update={"rows": 0, "files": []}))
    with pytest.raises(UsageError, match="subsets/none is empty"):
        preview(tiny(shared), empty, ["none"])


# what reaches the terminal


@pytest.fixture
def hostile(tmp_path: Path, shared: Path) -> dict[str, Any]:
    """The preview of examples that try to command the terminal."""
    rows = [
        {"instruction": f"Say \x1b[31mred\x07 {n}\x9b2J", "input": "", "output": f"\x1b]0;title\x07\r{n}"} for n in range(3)
    ]
    (tmp_path / "source.json").write_text(json.dumps(rows))
    run = run_with_arms(tmp_path, tmp_path / "source.json", None, ("bad",))
    return preview(tiny(shared, peak_tflops=1, max_length=512), run, ["bad"])


def forced(report: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """On a terminal with colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return shown(report)


def test_no_code_of_the_dataset_reaches_a_terminal(hostile: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, coloured = shown(hostile), forced(hostile, monkeypatch)
    for text in (plain, CODES.sub("", coloured)):
        assert not re.search(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", text)
        assert "\\x1b[31mred\\x07" in text
    assert {code for code in CODES.findall(coloured) if code.startswith("\x1b[31")} == set()


def test_a_terminal_with_colours_dims_the_prompt_and_reverses_the_end_token(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = forced(report, monkeypatch)
    assert "\x1b[2m### Response:\x1b[0m\x1b[32m" in text
    assert "\x1b[0m\x1b[7;32m</s>\x1b[0m" in text


def test_without_colours_marks_stand_around_what_is_trained(report: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = shown(report)
    assert "\x1b" not in text
    for example in report["arms"][0]["shown"]:
        assert f"{example['masked']}«{example['trained']}»" in text
