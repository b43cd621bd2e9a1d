"""Where everything in a run comes from, and what each stage took: from manifests alone. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from alpagasus_ray.reporting.measures import Entry
from alpagasus_ray.store.run import Manifest
from alpagasus_ray.store.stage_kinds import is_stage, kind_name, kind_of

SAME, CHANGED, GONE, FILE = "same", "changed", "gone", "file"


@dataclass(frozen=True)
class StageInput(Entry):
    """Something that a stage was made from."""

    name: str
    """A stage, or a file outside the run."""
    hash: str
    """Its hash when it was read."""
    state: str
    """`same` as the stage of that name now, `changed` since, `gone` from the run, or a `file`."""


@dataclass(frozen=True)
class StageOrigin(Entry):
    """Settings and inputs of a finished stage, by their hashes."""

    stage: str
    rows: int
    settings_hash: str
    content_hash: str
    inputs: Sequence[StageInput]


@dataclass(frozen=True)
class TotalCost(Entry):
    """Sums over stages; of tokens and dollars over those that know them. Null is what nobody knows."""

    seconds: float
    tokens_in: float | None
    tokens_out: float | None
    dollars: float | None


@dataclass(frozen=True)
class StageName(Entry):
    """Which stage an entry is about."""

    stage: str
    rows: int


@dataclass(frozen=True)
class StageCost(TotalCost, StageName):
    """What one stage took."""

    note: str | None


@dataclass(frozen=True)
class KindName(Entry):
    """Which stages an entry is about."""

    kind: str
    stages: int
    rows: int


@dataclass(frozen=True)
class KindCost(TotalCost, KindName):
    """What all stages of a kind took."""


@dataclass(frozen=True)
class PackageVersion(Entry):
    """A version of a package, and the stages made with it."""

    package: str
    version: str
    stages: Sequence[str]


def origins(manifests: Mapping[str, Manifest]) -> list[StageOrigin]:
    """An entry for each stage."""
    hashes = {name: manifest.content_hash() for name, manifest in manifests.items()}
    return [
        StageOrigin(
            stage=name,
            rows=manifest.rows,
            settings_hash=manifest.settings_hash,
            content_hash=hashes[name],
            inputs=[StageInput(key, made, _state(key, made, hashes)) for key, made in manifest.inputs.items()],
        )
        for name, manifest in manifests.items()
    ]


def _state(name: str, made: str, hashes: Mapping[str, str]) -> str:
    if name in hashes:
        return SAME if hashes[name] == made else CHANGED
    return GONE if is_stage(name) else FILE


def stale(stages: Sequence[StageOrigin]) -> list[str]:
    """A line for each input of a stage that is no longer what it was."""
    words = {CHANGED: "has changed since", GONE: "is no longer in the run"}
    return [
        f"{origin.stage} was made from {source.name}, which {words[source.state]}"
        for origin in stages
        for source in origin.inputs
        if source.state in words
    ]


def costs(manifests: Mapping[str, Manifest]) -> list[StageCost]:
    """What each stage took, but for the minor ones."""
    return [_cost(name, manifest) for name, manifest in manifests.items() if is_stage(name) and not kind_of(name).is_minor]


def _cost(name: str, manifest: Manifest) -> StageCost:
    usage, details = manifest.usage, manifest.details
    is_training = kind_of(name).trains and "steps" in details
    # `usage` is what engines were asked for; a training counts its own tokens and dollars
    return StageCost(
        stage=name,
        rows=manifest.rows,
        seconds=round(manifest.seconds, 3),
        tokens_in=details["tokens"] if is_training else usage.get("tokens_in"),
        tokens_out=usage.get("tokens_out"),
        dollars=details.get("dollars") if is_training else usage.get("cost_usd"),
        note=f"{details['steps']:,} updates on {details['workers']} x {details['device']}" if is_training else None,
    )


def by_kind(stages: Sequence[StageCost]) -> list[KindCost]:
    """What the stages of each kind took together."""
    kinds: dict[str, list[StageCost]] = {}
    for cost in stages:
        kinds.setdefault(kind_name(cost.stage), []).append(cost)
    return [
        KindCost(kind=kind, stages=len(members), rows=sum(cost.rows for cost in members), **vars(total(members)))
        for kind, members in kinds.items()
    ]


def total(stages: Sequence[StageCost]) -> TotalCost:
    """What stages took together."""
    return TotalCost(
        seconds=round(sum(cost.seconds for cost in stages), 3),
        tokens_in=_sum(cost.tokens_in for cost in stages),
        tokens_out=_sum(cost.tokens_out for cost in stages),
        dollars=_sum(cost.dollars for cost in stages),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None, not 0, where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def versions(manifests: Mapping[str, Manifest]) -> list[PackageVersion]:
    """Every version of every package that a stage was made with."""
    stages: dict[tuple[str, str], list[str]] = {}
    for name, manifest in manifests.items():
        for package, version in manifest.versions.items():
            stages.setdefault((package, version), []).append(name)
    return [PackageVersion(package, version, names) for (package, version), names in sorted(stages.items())]
