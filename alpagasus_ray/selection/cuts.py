"""Whether an arm's threshold can stand on the scale that the ratings were made on: pure functions of arm and scale."""

from collections.abc import Iterable

from alpagasus_ray.config import Arm
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.selection.policies import DEFAULT_THRESHOLD

DEFAULT_END = 5.0
"""Where the scale ends that `DEFAULT_THRESHOLD` is meant for."""


def cut_problems(arms: Iterable[Arm], scale: Scale, *, steps: bool = True) -> list[str]:
    """One line for each threshold that means nothing on this scale. Without `steps` any number between the ends may be one, as
    for ratings that are means of several."""
    return [
        problem
        for arm in arms
        if arm.traits.threshold
        for category, tau in _cuts(arm)
        if (problem := _problem(arm, category, tau, scale, steps=steps))
    ]


def _cuts(arm: Arm) -> list[tuple[str | None, float]]:
    """All cuts of an arm, each with the category that it is for; None stands for all others."""
    return [(None, DEFAULT_THRESHOLD if arm.threshold is None else arm.threshold), *arm.thresholds.items()]


def _problem(arm: Arm, category: str | None, tau: float, scale: Scale, *, steps: bool) -> str | None:
    if category is not None:
        own = arm.model_copy(update={"threshold": tau, "thresholds": {}})
        problem = _problem(own, None, tau, scale, steps=steps)
        return problem and problem.replace(f"arm {arm.name!r}", f"arm {arm.name!r}, category {category!r},", 1)
    where = f"the ratings are on a scale of {scale}"
    if arm.out_of is not None and arm.out_of != scale.max:
        return f"pick.arms: arm {arm.name!r} cuts at {tau:g} out of {arm.out_of:g}, and {where}"
    if tau > scale.max:
        empty = f"would be empty (the highest score is {scale.max:g})"
        return f"pick.arms: arm {arm.name!r} {empty}: its threshold is {tau:g}, and {where}"
    if tau < scale.min:
        return f"pick.arms: arm {arm.name!r} would be everything: its threshold is {tau:g}, and {where}; use policy `full`"
    if tau == DEFAULT_THRESHOLD and scale.max != DEFAULT_END and arm.out_of is None:
        return (
            f"pick.arms: arm {arm.name!r} cuts at {tau:g}, which is the paper's cut on a scale of 0 to {DEFAULT_END:g}, and "
            f"{where}. Give a threshold on that scale; if {tau:g} is meant, say `out_of: {scale.max:g}` besides"
        )
    if steps and arm.by == "score" and scale.step is not None and not scale.holds(tau):
        return f"pick.arms: arm {arm.name!r} cuts at {tau:g}, which is no score there: {where}. {_near(tau, scale, scale.step)}"
    return None


def _near(tau: float, scale: Scale, step: float) -> str:
    below = scale.min + (tau - scale.min) // step * step
    return f"Give {below:g}, or {below + step:g}, which keeps the same rows as {tau:g}"
