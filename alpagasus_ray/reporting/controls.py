"""The control arms of an experiment: as many examples at random, drawn once or with several seeds. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.evaluation.seeds import combined
from alpagasus_ray.reporting.comparisons_data import Judged, Settings, voters

RANDOM = "random"
NO_CHOICE = (RANDOM, "full")
"""Policies of arms that nobody chose by anything: no control asks what their choice is worth."""
SAME_SIZE = 0.01
"""By what share of its rows a control may differ from the arm, duplicates being dropped from each."""


class Controls(NamedTuple):
    """Whom an arm is measured against, to see whether its choice matters or its size alone."""

    names: tuple[str, ...]
    """Arms of as many examples at random, that differ by their seed."""
    other_sizes: tuple[str, ...] = ()
    """Random arms of another size, which answer another question."""

    @property
    def label(self) -> str:
        """What the controls are called together."""
        return self.names[0] if len(self.names) == 1 else f"{RANDOM} ({len(self.names)} seeds)"


def controls(arm: str | None, policies: Mapping[str, str], sizes: Mapping[str, int]) -> Controls | None:
    """The random arms beside an arm; None where the arm is none that somebody chose in this run."""
    if arm is None or arm not in sizes or policies.get(arm) in NO_CHOICE:
        return None
    drawn = [name for name in sizes if policies.get(name) == RANDOM]
    alike = tuple(name for name in drawn if abs(sizes[name] - sizes[arm]) <= SAME_SIZE * sizes[arm])
    return Controls(alike, tuple(name for name in drawn if name not in alike))


def against(
    arm: str | None, found: Controls | None, games: Sequence[Judged], arm_of: Mapping[str, str], settings: Settings
) -> list[dict[str, Any]]:
    """What each judge said of the arm and its controls, as one comparison: `voter`, `a`, `b`, `label`, the `arms` that were
    compared, the `pairs` of models that it stands for, and `pooled`: `evaluation.seeds.combined`."""
    names, told = voters(games), []
    for who, voter in names.items():
        models = {
            control: one
            for one in games
            for control in (arm_of.get(one.b, one.b),)
            if one.who == who and arm_of.get(one.a, one.a) == arm and found is not None and control in found.names
        }
        if models:
            runs = [one.matches for one in models.values()]
            compared = Controls(tuple(models))
            told.append(
                {
                    "voter": voter,
                    "a": arm,
                    "b": compared.label,
                    "label": who[1],
                    "arms": list(models),
                    "pairs": [(one.a, one.b) for one in models.values()],
                    "pooled": combined(runs, settings.rule, settings.resamples, settings.seed),
                }
            )
    return told
