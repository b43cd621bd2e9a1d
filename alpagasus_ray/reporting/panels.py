"""Sections of the page that come in when a run holds their data: a heading, a few figures in words, tables.

A new section is one function from the finished stages to its panel, or to None, listed in `PANELS`; the page draws any panel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alpagasus_ray.reporting import benchmarks_data, race_data
from alpagasus_ray.reporting.cluster_map import ClusterMap, cluster_map
from alpagasus_ray.reporting.measures import Entry
from alpagasus_ray.reporting.run_reader import FinishedStages, read_json
from alpagasus_ray.reporting.stage_notes import picked_notes

ARMS, MOST_CLUSTERS, MOST_MAPS = "subsets/", 20, 4


@dataclass(frozen=True)
class PanelTable(Entry):
    """A table: texts as they are shown, numbers as numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]


@dataclass(frozen=True)
class PanelInterval(Entry):
    """A value with its 95% interval, for the section's chart; either end is null where there is none."""

    label: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Panel(Entry):
    """A section of the page."""

    id: str
    """Its place in links."""
    heading: str
    about: str
    """What it is, in a sentence or two."""
    points: Sequence[str]
    """What it says, a sentence each."""
    tables: Sequence[PanelTable]
    maps: Sequence[ClusterMap] = ()
    intervals: Sequence[PanelInterval] = ()
    """Differences around 0 that are drawn as a chart, where there are some."""


def panels(stages: FinishedStages) -> list[Panel]:
    """The panels that there is data for, in the order of the page."""
    return [made for make in PANELS if (made := make(stages)) is not None]


def _breadth(stages: FinishedStages) -> Panel | None:
    """How broad and how clean each arm is."""
    arms = {name.removeprefix(ARMS): made.details for name, made in stages.manifests.items() if name.startswith(ARMS)}
    told = [f"{arm}: {note}" for arm, details in arms.items() for note in picked_notes(details)]
    if not told:
        return None
    clusters = {arm: found for arm in arms if (found := _clusters(stages, arm))}
    return Panel(
        id="breadth",
        heading="How broad and how clean is each arm?",
        about="What an arm's examples are about, by their own words, and what was looked for in them. A cluster is named by "
        "the terms that set it apart.",
        points=told,
        tables=[_cluster_table(arm, found) for arm, found in clusters.items()],
        maps=[cluster_map(arm, found) for arm, found in clusters.items()][:MOST_MAPS],
    )


def _clusters(stages: FinishedStages, arm: str) -> Sequence[Mapping[str, Any]]:
    """The clusters of the dataset, largest first, and what an arm holds of each."""
    name = f"{ARMS}{arm}"
    broad = read_json(stages.stage(name), stages.manifests[name], "selection.json").get("breadth")
    found: Sequence[Mapping[str, Any]] = broad["clusters"] if broad else ()
    return found


def _cluster_table(arm: str, clusters: Sequence[Mapping[str, Any]]) -> PanelTable:
    rows = [[one["name"], one["rows"], one["kept"]] for one in clusters[:MOST_CLUSTERS]]
    return PanelTable(f"{arm}: the {len(rows)} largest clusters", ("Cluster", "Examples", "Kept"), rows)


def _race(stages: FinishedStages) -> Panel | None:
    manifest = stages.manifests.get(race_data.STAGE)
    if manifest is None:
        return None
    table = read_json(stages.stage(race_data.STAGE), manifest, race_data.TABLE)
    rows = PanelTable("The arms, each against the controls", race_data.COLUMNS, list(race_data.rows(table)))
    tables = [rows]
    if lost := race_data.lost_rows(table):
        tables.append(PanelTable("Rows that are like what an arm loses on", race_data.LOST_COLUMNS, lost))
    drawn = [PanelInterval(**one) for one in race_data.intervals(table)]
    return Panel("race", "The race", race_data.ABOUT, list(race_data.points(table)), tables, intervals=drawn)


def _benchmarks(stages: FinishedStages) -> Panel | None:
    results, differences = benchmarks_data.from_stages(stages)
    if not results:
        return None
    tables = [PanelTable("Scores", benchmarks_data.COLUMNS, list(benchmarks_data.rows(results)))]
    if differences:
        rows = list(benchmarks_data.pair_rows(differences))
        tables.append(PanelTable("Differences in points", benchmarks_data.PAIR_COLUMNS, rows))
    told = list(benchmarks_data.points(results, differences))
    return Panel("benchmarks", "Benchmarks of the models", benchmarks_data.ABOUT, told, tables)


PANELS: tuple[Callable[[FinishedStages], Panel | None], ...] = (_race, _benchmarks, _breadth)
"""What makes each panel, in the order of the page. How far judges can be trusted is a section of its own (`trust_data.py`)."""
