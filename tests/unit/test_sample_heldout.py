"""The sample's held-out examples are of its kinds, none of its own, and load as held-out examples and as a test set."""

import json
from collections import Counter
from typing import Any

import pytest

from alpagasus_ray.config import Finetune
from alpagasus_ray.data import prompt_sets
from alpagasus_ray.evaluation.exact_match import exact_match
from alpagasus_ray.training import heldout
from alpagasus_ray.training.heldout import HeldOut
from toy_runs import ROOT

PLACE = str(ROOT / "examples/sample/heldout.jsonl")
KEYS = ["id", "instruction", "input", "output", "category", "reference"]
SHORT = ("classification", "extraction", "reasoning", "knowledge")
"""Categories in which an answer can be exactly the reference."""


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "examples/sample" / name).read_text(encoding="utf-8").splitlines()]


ROWS = lines("heldout.jsonl")


@pytest.fixture(scope="module")
def held() -> HeldOut:
    """As the quickstart's training has them."""
    found = heldout.read(Finetune(model=str(ROOT / "examples/tiny_model"), heldout=PLACE, max_length=256))
    assert found is not None
    return found


def test_every_line_has_all_fields_and_its_own_id() -> None:
    assert [row["id"] for row in ROWS] == [f"heldout-{number:03d}" for number in range(1, len(ROWS) + 1)]
    for row in ROWS:
        assert list(row) == KEYS
        assert row["reference"] == row["output"]
        assert all(row[key].strip() == row[key] for key in KEYS)
        assert row["instruction"]
        assert row["output"]


def test_the_categories_are_those_of_the_sample_each_as_often() -> None:
    counts = Counter(row["category"] for row in ROWS)
    assert set(counts) == {row["category"] for row in lines("examples.jsonl")}
    assert set(counts.values()) == {12}


def test_no_line_is_one_of_the_sample_and_none_stands_twice() -> None:
    asked = [(row["instruction"], row["input"]) for row in ROWS]
    assert len(set(asked)) == len(asked)
    assert not set(asked) & {(row["instruction"], row["input"]) for row in lines("examples.jsonl")}


def test_where_one_answer_is_right_it_is_short() -> None:
    assert max(len(row["reference"].split()) for row in ROWS if row["category"] in SHORT) <= 4


def test_every_line_is_an_example_to_hold_out_and_none_is_cut(held: HeldOut) -> None:
    assert held.contents == [(row["instruction"], row["input"], row["output"]) for row in ROWS]
    assert len(held.tokens) == len(ROWS)
    assert max(map(len, held.tokens.column("input_ids").to_pylist())) < 256


@pytest.mark.parametrize("form", ["jsonl", "auto"])
def test_every_line_is_a_prompt_of_a_test_set_with_its_reference(form: str) -> None:
    prompts = prompt_sets.load("heldout", PLACE, form)
    assert [prompt.prompt_id for prompt in prompts] == [row["id"] for row in ROWS]
    for prompt, row in zip(prompts, ROWS, strict=True):
        assert {key: getattr(prompt, key) for key in KEYS[1:] if key != "output"} == {
            key: row[key] for key in KEYS[1:] if key != "output"
        }


def test_the_references_themselves_are_exact_answers() -> None:
    found = exact_match([(row["output"], row["reference"]) for row in ROWS])
    assert (found["exact"], found["contains"], found["f1"]) == (len(ROWS), len(ROWS), 1)
