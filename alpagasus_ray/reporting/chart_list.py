"""Which charts a report has, each with a caption that says it in words. A new chart is drawn in `charts.py` and listed here."""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from markupsafe import Markup

from alpagasus_ray.reporting import charts, cluster_map, length_charts
from alpagasus_ray.reporting.charts import Bar, Estimate
from alpagasus_ray.reporting.comparisons_data import PairEntry, Radar, RadarGroup, Ranking
from alpagasus_ray.reporting.headline import Headline
from alpagasus_ray.reporting.lengths_data import Lengths
from alpagasus_ray.reporting.measures import Group, Interval
from alpagasus_ray.reporting.panels import Panel
from alpagasus_ray.reporting.report_data import ReportData
from alpagasus_ray.reporting.score_steps import score_steps
from alpagasus_ray.reporting.selection_data import Cut, RatingsEntry, Selection
from alpagasus_ray.reporting.training_data import Training

MOST_ROWS = 24
"""Bars beyond which a chart is too tall; the table has all."""
MOST_POINTS, MOST_DRAWN = 200, 1000
"""Steps of the slider of cuts, and points of the curve: between two of them it says what only the higher one keeps."""


class Chart(NamedTuple):
    """A drawing and what it shows."""

    svg: Markup
    caption: str
    heading: str = ""
    has_links: bool = False
    """Whether parts of it lead somewhere."""


def chart_list(data: ReportData) -> dict[str, list[Chart]]:
    """The charts of each section of the page; a section without data has none."""
    return {section: [chart for drawn in makers for chart in drawn(data)] for section, makers in CHARTS.items()}


def _is_main(radar: Radar, pairs: Sequence[PairEntry]) -> bool:
    return (radar.voter, radar.a, radar.b) == (pairs[0].voter, pairs[0].a, pairs[0].b)


def _answer(first: Headline) -> Iterable[Chart]:
    main = []
    if first.pooled and first.pooled.judged:
        groups = [first.pooled, *(first.test_sets if len(first.test_sets) > 1 else [])]
        main = [_estimate(_named(group), group.winning_score) for group in groups if group.judged]
    beside = [
        _estimate(question.against, question.pooled.winning_score)
        for question in first.questions
        if question.pooled and question.pooled.judged and question.baseline.name != first.baseline.name
    ]
    if not main and not beside:
        return
    also = f" Last, {' and '.join(estimate.label for estimate in beside)}." if main and beside else ""
    against = first.baseline.name if main else " and ".join(estimate.label for estimate in beside)
    caption = (
        f"Winning score of {first.arm.name} against {against} with its 95% interval.{also} The dotted line "
        "is parity: an interval that crosses it does not show a difference."
    )
    svg = charts.estimates([*main, *beside], 1.0, "winning score (2: wins all, 0: loses all)")
    yield Chart(svg, caption, "Winning score")


def _named(group: Group) -> str:
    return "all test sets" if group.test_set is None else group.group


def _estimate(label: str, interval: Interval) -> Estimate:
    if interval.value is None:
        raise ValueError(f"{label}: nothing is judged, so there is nothing to draw")
    return Estimate(label, interval.value, interval.low, interval.high)


def _outcomes(pairs: Sequence[PairEntry]) -> Iterable[Chart]:
    if pairs:
        bars = [_bar(f"{pair.a} – {pair.b}, {pair.voter}", pair.groups.pooled[0]) for pair in pairs]
        caption = "Prompts that the first model of each pair wins, ties and loses; the dotted line is half of them."
        yield Chart(charts.outcome_bars(bars), caption, "Wins, ties and losses")
    for pair in pairs:
        if len(pair.groups.test_sets) > 1:
            bars = [_bar(group.group, group) for group in pair.groups.test_sets if group.judged]
            caption = f"{pair.a} against {pair.b}, judged by {pair.voter}: prompts that {pair.a} wins, ties and loses."
            yield Chart(charts.outcome_bars(bars), caption, f"By test set: {pair.a} against {pair.b}, {pair.voter}")


def _bar(label: str, group: Group) -> Bar:
    return Bar(label, group.win, group.tie, group.lose)


def _ranking(ranking: Ranking) -> Chart:
    ratings = [Estimate(model.model, model.rating, model.low, model.high) for model in ranking.models]
    caption = f"Bradley-Terry ratings by {ranking.voter} with 95% intervals; 400 points more are odds of 10 to 1."
    return Chart(charts.estimates(ratings, None, "rating", digits=0), caption, f"Rating by {ranking.voter}")


def _radar(radar: Radar) -> Chart:
    heading = f"By {radar.kind}: {radar.a} against {radar.b}, {radar.test_set}, {radar.voter}"
    where = f"{radar.a} against {radar.b} on {radar.test_set}, judged by {radar.voter}"
    caption = f"{where}: win rate by {radar.kind} with its 95% interval, ties as half, with the number of judged prompts."
    rates = [_estimate(_counted(group), group.win_rate) for group in radar.groups]
    if len(rates) > MOST_ROWS:
        caption += f" The {MOST_ROWS} largest of {len(rates)}; the table has all."
    return Chart(charts.rate_bars(rates[:MOST_ROWS]), caption, heading)


def _counted(group: RadarGroup) -> str:
    return f"{charts.shortened(group.group, 40)} ({group.judged:,})"


