"""What a first screen says of a run in which nothing is trained or compared: what was chosen, and why others are not. Pure."""

from collections.abc import Iterable

from alpagasus_ray.reporting.selection_data import RatingsEntry, Selection

MOST_TOLD = 3
"""Reasons that the sentence names."""


def heading(selection: Selection | None) -> str:
    """How many of how many."""
    if selection is None:
        return "Nothing is chosen yet"
    return f"{selection.arm} holds {selection.rows.kept:,} of {selection.rows.all:,} examples"


def sentence(selection: Selection | None, ratings: Iterable[RatingsEntry]) -> str:
    """How the examples were chosen, and why others are left out."""
    if selection is None:
        return "`alpagasus pick RUN` chooses examples by their ratings."
    by = next((f", as rated by {entry.judge}" for entry in ratings if entry.main), "")
    left, first = selection.rows.all - selection.rows.kept, list(selection.dropped_reasons.items())[:MOST_TOLD]
    reasons = [f"{rows:,} x {reason}" for reason, rows in first]
    if rest := left - sum(rows for _, rows in first):
        reasons.append(f"{rest:,} x other reasons")
    told = first[0][0] if len(reasons) == len(first) == 1 else ", ".join(reasons)
    why = f"Left out are {left:,}: {told}." if left else "Nothing is left out."
    return f"Chosen: {selection.rule}{by}. {why}"
