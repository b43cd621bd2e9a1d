"""The whole experiment before it is done: what a recipe leaves open, what does not hold together, and the plan."""

import json
from pathlib import Path
from typing import Any

import pytest

import alpagasus_ray as ag
from alpagasus_ray.config import Recipe
from alpagasus_ray.errors import UsageError
from alpagasus_ray.feasibility import before
from alpagasus_ray.plan_all import plan
from alpagasus_ray.recipe import load
from alpagasus_ray.reporting.terminal_plan import whole_plan_lines
from alpagasus_ray.run_all import check, completed, steps
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from toy_runs import ROOT


def toy(folder: Path, **changes: Any) -> Recipe:
    """An experiment on eight examples with a model that is there."""
    source, prompts = folder / "rows.json", folder / "prompts.jsonl"
    source.write_text(json.dumps([{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(8)]))
    prompts.write_text("".join(json.dumps({"id": f"p-{n}", "instruction": f"Say {n}!"}) + "\n" for n in range(3)))
    sections = {
        "ingest": {"source": str(source)},
        "score": {"judge": {"kind": "rules"}},
        "pick": {"arms": [{"name": "best", "policy": "top", "k": 4}, {"name": "all", "policy": "full"}]},
        "finetune": {"model": str(ROOT / "examples/tiny_model"), "from_scratch": True, "workers": 1, "precision": "float32"},
        "generate": {"test_sets": [{"name": "toy", "path": str(prompts)}]},
        "compare": {"judge": {"kind": "api", "model": "gpt-4o"}},
    }
    return completed(Recipe.model_validate({**sections, **changes}))


def test_every_arm_answers_under_its_own_name_and_the_first_is_compared_with_each_other(tmp_path: Path) -> None:
    recipe = toy(tmp_path)
    assert recipe.finetune.arms == ("best", "all")
    assert [(model.name, model.arm, model.prompt) for model in recipe.generate.models] == [
        ("best", "best", "alpaca"),
        ("all", "all", "alpaca"),
    ]
    assert recipe.compare.pairs == (("best", "all"),)
    assert toy(tmp_path, report={"arm": "all"}).compare.pairs == (("all", "best"),)
    check(recipe)


WHOLE = [file for file in sorted(ROOT.glob("recipes/*.yaml")) if file.stem != "local-judge"]
"""The recipes that are more than a judge."""


@pytest.mark.parametrize("file", WHOLE, ids=lambda file: file.stem)
def test_the_shipped_recipes_hold_together(file: Path) -> None:
    check(completed(load(str(file), []).recipe))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"finetune": {"model": "x", "arms": ["nobody"]}}, r"finetune.arms has 'nobody', and pick.arms has not"),
        ({"compare": {"pairs": [["best", "worst"]], "judge": {"kind": "rules"}}}, r"compare.pairs has 'worst'"),
        ({"finetune": {}}, r"finetune.model"),
        ({"generate": {}}, r"generate.test_sets"),
        ({"ingest": {}}, r"ingest.source"),
        ({"compare": {}}, r"compare.judge.model"),
        ({"pick": {"arms": [{"name": "all", "policy": "full"}]}}, r"one model alone"),
    ],
)
def test_what_a_later_step_would_miss_is_told_before_the_first(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check(toy(tmp_path, **changes))


def test_a_model_of_an_arm_that_is_not_trained_is_told(tmp_path: Path) -> None:
    models = [{"name": "x", "arm": "best"}, {"name": "y", "arm": "all"}]
    changes = {"finetune": {"model": "x", "arms": ["best"]}, "generate": {"models": models}}
    with pytest.raises(UsageError, match=r"'y' is the arm 'all', which finetune.arms does not train"):
        check(toy(tmp_path, **changes))


def test_the_plan_of_an_experiment_that_has_not_begun_writes_nothing_and_bounds_what_nobody_knows(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    arms = [
        {"name": "selected", "policy": "threshold"},
        {"name": "random", "policy": "random"},
        {"name": "all", "policy": "full"},
    ]
    recipe = toy(tmp_path, pick={"arms": arms})
    told = plan(recipe, run)
    assert not run.storage.all_names()
    assert [(arm["arm"], arm["size"], arm["rows"]) for arm in told["arms"]] == [
        ("selected", "at most", 8),
        ("random", "at most", 8),
        ("all", "known", 8),
    ]
    assert (told["rows"], told["prompts"], told["games"]) == (8, 3, 2 * 2 * 3)
    dollars = told["evaluation_dollars"]
    assert 0 < dollars["low"] < dollars["high"]
    lines = "\n".join(whole_plan_lines(told))
    assert "nothing was sent or written" in lines
    assert "at most 8 examples" in lines


def short(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as `alpagasus init` writes it: nothing is trained, answered or compared."""
    whole = toy(folder).model_dump(mode="json", exclude_unset=True)
    return {key: whole[key] for key in ("ingest", "score", "pick")} | changes


def test_a_recipe_without_trainings_is_planned_to_its_report(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    recipe = completed(Recipe.model_validate(short(tmp_path, report={"arm": "best"})))
    check(recipe)
    assert not list(before(recipe, run))
    assert [step.section for step in steps(recipe)] == ["ingest", "score", "pick", "card", "report"]
    told = plan(recipe, run)
    assert (told["rows"], told["arms"], told["games"]) == (8, [], 0)
    assert told["total_dollars"] == {"low": 0.0, "high": 0.0, "not_counted": []}
    lines = list(whole_plan_lines(told))
    assert "finetune (finetune.model), generate (generate.test_sets), compare (compare.judge)" in lines[-2]
    assert not run.storage.all_names()
    written = Recipe.model_validate(recipe.model_dump(mode="json"))
    assert written.ends_with_report, "the recipe that a run keeps has all sections"


@pytest.mark.parametrize(
    "changes",
    [
        {"finetune": {"epochs": 2}},
        {"generate": {"test_sets": [{"name": "x", "path": "y"}]}},
        {"compare": {"judge": {"kind": "rules"}}},
    ],
)
def test_a_recipe_that_is_filled_in_by_half_is_refused_with_what_is_missing(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = completed(Recipe.model_validate(short(tmp_path, **changes)))
    with pytest.raises(
        UsageError, match=r"(?s)nothing is given for .*without finetune, generate and compare ends with"
    ) as told:
        check(recipe)
    missing = {"finetune.model", "generate.test_sets", "compare.judge.model"}
    assert sum(key in str(told.value) for key in missing) == 2 + ("epochs" in str(changes))


def test_a_recipe_without_trainings_is_carried_out_to_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ag.Run(tmp_path / "run", short(tmp_path))
    run.ingest()
    recipe = Recipe.model_validate(short(tmp_path))
    score(recipe.score, Run.open(run.location), in_process=True)
    done = run.run()
    assert list(done.summary["steps"]) == ["ingest", "score", "pick_subset", "card", "report"]
    assert list(done.summary["left_out"]) == ["finetune", "generate", "compare"]
    assert Path(done.page).exists()
    assert "left out, as the recipe does not ask for it: finetune (finetune.model)" in capsys.readouterr().err


def test_the_size_of_an_arm_that_the_recipe_says_is_what_the_plan_says(tmp_path: Path) -> None:
    told = plan(toy(tmp_path), Run.open(str(tmp_path / "run")))
    assert [(arm["arm"], arm["size"], arm["rows"]) for arm in told["arms"]] == [("best", "known", 4), ("all", "known", 8)]
