"""What cannot be done is told before anything is paid for, all of it at once; a plan needs neither hub nor GPU."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from test_whole_experiment import toy

from alpagasus_ray.cli import Call
from alpagasus_ray.config import Recipe
from alpagasus_ray.config.race import Race
from alpagasus_ray.errors import UsageError
from alpagasus_ray.feasibility import before, of_score, refuse
from alpagasus_ray.recipe import load
from alpagasus_ray.reporting.terminal_plan import whole_plan_lines
from alpagasus_ray.run_all import completed, run_all
from alpagasus_ray.store.run import Run
from alpagasus_ray.training import gpu_estimates
from loopback import JudgeStarter
from report_runs import rate
from toy_runs import ROOT, job, toy_run

SAMPLE = ROOT / "examples/sample/examples.jsonl"
NO_FLAGS = argparse.Namespace(plan=False, gpu=None)


def paper(**changes: Any) -> Recipe:
    """The paper's recipe on the 533 rows of the sample."""
    sets = [f"ingest.source={SAMPLE}", *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    return load(str(ROOT / "recipes/alpagasus-7b.yaml"), sets).recipe


def test_the_papers_recipe_on_533_rows_is_refused_with_all_its_problems_before_anything_is_asked(
    tmp_path: Path, judge: JudgeStarter
) -> None:
    import ray

    server = judge()
    recipe = paper(**{"score.judge.base_url": server.base_url, "compare.judge.base_url": "http://127.0.0.1:9/v1"})
    run = Run.open(str(tmp_path / "run"))
    with pytest.raises(UsageError) as refusal:
        run_all(Call(recipe, run, NO_FLAGS))
    told = str(refusal.value)
    for problem in (
        "arm 'top9k' asks for k = 9,229, and there are 533 examples",
        *(f"generate.test_sets: '{name}' cannot be read" for name in ("vicuna", "koala", "wizardlm", "self_instruct")),
        "compare.judge: http://127.0.0.1:9/v1",
        "finetune.model = 'huggyllama/llama-7b' is no directory here, and the hub does not give it",
    ):
        assert problem in told
    assert server.taken() == []
    assert not ray.is_initialized()
    assert not run.ratings("judge").storage.all_names()


def test_k_beyond_the_rows_is_refused_after_ingest_and_before_the_first_rating(tmp_path: Path, judge: JudgeStarter) -> None:
    server = judge()
    rater = {"judge": {"model": "toy", "base_url": server.base_url}}
    arms = [{"name": "best", "policy": "top", "k": 9}, {"name": "all", "policy": "full"}]
    recipe = doable(tmp_path, score=rater, pick={"arms": arms})
    run = Run.open(str(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"'best' asks for k = 9, and there are 8 examples"):
        run_all(Call(recipe, run, NO_FLAGS))
    assert server.taken() == []
    assert run.examples().manifest() is not None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"score": {"name": "mine", "judge": {"kind": "rules"}}}, "pick.ratings is 'judge', and score.name is 'mine'"),
        ({"compare": {"judge": {"kind": "rules"}, "test_sets": ["koala"]}}, "compare.test_sets has 'koala'"),
        ({"report": {"arm": "bets"}}, "report.arm is 'bets'"),
        ({"pick": {"arms": [{"name": "a", "policy": "threshold", "threshold": 7}]}}, "would be empty"),
        ({"score": {"judge": {"kind": "rules", "rubric": "accuracy-integer"}}, "pick": {}}, "Give 4, or 5"),
        ({"pick": {"arms": [{"name": "r", "policy": "random"}]}}, "has no `k`"),
        ({"score": {"judge": {"model": "toy", "base_url": "http://127.0.0.1:9/v1"}}}, "score.judge: http://127.0.0.1:9/v1"),
        ({"score": {"judge": {"model": "toy", "api_key_env": "NO_SUCH_KEY"}}}, "NO_SUCH_KEY"),
        ({"finetune": {"model": "no/such-model"}}, "finetune.model = 'no/such-model'"),
        ({"finetune": {"model": "x", "heldout": "nowhere.jsonl"}}, "nowhere.jsonl"),
    ],
)
def test_each_problem_that_can_be_known_needs_no_examples(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    found = list(before(completed(toy(tmp_path, **changes)), Run.open(str(tmp_path / "none"))))
    assert any(told in problem for problem in found), found


def doable(folder: Path, **changes: Any) -> Recipe:
    """An experiment that nothing stands in the way of."""
    return completed(toy(folder, **{"compare": {"judge": {"kind": "rules"}}, **changes}))


def test_a_recipe_that_can_be_done_has_no_problem(tmp_path: Path) -> None:
    assert list(before(doable(tmp_path), Run.open(str(tmp_path / "none")))) == []


def test_a_gpu_that_is_asked_for_and_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alpagasus_ray.feasibility.GPU_DEVICES", (str(tmp_path / "none"),))
    model = str(ROOT / "examples/tiny_model")
    recipe, run = doable(tmp_path, finetune={"model": model, "gpu": True}), Run.open(str(tmp_path / "none"))
    assert any("finetune.gpu is true" in problem for problem in before(recipe, run))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert not list(before(recipe, run)), "of a cluster its own check tells"


def test_each_server_is_asked_for_its_models_once_in_a_whole_experiment(
    tmp_path: Path, judge: JudgeStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_further(*_: object) -> None:
        raise KeyboardInterrupt

    server = judge()
    rater = {"judge": {"model": "toy", "base_url": server.base_url}}
    monkeypatch.setattr("alpagasus_ray.stages.score.score", no_further)
    with pytest.raises(KeyboardInterrupt):
        run_all(Call(doable(tmp_path, score=rater), Run.open(str(tmp_path / "run")), NO_FLAGS))
    assert server.stats()["listed"] == 1


def test_what_is_finished_needs_its_server_no_more(tmp_path: Path) -> None:
    recipe = doable(tmp_path, score={"judge": {"model": "toy", "base_url": "http://127.0.0.1:9/v1"}})
    run = toy_run(tmp_path, 3)
    assert any("127.0.0.1:9" in problem for problem in before(recipe, run))
    rate(run, [5.0, 4.0, 3.0])
    assert list(before(recipe, run)) == []


def test_floors_of_categories_that_no_example_has_are_told(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 3)
    arms = [{"name": "best", "policy": "top", "k": 2, "floors": {"coding": 1}}]
    recipe = Recipe.model_validate({"score": {"judge": {"kind": "rules"}}, "pick": {"arms": arms}})
    assert any("'coding', which no example has" in problem for problem in of_score(recipe, run))
    assert list(of_score(Recipe.model_validate({"score": {"judge": {"kind": "rules"}}}), run)) == []


def test_score_alone_is_refused_as_well_before_it_sends_anything(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 3)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("score: {judge: {kind: rules}}\npick: {arms: [{name: top9k, policy: top, k: 9229}]}\n")
    for flags in ((), ("--plan",)):
        done = job("score", run.storage.root, "--recipe", str(recipe), *flags)
        assert done.returncode == 2
        assert "k = 9,229, and there are 3 examples" in done.stderr
    assert run.ratings("judge").manifest() is None


def test_problems_are_told_all_at_once_and_each_once() -> None:
    with pytest.raises(UsageError) as refusal:
        refuse(["a", "b", "a"])
    assert str(refusal.value).splitlines()[1:] == ["  a", "  b"]
    refuse([])


# the plan


def planned(recipe: Recipe, folder: Path, gpu: str | None) -> dict[str, Any]:
    return run_all(Call(recipe, Run.open(str(folder / "run")), argparse.Namespace(plan=True, gpu=gpu)))


def without_hub(folder: Path, **finetune: Any) -> Recipe:
    arms = {"finetune": {"model": "nobody/llama-7b", "workers": 4, "gpu": True, "global_batch": 2, **finetune}}
    rater = {"score": {"judge": {"model": "gpt-4o-mini"}}, "compare": {"judge": {"model": "gpt-4o-mini"}}}
    return toy(folder, **arms, **rater)


def test_a_plan_needs_neither_hub_nor_gpu_nor_key_and_ends_with_one_total(tmp_path: Path) -> None:
    told = planned(without_hub(tmp_path), tmp_path, "h100")
    total = told["total_dollars"]
    parts = [told["score"]["dollars"], told["evaluation_dollars"], *(arm["dollars_range"] for arm in told["arms"])]
    assert total["low"] == pytest.approx(sum(part["low"] for part in parts), abs=1e-5)
    assert total["high"] == pytest.approx(sum(part["high"] for part in parts), abs=1e-5)
    assert 0 < total["low"] < total["high"]
    assert all("an estimate: 7e+09 parameters" in arm["predicted_by"] for arm in told["arms"])
    lines = list(whole_plan_lines(told))
    assert lines[-1].startswith("  total of the rest: $")
    assert "generate" in lines[-2]


def test_what_a_plan_cannot_tell_is_named_and_not_taken_for_nothing(tmp_path: Path) -> None:
    told = planned(without_hub(tmp_path), tmp_path, None)
    assert all("name the GPU by --gpu" in arm["predicted_by"] for arm in told["arms"])
    assert {"finetune best", "finetune all"} <= set(told["total_dollars"]["not_counted"])


def test_a_race_is_planned_with_its_trainings_and_dollars_and_only_where_there_is_one(tmp_path: Path) -> None:
    plain = without_hub(tmp_path)
    assert planned(plain, tmp_path, "h100")["race"] is None
    raced = Race(model="nobody/proxy-135m", heldout=2, seeds=3)
    told = planned(plain.model_copy(update={"race": raced}), tmp_path, "h100")
    race, total = told["race"], told["total_dollars"]
    assert race["trainings"] == 3 * len(plain.pick.arms)
    assert 0 < race["dollars"]["low"] < race["dollars"]["high"]
    without = planned(plain, tmp_path, "h100")["total_dollars"]
    assert total["low"] - without["low"] == pytest.approx(race["dollars"]["low"], abs=1e-5)
    assert any(
        line.startswith(f"  race: {race['trainings']} trainings of nobody/proxy-135m") for line in whole_plan_lines(told)
    )
    unknown = planned(plain.model_copy(update={"race": raced}), tmp_path, None)
    assert "race" in unknown["total_dollars"]["not_counted"]


def test_a_quicker_gpu_takes_less_time_and_a_stated_price_is_the_price(tmp_path: Path) -> None:
    config = without_hub(tmp_path, price_per_gpu_hour=2.0).finetune
    slow, quick = (gpu_estimates.estimate(config, 10**9, 4, gpu) for gpu in ("a100", "h100"))
    assert slow.minutes is not None
    assert quick.minutes is not None
    assert slow.minutes[0] > quick.minutes[0]
    assert quick.dollars == pytest.approx(tuple(minutes * 4 / 60 * 2.0 for minutes in quick.minutes))
    # 6 N T operations at a quarter to a half of 989 TFLOPS on four GPUs
    assert quick.minutes[1] == pytest.approx(6 * 7e9 * 1e9 / (989e12 * 0.25 * 4) / 60)


def test_an_unknown_gpu_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--gpu tpu: not known; one of a100, h100"):
        planned(toy(tmp_path), tmp_path, "tpu")


def test_a_plan_tells_what_stands_in_the_way(tmp_path: Path) -> None:
    arms = [{"name": "best", "policy": "top", "k": 9}, {"name": "all", "policy": "full"}]
    with pytest.raises(UsageError, match=r"k = 9, and there are 8 examples"):
        planned(toy(tmp_path, pick={"arms": arms}), tmp_path, None)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("huggyllama/llama-7b", 7e9),
        ("Qwen/Qwen3-8B-Base", 8e9),
        ("HuggingFaceTB/SmolLM2-135M", 135e6),
        ("Qwen/Qwen2.5-0.5B", 0.5e9),
        ("gpt2", None),
        ("microsoft/phi-2", None),
    ],
)
def test_the_size_of_a_model_is_what_its_name_says_or_unknown(name: str, size: float | None) -> None:
    assert gpu_estimates.parameters(name) == size
