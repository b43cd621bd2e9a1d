"""Test sets: every published layout gives the prompts it is known to have, and bad input ends in one error with its place."""

import csv
import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alpagasus_ray.data.prompt_sets import FORMATS, LAYOUTS, Prompt, detect, load
from alpagasus_ray.errors import InputError, UsageError

PUBLISHED = {"koala": 180, "vicuna": 80, "wizardlm": 218, "sinstruct": 252}
DEMO = Path(__file__).parents[2] / "examples" / "test_set" / "prompts.jsonl"
FIX = "`format` or `columns`, e.g. `columns: {instruction: question}`"


def _file(folder: Path, *records: Any, name: str = "set.jsonl") -> str:
    path = folder / name
    lines = (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def _one(folder: Path, record: dict[str, Any], form: str = "auto", columns: dict[str, str] | None = None) -> Prompt:
    (prompt,) = load("toy", _file(folder, record), form, columns)
    return prompt


def _refused(path: str, form: str = "auto", columns: dict[str, str] | None = None) -> str:
    """What an unusable file is answered with; always its path and the entry of the recipe to change."""
    with pytest.raises(InputError) as refusal:
        load("toy", path, form, columns)
    assert path in str(refusal.value)
    assert "in the entry 'toy' of `generate.test_sets`" in str(refusal.value)
    assert FIX in str(refusal.value)
    return str(refusal.value)


def _published(shared: Path, name: str) -> list[Prompt]:
    return load(name, str(shared / "test_sets" / f"{name}_test_set.jsonl"))


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_a_published_test_set_has_all_its_prompts_each_with_an_id_of_its_own(shared: Path, name: str, count: int) -> None:
    prompts = _published(shared, name)
    assert len(prompts) == len({prompt.prompt_id for prompt in prompts}) == count
    assert all(prompt.instruction for prompt in prompts)
    assert [prompt.source for prompt in prompts] == [f"{name}_test_set.jsonl#{line}" for line in range(1, count + 1)]


def test_ids_are_those_of_the_file_and_numbers_carry_the_name(shared: Path) -> None:
    ends = {name: (prompts[0].prompt_id, prompts[-1].prompt_id) for name in PUBLISHED if (prompts := _published(shared, name))}
    assert ends == {
        "koala": ("koala_0", "koala_179"),
        "vicuna": ("vicuna-1", "vicuna-80"),
        "wizardlm": ("wizardlm-1", "wizardlm-218"),
        "sinstruct": ("user_oriented_task_0", "user_oriented_task_251"),
    }


def test_vicuna_has_nine_categories(shared: Path) -> None:
    counts = Counter(prompt.category for prompt in _published(shared, "vicuna"))
    sevens = "generic knowledge roleplay common-sense fermi counterfactual writing".split()
    assert counts == {**dict.fromkeys(sevens, 10), "coding": 7, "math": 3}


def test_wizardlm_has_29_skills_and_ten_levels_of_difficulty(shared: Path) -> None:
    prompts = _published(shared, "wizardlm")
    assert len({prompt.skill for prompt in prompts}) == 29
    assert {prompt.difficulty for prompt in prompts} == set(range(1, 11))


def test_self_instruct_has_208_inputs_and_a_reference_for_every_prompt(shared: Path) -> None:
    prompts = _published(shared, "sinstruct")
    assert sum(bool(prompt.input) for prompt in prompts) == 208
    assert all(prompt.reference for prompt in prompts)


def test_a_published_test_set_has_nothing_that_its_file_does_not_say(shared: Path) -> None:
    for name, fields in {"koala": (), "vicuna": ("category",), "wizardlm": ("skill", "difficulty")}.items():
        for prompt in _published(shared, name):
            said = {field for field in ("input", "category", "skill", "difficulty", "reference") if getattr(prompt, field)}
            assert said == set(fields)


@pytest.mark.parametrize(("name", "form"), [*zip(PUBLISHED, ("koala", "vicuna", "wizardlm", "self_instruct"), strict=True)])
def test_naming_the_format_of_a_file_changes_nothing(shared: Path, name: str, form: str) -> None:
    assert load(name, str(shared / "test_sets" / f"{name}_test_set.jsonl"), form) == _published(shared, name)


def test_the_demo_test_set_has_72_prompts_eight_of_each_skill() -> None:
    prompts = load("demo", str(DEMO))
    assert [prompt.prompt_id for prompt in prompts] == [f"demo-{number:03d}" for number in range(1, 73)]
    assert len({(prompt.instruction, prompt.input) for prompt in prompts}) == 72
    skills = "writing rewriting summarising extraction reasoning arithmetic coding knowledge roleplay".split()
    assert Counter(prompt.skill for prompt in prompts) == dict.fromkeys(skills, 8)
    assert {prompt.difficulty for prompt in prompts} == {1, 2, 3, 4, 5}
    assert all(prompt.instruction and prompt.category in ("open", "closed") for prompt in prompts)


def test_the_page_of_the_demo_test_set_counts_right() -> None:
    prompts = load("demo", str(DEMO))
    page = (DEMO.parent / "README.md").read_text(encoding="utf-8")
    categories = Counter(prompt.category for prompt in prompts)
    assert f"`closed` ({categories['closed']})" in page
    assert f"`open` ({categories['open']})" in page
    assert f"empty for {sum(not prompt.input for prompt in prompts)} prompts" in page
    assert dict(re.findall(r"^\| (\w+) \| (\d+) \|", page, re.MULTILINE)) == dict.fromkeys(
        (prompt.skill for prompt in prompts), "8"
    )


def test_every_format_but_auto_has_a_layout() -> None:
    assert set(get_args(FORMATS)) == {"auto", *LAYOUTS}


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        ("vicuna", {"question_id": 1, "text": "a", "category": "math"}),
        ("vicuna", {"question_id": 81, "category": "writing", "turns[0]": "a"}),
        ("koala", {"id": "k", "prompt": "a"}),
        ("wizardlm", {"idx": 1, "Skill": "Math", "Difficulty": 1, "Instruction": "a"}),
        ("self_instruct", {"id": "s", "instruction": "a", "instances": []}),
        ("alpaca_eval", {"dataset": "d", "instruction": "a", "output": "b", "generator": "g"}),
        ("alpaca_eval", {"instruction": "a", "input": "i", "output": "b"}),
        ("jsonl", {"instruction": "a"}),
        (None, {"question": "a", "answer": "b"}),
        (None, {"instruction": "a", "context": "i", "response": "b"}),
        (None, {"messages": [{"role": "user", "content": "a"}], "prompt": "a"}),
        (None, {}),
    ],
)
def test_the_keys_of_a_record_tell_its_layout_and_others_are_not_guessed_at(layout: str | None, record: dict[str, Any]) -> None:
    assert detect(record) == layout


