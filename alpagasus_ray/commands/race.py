"""The job that races the arms, and lets a judge compare what their proxies answer."""

from collections.abc import Mapping
from typing import Any

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.commands.summaries import always
from alpagasus_ray.config import Answerer, Compare, Generate, TestSet, digest
from alpagasus_ray.config.race import Race
from alpagasus_ray.store.run import Run

JUDGED = "race"
"""`compare.name` of what is compared here."""


def _race(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages.race import plan, race, summary

    config = call.recipe.race
    names = config.arms or tuple(arm.name for arm in call.recipe.pick.arms)
    if call.flags.plan:
        return plan(config, call.recipe.finetune, call.run, names)
    told = summary(call.run, race(config, call.recipe.finetune, call.run, names))
    return told | judged(config, call.run, told["race"])


def judged(config: Race, run: Run, table: Mapping[str, Any]) -> dict[str, Any]:
    """Let `race.judge` compare the answers of each arm's proxy with those of the random arm's: `answers/` and `verdicts-race/`
    of the run, as of any model. The answer is the outcome of each pair; nothing without a judge."""
    if config.judge is None:
        return {}
    from alpagasus_ray.stages.compare import compare, outcomes
    from alpagasus_ray.stages.generate import generate
    from alpagasus_ray.training.race_setup import ANSWERS, PROMPTS

    storage = run.race().storage
    # named by what they hold: those of another race are others
    about = digest([storage.checksum(PROMPTS)])[:6]
    proxies = {one["arm"]: f"{ANSWERS}/{one['arm']}.jsonl" for one in table["arms"]}
    models = {arm: f"proxy-{arm}-{digest([storage.checksum(file)])[:6]}" for arm, file in proxies.items()}
    asked = TestSet(name=f"race-{about}", path=storage.path(PROMPTS))
    answerers = [Answerer.model_validate({"name": models[arm], "answers": storage.path(file)}) for arm, file in proxies.items()]
    generate(Generate(models=tuple(answerers), test_sets=(asked,)), run)
    control = table["controls"]["random"]
    pairs = tuple((models[arm], models[control]) for arm in models if arm != control)
    settings = {"name": JUDGED, "pairs": pairs, "judge": config.judge, "test_sets": (asked.name,)}
    compared = Compare.model_validate(settings | {"max_cost_usd": _left(config, table)})
    arm_of = {model: arm for arm, model in models.items()}
    made = compare(compared, run)
    return {"judged": [{**outcomes(compared, run, bout), "arm": arm_of[bout.a], "control": control} for bout in made]}


def _left(config: Race, table: Mapping[str, Any]) -> float | None:
    """The dollars that the trainings have left of the cap."""
    if config.max_cost_usd is None:
        return None
    return max(0.0, config.max_cost_usd - sum(one["training_usd"] or 0 for one in table["arms"]))


RACE = JobSpec(
    "race",
    "race",
    "Train a small model on every arm under several seeds, and tell which arm beats random. A call that was stopped goes on.",
    _race,
    {"plan": "print the trainings, the difference of losses that they can show, and their cost; trains and writes nothing"},
    reading=("plan",),
    needs_run=always,
)
