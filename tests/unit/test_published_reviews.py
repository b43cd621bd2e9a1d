"""Reviews that others have published: both formats, the counts they were published with, and files that are not whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Compare, Import
from alpagasus_ray.errors import AlpagasusError, UsageError
from alpagasus_ray.evaluation.match_rules import Rule
from alpagasus_ray.judging.pairs import Bout
from alpagasus_ray.reporting.verdicts import comparisons, games
from alpagasus_ray.stages.compare import compare, outcomes
from alpagasus_ray.store.run import Manifest, Run


def imported(run: Run, layout: str, *files: Path | str, **changes: Any) -> dict[Bout, Manifest]:
    return compare(config(layout, *files, **changes), run)


def config(layout: str, *files: Path | str, **changes: Any) -> Compare:
    source = Import.model_validate({"format": layout, "files": [str(file) for file in files]})
    return Compare.model_validate({"import": source, **changes})


def counted(found: dict[str, Any]) -> tuple[int, int, int, int]:
    return found["win"], found["tie"], found["lose"], found["no_verdict"]


@pytest.mark.parametrize(
    ("layout", "files", "pair", "rule", "published"),
    [
        ("cherry", "cherry_gpt4/*.json", ("cherry", "alpaca"), "alpagasus", {"vicuna": (44, 15, 21), "koala": (85, 36, 59)}),
        ("alpagasus", "alpagasus2/alp*.json", None, "truncated", {"vicuna": (40, 38, 2), "koala": (94, 71, 15)}),
    ],
)
def test_the_published_counts_come_out_of_the_raw_reviews(
    shared: Path, tmp_path: Path, layout: str, files: str, pair: tuple[str, str] | None, rule: Rule, published: dict[str, Any]
) -> None:
    run = Run.open(str(tmp_path / "run"))
    asked = config(layout, shared / "verdicts" / files, rule=rule, pairs=(pair,) if pair else ())
    made = compare(asked, run)
    assert {bout.test_set for bout in made} == set(published)
    for bout in made:
        found = outcomes(asked, run, bout)
        assert (bout.a, bout.b) == (pair or ("alpagasus2", "alpaca2"))
        assert counted(found)[:3] == published[bout.test_set]
        assert 0 < found["position"]["consistency"] < 1
        assert 0 < found["position"]["first_slot_share"] < 1
    assert compare(asked, run) == made


def test_the_other_side_is_told_where_the_recipe_asks_for_it(shared: Path, tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    asked = config(
        "alpagasus", shared / "verdicts/alpagasus2/alp*vicuna.json", pairs=[["alpaca2", "alpagasus2"]], rule="truncated"
    )
    [bout] = compare(asked, run)
    assert counted(outcomes(asked, run, bout))[:3] == (2, 38, 40)
    [comparison] = comparisons(run)
    first = games(run, comparison)[0]
    assert first["answer_a"].startswith("Time management is a skill")
    assert first["ba"]["reply"].split()[:2] == ["7", "9"] or first["ba"]["score_b"] is not None


ANSWERS = {"prompt": "Why?", "x": "Because.", "y": "No reason."}


def alpagasus(folder: Path, name: str, *records: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps([{"question_id": f"q{n}", **ANSWERS, **record} for n, record in enumerate(records)]))
    return path


def test_a_review_that_cannot_be_read_is_no_draw(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    one = alpagasus(tmp_path, "x-y-toy.json", {"review": "9 5\nx"}, {"review": "Both are fine.", "score": [-1, -1]})
    other = alpagasus(tmp_path, "y-x-toy.json", {"review": "5 8\nx"}, {"review": "5 8"})
    asked = config("alpagasus", one, other)
    [bout] = compare(asked, run)
    assert counted(outcomes(asked, run, bout)) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x-y-toy.json", "[{", "this is not JSON"),
        ("x-y-toy.json", "[]", "no list of records"),
        ("other.json", [{**ANSWERS, "review": "1 2"}], "not named"),
        ("x-y-toy.json", [{**ANSWERS, "review": "1 2"}], "no file y-x-toy.json has y first"),
        ("x-y-toy.json", [{**ANSWERS, "question_id": "q", "review": "1 2"}] * 2, "a second record for the prompt 'q'"),
        ("x-y-toy.json", [{**ANSWERS, "z": "a third", "review": "1 2"}], "not named"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_by_name(tmp_path: Path, name: str, content: Any, problem: str) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError, match=problem) as refused:
        imported(Run.open(str(tmp_path / "run")), "alpagasus", path)
    assert name in str(refused.value)


def test_prompts_that_only_one_order_has_and_models_that_no_file_has_are_refused(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    one = alpagasus(tmp_path, "x-y-toy.json", {"review": "9 5"}, {"review": "9 5"})
    other = alpagasus(tmp_path, "y-x-toy.json", {"review": "5 8"})
    with pytest.raises(UsageError, match=r"only .*x-y-toy.json has the prompt 'q1'"):
        imported(run, "alpagasus", one, other)
    with pytest.raises(UsageError, match=r"none of \[\['x', 'z'\]\] are the models"):
        imported(run, "alpagasus", one, other, pairs=[["x", "z"]])
    with pytest.raises(UsageError, match=r"compare.import.files: nothing found"):
        imported(run, "alpagasus", tmp_path / "nothing.json")
    with pytest.raises(AlpagasusError, match="come from files"):
        compare(config("alpagasus", one), run, "retry-failed")


@pytest.mark.parametrize("missing", ["Meta_Info", "data", "review_reverse", "Answer2"])
def test_a_cherry_file_without_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    record = {"text": "Why?", "Answer1": "a", "Answer2": "b", "review": "1 2", "review_reverse": "2 1"}
    content = {"Meta_Info": {"dataset_name": "toy"}, "data": [{k: v for k, v in record.items() if k != missing}]}
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if key != missing}))
    with pytest.raises(UsageError, match=r"toy.json"):
        imported(Run.open(str(tmp_path / "run")), "cherry", path)


def toy_reviews(folder: Path, *, ids: bool, turned_keys: bool = False, **changed: str) -> list[Path]:
    """Two prompts that x and y answered, in both orders; `changed` takes the place of texts of the first in the other order."""
    texts = [{"prompt": f"{word}?", "x": f"x: {word}", "y": f"y: {word}"} for word in ("Why", "How")]
    mine = [{**row, "review": "9 5"} for row in texts]
    theirs = [{**row, "review": "5 9"} for row in texts]
    theirs[0] |= changed
    if ids:
        for rows in (mine, theirs):
            rows[0]["question_id"], rows[1]["question_id"] = "q-why", "q-how"
    if turned_keys:
        theirs = [{"prompt": row["prompt"], "y": row["y"], "x": row["x"], **row} for row in theirs]
    (folder / "x-y-toy.json").write_text(json.dumps(mine))
    (folder / "y-x-toy.json").write_text(json.dumps(theirs[::-1]))
    return [folder / "x-y-toy.json", folder / "y-x-toy.json"]


@pytest.mark.parametrize("ids", [True, False], ids=["by id", "by text"])
def test_two_orders_are_joined_by_prompt_wherever_it_stands_in_its_file(tmp_path: Path, ids: bool) -> None:
    run = Run.open(str(tmp_path / "run"))
    asked = config("alpagasus", *toy_reviews(tmp_path, ids=ids))
    [bout] = compare(asked, run)
    assert counted(outcomes(asked, run, bout)) == (2, 0, 0, 0)
    [told] = comparisons(run)
    assert {row["prompt_id"] for row in games(run, told)} == ({"q-why", "q-how"} if ids else {"toy-1", "toy-2"})
    assert all(row["answer_a"].startswith("x: ") for row in games(run, told))


@pytest.mark.parametrize("ids", [True, False], ids=["by id", "by text"])
@pytest.mark.parametrize(
    ("key", "text", "what"),
    [("prompt", "Why not?", "the prompt"), ("x", "another", "the answer of x"), ("y", "y: Why ", "the answer of y")],
)
def test_orders_that_show_other_texts_are_refused_with_the_first_that_differs(
    tmp_path: Path, ids: bool, key: str, text: str, what: str
) -> None:
    files = toy_reviews(tmp_path, ids=ids, **{key: text})
    told = f"{what} is not the same in both orders: .*x-y-toy.json, record 1.*y-x-toy.json, record 2"
    if key == "prompt" and not ids:
        told = "only .*x-y-toy.json has the prompt 'Why.'"
    with pytest.raises(UsageError, match=told):
        imported(Run.open(str(tmp_path / "run")), "alpagasus", *files)


def test_two_models_have_one_comparison_though_the_files_name_them_in_two_orders(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    assert list(imported(run, "alpagasus", *toy_reviews(tmp_path, ids=True, turned_keys=True))) == [Bout("x", "y", "toy")]
    (tmp_path / "more").mkdir()
    again = toy_reviews(tmp_path / "more", ids=True)
    with pytest.raises(UsageError, match="both have x first against y on toy"):
        imported(run, "alpagasus", tmp_path / "x-y-toy.json", *again)


def test_a_pair_that_is_compared_already_is_not_compared_again_the_other_way_round(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    files = toy_reviews(tmp_path, ids=True)
    made = imported(run, "alpagasus", *files, pairs=[["x", "y"]])
    with pytest.raises(UsageError, match=r"verdicts/x-vs-y/toy/ already compares 'x' with 'y', in both orders.*\[x, y\]"):
        imported(run, "alpagasus", *files, pairs=[["y", "x"]])
    assert imported(run, "alpagasus", *files, pairs=[["x", "y"]]) == made
    [other] = imported(run, "alpagasus", *files, pairs=[["y", "x"]], name="second")
    assert other == Bout("y", "x", "toy")


def test_reviews_of_other_answers_than_those_of_the_run_are_refused_and_change_nothing(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    imported(run, "alpagasus", *toy_reviews(tmp_path, ids=True))
    [told] = comparisons(run)
    before = games(run, told)
    (tmp_path / "other").mkdir()
    files = toy_reviews(tmp_path / "other", ids=True)
    for file in files:
        file.write_text(file.read_text().replace("y: Why", "y: Where"))
    with pytest.raises(UsageError, match="of the prompt 'q-why' pairs/x-vs-y/toy/ has another text as `second`"):
        imported(run, "alpagasus", *files, name="second")
    assert games(run, told) == before


def test_two_records_of_one_text_are_told_apart_by_an_id(tmp_path: Path) -> None:
    files = toy_reviews(tmp_path, ids=False)
    rows = [json.loads(file.read_text()) for file in files]
    for file, records in zip(files, rows, strict=True):
        file.write_text(json.dumps([records[0], {**records[0]}]))
    with pytest.raises(UsageError, match=r"a second record for the prompt .*; give the records an id each, e.g. `question_id`"):
        imported(Run.open(str(tmp_path / "run")), "alpagasus", *files)
    for file in files:
        file.write_text(json.dumps([{**rows[0][0], "question_id": n, "review": "7 7"} for n in range(2)]))
    run = Run.open(str(tmp_path / "run"))
    asked = config("alpagasus", *files)
    [bout] = compare(asked, run)
    assert counted(outcomes(asked, run, bout)) == (0, 2, 0, 0)
