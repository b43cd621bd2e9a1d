"""Which figures a report gets, each with a caption that tells it in words. Knows findings as plain values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from alpagasus_ray.reporting import charts
from alpagasus_ray.reporting.charts import Bar, Estimate
from alpagasus_ray.reporting.comparisons_data import FEWEST_FOR_A_RADAR

MOST_ROWS = 24
"""Bars beyond which a figure is too tall; the table has all."""

Findings = Mapping[str, Any]


class Figure(NamedTuple):
    """A drawing and what it shows."""

    svg: Markup
    caption: str
    wide: bool = False
    """Whether it needs the room of two where there is some."""


def drawings(found: Findings) -> dict[str, list[Figure]]:
    """The figures of each section of the page; a section without data has none."""
    return {
        "answer": list(_answer(found["first"])),
        "verdicts": [_outcomes(entry) for entry in found["verdicts"] if _judged(entry)],
        "ranking": [_ranking(entry) for entry in found["ranking"]],
        "radars": [_radar(entry) for entry in found["radars"] if _is_main(entry, found["verdicts"])],
        "more_radars": [_radar(entry) for entry in found["radars"] if not _is_main(entry, found["verdicts"])],
        "selection": list(_selection(found["selection"])),
        "trainings": list(_trainings(found["trainings"])),
    }


def _judged(entry: Findings) -> bool:
    return bool(entry["groups"]["pooled"][0]["judged"])


def _is_main(radar: Findings, verdicts: Sequence[Findings]) -> bool:
    return all(radar[key] == verdicts[0][key] for key in ("voter", "a", "b"))


def _answer(first: Findings) -> Iterable[Figure]:
    told = []
    if first["pooled"] and first["pooled"]["judged"]:
        groups = [first["pooled"], *(first["test_sets"] if len(first["test_sets"]) > 1 else [])]
        told = [_estimate(_named(group), group["winning_score"]) for group in groups if group["judged"]]
    beside = [
        _estimate(str(asked["against"]), asked["pooled"]["winning_score"])
        for asked in first["questions"]
        if asked["pooled"] and asked["pooled"]["judged"] and asked["baseline"]["name"] != first["baseline"]["name"]
    ]
    if not told and not beside:
        return
    also = f" Last, {' and '.join(estimate.label for estimate in beside)}." if told and beside else ""
    against = first["baseline"]["name"] if told else " and ".join(estimate.label for estimate in beside)
    caption = (
        f"Winning score of {first['arm']['name']} against {against} with its 95% interval.{also} The dotted line "
        "is parity: an interval that crosses it does not show a difference."
    )
    yield Figure(charts.estimates([*told, *beside], 1.0, "winning score (2: wins all, 0: loses all)"), caption)


def _named(group: Findings) -> str:
    return "all test sets" if group["test_set"] is None else str(group["group"])


def _estimate(label: str, found: Findings) -> Estimate:
    return Estimate(label, found["value"], found["low"], found["high"])


def _outcomes(entry: Findings) -> Figure:
    groups = entry["groups"]
    rows = groups["pooled"] + (groups["test_sets"] if len(groups["test_sets"]) > 1 else [])
    bars = [Bar(_named(group), group["win"], group["tie"], group["lose"]) for group in rows if group["judged"]]
    caption = f"{entry['a']} against {entry['b']}, judged by {entry['voter']}: prompts that {entry['a']} wins, ties and loses."
    return Figure(charts.outcome_bars(bars), caption)


def _ranking(entry: Findings) -> Figure:
    told = [Estimate(model["model"], model["rating"], model["low"], model["high"]) for model in entry["models"]]
    caption = f"Bradley-Terry ratings by {entry['voter']} with 95% intervals; 400 points more are odds of 10 to 1."
    return Figure(charts.estimates(told, None, "rating"), caption)


def _radar(entry: Findings) -> Figure:
    groups = entry["groups"]
    where = f"{entry['a']} against {entry['b']} on {entry['test_set']}, judged by {entry['voter']}"
    caption = (
        f"{where}: win rate by {entry['kind']}, ties as half, with the number of judged prompts; the dotted line is parity."
    )
    if len(groups) < FEWEST_FOR_A_RADAR:
        bars = [_estimate(_counted(group), group["win_rate"]) for group in groups]
        return Figure(charts.rate_bars(bars), caption)
    rates = [(_counted(group), group["win_rate"]["value"]) for group in groups]
    if len(rates) > charts.RADAR_LABELS:
        caption += f" The {charts.RADAR_LABELS} largest of {len(rates)}; the table has all."
    return Figure(charts.radar(rates), caption, wide=len(rates) > charts.MOST_LEVEL)


def _counted(group: Findings) -> str:
    return f"{charts.shortened(group['group'], 17)} ({group['judged']:,})"


def _selection(found: Findings | None) -> Iterable[Figure]:
    if not found or not found["histogram"]:
        return
    rows = found["rows"]
    kept = f"{rows['kept']:,} of {rows['all']:,} examples are in {found['arm']}"
    yield Figure(charts.histogram(found["histogram"]), f"Examples by score; {kept}.")
    cut = "" if found["cut"] is None else f" The line is the cut of {found['arm']}, {found['cut']:g}."
    yield Figure(charts.threshold_curve(found["threshold_curve"], found["cut"]), f"How many examples each cut would keep.{cut}")
    categories = [(entry["category"] or "none", entry["share"]) for entry in found["categories"][:MOST_ROWS]]
    if len(categories) > 1:
        yield Figure(
            charts.shares(categories, rows["share"]), "Share of each category that was kept; the dotted line is that of all."
        )


def _trainings(found: Sequence[Findings]) -> Iterable[Figure]:
    lines = [(entry["arm"], entry["curve"]) for entry in found if entry["curve"]]
    if not lines:
        return
    yield Figure(charts.curves(lines, "step"), "Loss over the updates. Arms of another size have another number of them.")
    yield Figure(charts.curves(lines, "epoch"), "The same over the epochs: how often every example of the arm was seen.")
