"""The job that races the arms."""

from typing import Any

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.commands.summaries import always


def _race(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages.race import plan, race, summary

    names = call.recipe.race.arms or tuple(arm.name for arm in call.recipe.pick.arms)
    if call.flags.plan:
        return plan(call.recipe.race, call.recipe.finetune, call.run, names)
    return summary(call.run, race(call.recipe.race, call.recipe.finetune, call.run, names))


RACE = JobSpec(
    "race",
    "race",
    "Train a small model on every arm under several seeds, and tell which arm beats random. A call that was stopped goes on.",
    _race,
    {"plan": "print the trainings, the difference of losses that they can show, and their cost; trains and writes nothing"},
    reading=("plan",),
    needs_run=always,
)
