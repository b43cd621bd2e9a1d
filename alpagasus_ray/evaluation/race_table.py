"""The table of a race, in plain JSON values, from what was measured: pure functions.

What decides is the first set of held-out rows; on the others the same is told, and nothing is concluded from it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.evaluation import race
from alpagasus_ray.evaluation.intervals import LEVEL, holm, rounded
from alpagasus_ray.evaluation.race import Difference

Floats = NDArray[np.float64]
CONTROLS = ("random", "longest", "full")
"""Policies that the others are compared with, in this order; the first arm of each is the control."""
FEWEST_IN_CATEGORY = 5
"""Rows of a category before a difference is told for it."""


class HeldSet(NamedTuple):
    """Rows that the arms are measured on."""

    name: str
    rows: int
    left_out: int
    """Rows without a reference, or without a trainable token."""
    categories: list[str]
    """(rows,) empty where there is none."""


class ArmResult(NamedTuple):
    """What was measured of an arm, over the seeds that it was trained under."""

    policy: str
    rows: int
    removed: int
    """Rows taken out, as they are held out or nearly so."""
    losses: dict[str, Floats]
    """By set, (seeds, rows): after the training."""
    curve: Floats
    """(points,) the mean loss on the deciding set, over seeds and rows."""
    tokens: Floats
    """(points,) tokens seen by then, on average over seeds."""
    facts: dict[str, Any]
    """`steps`, `epochs`, `label_tokens`, `seconds` and what else the table repeats."""

    @property
    def seeds(self) -> int:
        """Under how many seeds it was trained."""
        return len(next(iter(self.losses.values())))


def controls(policies: Mapping[str, str]) -> dict[str, str]:
    """The arm that is the control of each policy among `CONTROLS`, as far as there is one, from arm -> policy."""
    found = {}
    for policy in CONTROLS:
        arm = next((arm for arm, own in policies.items() if own == policy), None)
        if arm is not None:
            found[policy] = arm
    return found


def protected(policies: Mapping[str, str]) -> list[str]:
    """Arms that are trained under every seed, whatever comes out."""
    return [arm for policy, arm in controls(policies).items() if policy != "full"]


def table(arms: Mapping[str, ArmResult], sets: Sequence[HeldSet], *, matched: bool) -> dict[str, Any]:
    """What the race says. `matched`: arms saw equally many tokens, so that their curves can be laid on each other."""
    decides = sets[0].name
    main = {name: arm.losses[decides] for name, arm in arms.items()}
    against = {policy: _against(arms, control, sets, matched=matched) for policy, control in _controls(arms).items()}
    seats = race.places(main)
    order = sorted(arms, key=lambda name: float(main[name].mean()))
    entries = [
        {
            "arm": name,
            "policy": arms[name].policy,
            "rows": arms[name].rows,
            "removed": arms[name].removed,
            "seeds": arms[name].seeds,
            "loss": rounded(float(main[name].mean())),
            "by_seed": [rounded(float(loss)) for loss in main[name].mean(axis=1)],
            "places": seats[name],
            "against": {policy: found[name] for policy, found in against.items() if name in found},
            "sets": {one.name: rounded(float(arms[name].losses[one.name].mean())) for one in sets},
            **arms[name].facts,
        }
        for name in order
    ]
    return {
        "decides": decides,
        "sets": [{"name": one.name, "rows": one.rows, "left_out": one.left_out} for one in sets],
        "controls": _controls(arms),
        "arms": entries,
        "curves": {
            name: {"tokens": arm.tokens.round().tolist(), "loss": [rounded(loss) for loss in arm.curve]}
            for name, arm in arms.items()
        },
        **verdict(entries, _controls(arms)),
    }


def agreement(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """How alike two races rank the arms that both raced, by the loss that decides: `race.rank_agreement` and the other's model.
    An arm counts only where both raced the same rows of it; none does where something else decides."""
    by_arm = [
        {
            entry["arm"]: entry["loss"]
            for entry in one["arms"]
            if table["subsets"][entry["arm"]] == other["subsets"].get(entry["arm"])
        }
        if table["decides"] == other["decides"]
        else {}
        for one in (table, other)
    ]
    return {"model": other["model"], **race.rank_agreement(*by_arm)}


def _controls(arms: Mapping[str, ArmResult]) -> dict[str, str]:
    return controls({name: arm.policy for name, arm in arms.items()})


def _against(
    arms: Mapping[str, ArmResult], control: str, sets: Sequence[HeldSet], *, matched: bool
) -> dict[str, dict[str, Any]]:
    """Every other arm against a control, with p values for all of them together."""
    others = [name for name in arms if name != control]
    decides = sets[0].name
    found = [race.difference(arms[name].losses[decides], arms[control].losses[decides]) for name in others]
    corrected_ps = holm([one.p for one in found])
    entries = {}
    for name, one, corrected in zip(others, found, corrected_ps, strict=True):
        times = _times(arms[name], arms[control]) if matched else None
        entries[name] = {
            **plain(one),
            "holm_p": rounded(corrected),
            "word": word(one, corrected),
            "times_the_tokens": None if times is None else round(times, 3),
            "sets": {
                other.name: plain(race.difference(arms[name].losses[other.name], arms[control].losses[other.name]))
                for other in sets[1:]
            },
            "categories": list(_categories(arms[name], arms[control], sets[0])),
        }
    return entries


def _times(arm: ArmResult, control: ArmResult) -> float | None:
    """None where nothing was measured between begin and end: a curve of losses is no straight line."""
    return race.matched_compute(control.tokens, arm.curve, control.curve) if len(control.tokens) > 2 else None


def plain(found: Difference) -> dict[str, Any]:
    """A difference as JSON values."""
    return {**{key: rounded(getattr(found, key)) for key in ("value", "low", "high", "p")}, "seeds": found.seeds}


def word(found: Difference, holm_p: float | None) -> str:
    """`better`, `worse`, or `no difference shown`; `one seed` where there is no interval."""
    if holm_p is None:
        return "one seed"
    if holm_p >= LEVEL:
        return "no difference shown"
    return "better" if found.value < 0 else "worse"


def _categories(arm: ArmResult, control: ArmResult, held: HeldSet) -> Iterator[dict[str, Any]]:
    names = np.array(held.categories, dtype=object)
    for name in sorted(set(held.categories) - {""}):
        there = names == name
        if there.sum() >= FEWEST_IN_CATEGORY:
            found = race.difference(arm.losses[held.name][:, there], control.losses[held.name][:, there])
            yield {"category": name, "rows": int(there.sum()), **plain(found)}


def verdict(entries: Sequence[Mapping[str, Any]], found: Mapping[str, str]) -> dict[str, Any]:
    """The best arm, those that beat random, and a sentence."""
    others = [entry for entry in entries if "random" in entry["against"]]
    better = [entry for entry in others if entry["against"]["random"]["word"] == "better"]
    if any(entry["against"]["random"]["word"] == "one seed" for entry in others):
        sentence = "One seed tells no arm from another: train at least three."
    elif not better:
        sentence = f"Nothing beats random here: of {len(others)} other arms none has a held-out loss that is surely lower."
    else:
        sentence = " ".join(_won(entry, found) for entry in better)
    return {"best": entries[0]["arm"], "beats_random": [entry["arm"] for entry in better], "answer": sentence}


def _won(entry: Mapping[str, Any], found: Mapping[str, str]) -> str:
    against = entry["against"]["random"]
    said = f"{entry['arm']} beats random by {-against['value']:.4f} ({-against['high']:.4f} to {-against['low']:.4f})"
    times = against["times_the_tokens"]
    said += f": random needs {times:.2g} times the tokens for the same loss" if times else ""
    if "longest" not in found or "longest" not in entry["against"]:
        return f"{said}."
    longest = entry["against"]["longest"]["word"]
    told = {"better": "longest is beaten too", "worse": "longest is better still"}
    return f"{said}; {told.get(longest, 'against longest no difference is shown')}."
