"""What a person reads of a stage's summary."""

import io
from typing import Any

import pytest

from alpagasus_ray.inference.counts import Counts, in_words
from alpagasus_ray.reporting import terminal
from alpagasus_ray.reporting.number_text import money


def _shown(**report: Any) -> str:
    stream = io.StringIO()
    terminal.show({"stage": "ratings/judge", "rows": 10, "location": "runs/x", **report}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("usage", [{"attempts": 10, "maybe_billed_twice": 0}, {}, None])
def test_what_is_as_usual_is_not_told(usage: Any) -> None:
    assert "attempts" not in _shown(usage=usage)
    assert "maybe" not in _shown(usage=usage)


def test_attempts_that_had_to_be_repeated_and_what_they_may_have_cost_are_told() -> None:
    told = _shown(usage={"attempts": 12, "maybe_billed_twice": 2, "cost_usd": 0.5})
    assert "12 attempts, 2 maybe billed twice, $0.5000" in told


def _model(name: str, **more: Any) -> dict[str, Any]:
    """A finished training, as `jobs/finetune.py` reports it."""
    return {
        "name": name,
        "location": f"runs/x/models/{name}",
        "counts": {"whole": 9000, "cut": 229, "left out": 0},
        "examples": 9229,
        "steps": 217,
        "epochs": 3.0,
        "tokens": 5_000_000,
        "label_tokens": 2_000_000,
        "loss": {"first": 1.5, "last_tenth": 0.75},
        "tokens_per_s": 12345.6,
        "mfu": 0.42,
        "minutes": 14.0,
        "training_minutes": 12.0,
        "dollars": 5.6,
        "workers": 4,
        "device": "NVIDIA A100",
        "wall_s": {},
        **more,
    }


def _larger(**more: Any) -> dict[str, Any]:
    return _model("full", examples=52_002, steps=1219, tokens=28_000_000, minutes=80.5, training_minutes=78.0, **more)


def test_a_finished_training_is_told_in_two_lines() -> None:
    lines = _shown(models=[_model("selected")], comparison="runs/x/models/comparison.json").splitlines()
    assert lines[1].startswith("  selected: 9,229 examples (9,000 whole, 229 cut), 217 updates, loss 1.500 -> 0.750, ")
    assert lines[1].endswith(", 12,346 tokens/s on 4 x NVIDIA A100, MFU 42.0%, 14.0 minutes, $5.60")
    assert lines[2:] == ["    runs/x/models/selected", "  how all models of this run compare: runs/x/models/comparison.json"]


def test_what_is_not_known_of_a_training_is_left_out() -> None:
    text = _shown(models=[_model("selected", mfu=None, dollars=None)])
    assert "MFU" not in text
    assert "$" not in text


def test_every_arm_is_compared_with_the_largest() -> None:
    text = _shown(models=[_model("selected"), _larger(dollars=None)], comparison="c.json")
    line = next(line for line in text.splitlines() if "beside" in line)
    assert line.startswith(
        "  full took, beside selected, 5.63 times the examples, 5.62 times the steps, 5.60 times the tokens, "
    )
    assert line.endswith("5.75 times the minutes, 6.50 times the training minutes")
    assert text.splitlines()[-1] == "  how all models of this run compare: c.json"


def test_a_single_arm_is_compared_with_nothing() -> None:
    assert "beside" not in _shown(models=[_model("selected")])


@pytest.mark.parametrize(
    ("dollars", "shown"), [(0.0, "0.00"), (1234.5, "1,234.50"), (0.5, "0.5000"), (0.0042, "0.0042"), (0.000031, "0.000031")]
)
def test_no_cost_is_shown_as_nothing(dollars: float, shown: str) -> None:
    assert money(dollars) == shown
    assert f"${shown}" in _shown(usage={"cost_usd": dollars})
    assert in_words(Counts(usd_billed=dollars)) == ([f"${shown}"] if dollars else [])


def test_rows_of_several_arms_are_not_added_up_and_lengths_are_whole_numbers() -> None:
    sizes = {"selected": 61, "random": 61, "longest": 61}
    tokens, length = {"kept": 9, "counted_by": "estimate"}, {"kept": 534.41, "unit": "characters"}
    arms = [
        {"name": name, "rows": rows, "dropped": 139, "tokens": tokens, "mean_output_length": length, "file": "x"}
        for name, rows in sizes.items()
    ]
    told = list(terminal.lines({"stage": "subsets", "rows": 183, "location": "there", "arms": arms}))
    assert told[0] == "subsets: 3 arms in there"
    assert told[1].endswith("534 characters an output")


def test_a_step_of_the_scale_that_no_row_has_is_a_line_without_a_bar() -> None:
    lines = list(terminal._bars({"0.0": 4, "2.5": 8}, {"min": 0.0, "max": 3.0, "step": 0.5}))
    assert [line.split() for line in lines] == [
        ["0", "█" * 20, "4"],
        ["0.5", "0"],
        ["1", "0"],
        ["1.5", "0"],
        ["2", "0"],
        ["2.5", "█" * 40, "8"],
        ["3", "0"],
    ]
    assert list(terminal._bars({})) == []
    assert [line.split()[0] for line in terminal._bars({"0.1234": 1, "4": 1})] == ["0.1234", "4"], "on no step"
