"""Reports of runs that are whole, empty, broken, biased or hostile: figures are right, and what there is none of is no data."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from jsonschema import Draft202012Validator

from alpagasus_ray.config import Arm, Ingest, Pick, Report
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.reporting.report_data import SCHEMA, report_contents, schema
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.report import report
from alpagasus_ray.store.run import Run
from report_runs import LOSE, NONE, TIE, WIN, answer, judge, prompt, rate, train
from toy_runs import toy_run

ARMS = (
    Arm(name="selected", policy="threshold", threshold=4.0),
    Arm(name="random", policy="random"),
    Arm(name="full", policy="full"),
)
ORDER = tuple(arm.name for arm in ARMS)
VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_text()))
HOSTILE = '</script><img src=x onerror="alert(1)"><b>$bold$'


def empty(folder: Path) -> Run:
    return Run.open(str(folder / "run"))


def rated(folder: Path, rows: int = 40) -> Run:
    """A run with ratings from 0 to 5 and three arms."""
    run = toy_run(folder, rows)
    rate(run, [row % 6 for row in range(rows)])
    pick_subset(Pick(arms=ARMS), run)
    return run


def found(run: Run, **settings: Any) -> dict[str, Any]:
    """The data of a report, as `report.json` has it."""
    data: dict[str, Any] = orjson.loads(orjson.dumps(report_contents(Report(**settings), finished_stages(run), ORDER).data))
    return data


def made(run: Run, **settings: Any) -> dict[str, Any]:
    """The same from the file that a report leaves, strictly read, in the form that the schema says."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    report(Report(**settings), run, ORDER)
    told: dict[str, Any] = json.loads(run.report().storage.read("report.json"), parse_constant=refuse)
    assert told == found(run, **settings)
    VALIDATOR.validate(told)
    return told


def whole(folder: Path) -> Run:
    """A run with something in every part of its report."""
    run = rated(folder, 60)
    for arm in ("selected", "full"):
        train(run, arm, minutes=2.0, training_minutes=1.0, dollars=0.5, heldout={"loss": 1.2, "examples": 9, "in_arm": 1})
        answer(run, f"model-{arm}", "toys", [("Four.", "4"), (None, "x")], arm)
    judge(run, ("selected", "full"), [WIN] * 9 + [LOSE] * 3 + [TIE, NONE])
    judge(run, ("selected", "random"), [WIN] * 9 + [LOSE] * 3 + [TIE, NONE])
    judge(run, ("full", "selected"), [WIN, LOSE], name="second")
    return run


def page(run: Run) -> str:
    return run.report().storage.read("index.html").decode()


class Tags(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)


def test_a_report_with_every_part_has_the_form_of_its_schema(tmp_path: Path) -> None:
    told = made(whole(tmp_path))
    assert not [key for key, value in told.items() if value in (None, []) and key not in ("stale", "panels")]


def test_the_schema_file_is_that_of_the_classes_and_allows_no_other_key(tmp_path: Path) -> None:
    assert SCHEMA.read_text() == schema()
    told = made(empty(tmp_path))
    assert not VALIDATOR.is_valid(told | {"more": 1})
    assert not VALIDATOR.is_valid(told | {"first": told["first"] | {"more": 1}})
    assert not VALIDATOR.is_valid({key: value for key, value in told.items() if key != "stale"})


def test_an_empty_run_has_a_report_that_says_how_to_begin(tmp_path: Path) -> None:
    run = empty(tmp_path)
    told = made(run)
    assert told["first"]["verdict"] is None
    assert told["first"]["question"] == "Nothing is chosen yet"
    assert told["first"]["pooled"] is None
    assert told["examples"] is None
    assert "alpagasus ingest reads the examples" in page(run)
    assert "alpagasus pick` chooses them" in run.report().storage.read("dataset_card.md").decode()


def test_without_ratings_there_is_no_score_and_no_zero_in_their_place(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 30)
    pick_subset(Pick(arms=(Arm(name="random", policy="random", k=10), Arm(name="full", policy="full"))), run)
    told = made(run)
    assert told["ratings"] == []
    assert told["selection"]["cut"] is None
    assert told["table"] == {"shown": 30, "of": 30, "kept_shown": 10, "kept_of": 10, "seed": 0}
    assert "No data:</strong> alpagasus score" in page(run)