def test_alpaca_eval_keeps_its_dataset_as_category_and_its_output_as_reference(tmp_path: Path) -> None:
    records = [
        {"dataset": "helpful_base", "instruction": "Who?", "output": "I.", "generator": "g"},
        {"dataset": "koala", "instruction": "Why?", "output": "So.", "generator": "g"},
    ]
    path = _file(tmp_path, json.dumps(records, indent=1), name="alpaca_eval.json")
    assert load("ae", path) == [
        Prompt("ae-00001", "Who?", "", "helpful_base", None, None, "I.", "alpaca_eval.json#1"),
        Prompt("ae-00002", "Why?", "", "koala", None, None, "So.", "alpaca_eval.json#2"),
    ]


def test_a_dataset_in_alpaca_layout_keeps_its_input_and_category(tmp_path: Path) -> None:
    prompt = _one(tmp_path, {"instruction": "a", "input": "i", "output": "b", "category": "c"})
    assert (prompt.instruction, prompt.input, prompt.category, prompt.reference) == ("a", "i", "c", "b")


def test_only_the_first_turn_is_asked_and_only_some_prompts_have_a_reference(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {"question_id": 81, "category": "writing", "turns": ["a", "b"]},
        {"question_id": 111, "category": "math", "turns": ["c", "d"], "reference": ["4", "5"]},
    )
    assert load("mt", path) == [
        Prompt("mt-81", "a", "", "writing", None, None, None, "set.jsonl#1"),
        Prompt("mt-111", "c", "", "math", None, None, "4", "set.jsonl#2"),
    ]


def test_only_the_first_instance_of_self_instruct_is_asked(tmp_path: Path) -> None:
    instances = [{"input": "i", "output": "o"}, {"input": "j", "output": "p"}]
    path = _file(tmp_path, *({"id": f"t_{number}", "instruction": "a", "instances": instances} for number in range(2)))
    assert [(prompt.input, prompt.reference) for prompt in load("toy", path)] == [("i", "o")] * 2


FULL = {"id": "7a", "instruction": "a", "input": "i", "category": "c", "skill": "s", "difficulty": 3, "reference": "r"}


def test_the_plain_names_need_no_column_map(tmp_path: Path) -> None:
    expected = Prompt("7a", "a", "i", "c", "s", 3, "r", "set.jsonl#1")
    assert _one(tmp_path, FULL) == _one(tmp_path, FULL, "jsonl") == expected


def test_columns_say_which_field_is_what_and_the_others_keep_their_names(tmp_path: Path) -> None:
    columns = {field: f"my {field}" for field in FULL}
    mapped = {columns[field]: value for field, value in FULL.items()}
    assert _one(tmp_path, mapped, columns=columns) == _one(tmp_path, mapped, "jsonl", columns) == _one(tmp_path, FULL)
    assert _one(tmp_path, {"question": "q", "skill": "s"}, columns={"instruction": "question"}).skill == "s"


