"""The first screen answers two questions and says no more than the weaker answer: interval, exact test, prompts and seeds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from alpagasus_ray.config import Arm, Pick, Report
from alpagasus_ray.evaluation.match_rules import Game, Match
from alpagasus_ray.evaluation.seeds import combined
from alpagasus_ray.evaluation.statistics import summarize
from alpagasus_ray.reporting.measures import SeedStatistics, Statistics, read
from alpagasus_ray.reporting.questions import controls, doubts, verdict, weakest
from alpagasus_ray.reporting.report_data import report_contents
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.report import report
from alpagasus_ray.store.run import Run
from report_runs import LOSE, NONE, TIE, WIN, Outcomes, judge, rate, train
from toy_runs import toy_run

SHOWN, REVERSED, NOT_SHOWN, NO_DATA = "shown", "reversed", "not shown", "no data"
CLEAR, LOST, EVEN = [WIN] * 40 + [LOSE] * 10, [WIN] * 10 + [LOSE] * 40, [WIN] * 26 + [LOSE] * 24
SELECTED, FULL = Arm(name="selected", policy="threshold", threshold=4.0), Arm(name="full", policy="full")
SEEDS = tuple(Arm(name=f"random-{seed}", policy="random", seed=seed) for seed in (1, 2, 3))


def arms(folder: Path, *others: Arm) -> Run:
    run = toy_run(folder, 60)
    rate(run, [row % 6 for row in range(60)])
    pick_subset(Pick(arms=(SELECTED, *others, FULL)), run)
    return run


def first(run: Run, **settings: Any) -> dict[str, Any]:
    contents = report_contents(Report(resamples=1_000, **settings), finished_stages(run), ("selected",))
    headline: dict[str, Any] = orjson.loads(orjson.dumps(contents.data.first))
    return headline


def matches(outcomes: Outcomes) -> list[Match]:
    def game(winner: str | None) -> Game | None:
        return None if winner is None else Game(winner, None, None)  # type: ignore[arg-type]

    return [Match(f"p{n}", "toys", None, None, None, game(ab), game(ba), 1, 1) for n, (ab, ba) in enumerate(outcomes)]


def summed(outcomes: Outcomes) -> dict[str, Any]:
    return summarize(matches(outcomes), "alpagasus", 2_000)


@pytest.mark.parametrize(
    ("outcomes", "said", "why"),
    [
        (CLEAR, SHOWN, []),
        (LOST, REVERSED, []),
        (EVEN, NOT_SHOWN, ["the interval includes parity"]),
        ([WIN] * 9 + [LOSE] * 2, NOT_SHOWN, ["the interval excludes parity, the exact sign test does not (p 0.065)"]),
        ([LOSE] * 9 + [WIN] * 2, NOT_SHOWN, ["the interval excludes parity, the exact sign test does not (p 0.065)"]),
        ([*CLEAR, *[NONE] * 12], SHOWN, []),
        ([*CLEAR, *[NONE] * 13], NOT_SHOWN, ["only 50 of 63 prompts are judged, and 80% have to be"]),
        ([TIE] * 30, NOT_SHOWN, ["all prompts went the same way, which leaves no interval to go by"]),
        ([NONE] * 30, NO_DATA, None),
    ],
)
def test_yes_needs_the_interval_the_exact_test_and_four_prompts_of_five(
    outcomes: Outcomes, said: str, why: list[str] | None
) -> None:
    entry = read(Statistics, summed(outcomes))
    assert verdict(entry) == said
    assert why is None or doubts(entry) == why


@pytest.mark.parametrize(
    ("answers", "badge"),
    [
        ((SHOWN, SHOWN), SHOWN),
        ((SHOWN, NOT_SHOWN), NOT_SHOWN),
        ((SHOWN, NO_DATA), NOT_SHOWN),
        ((SHOWN, REVERSED), REVERSED),
        ((NO_DATA, REVERSED), REVERSED),
        ((NOT_SHOWN, NO_DATA), NOT_SHOWN),
        ((NO_DATA, NO_DATA), NO_DATA),
        ((SHOWN,), SHOWN),
    ],
)
def test_the_badge_says_no_more_than_the_weaker_answer(answers: tuple[str, ...], badge: str) -> None:
    assert weakest(answers) == badge
    assert weakest(reversed(answers)) == badge


@pytest.mark.parametrize(
    ("full", "random", "badge", "words"),
    [
        (CLEAR, CLEAR, "Yes", ["Yes", "Yes"]),
        (CLEAR, LOST, "No, the other way round", ["Yes", "No, the other way round"]),
        (CLEAR, EVEN, "Not shown", ["Yes", "Not shown"]),
        (CLEAR, None, "Not shown", ["Yes", "No data"]),
        (None, CLEAR, "Not shown", ["No data", "Yes"]),
    ],
)
def test_page_json_and_card_tell_both_answers_and_the_weaker_as_the_badge(
    tmp_path: Path, full: Outcomes | None, random: Outcomes | None, badge: str, words: list[str]
) -> None:
    run = arms(tmp_path, SEEDS[0])
    for baseline, outcomes in (("full", full), ("random-1", random)):
        if outcomes:
            judge(run, ("selected", baseline), outcomes)
    answer = report(Report(resamples=1_000), run, ("selected",))["answer"]
    read = run.report().storage.read
    told = json.loads(read("report.json"))["first"]
    assert told["word"] == badge
    assert [asked["word"] for asked in told["questions"]] == words
    assert told["question"] == (
        "Does training on the 20 selected examples beat training on all 60, and training on as many drawn at random?"
    )
    card, page = read("dataset_card.md").decode(), read("index.html").decode()
    assert f"Both together: {badge}." in card
    assert f'">{badge}</span></p>' in page
    assert answer.startswith(f"{badge}. Against all 60: {words[0]}.")
    for asked in told["questions"]:
        assert f"- {asked['question']} {asked['word']}. " in card
        assert f"Against {asked['against']}: {asked['word']}</h2>" in page


def test_prompts_and_training_seeds_behind_an_answer_are_said(tmp_path: Path) -> None:
    run = arms(tmp_path, *SEEDS)
    judge(run, ("selected", "full"), [*CLEAR, NONE])
    behind = first(run)["questions"][0]["behind"]
    assert behind == (
        "Behind it: 50 of 51 prompts judged; of how many training seeds is not known, as not both were trained in this run."
    )
    for arm in ("selected", "full", "random-1", "random-2"):
        train(run, arm)
    for arm in ("random-1", "random-2"):
        judge(run, ("selected", arm), [*CLEAR, NONE])
    whole, at_random = first(run)["questions"]
    assert whole["behind"] == (
        "Behind it: 50 of 51 prompts judged; 1 training seed of selected and 1 of full: what another seed would change is not "
        "known."
    )
    assert at_random["seeds"] == {"arm": 1, "baseline": 2}
    assert at_random["behind"] == (
        "Behind it: 51 prompts, 100 of 102 comparisons judged; 1 training seed of selected and 2 of random (2 seeds)."
    )


def test_controls_of_several_seeds_are_told_as_one_with_mean_and_range(tmp_path: Path) -> None:
    run = arms(tmp_path, *SEEDS)
    judge(run, ("selected", "full"), CLEAR)
    wins = (40, 30, 26)
    for arm, count in zip(SEEDS, wins, strict=True):
        judge(run, ("selected", arm.name), [WIN] * count + [LOSE] * (50 - count))
        judge(run, (arm.name, "selected"), [LOSE] * count + [WIN] * (50 - count), name="second")
    told = first(run)
    at_random = told["questions"][1]
    scores = [2 * count / 50 for count in wins]
    assert at_random["baseline"] == {"name": "random (3 seeds)", "arms": [arm.name for arm in SEEDS], "rows": 20}
    pooled = at_random["pooled"]
    assert pooled["winning_score"]["value"] == pytest.approx(np.mean(scores))
    assert (pooled["least"], pooled["most"]) == (pytest.approx(min(scores)), pytest.approx(max(scores)))
    assert (pooled["win"], pooled["lose"], pooled["comparisons"], pooled["prompts"]) == (96, 54, 150, 50)
    assert "wins 96 of 150 comparisons against those trained on 3 random draws" in at_random["sentence"]
    assert "By seed from 1.040 to 1.600." in at_random["sentence"]
    assert [(entry["b"], entry["voter"]) for entry in told["others"]] == [
        ("random (3 seeds)", "toy judge"),
        ("random (3 seeds)", "judge second"),
    ]


def test_the_same_games_with_every_seed_are_no_more_certain_than_with_one() -> None:
    one, three = summed(CLEAR), combined([matches(CLEAR)] * 3, "alpagasus", 2_000)
    assert three["sign_test_p"] == one["sign_test_p"]
    for end in ("value", "low", "high"):
        assert three["winning_score"][end] == pytest.approx(one["winning_score"][end], abs=0.05)
    single = combined([matches(CLEAR)], "alpagasus", 2_000)
    assert [single[key] for key in ("win", "tie", "lose", "prompts")] == [one[key] for key in ("win", "tie", "lose", "prompts")]


def test_a_missing_verdict_counts_for_nobody_and_too_many_of_them_show_nothing() -> None:
    runs = [matches([*CLEAR, *[NONE] * 50]), matches([*CLEAR, *[NONE] * 50])]
    found = combined(runs, "alpagasus", 500)
    assert (found["judged"], found["no_verdict"], found["comparisons"]) == (100, 100, 200)
    assert found["winning_score"]["value"] == pytest.approx(1.6)
    entry = read(SeedStatistics, found)
    assert verdict(entry) == NOT_SHOWN
    assert doubts(entry) == ["only 100 of 200 comparisons are judged, and 80% have to be"]
    assert combined([matches([NONE] * 3)] * 2, "alpagasus")["winning_score"]["value"] is None


def test_only_random_arms_of_the_same_size_are_controls() -> None:
    policies = {"selected": "top", "random-1": "random", "small": "random", "longest": "longest", "full": "full"}
    sizes = {"selected": 1000, "random-1": 995, "small": 100, "longest": 1000, "full": 5000}
    assert controls("selected", policies, sizes) == (("random-1",), ("small",))
    assert controls("longest", policies, sizes) == (("random-1",), ("small",))
    assert controls("random-1", policies, sizes) is None
    assert controls("a model of another run", policies, sizes) is None


def test_without_a_control_of_its_size_a_run_says_how_to_draw_one(tmp_path: Path) -> None:
    run = arms(tmp_path, Arm(name="few", policy="random", k=5))
    judge(run, ("selected", "full"), CLEAR)
    judge(run, ("selected", "few"), CLEAR)
    told = first(run)
    assert told["word"] == "Not shown"
    assert told["questions"][1]["word"] == "No data"
    assert "no arm of as many examples at random (few: of another size)" in told["questions"][1]["sentence"]
    pick_subset(Pick(arms=(SELECTED, Arm(name="random", policy="random"))), run)
    judge(run, ("selected", "random"), CLEAR)
    assert first(run)["word"] == "Yes"


def test_models_that_nobody_chose_examples_for_have_one_question(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    judge(run, ("cherry", "alpaca"), CLEAR)
    told = first(run)
    assert [asked["question"] for asked in told["questions"]] == ["Does cherry beat alpaca?"]
    assert told["word"] == "Yes"
    report(Report(), run)
    assert "Both together" not in run.report().storage.read("dataset_card.md").decode()


def test_a_control_as_the_reports_baseline_does_not_hide_the_full_set(tmp_path: Path) -> None:
    run = arms(tmp_path, *SEEDS)
    judge(run, ("selected", "full"), LOST)
    for arm in SEEDS:
        judge(run, ("selected", arm.name), CLEAR)
    told = first(run, baseline="random-2")
    assert [asked["against"] for asked in told["questions"]] == ["all 60", "as many at random"]
    assert told["word"] == "No, the other way round"


def test_an_arm_that_is_no_control_and_was_not_trained_is_never_the_baseline(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 60)
    rate(run, [row % 6 for row in range(60)])
    pick_subset(Pick(arms=(SELECTED, Arm(name="random", policy="random"))), run)
    pick_subset(Pick(arms=(Arm(name="mine", policy="top", k=50),)), run)
    assert first(run)["baseline"]["name"] is None
    assert "mine" not in json.dumps(first(run))
    train(run, "selected")
    train(run, "random")
    assert first(run)["baseline"]["name"] == "random"
    assert "Training on mine" not in (first(run)["cheaper"] or "")
    train(run, "mine")
    assert first(run)["baseline"]["name"] == "mine", "the largest that was trained"


def test_an_arm_alone_is_told_of_and_asks_no_question(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 12)
    rate(run, [row % 6 for row in range(12)])
    pick_subset(Pick(arms=(SELECTED,)), run)
    told = first(run)
    assert (told["question"], told["word"], told["questions"]) == ("selected holds 4 of 12 examples", None, [])
    assert told["sentence"].startswith("Chosen: score of at least 4, as rated by rules. Left out are 8: score below 4.")
