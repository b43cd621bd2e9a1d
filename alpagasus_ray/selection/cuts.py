"""Whether an arm's threshold can stand on the scale that the ratings were made on: pure functions of arm and scale."""

from collections.abc import Iterable, Mapping
from typing import Any

from alpagasus_ray.config import Arm
from alpagasus_ray.config.engines import traits_of
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.selection.policies import DEFAULT_THRESHOLD

DEFAULT_END = 5.0
"""Where the scale ends that `DEFAULT_THRESHOLD` is meant for."""


def cut_problems(arms: Iterable[Arm], scale: Scale, *, steps: bool = True) -> list[str]:
    """One line for each threshold that means nothing on this scale. Without `steps` any number between the ends may be one, as
    for ratings that are means of several."""
    return [
        f"pick.arms: arm {who} {problem}"
        for arm in arms
        if arm.traits.threshold
        for who, tau in _cuts(arm).items()
        if (problem := cut_problem(arm, tau, scale, steps=steps))
    ]


def _cuts(arm: Arm) -> dict[str, float]:
    """All cuts of an arm, by its name and the category that each is for."""
    own = {f"{arm.name!r}, category {name!r},": cut for name, cut in arm.thresholds.items()}
    return {repr(arm.name): DEFAULT_THRESHOLD if arm.threshold is None else arm.threshold, **own}


def scale_of(ratings: Mapping[str, Any]) -> tuple[Scale, bool] | None:
    """The scale that ratings with these settings are on, and whether a cut has to stand on one of its steps; None where they
    do not say it."""
    scale = ratings.get("rubric", {}).get("scale")
    if scale is None:
        return None
    return Scale.model_validate(scale), not traits_of(ratings.get("judge", {}).get("kind")).is_recorded


def cut_problem(arm: Arm, tau: float, scale: Scale, *, steps: bool) -> str | None:
    """Why a threshold means nothing on a scale, if that is so."""
    where = f"the ratings are on a scale of {scale}"
    if arm.out_of is not None and arm.out_of != scale.max:
        return f"cuts at {tau:g} out of {arm.out_of:g}, and {where}"
    if tau > scale.max:
        empty = f"would be empty (the highest score is {scale.max:g})"
        return f"{empty}: its threshold is {tau:g}, and {where}"
    if tau < scale.min:
        return f"would be everything: its threshold is {tau:g}, and {where}; use policy `full`"
    if tau == DEFAULT_THRESHOLD and scale.max != DEFAULT_END and arm.out_of is None:
        return (
            f"cuts at {tau:g}, which is the paper's cut on a scale of 0 to {DEFAULT_END:g}, and "
            f"{where}. Give a threshold on that scale; if {tau:g} is meant, say `out_of: {scale.max:g}` besides"
        )
    if steps and arm.by == "score" and scale.step is not None and not scale.holds(tau):
        return f"cuts at {tau:g}, which is no score there: {where}. {_near(tau, scale, scale.step)}"
    return None


def _near(tau: float, scale: Scale, step: float) -> str:
    below = scale.min + (tau - scale.min) // step * step
    return f"Give {below:g}, or {below + step:g}, which keeps the same rows as {tau:g}"
