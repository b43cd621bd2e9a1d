"""What page, dataset card and report.json say of the judges: the cards as they are, praise beside chance and length."""

import json
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

import made_judges as made
from alpagasus_ray import __main__ as command
from alpagasus_ray.evaluation.agreement import Vote
from alpagasus_ray.evaluation.corrected_rates import JUDGE_ALONE
from alpagasus_ray.reporting import judge_verdicts
from alpagasus_ray.reporting.judge_verdicts import Judged
from alpagasus_ray.reporting.verdicts import Comparison
from alpagasus_ray.store.run import Run
from report_runs import LOSE, TIE, WIN, judge, rate
from toy_runs import ids, toy_run

ROWS = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three judges of examples and one of pairs, marks for half of the rows, an arm, and the report."""
    folder = tmp_path_factory.mktemp("trust")
    run, random = toy_run(folder, ROWS), made.rng(3)
    true = made.quality(random, ROWS)
    for name, noise in (("a", 0.4), ("b", 0.8), ("c", 0.8)):
        rate(run, made.read(random, true, noise).tolist(), name=name)
    judge(run, ("apple", "pear"), [WIN] * 20 + [TIE] * 12 + [LOSE] * 8)
    gold = "".join(f"{row},{mark:g},,,\n" for row, mark in zip(ids(run)[:60], true, strict=False))
    (folder / "gold.csv").write_text(f"example_id,score,judged,mark,comment\n{gold}")
    arms = "pick.arms=[{name: best, policy: top, k: 20}]"
    assert command.main(["pick", run.storage.root, "-s", "pick.ratings=a", "-s", arms]) == 0
    assert command.main(["card", run.storage.root, "-s", f"card.gold=[{folder}/gold.csv]", "-s", "card.cut=4"]) == 0
    assert command.main(["report", run.storage.root, "-s", "report.arm=best"]) == 0
    return run


def test_report_json_has_every_card_with_praise_beside_chance_and_length(run: Run) -> None:
    trust = json.loads(run.report().storage.read("report.json"))["trust"]
    assert [card["name"] for card in trust["cards"]] == ["a", "b", "c", "verdicts"]
    beside = {row["about"]: row for row in trust["cards"][0]["beside"]}
    precision = beside["precision at the cut by the given marks"]
    assert precision["judge"]["value"] > precision["random"]
    assert precision["longest"]["n"] == precision["judge"]["n"]
    assert beside["rank correlation with the given marks"].keys() >= {"random", "longest", "judge", "given_length"}
    graded = {(one["section"], one["about"]): one["grade"] for one in trust["cards"][0]["figures"] if one["grade"]}
    assert graded["gold", "kappa with the given marks at the cut"] == "good"
    assert trust["together"]["judges"] == ["a", "b", "c"]
    assert trust["win_rates"][0]["note"] == trust["note"] == JUDGE_ALONE


def test_ratings_that_were_chosen_for_being_wrong_are_counted_and_grade_no_judge(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 80)
    rate(run, [3.0] * 80, name="a")

    def card(*files: str) -> dict[str, Any]:
        assert command.main(["card", run.storage.root, "-s", f"card.gold=[{','.join(files)}]"]) == 0
        made: dict[str, Any] = json.loads(run.storage.at("judges", "a").read("card.json"))
        return made

    def file(name: str, rows: list[str], score: float, mark: str) -> str:
        (tmp_path / name).write_text("example_id,score,mark\n" + "".join(f"{row},{score},{mark}\n" for row in rows))
        return str(tmp_path / name)

    wrong = file("wrong.csv", ids(run)[:40], 1.0, "wrong rating")
    made = card(wrong)
    assert made["gold"] is None
    assert made["missing"]["gold"].startswith("40 ratings are marked as wrong, +2.00 points from what they deserve")
    assert not [one for one in made["verdict"]["graded"] if one["section"] == "gold"]
    made = card(wrong, file("drawn.csv", ids(run)[30:70], 3.0, ""))
    assert (made["gold"]["rows"], made["gold"]["exact_agreement"]["value"]) == (40, 1.0)
    assert (made["gold"]["marked_wrong"]["n"], made["gold"]["marked_wrong"]["value"]) == (40, 2.0)
    assert "gold" not in made["missing"]


def test_the_page_and_the_dataset_card_say_how_far_the_judge_can_be_trusted(run: Run) -> None:
    page = run.report().storage.read("index.html").decode()
    assert page.count('id="judges"') == 1
    assert "Beside what costs no judge" in page
    assert escape(JUDGE_ALONE) in page
    card = run.report().storage.read("dataset_card.md").decode()
    assert "## How far its judge can be trusted\n\nVerdict: " in card
    assert "| | random | longest | the judge | length taken out |" in card
    assert "Not known: repeat, position," in card
    assert f"> {JUDGE_ALONE}" in card


def test_a_run_without_cards_says_what_would_make_one(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 5)
    assert command.main(["report", run.storage.root]) == 0
    assert "alpagasus card tells how far each judge can be trusted" in run.report().storage.read("index.html").decode()
    assert command.main(["card", run.storage.root]) == 2


def test_a_report_brings_the_card_that_costs_nothing_and_leaves_one_that_is_there(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 5)
    rate(run, [5, 4, 3, 2, 1])
    assert command.main(["report", run.storage.root]) == 0
    page, made = run.report().storage.read("index.html").decode(), run.judges().finished()
    assert "<h3>judge (rules): only with a stronger judge near the cut</h3>" in page
    assert command.main(["report", run.storage.root, "-s", "card.cut=3", "-s", "report.title=again"]) == 0
    assert run.judges().finished() == made


def test_votes_on_models_that_a_judge_has_compared_twice_count_once() -> None:
    votes = [Vote(f"p{number}", voter, "a") for number in range(40) for voter in ("ana", "ben", "eva")]
    twice = [Judged(Comparison(name, "apple", "pear", ("toys",), "m"), (), votes, (), "alpagasus") for name in (None, "strict")]
    assert judge_verdicts.sections(twice, 0.2) == judge_verdicts.sections(twice[:1], 0.2)