def test_when_all_games_failed_nothing_is_a_tie_or_a_zero(tmp_path: Path) -> None:
    run = rated(tmp_path)
    judge(run, ("selected", "full"), [NONE] * 12)
    first = made(run)["first"]
    assert first["verdict"] == "no data"
    assert first["pooled"]["tie"] == first["pooled"]["judged"] == 0
    assert first["pooled"]["winning_score"]["value"] is None
    assert "Of 12 prompts none has a verdict in both orders" in first["sentence"]
    assert "None of 12 prompts has a verdict" in page(run)


def test_one_model_against_itself_is_flagged_and_is_not_the_answer(tmp_path: Path) -> None:
    run = rated(tmp_path)
    judge(run, ("selected", "selected"), [TIE] * 10 + [WIN] * 4)
    judge(run, ("selected", "full"), [WIN] * 20 + [LOSE])
    told = made(run)
    assert [entry["same_model"] for entry in told["verdicts"]] == [False, True]
    assert told["first"]["baseline"]["name"] == "full"
    assert any("selected is compared with itself" in note for note in told["first"]["notes"])
    assert "One model against itself" in page(run)


@pytest.mark.parametrize(
    ("outcomes", "word", "said"),
    [
        ([WIN] * 40 + [LOSE] * 10, "Yes", "wins 40 of 50 prompts"),
        ([WIN] * 10 + [LOSE] * 40, "No, the other way round", "loses 40"),
        ([WIN] * 26 + [LOSE] * 24, "Not shown", "The interval includes parity: a difference is not shown."),
        ([TIE] * 30, "Not shown", "leaves no interval to go by: a difference is not shown."),
    ],
)
def test_the_answer_says_no_more_than_its_interval_allows(
    tmp_path: Path, outcomes: list[tuple[str, str]], word: str, said: str
) -> None:
    run = rated(tmp_path)
    for baseline in ("full", "random"):
        judge(run, ("selected", baseline), outcomes)
    first = found(run)["first"]
    assert first["word"] == word
    assert [asked["word"] for asked in first["questions"]] == [word, word]
    assert said in first["sentence"]


def test_verdicts_are_told_from_the_side_of_the_arm_whichever_model_they_name_first(tmp_path: Path) -> None:
    run = rated(tmp_path)
    judge(run, ("full", "selected"), [WIN] * 5 + [LOSE] * 12 + [("tie", "b"), NONE])
    (tmp_path / "other").mkdir()
    other = rated(tmp_path / "other")
    judge(other, ("selected", "full"), [LOSE] * 5 + [WIN] * 12 + [("a", "tie"), NONE])
    mine, same = (found(one)["first"]["pooled"] for one in (run, other))
    for key in ("win", "tie", "lose", "no_verdict", "winning_score", "win_rate", "score_ratio"):
        assert mine[key] == same[key]
    assert mine["win"] == 13
    # "selected says it too" and "full says toys-1"
    assert mine["length"]["unit"] == "characters"
    assert mine["length"]["mean_length_a"] == len("selected says it too")
    # of the 18 judged prompts 8 have a number of two digits
    assert mine["length"]["mean_length_b"] == pytest.approx(len("full says toys-1") + 8 / 18, abs=1e-6)


def test_what_the_baseline_took_more_is_told_and_what_nobody_knows_is_left_out(tmp_path: Path) -> None:
    run = rated(tmp_path, 60)
    train(run, "selected", minutes=2.0, training_minutes=1.0)
    train(run, "full", losses=[3.0] * 12, minutes=5.0, training_minutes=4.0, dollars=1.5)
    first = found(run)["first"]
    times = {entry["key"]: entry["times"] for entry in first["ratios"]}
    assert times["training_minutes"] == 4.0
    assert times["steps"] == 4.0
    assert "dollars" not in times
    assert first["cheaper"] == "Training on full took 3 times the examples and 4 times the training time."


