"""A map of what a dataset is about, and how much of each part an arm holds: one circle for each cluster of examples.

Where circles stand comes with the arm (`selection/spread.py`): the two directions in which the clusters' words differ most.
Plain SVG of a bounded number of circles, whatever the size of the dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from alpagasus_ray.reporting import svg
from alpagasus_ray.reporting.measures import Entry
from alpagasus_ray.reporting.svg import Axis, Key, element, percent

MOST = 200
"""Clusters on a map, the largest ones."""
MOST_NAMED = 14
HEIGHT = 340
SMALLEST, LARGEST = 3.0, 20.0
"""Radius of a cluster without examples and of the largest one, in pixels."""
MORE, FEWER = 1.25, 0.8
"""From which ratio of an arm's share to the dataset's a cluster counts as held more, and up to which as held less."""
MARGIN = 0.12
"""Beyond the outermost clusters, on a scale from -1 to 1."""
NAME_WIDTH, NAME_HEIGHT = 0.24, 18
"""Room of a name: a share of the width, and pixels."""


@dataclass(frozen=True)
class Cluster(Entry):
    """A cluster of the dataset's examples, and what an arm holds of it."""

    name: str
    x: float
    y: float
    """Its place, from -1 to 1."""
    rows: int
    kept: int
    ratio: float
    """The arm's share of kept examples that it holds, by the dataset's share; 1 where both are equal."""


@dataclass(frozen=True)
class ClusterMap(Entry):
    """The clusters of one arm, largest first."""

    arm: str
    clusters: Sequence[Cluster]
    left_out: int
    """Smaller clusters that are not on the map."""


def cluster_map(arm: str, clusters: Sequence[Mapping[str, Any]]) -> ClusterMap:
    """The map of an arm, from the clusters of its `selection.json`."""
    rows, kept = (max(1, sum(one[key] for one in clusters)) for key in ("rows", "kept"))
    shown = [
        Cluster(
            one["name"], one["x"], one["y"], one["rows"], one["kept"], round((one["kept"] / kept) / (one["rows"] / rows), 3)
        )
        for one in clusters[:MOST]
    ]
    return ClusterMap(arm, shown, len(clusters) - len(shown))


def drawn(shown: ClusterMap) -> Markup:
    """The circles, and the names of the largest that have room."""
    across, up = (_around([getattr(one, name) for one in shown.clusters]) for name in ("x", "y"))
    most = max(one.rows for one in shown.clusters)
    circles = [_circle(one, across, up, most) for one in shown.clusters]
    keys = [Key("kept", "a larger share of the arm"), Key("left-out", "about the same"), Key("lose", "a smaller share")]
    return svg.plot([*circles, *_names(shown.clusters, across, up)], HEIGHT, keys, left=12)


def _around(places: Sequence[float]) -> Axis:
    return Axis(min(places) - MARGIN, max(places) + MARGIN)


def _circle(one: Cluster, across: Axis, up: Axis, most: int) -> Markup:
    kind = "kept" if one.ratio >= MORE else "lose" if one.ratio <= FEWER else "left-out"
    about = f"{one.name or 'without words'}: {one.rows:,} examples, {one.kept:,} kept, {one.ratio:.2f} times its share"
    radius = SMALLEST + (LARGEST - SMALLEST) * (one.rows / most) ** 0.5
    place = {"cx": across.across(one.x), "cy": _down(one.y, up), "r": round(radius, 1)}
    return element("circle", element("title", about), **place, class_=f"cluster {kind}")


def _down(y: float, up: Axis) -> float:
    return round(HEIGHT * (1 - up.at(y)), 1)


def _names(clusters: Sequence[Cluster], across: Axis, up: Axis) -> list[Markup]:
    """Names of the largest clusters, where none stands over another."""
    places: list[tuple[float, float]] = []
    names: list[Markup] = []
    for one in (one for one in clusters if one.name):
        x, y = min(max(across.at(one.x), NAME_WIDTH / 2), 1 - NAME_WIDTH / 2), _down(one.y, up) + 4
        if len(names) < MOST_NAMED and all(abs(x - a) > NAME_WIDTH or abs(y - b) > NAME_HEIGHT for a, b in places):
            places.append((x, y))
            names.append(svg.label(one.name, percent(x), y, kind="count"))
    return names
