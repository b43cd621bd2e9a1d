"""Which arms are there already, which are made again, and which are held by a model that was trained on them.

Another cut costs nothing as long as nobody has trained on the old one. Knows settings and manifests; nothing of rows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from alpagasus_ray.errors import SettingsChanged
from alpagasus_ray.store.run import MANIFEST, STATE, Manifest, Run, differences

SIZE_OF = "size_of"
"""Of a control's settings: the arm whose size it took."""
SUBSETS = "subsets"
VERSION, PRESENT = "version", 2
"""How this version draws, part of an arm's settings. 2: the key of each draw holds its purpose, and lengths are in tokens or
characters. Arms without it (version 1) used one key for ties and draws, and measured in words; they stay as they are."""


class Wanted(NamedTuple):
    """What an arm is to be made with."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


def made(run: Run, wanted: Mapping[str, Wanted]) -> dict[str, Manifest | None]:
    """The manifest of each arm that is made as wanted, None for those that are to be made. `SettingsChanged` names every arm
    that is wanted otherwise than a model was trained on."""
    found: dict[str, Manifest | None] = {}
    held = []
    for name, want in wanted.items():
        manifest = run.subset(name).manifest()
        lines = changed(manifest, want)
        found[name] = None if lines else manifest
        if lines and (model := _trained(run, name)):
            held.append(_refusal(name, model, lines))
    if held:
        raise SettingsChanged("\n".join(held))
    return found


def changed(manifest: Manifest | None, want: Wanted) -> list[str]:
    """One line for each setting or input that an arm was made with and is no longer; none where there is no arm."""
    if manifest is None:
        return []
    # an arm without a version was drawn by the first one, and is what was wanted as long as all else is the same
    settings = {key: value for key, value in want.settings.items() if key != VERSION or VERSION in manifest.settings}
    lines = differences(manifest.settings, settings)
    inputs = sorted(name for name in {*manifest.inputs, *want.inputs} if manifest.inputs.get(name) != want.inputs.get(name))
    return lines + [f"{name}/ has changed" for name in inputs]


def _trained(run: Run, arm: str) -> str | None:
    """The model that was trained on an arm, or has a state of its training."""
    model = run.model(arm)
    if model.manifest() is not None:
        return model.name
    begun = model.begun() is not None and model.storage.at(STATE).all_names()
    return f"{model.name} (its training has begun)" if begun else None


def _refusal(arm: str, model: str, lines: list[str]) -> str:
    listed = "\n  ".join(lines)
    return (
        f"pick.arms: {model} was trained on subsets/{arm} as it is, and the arm is wanted otherwise now:\n  {listed}\n"
        f"Keep both: give the new one a name of its own in pick.arms, e.g. `name: {arm}-2`, or go back to those settings. To "
        f"have it anew under its name, delete models/{arm} in this run first."
    )


def of_run(run: Run) -> dict[str, Manifest]:
    """The manifests of all arms of a run, by name."""
    paths = [name.split("/") for name in run.storage.at(SUBSETS).all_names()]
    arms = {path[0]: run.subset(path[0]).manifest() for path in sorted(paths) if path[1:] == [MANIFEST]}
    return {name: manifest for name, manifest in arms.items() if manifest is not None}


def stale_controls(arms: Mapping[str, Manifest]) -> dict[str, str]:
    """Of the arms of a run, those that took the size of another one, which has been made anew since with another size: what is
    to be told of each."""
    told = {}
    for name, control in arms.items():
        wanted = control.settings.get(SIZE_OF)
        if not isinstance(wanted, Mapping) or "name" not in wanted:
            continue
        leader = arms.get(wanted["name"])
        if leader is None:
            told[name] = f"has {control.rows:,} examples, as {wanted['name']} had, which is no longer in the run"
        elif not _made_for(control, leader) and (wanted.get("tokens") or leader.rows != control.rows):
            now = f"{wanted['name']} has {leader.rows:,} now"
            told[name] = f"was made to be as large as {wanted['name']}, has {control.rows:,} examples, and {now}"
    return told


def _made_for(control: Manifest, leader: Manifest) -> bool:
    """Whether an arm is still the one whose size a control took."""
    same = all(control.settings.get(key) == leader.settings.get(key) for key in ("duplicates", "clean"))
    return same and control.settings[SIZE_OF] == leader.settings["arm"] and control.inputs == leader.inputs


def notes(manifest: Manifest) -> list[str]:
    """What to tell of an arm besides its numbers."""
    told = []
    if manifest.settings.get(VERSION, 1) < PRESENT:
        told.append(
            "drawn by an earlier version, in which ties and draws of one seed were not independent and lengths were words; it "
            "stays as it is. Under another name it is drawn anew"
        )
    if replaced := manifest.details.get("replaced"):
        told.append(f"made in place of another: {'; '.join(replaced)}")
    return told