def test_exact_answers_are_counted_beside_the_judge(tmp_path: Path) -> None:
    run = rated(tmp_path)
    for arm in ("selected", "full"):
        train(run, arm)
    answer(run, "mine", "toys", [("Four.", "4"), ("the sea", "Sea"), ("two", "Two!"), (None, "x"), ("free", None)], "selected")
    answer(run, "theirs", "toys", [("4", "4"), ("no", "Sea"), ("no", "Two!"), ("y", "x"), ("free", None)], "full")
    told = found(run)
    exact = told["first"]["exact"]
    assert (exact["arm"]["exact"], exact["baseline"]["exact"], exact["arm"]["prompts"]) == (2, 1, 4)
    assert (exact["only_arm"], exact["only_baseline"]) == (2, 1)
    assert {entry["model"]: entry["unanswered"] for entry in told["objective"]} == {"mine": 1, "theirs": 0}


def test_held_out_loss_is_told_of_both_arms_or_of_none(tmp_path: Path) -> None:
    run = rated(tmp_path)
    train(run, "selected", heldout={"loss": 1.2, "examples": 9, "label_tokens": 90})
    train(run, "full")
    assert found(run)["first"]["heldout"] is None
    train(run, "full", heldout={"loss": 1.5, "examples": 9, "label_tokens": 90, "in_arm": 2})
    first = found(run)["first"]
    assert first["heldout"]["difference"] == pytest.approx(-0.3)
    assert first["notes"] == ["2 of the held-out examples are in full too: its held-out loss is too low."]


def test_texts_of_the_run_cannot_become_markup(tmp_path: Path) -> None:
    source = tmp_path / "hostile.jsonl"
    rows = [
        {"instruction": HOSTILE, "input": "", "output": f"{HOSTILE} {row}", "category": f"{HOSTILE} {row % 3}"}
        for row in range(9)
    ]
    source.write_text("\n".join(map(json.dumps, rows)))
    run = empty(tmp_path)
    ingest(Ingest(source=str(source)), run)
    rate(run, [float(row % 3) for row in range(9)], [f"1\n{HOSTILE}; {HOSTILE}. (rules)"] * 9)
    pick_subset(Pick(arms=(Arm(name="selected", policy="threshold", threshold=2), Arm(name="full", policy="full"))), run)
    hostile = [{**prompt("toys", row, [f"{HOSTILE} {name}" for name in "abcd"]), "instruction": HOSTILE} for row in range(24)]
    judge(run, ("selected", "full"), [WIN] * 14 + [LOSE] * 10, prompts=hostile)
    made(run, title=HOSTILE, claim=HOSTILE)
    tags = Tags(page(run))
    assert tags.tags["script"] == 5  # the figures of cuts and of marks, two blobs, and the page's own
    assert tags.tags["img"] == 0
    assert not [name for name in tags.attributes if name.startswith("on")]
    assert "<img" not in run.report().storage.read("dataset_card.md").decode()


def test_a_finished_report_is_left_alone_until_something_changes(tmp_path: Path) -> None:
    run = rated(tmp_path)
    before = report(Report(), run, ORDER)
    files = {name: Path(run.report().storage.path(name)) for name in run.report().storage.names()}
    written = {name: file.stat().st_mtime_ns for name, file in files.items()}
    assert report(Report(), run, ORDER) == before
    assert {name: file.stat().st_mtime_ns for name, file in files.items()} == written
    judge(run, ("selected", "full"), [WIN] * 9 + [LOSE])
    assert report(Report(), run, ORDER)["answer"] != before["answer"]
    assert made(run, title="Another")["title"] == "Another"
    run.report().verify(run.report().finished())


def test_the_same_run_has_the_same_page_wherever_it_lies(tmp_path: Path) -> None:
    run = rated(tmp_path)
    judge(run, ("selected", "full"), [WIN] * 9 + [LOSE] * 3 + [TIE])
    shutil.copytree(run.storage.root, tmp_path / "elsewhere")
    copy = Run.open(str(tmp_path / "elsewhere"))
    for one in (run, copy):
        report(Report(), one, ORDER)
    for name in ("index.html", "report.json", "dataset_card.md"):
        assert run.report().storage.read(name) == copy.report().storage.read(name)


