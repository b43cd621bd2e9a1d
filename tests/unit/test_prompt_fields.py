"""One list of the keys that a prompt stands under serves test sets and reviews of their answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Compare, Import
from alpagasus_ray.data.prompt_fields import PROMPT_KEYS
from alpagasus_ray.data.prompt_sets import load
from alpagasus_ray.errors import InputError
from alpagasus_ray.judging.pairs import Bout
from alpagasus_ray.reporting.verdicts import comparisons, games
from alpagasus_ray.stages.compare import compare
from alpagasus_ray.store.run import Run

KEYS = [*PROMPT_KEYS, "Instruction", "PROMPT", "Text", "Question", "Conversations"]
UNDER: list[dict[str, Any]] = [{key: ["Why?"] if key == "turns" else "Why?"} for key in KEYS] + [{"conversations": ["Why?"]}]


def reviews(folder: Path, *prompts: dict[str, Any]) -> Compare:
    record = {"Answer1": "Because.", "Answer2": "No reason.", "review": "9 5", "review_reverse": "5 9"}
    content = {"Meta_Info": {"dataset_name": "toy"}, "data": [prompt | record for prompt in prompts]}
    path = folder / "toy.json"
    path.write_text(json.dumps(content))
    return Compare.model_validate({"import": Import(format="cherry", files=str(path)), "pairs": [["x", "y"]]})


@pytest.mark.parametrize("prompt", UNDER, ids=json.dumps)
def test_a_prompt_is_found_under_each_key_of_the_list_in_test_sets_and_in_reviews(
    tmp_path: Path, prompt: dict[str, Any]
) -> None:
    (tmp_path / "set.jsonl").write_text(json.dumps(prompt))
    assert [one.instruction for one in load("toy", str(tmp_path / "set.jsonl"))] == ["Why?"]
    run = Run.open(str(tmp_path / "run"))
    compare(reviews(tmp_path, prompt), run)
    [told] = comparisons(run)
    assert [row["instruction"] for row in games(run, told)] == ["Why?"]


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Why?", "answer": "So."},
        {"conversations": ["Why?", "So."]},
        {"conversations": [{"from": "human", "value": "Why?"}]},
        {"Prompt": "Why?", "Completion": "So."},
        {"Sentence": "Why?"},
    ],
    ids=json.dumps,
)
def test_what_holds_an_answer_to_learn_or_no_known_key_is_no_test_set(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "set.jsonl").write_text(json.dumps(record))
    with pytest.raises(InputError, match="no known layout"):
        load("toy", str(tmp_path / "set.jsonl"))


def test_a_review_without_a_prompt_names_the_keys_it_may_stand_under(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"record 1: no text of the prompt under `instruction` or `prompt`.*; it has topic"):
        compare(reviews(tmp_path, {"topic": "Why?"}), Run.open(str(tmp_path / "run")))


def test_a_review_keeps_the_skill_and_difficulty_of_its_test_set(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    asked = reviews(tmp_path, {"idx": 1, "Skill": "Math", "Difficulty": "3", "Instruction": "Add."})
    [bout] = compare(asked, run)
    assert bout == Bout("x", "y", "toy")
    [row] = [row for table in run.pairs(*bout).tables(run.pairs(*bout).finished()) for row in table.to_pylist()][:1]
    assert (row["skill"], row["difficulty"]) == ("Math", 3)
    with pytest.raises(InputError, match="record 1: the difficulty is 'hard', not a whole number"):
        compare(reviews(tmp_path, {"Difficulty": "hard", "Instruction": "Add."}), run)


def test_self_instructs_input_stands_in_its_first_instance(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    compare(reviews(tmp_path, {"instruction": "Add.", "instances": [{"input": "2 3", "output": "5"}]}), run)
    [told] = comparisons(run)
    assert games(run, told)[0]["input"] == "2 3"
