"""The whole experiment before it is done: what a recipe leaves open, what does not hold together, and the plan."""

import json
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Recipe
from alpagasus_ray.errors import UsageError
from alpagasus_ray.plan_all import plan
from alpagasus_ray.recipe import load
from alpagasus_ray.reporting.terminal_plan import whole_plan_lines
from alpagasus_ray.run_all import check, completed
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


def test_the_size_of_an_arm_that_the_recipe_says_is_what_the_plan_says(tmp_path: Path) -> None:
    told = plan(toy(tmp_path), Run.open(str(tmp_path / "run")))
    assert [(arm["arm"], arm["size"], arm["rows"]) for arm in told["arms"]] == [("best", "known", 4), ("all", "known", 8)]