def test_a_stage_made_from_what_is_no_longer_so_is_named(tmp_path: Path) -> None:
    run = rated(tmp_path)
    train(run, "selected")
    assert made(run)["stale"] == []
    run.subset("selected").storage.delete_tree()
    pick_subset(Pick(arms=(Arm(name="selected", policy="threshold", threshold=5.0),)), run)
    told = made(run)
    assert told["stale"] == [
        "models/selected was made from subsets/selected, which has changed since",
        "subsets/random was made to be as large as selected, has 12 examples, and selected has 6 now",
    ]
    assert [arm["rule"].endswith("and selected has 6 now") for arm in told["arms"]] == [False, True, False]
    assert told["stale"][0] in page(run)


def test_an_arm_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"report.arm is 'best', which this run does not have; it has selected, random, full"):
        report(Report(arm="best"), rated(tmp_path), ORDER)


def test_people_and_judges_are_compared_and_votes_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    run = rated(tmp_path)
    judge(run, ("selected", "full"), [WIN, WIN, LOSE, TIE])
    judge(run, ("full", "selected"), [LOSE, LOSE, WIN, TIE], name="second")
    votes = tmp_path / "votes.csv"
    votes.write_text("prompt_id,voter,vote\ntoys-0,ann,selected\ntoys-2,ann,full\n")
    agreed = found(run, votes=[str(votes)])["agreement"]
    assert agreed["voters"] == ["ann", "judge second", "toy judge"]
    assert {pair["agreement"] for pair in agreed["pairs"]} == {1.0}
    votes.write_text("prompt_id,voter,vote\ntoys-99,ann,selected\n")
    with pytest.raises(InputError, match="no comparison of this run is on prompt 'toys-99'"):
        found(run, votes=[str(votes)])


def test_three_models_are_ranked(tmp_path: Path) -> None:
    run = rated(tmp_path)
    judge(run, ("selected", "full"), [WIN] * 8 + [LOSE] * 4)
    judge(run, ("selected", "random"), [WIN] * 10 + [LOSE] * 2)
    (ranked,) = found(run)["ranking"]
    assert [model["model"] for model in ranked["models"]] == ["selected", "full", "random"]


def test_the_card_has_the_header_of_the_hub_and_leaves_the_license_to_its_maker(tmp_path: Path) -> None:
    run = rated(tmp_path, 60)
    made(run)
    card = run.report().storage.read("dataset_card.md").decode()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "other"
    assert header["task_categories"] == ["text-generation"]
    assert header["size_categories"] == ["n<1K"]
    assert "20 instruction examples, chosen out of 60" in card
    assert "40: score below 4" in card
    assert run.subset("selected").finished().content_hash() in card


def test_a_report_needs_neither_ray_nor_torch(tmp_path: Path) -> None:
    judge(run := rated(tmp_path), ("selected", "full"), [WIN] * 9 + [LOSE] * 3)
    code = (
        "import sys; from alpagasus_ray.config import Report; from alpagasus_ray.store.run import Run; "
        f"from alpagasus_ray.stages.report import report; report(Report(), Run.open({run.storage.root!r})); "
        "print(sorted({'ray', 'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_a_pair_that_an_older_run_holds_in_both_directions_is_one_comparison_of_the_ranking(tmp_path: Path) -> None:
    run = rated(tmp_path)
    judge(run, ("selected", "full"), [WIN] * 8 + [LOSE] * 4)
    judge(run, ("selected", "random"), [WIN] * 9 + [LOSE] * 3)
    (before,) = found(run)["ranking"]
    judge(run, ("full", "selected"), [LOSE] * 8 + [WIN] * 4)
    (ranked,) = found(run)["ranking"]
    assert [(model["model"], model["results"]) for model in ranked["models"]] == [
        ("selected", 24),
        ("full", 12),
        ("random", 12),
    ]
    assert [model["rating"] for model in ranked["models"]] == pytest.approx([model["rating"] for model in before["models"]])
