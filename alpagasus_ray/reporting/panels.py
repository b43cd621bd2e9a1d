"""Sections of the page that come in when a run holds their data: a heading, a few figures in words, tables.

A new section is one function from the finished stages to its panel, or to None, listed in `PANELS`; the page draws any panel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alpagasus_ray.reporting.measures import Entry
from alpagasus_ray.reporting.run_reader import FinishedStages


@dataclass(frozen=True)
class PanelTable(Entry):
    """A table: texts as they are shown, numbers as numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]


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


def panels(stages: FinishedStages) -> list[Panel]:
    """The panels that there is data for, in the order of the page."""
    return [made for make in PANELS if (made := make(stages)) is not None]


PANELS: tuple[Callable[[FinishedStages], Panel | None], ...] = ()
"""What of a run has a section of this kind; what judges are worth has one of its own (`trust_data.py`)."""
