"""Task files of benchmarks and their documents: names, small variants, folders, and what of them is told at once."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpagasus_ray.benchmarking import documents, task_files
from alpagasus_ray.benchmarking.documents import ID
from alpagasus_ray.benchmarking.task_files import Benchmark
from alpagasus_ray.config import Bench, BenchModel, BenchTask
from alpagasus_ray.errors import InputError, UsageError

QUESTION = {"question": "1 + 1?", "answer": "#### 2"}
OWN = {
    "name": "sums",
    "about": "Sums of two numbers.",
    "columns": ["sum", "result"],
    "measure": "exact_match",
    "harness": {
        "output_type": "generate_until",
        "doc_to_text": "{{sum}} =",
        "doc_to_target": "{{result}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def resolved(task: dict[str, Any] | str, folder: str | None = None, others: tuple[str, ...] = ()) -> Benchmark:
    (found,) = task_files.resolved(Bench.model_validate({"tasks": [task]}).tasks, folder, others)
    return found


def lines(file: Path, rows: list[dict[str, Any]]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_six_benchmarks_come_with_the_package_and_each_says_what_it_measures() -> None:
    known = task_files.built_in()
    assert set(known) == {"mmlu", "bbh", "drop", "humaneval", "gsm8k", "ifeval"}
    assert [known[name].shots for name in ("mmlu", "bbh", "drop", "humaneval", "gsm8k")] == [5, 3, 3, 0, 8]
    assert all(len(file.about) > 80 and file.hub for file in known.values())


def test_a_small_variant_is_the_same_hundred_documents_each_time(tmp_path: Path) -> None:
    rows = [{**QUESTION, "question": f"{n} + 1?"} for n in range(300)]
    lines(tmp_path / "gsm8k/test.jsonl", rows)
    first, second = (documents.load(resolved({"name": "gsm8k-tiny", "shots": 0}, str(tmp_path))) for _ in range(2))
    whole = documents.load(resolved({"name": "gsm8k", "shots": 0}, str(tmp_path)))
    assert first == second
    assert len(first.test) == 100
    assert {one[ID] for one in first.test} < {one[ID] for one in whole.test}
    assert first.fingerprint != whole.fingerprint


def test_a_folder_holds_a_directory_for_each_benchmark_and_a_file_for_each_split(tmp_path: Path) -> None:
    lines(tmp_path / "gsm8k/test.jsonl", [QUESTION])
    lines(tmp_path / "gsm8k/shots.jsonl", [QUESTION] * 9)
    found = documents.load(resolved("gsm8k", str(tmp_path)))
    assert (len(found.test), len(found.shots)) == (1, 9)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("mnlu", ["'mnlu'", "nearest: mmlu", "-tiny"]),
        ("arc_chalenge", ["nearest: arc_challenge"]),
        ({"name": "mine", "file": "no.yaml"}, ["'no.yaml' cannot be read"]),
        ("mmlu", ["there are no documents at", "--fetch", "bench.data"]),
        ({"name": "hellaswag", "data": "x"}, ["leave `data` out"]),
    ],
)
def test_what_is_no_benchmark_is_told_with_what_to_do(task: Any, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as told:
        documents.load(resolved(task, str(tmp_path), ("arc_challenge", "hellaswag")))
    assert [word for word in words if word not in str(told.value)] == [], told.value


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"question": "?"}], {}, ["document 1", "has no 'answer'", "it has question"]),
        ([], {}, ["the file is empty"]),
        ([QUESTION], {"shots": 8}, ["8 shots are asked for", "shots.jsonl", "`shots: 0`"]),
    ],
)
def test_documents_that_do_not_fit_are_told(rows: list[Any], options: dict[str, int], words: list[str], tmp_path: Path) -> None:
    lines(tmp_path / "gsm8k/test.jsonl", rows)
    with pytest.raises(UsageError) as told:
        documents.load(resolved({"name": "gsm8k", "shots": 0, **options}, str(tmp_path)))
    assert [word for word in words if word not in str(told.value)] == [], told.value


def test_a_line_that_is_no_json_is_told_with_its_place(tmp_path: Path) -> None:
    file = Path(lines(tmp_path / "gsm8k/test.jsonl", [QUESTION]))
    file.write_text(file.read_text() + '{"question": \n')
    with pytest.raises(InputError, match="record 2"):
        documents.load(resolved({"name": "gsm8k", "shots": 0}, str(tmp_path)))


def own(tmp_path: Path, **changes: Any) -> dict[str, str]:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**OWN, **changes}))
    return {"name": "sums", "file": str(file), "data": lines(tmp_path / "sums.jsonl", [{"sum": "1 + 1", "result": "2"}])}


def test_a_task_of_ones_own_needs_a_file_and_data(tmp_path: Path) -> None:
    task = own(tmp_path)
    assert documents.load(resolved(task)).test[0]["sum"] == "1 + 1"
    with pytest.raises(UsageError, match="no `data` for it, and its task file names no dataset of the hub"):
        resolved({"name": "sums", "file": task["file"]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesure": "x"}, ["mesure", "Extra inputs"]),
        ({"harness": {"output_type": "guess"}}, ["output_type is 'guess'", "multiple_choice"]),
        ({"harness": {**OWN["harness"], "task": "x"}}, ["harness.task", "beside `harness`"]),  # type: ignore[dict-item]
        ({"measure": None}, ["measure"]),
        ({"measure": "f1"}, ["`measure: f1` is none of those in harness.metric_list: exact_match"]),
        ({"reply": "first"}, ["`reply: first` is the name of no filter"]),
    ],
)
def test_a_wrong_task_file_is_told_by_its_key(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as told:
        resolved(own(tmp_path, **changes))
    assert [word for word in [*words, "own.yaml"] if word not in str(told.value)] == [], told.value


def test_a_model_is_one_of_path_arm_and_api() -> None:
    with pytest.raises(ValueError, match="`path` and `api` is given"):
        BenchModel.model_validate({"name": "m", "path": "x", "api": "y"})
    assert BenchModel.model_validate({"name": "m", "api": "y"}).by_messages
    assert not BenchModel.model_validate({"name": "m", "path": "y"}).by_messages


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="mmlu"):
        Bench.model_validate({"tasks": ["mmlu", {"name": "mmlu", "shots": 0}]})


def test_what_the_text_of_a_task_file_says_of_itself_changes_no_score() -> None:
    mmlu = task_files.built_in()["mmlu"]
    assert mmlu.model_copy(update={"about": "other words"}).identity() == mmlu.identity()
    assert mmlu.model_copy(update={"measure": "acc_norm"}).identity() != mmlu.identity()


def test_a_task_may_be_named_alone() -> None:
    assert Bench.model_validate({"tasks": ["mmlu"]}).tasks == (BenchTask(name="mmlu"),)


def test_a_folder_that_was_fetched_gives_the_documents_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"sum": f"{n} + 1", "result": str(n + 1)} for n in range(5)]
    lines(tmp_path / "hub/train.jsonl", rows[:2])
    lines(tmp_path / "hub/validation.jsonl", rows)
    # a directory is read like a dataset of the hub, by the same function
    task = own(tmp_path, hub={"path": str(tmp_path / "hub")}, splits={"test": "validation", "shots": "train"}, shots=2)
    named = {"name": "sums", "file": task["file"]}
    from_hub = documents.load(resolved(named))
    (written,) = documents.fetch([resolved(named)], str(tmp_path / "fetched"))
    assert written["documents"] == {"test": 5, "shots": 2}
    from_folder = documents.load(resolved(named, str(tmp_path / "fetched")))
    assert (from_folder.test, from_folder.shots) == (from_hub.test, from_hub.shots)
    assert from_folder.fingerprint == from_hub.fingerprint


def test_what_cannot_be_fetched_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no dataset of the hub"):
        documents.fetch([resolved(own(tmp_path))], str(tmp_path / "fetched"))
    with pytest.raises(UsageError, match="HF_HOME"):
        documents.fetch([resolved("hellaswag", None, ("hellaswag",))], str(tmp_path / "fetched"))
