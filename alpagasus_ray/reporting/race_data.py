"""The race of a run in the words of page and dataset card. Pure: from `race/table.json`."""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.reporting.terminal_race import agreement_lines, cost_line, difference

STAGE, TABLE = "race", "table.json"
ABOUT = (
    "A small model was trained on every arm for equally long, under several seeds, and its loss measured on rows that no arm "
    "holds, nor anything near them. A difference is an arm minus the control, so below 0 the arm is better; intervals are 95%, "
    "over rows and seeds. The loss of a small model is no proof for a larger one."
)
LOST_COLUMNS = ("Arm", "Category", "Row of the dataset", "Score", "In the arm", "Id")
COLUMNS = ("Arm", "Policy", "Rows", "Loss", "Place by seed", "Against", "Difference", "Tokens", "Updates", "Ratings, $")

Table = Mapping[str, Any]


def points(table: Table) -> Iterator[str]:
    """What a race says, a sentence each."""
    rows = {one["name"]: one["rows"] for one in table["sets"]}
    yield str(table["answer"])
    yield (
        f"Raced was {table['model']} at equal {table['equal']}, under {table['seeds']} seeds, measured on "
        f"{rows[table['decides']]:,} rows of {table['decides']}."
    )
    gains = ", ".join(f"{arm} {gain:.4f}" for arm, gain in table["smallest_gain"].items())
    if gains:
        yield f"A difference to random that a race of this size and spread shows in 8 of 10 cases: {gains}."
    yield from (f"{line}." for line in agreement_lines(table))
    cost = cost_line(table)
    yield f"{cost[:1].upper()}{cost[1:]}."
    for arm, category, like in lost(table):
        yield f"{arm} loses to random in {category}: {like['words'].replace('rows like it', 'rows like its prompts')}."


def intervals(table: Table) -> Iterator[dict[str, Any]]:
    """The difference of each arm to random, with the ends of its interval."""
    for entry in table["arms"]:
        if found := entry["against"].get("random"):
            yield {"label": entry["arm"], **{key: found[key] for key in ("value", "low", "high")}}


def lost(table: Table) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Arm, category and `like_rows.LikeRows` of each category in which an arm surely loses to random."""
    for arm, categories in table.get("lost", {}).items():  # races of earlier versions have none
        for category, like in categories.items():
            yield arm, category, like


def lost_rows(table: Table) -> list[list[str | float | None]]:
    """Some rows of the dataset that are like the prompts of these categories."""
    return [
        [arm, category, text, score, "kept" if kept else "dropped", example_id]
        for arm, category, like in lost(table)
        for example_id, text, score, kept in like["rows"]
    ]


def rows(table: Table) -> Iterator[list[str | int | float | None]]:
    """An arm and a control a row, the arm of the lowest loss first."""
    for entry in table["arms"]:
        places = " ".join("–" if place is None else str(place) for place in entry["places"])
        tail = [entry["tokens"], entry["steps"], entry["choosing_usd"]]
        told = [(table["controls"][policy], difference(found)) for policy, found in entry["against"].items()] or [("", "")]
        for control, said in told:
            yield [entry["arm"], entry["policy"], entry["rows"], round(entry["loss"], 4), places, control, said, *tail]