def test_columns_beside_a_format_add_to_its_fields(tmp_path: Path) -> None:
    prompt = _one(tmp_path, {"id": "k", "prompt": "a", "topic": "t"}, "koala", {"category": "topic"})
    assert (prompt.prompt_id, prompt.instruction, prompt.category) == ("k", "a", "t")


def test_columns_reach_the_first_entry_of_a_list(tmp_path: Path) -> None:
    record = {"prompt": ["a", "b"], "chat": [{"content": "i"}]}
    prompt = _one(tmp_path, record, columns={"instruction": "prompt[0]", "input": "chat[0].content"})
    assert (prompt.instruction, prompt.input) == ("a", "i")


def test_every_container_gives_the_same_prompts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"idx": 1, "Skill": "Math", "Difficulty": 1, "Instruction": "你好?"},
        {"idx": 2, "Skill": "Art", "Difficulty": 10, "Instruction": "“b”\nc"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    (tmp_path / "set.json").write_text(json.dumps(rows), encoding="utf-8")
    lines = Path(_file(tmp_path, *rows)).read_bytes()
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(lines))
    with (tmp_path / "set.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = {
        name: [prompt._replace(source="") for prompt in load("w", str(tmp_path / name))]
        for name in ("set.json", "set.jsonl", "set.jsonl.gz", "set.csv", "set.parquet")
    }
    expected = [Prompt("w-1", "你好?", "", None, "Math", 1, None, ""), Prompt("w-2", "“b”\nc", "", None, "Art", 10, None, "")]
    assert found == dict.fromkeys(found, expected)


def test_prompts_without_ids_are_numbered_through_all_files_of_a_glob(tmp_path: Path) -> None:
    _file(tmp_path, {"instruction": "a"}, "", {"instruction": "b"}, name="part-2.jsonl")
    _file(tmp_path, {"prompt": "c"}, name="part-10.jsonl")
    prompts = load("toy", str(tmp_path / "part-*.jsonl"))
    assert [(prompt.prompt_id, prompt.source) for prompt in prompts] == [
        ("toy-00001", "part-2.jsonl#1"),
        ("toy-00002", "part-2.jsonl#3"),
        ("toy-00003", "part-10.jsonl#1"),
    ]


@pytest.mark.parametrize(
    ("own", "prompt_id"), [(7, "toy-7"), ("7", "toy-7"), (7.0, "toy-7"), ("q7", "q7"), (None, "toy-00001")]
)
def test_an_id_is_text_and_a_number_carries_the_name(tmp_path: Path, own: object, prompt_id: str) -> None:
    assert _one(tmp_path, {"id": own, "instruction": "a"}).prompt_id == prompt_id


@pytest.mark.parametrize("blank", ["", " \n\t", None])
def test_a_blank_prompt_stays_a_prompt_without_instruction(tmp_path: Path, blank: str | None) -> None:
    fields = dict.fromkeys(FULL, blank)
    assert _one(tmp_path, fields) == Prompt("toy-00001", "", "", None, None, None, None, "set.jsonl#1")


def test_text_is_kept_to_the_letter_and_a_number_is_text(tmp_path: Path) -> None:
    prompt = _one(tmp_path, {"instruction": " a \n", "input": 5, "reference": 2.5})
    assert (prompt.instruction, prompt.input, prompt.reference) == (" a \n", "5", "2.5")


@pytest.mark.parametrize("difficulty", [4, "4", 4.0, "4.0", " 4 "])
def test_a_difficulty_is_a_whole_number_however_it_is_written(tmp_path: Path, difficulty: object) -> None:
    assert _one(tmp_path, FULL | {"difficulty": difficulty}).difficulty == 4


@pytest.mark.parametrize("difficulty", [2.5, "hard", -1])
def test_a_difficulty_that_is_no_whole_number_is_told(tmp_path: Path, difficulty: object) -> None:
    problem = _refused(_file(tmp_path, FULL | {"difficulty": difficulty}))
    assert f"line 1: the difficulty is '{difficulty}', not a whole number" in problem


def test_a_column_that_no_record_has_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = _file(tmp_path, {"question": "a", "answer": "b"})
    problem = _refused(path, columns={"instruction": "question", "reference": "answr"})
    assert "line 1: no `answr` for the reference of the prompt; the fields are question, answer" in problem


