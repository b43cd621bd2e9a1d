"""The race of a run as the page and the dataset card tell it: from `race/table.json`. Pure but for reading that file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alpagasus_ray.reporting.measures import Entry
from alpagasus_ray.reporting.run_reader import FinishedStages, read_json
from alpagasus_ray.reporting.terminal_race import difference

STAGE, TABLE = "race", "table.json"


@dataclass(frozen=True)
class RaceDifference(Entry):
    """An arm against a control: mean difference of held-out losses, below 0 the arm is better."""

    control: str
    """The arm."""
    policy: str
    value: float
    low: float | None
    """Ends of the 95% interval over held-out rows and seeds; null with one seed."""
    high: float | None
    p: float | None
    holm_p: float | None
    """The same, as several arms were compared with this control."""
    word: str
    """`better`, `worse`, `no difference shown` or `one seed`."""
    times_the_tokens: float | None
    """How many times the arm's tokens the control needs for the same loss; null where the curves do not tell."""
    text: str


@dataclass(frozen=True)
class RaceArm(Entry):
    """An arm of a race, over the seeds that it was trained under."""

    arm: str
    policy: str
    rows: int
    removed: int
    """Rows taken out, as they are held out or nearly so."""
    seeds: int
    dropped: bool
    """It was surely worse than the best before the last seed."""
    loss: float
    by_seed: Sequence[float]
    places: Sequence[int | None]
    """The place under each seed, 1 for the lowest loss."""
    tokens: int
    steps: int
    epochs: float
    training_seconds: float
    training_usd: float | None
    choosing_usd: float | None
    """Dollars of the ratings that the arm goes by; null where nobody knows."""
    choosing_seconds: float
    against: Sequence[RaceDifference]


@dataclass(frozen=True)
class RaceEntry(Entry):
    """A race: small models trained on each arm for equally long, and their losses on rows that no arm holds."""

    answer: str
    best: str
    beats_random: Sequence[str]
    model: str
    device: str
    seeds: int
    equal: str
    """What is the same for all arms: `tokens and updates`, or `epochs`."""
    decides: str
    """Name of the rows that decide."""
    rows: int
    """How many of them."""
    arms: Sequence[RaceArm]
    """The lowest loss first."""
    smallest_gain: Mapping[str, float]
    """By arm, the difference to random that a race of this size shows in 8 of 10 cases."""
    training_seconds: float


def race_entry(stages: FinishedStages) -> RaceEntry | None:
    """The race of a run; None where there is none."""
    manifest = stages.manifests.get(STAGE)
    if manifest is None:
        return None
    table = read_json(stages.stage(STAGE), manifest, TABLE)
    rows = {one["name"]: one["rows"] for one in table["sets"]}
    same = (
        "answer",
        "best",
        "beats_random",
        "model",
        "device",
        "seeds",
        "equal",
        "decides",
        "smallest_gain",
        "training_seconds",
    )
    return RaceEntry(
        **{key: table[key] for key in same},
        rows=rows[table["decides"]],
        arms=[_arm(entry, table["controls"]) for entry in table["arms"]],
    )


def _arm(entry: Mapping[str, Any], controls: Mapping[str, str]) -> RaceArm:
    same = {key: entry[key] for key in RaceArm.__dataclass_fields__ if key != "against"}
    return RaceArm(**same, against=[_against(controls[policy], policy, found) for policy, found in entry["against"].items()])


def _against(control: str, policy: str, found: Mapping[str, Any]) -> RaceDifference:
    same = {key: found[key] for key in ("value", "low", "high", "p", "holm_p", "word", "times_the_tokens")}
    return RaceDifference(control=control, policy=policy, text=difference(found), **same)


def card_lines(race: RaceEntry | None) -> Iterator[str]:
    """What the dataset card says of it; nothing where there was no race."""
    if race is None:
        return
    yield "\n## What a race of the arms gave\n"
    yield (
        f"{race.answer} `{race.model}` was trained on each arm under {race.seeds} seeds at equal {race.equal}; measured is the "
        f"loss on {race.rows:,} rows of `{race.decides}` that no arm holds. A small model's loss is no proof for a larger one.\n"
    )
    for arm in race.arms:
        told = "; ".join(f"against {one.control} {one.text}" for one in arm.against)
        yield f"- {arm.arm}: loss {arm.loss:.4f}" + (f"; {told}" if told else "")