def _selection(selection: Selection | None, ratings: Sequence[RatingsEntry]) -> Iterable[Chart]:
    if not selection or not selection.histogram:
        return
    scale = scale_of(ratings)
    rows = selection.rows
    kept = f"{rows.kept:,} of {rows.all:,} examples are in {selection.arm}"
    caption = f"Examples by score; {kept}. A column leads to its examples."
    drawn = charts.histogram(selection.histogram, scale, selection.threshold_curve)
    yield Chart(drawn, caption, "Examples by score", has_links=True)
    if not selection.threshold_curve:
        return
    cut = "" if selection.cut is None else f" The line is the cut of {selection.arm}, {selection.cut:g}."
    caption = f"How many examples each cut would keep.{cut}"
    curve = thinned(selection.threshold_curve, MOST_DRAWN)
    yield Chart(charts.threshold_curve(curve, selection.cut, scale), caption, "What each cut would keep")


def scale_of(ratings: Sequence[RatingsEntry]) -> charts.Scale | None:
    """The scale of the ratings that the arm was chosen by, where they say it."""
    return next((entry.scale for entry in ratings if entry.main), None)


def slider_cuts(curve: Sequence[Cut], scale: charts.Scale | None) -> list[Cut]:
    """The cuts that the page's slider stands on: every step of the scale up to the highest score, or where the scores stand on
    no step, some of those that occur."""
    steps = score_steps((point.threshold for point in curve), scale)
    at = {step: bisect.bisect_left(curve, step - 1e-9, key=lambda point: point.threshold) for step in steps}
    return [replace(curve[n], threshold=step) for step, n in at.items() if n < len(curve)] or thinned(curve, MOST_POINTS)


def thinned(curve: Sequence[Cut], most: int) -> list[Cut]:
    """At most so many points of a curve, the first and the last among them."""
    step = max(1, -(-len(curve) // most))
    return list(curve) if step == 1 else [*curve[: len(curve) - 1 : step], curve[-1]]


def _lengths(lengths: Lengths | None, selection: Selection | None) -> Iterable[Chart]:
    if lengths is None:
        return
    if len(lengths.by_score) > 1:
        r = "" if lengths.spearman.value is None else f" Spearman's rank correlation is {lengths.spearman.value:.3f}."
        caption = (
            f"Length of the output at each score, over {lengths.scored:,} scored examples.{r} A score leads to its examples."
        )
        yield Chart(
            length_charts.score_lengths(lengths.by_score, lengths.unit), caption, "Score against length", has_links=True
        )
    if selection is None or lengths.kept is None or lengths.dropped is None:
        return
    caption = (
        "Share kept among examples of about the same length; the dotted line is the share of all. Equal bars would say that "
        "the choice does not go by length."
    )
    yield Chart(
        length_charts.length_bands(lengths.bands, selection.rows.share, lengths.unit), caption, "Share kept, given length"
    )
    caption = (
        f"Lengths of what was kept (median {lengths.kept.median:,.0f} {lengths.unit}) and of what was left out (median "
        f"{lengths.dropped.median:,.0f}), in steps of equal ratio."
    )
    yield Chart(length_charts.length_histogram(lengths.bins, lengths.unit), caption, "Lengths of kept and left out")


def _categories(selection: Selection | None) -> Iterable[Chart]:
    if selection and len(selection.categories) > 1:
        shown = selection.categories[:MOST_ROWS]
        caption = "Share of each category that was kept; the dotted line is that of all. A category leads to its examples."
        if len(shown) < len(selection.categories):
            caption += f" The {len(shown)} largest of {len(selection.categories):,}; the table has more."
        yield Chart(charts.shares(shown, selection.rows.share), caption, "Share kept of each category", has_links=True)


def _clusters(panels: Sequence[Panel]) -> Iterable[Chart]:
    for shown in (one for panel in panels for one in panel.maps if one.clusters):
        more = f" {shown.left_out:,} smaller clusters are left out." if shown.left_out else ""
        caption = (
            f"Clusters of the dataset, as large as they have examples, and near one another where their words are alike. The "
            f"colour says whether {shown.arm} holds a larger or a smaller share of a cluster than the dataset.{more}"
        )
        yield Chart(cluster_map.drawn(shown), caption, f"What {shown.arm} is about")


def _trainings(trainings: Sequence[Training]) -> Iterable[Chart]:
    with_curve = [training for training in trainings if training.curve]
    if not with_curve:
        return
    caption = "Loss over the updates. Arms of another size have another number of them."
    yield Chart(charts.curves(with_curve, "step"), caption, "Loss by update")
    caption = "The same over the epochs: how often every example of the arm was seen."
    yield Chart(charts.curves(with_curve, "epoch"), caption, "Loss by epoch")


def _race(panels: Sequence[Panel]) -> Iterable[Chart]:
    for panel in panels:
        if panel.id == "race" and panel.intervals:
            values = [Estimate(one.label, one.value, one.low, one.high) for one in panel.intervals]
            caption = (
                "Held-out loss of each arm minus that of random, with its 95% interval: left of the dotted line is better."
            )
            yield Chart(charts.estimates(values, 0.0, "difference of held-out loss to random", 3), caption)


CHARTS: dict[str, list[Callable[[ReportData], Iterable[Chart]]]] = {
    "answer": [lambda data: _answer(data.first)],
    "verdicts": [lambda data: _outcomes([pair for pair in data.verdicts if pair.groups.pooled[0].judged])],
    "ranking": [lambda data: map(_ranking, data.ranking)],
    "radars": [lambda data: (_radar(entry) for entry in data.radars if _is_main(entry, data.verdicts))],
    "more_radars": [lambda data: (_radar(entry) for entry in data.radars if not _is_main(entry, data.verdicts))],
    "race": [lambda data: _race(data.panels)],
    "selection": [lambda data: _selection(data.selection, data.ratings)],
    "lengths": [lambda data: _lengths(data.lengths, data.selection)],
    "categories": [lambda data: _categories(data.selection)],
    "breadth": [lambda data: _clusters(data.panels)],
    "trainings": [lambda data: _trainings(data.trainings)],
}
"""What draws the charts of each section of the page; without data it draws none."""
