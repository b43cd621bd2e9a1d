"""Defects are planted into rows that have what a kind needs, and the same ones each time."""

import json
from pathlib import Path

import pytest

from alpagasus_ray.evaluation.planted_defects import KINDS, NUMBER, Defect, Row, pad, plant

SAMPLE = Path(__file__).parents[2] / "examples" / "sample"
LONG = "Water boils at 100 degrees at sea level, and it is the heat that turns the liquid into a gas, slowly at first."


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    lines = (SAMPLE / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [Row(f"h:{n}", x["instruction"], x["input"], x["output"]) for n, x in enumerate(map(json.loads, lines))]


def test_all_twelve_kinds_are_planted_and_each_changes_the_answer_alone(rows: list[Row]) -> None:
    planted, counts = plant(rows, per_kind=8)
    assert len(KINDS) == 12
    assert counts == dict.fromkeys(KINDS, 8)
    assert all(one.output != one.row.output and one.row in rows for one in planted)
    for kind in KINDS:
        used = [one.row.example_id for one in planted if one.kind == kind]
        assert len(set(used)) == len(used), "a row was spoiled twice in the same way"


def test_the_same_seed_plants_the_same_whatever_the_order_of_the_rows(rows: list[Row]) -> None:
    first, _ = plant(rows, 5, seed=1)
    assert plant(rows[::-1], 5, seed=1)[0] == first
    assert plant(rows, 5, seed=2)[0] != first


def _one(kind: str, output: str, language: str = "en") -> Defect | None:
    other = Row("y", "Name a colour.", "", "Blue.")
    planted, _ = plant([Row("x", "Explain boiling.", "", output, language), other], kinds=[kind])
    return next((one for one in planted if one.row.example_id == "x"), None)


@pytest.mark.parametrize(
    ("kind", "without"),
    [
        ("wrong_number", "No number here, 3.5 and v2 and 2020-01-02 are others."),
        ("negated_fact", "Blue."),
        ("cut_off", "Blue."),
    ],
)
def test_a_row_without_what_a_kind_needs_is_left_alone(kind: str, without: str) -> None:
    assert _one(kind, without) is None
    assert _one(kind, LONG) is not None


def test_each_kind_does_what_its_name_says() -> None:
    said = {kind: one.output for kind in KINDS if (one := _one(kind, LONG))}
    assert said["empty"] == ""
    assert said["echo"] == "Explain boiling."
    assert LONG.startswith(said["cut_off"])
    assert LONG[len(said["cut_off"])].isalnum()
    assert said["too_short"] == "Water boils at"
    assert said["swapped_answer"] == "Blue."
    assert "it is not the heat" in said["negated_fact"]
    assert sorted(said["garbled"].split()) == sorted(LONG.split())
    number = int(NUMBER.search(said["wrong_number"])[0])
    assert number != 100
    assert 50 <= number <= 150
    assert said["wrong_language"].startswith("Das ist")
    assert said["repetition"].count("Water boils") == 12


def test_text_without_blanks_is_spoiled_too() -> None:
    chinese = "水在海平面上的沸点是一百摄氏度，加热使液体逐渐变成气体，这个过程开始时很慢，后来会越来越快，直到全部变成蒸汽。"
    for kind in ("cut_off", "negated_fact", "garbled", "too_short", "repetition"):
        assert (one := _one(kind, chinese, "zh")) is not None, kind
        assert one.output != chinese


def test_padding_keeps_the_answer_whole() -> None:
    assert LONG in pad(LONG)
    assert len(pad(LONG).split()) > len(LONG.split()) + 50