@pytest.mark.parametrize(
    ("first", "second", "missing"),
    [
        ({"question_id": 1, "text": "a"}, {"question_id": 2}, "no `text` or `turns[0]` for the instruction"),
        ({"question_id": 1, "turns": ["a"]}, {"question_id": 2, "turns": []}, "no `text` or `turns[0]` for the instruction"),
        ({"id": "a", "prompt": "a"}, {"prompt": "b"}, "no `id` for the id"),
        ({"idx": 1, "Instruction": "a", "Skill": "s"}, {"idx": 2, "Instruction": "b"}, "no `Skill` for the skill"),
        ({"Instruction": "a", "Difficulty": 1}, {"Instruction": "b"}, "no `Difficulty` for the difficulty"),
        (
            {"id": "a", "instruction": "a", "instances": [{"input": "", "output": "o"}]},
            {"id": "b", "instruction": "b", "instances": []},
            "no `instances[0].input` for the input",
        ),
        (
            {"instruction": "a", "output": "o", "dataset": "d"},
            {"instruction": "b", "output": "o"},
            "no `dataset` or `category` for the category",
        ),
    ],
)
def test_a_field_that_a_later_record_lacks_is_told_with_its_place(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], missing: str
) -> None:
    problem = _refused(_file(tmp_path, first, second))
    assert f"line 2: {missing} of the prompt; the fields are {next(iter(second))}" in problem


def test_an_input_or_a_reference_may_be_missing_where_no_column_map_asks_for_it(tmp_path: Path) -> None:
    path = _file(tmp_path, {"instruction": "a", "input": "i", "reference": "r"}, {"instruction": "b"})
    assert [(prompt.input, prompt.reference) for prompt in load("toy", path)] == [("i", "r"), ("", None)]
    assert "line 2: no `input`" in _refused(path, columns={"instruction": "instruction", "input": "input"})


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"instruction": ["a"]}, "`instruction` is a list, not text"),
        ({"instruction": "a", "category": True}, "`category` is a bool, not text"),
        ({"prompt": {"text": "a"}, "id": "k"}, "no known layout has the fields prompt, id"),
        ({"prompt": ["a"], "id": "k"}, "`prompt` is a list, not text"),
        ({"id": "k", "turns": [["a"]]}, "`turns[0]` is a list, not text"),
        ({"id": {}, "instruction": "a"}, "`id` is a dict, not text"),
        ({"topic": "a"}, "no known layout has the fields topic"),
        (
            {"instruction": "a", "context": "c", "response": "r"},
            "no known layout has the fields instruction, context, response",
        ),
    ],
)
def test_a_record_that_is_no_prompt_is_told_with_its_place(tmp_path: Path, record: dict[str, Any], problem: str) -> None:
    assert f"line 1: {problem}" in _refused(_file(tmp_path, record))


@pytest.mark.parametrize(("line", "problem"), [('["b"]', "the record is a list"), ('{"instruction": "b"', "not valid JSON")])
def test_a_record_that_cannot_be_read_is_told_with_its_place(tmp_path: Path, line: str, problem: str) -> None:
    assert f"line 2: {problem}" in _refused(_file(tmp_path, {"instruction": "a"}, line))


def test_a_file_of_another_format_than_the_one_named_is_told(tmp_path: Path) -> None:
    problem = _refused(_file(tmp_path, {"id": "k", "prompt": "a"}), "wizardlm")
    assert "line 1: no `Instruction` for the instruction of the prompt; the fields are id, prompt" in problem


@pytest.mark.parametrize("own", ["k", 1])
def test_an_id_that_two_prompts_have_is_told_with_both_places(tmp_path: Path, own: object) -> None:
    path = _file(tmp_path, {"id": own, "instruction": "a"}, {"id": "x", "instruction": "b"}, {"id": own, "instruction": "a"})
    prompt_id = "toy-1" if own == 1 else own
    assert f"line 3: its id {prompt_id!r} is that of set.jsonl#1 too" in _refused(path)


def test_a_table_without_rows_is_told(tmp_path: Path) -> None:
    assert "there is no record in it" in _refused(_file(tmp_path, "instruction,input", name="set.csv"))


@pytest.mark.parametrize(
    ("content", "problem"), [("", "empty"), ("[]", "empty"), ("# A page", "neither JSON"), (" \n", "white space")]
)
def test_a_file_that_is_no_test_set_is_told(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=problem) as refusal:
        load("toy", str(path))
    assert str(path) in str(refusal.value)


def test_a_path_with_nothing_there_is_told_under_the_key_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^generate\.test_sets, 'toy': nothing found at .*/none\.jsonl"):
        load("toy", str(tmp_path / "none.jsonl"))


def test_an_unknown_format_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="'toy': format is 'alpaca', which is not known; take one of auto, vicuna, koala"):
        load("toy", "any", "alpaca")


def test_an_unknown_field_of_columns_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="'toy': columns has 'prompt', which is none of id, instruction, input"):
        load("toy", "any", columns={"prompt": "question"})
