"""Which charts a report has, each with a caption that says it in words. A new chart is drawn in `charts.py` and listed here."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from alpagasus_ray.reporting import charts
from alpagasus_ray.reporting.charts import Bar, Estimate
from alpagasus_ray.reporting.comparisons_data import PairEntry, Radar, RadarGroup, Ranking
from alpagasus_ray.reporting.headline import Headline
from alpagasus_ray.reporting.measures import Group, Interval
from alpagasus_ray.reporting.report_data import ReportData
from alpagasus_ray.reporting.selection_data import Selection
from alpagasus_ray.reporting.training_data import Training

FEWEST_FOR_A_RADAR = 3
"""Groups below which bars are clearer."""
MOST_ROWS = 24
"""Bars beyond which a chart is too tall; the table has all."""


class Chart(NamedTuple):
    """A drawing and what it shows."""

    svg: Markup
    caption: str
    wide: bool = False
    """Whether it needs the room of two where there is some."""


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
    yield Chart(charts.estimates([*main, *beside], 1.0, "winning score (2: wins all, 0: loses all)"), caption)


def _named(group: Group) -> str:
    return "all test sets" if group.test_set is None else group.group


def _estimate(label: str, interval: Interval) -> Estimate:
    if interval.value is None:
        raise ValueError(f"{label}: nothing is judged, so there is nothing to draw")
    return Estimate(label, interval.value, interval.low, interval.high)


def _outcomes(pair: PairEntry) -> Chart:
    test_sets = pair.groups.test_sets if len(pair.groups.test_sets) > 1 else []
    bars = [Bar(_named(group), group.win, group.tie, group.lose) for group in (*pair.groups.pooled, *test_sets) if group.judged]
    caption = f"{pair.a} against {pair.b}, judged by {pair.voter}: prompts that {pair.a} wins, ties and loses."
    return Chart(charts.outcome_bars(bars), caption)


def _ranking(ranking: Ranking) -> Chart:
    ratings = [Estimate(model.model, model.rating, model.low, model.high) for model in ranking.models]
    caption = f"Bradley-Terry ratings by {ranking.voter} with 95% intervals; 400 points more are odds of 10 to 1."
    return Chart(charts.estimates(ratings, None, "rating"), caption)


def _radar(radar: Radar) -> Chart:
    where = f"{radar.a} against {radar.b} on {radar.test_set}, judged by {radar.voter}"
    caption = f"{where}: win rate by {radar.kind}, ties as half, with the number of judged prompts; the dotted line is parity."
    rates = [_estimate(_counted(group), group.win_rate) for group in radar.groups]
    if len(rates) < FEWEST_FOR_A_RADAR:
        return Chart(charts.rate_bars(rates), caption)
    if len(rates) > charts.RADAR_LABELS:
        caption += f" The {charts.RADAR_LABELS} largest of {len(rates)}; the table has all."
    svg = charts.radar([(rate.label, rate.value) for rate in rates])
    return Chart(svg, caption, wide=len(rates) > charts.MOST_LEVEL)


def _counted(group: RadarGroup) -> str:
    return f"{charts.shortened(group.group, 17)} ({group.judged:,})"


def _selection(selection: Selection | None) -> Iterable[Chart]:
    if not selection or not selection.histogram:
        return
    rows = selection.rows
    kept = f"{rows.kept:,} of {rows.all:,} examples are in {selection.arm}"
    yield Chart(charts.histogram(selection.histogram), f"Examples by score; {kept}.")
    cut = "" if selection.cut is None else f" The line is the cut of {selection.arm}, {selection.cut:g}."
    yield Chart(
        charts.threshold_curve(selection.threshold_curve, selection.cut), f"How many examples each cut would keep.{cut}"
    )
    if len(selection.categories) > 1:
        yield Chart(
            charts.shares(selection.categories[:MOST_ROWS], rows.share),
            "Share of each category that was kept; the dotted line is that of all.",
        )


def _trainings(trainings: Sequence[Training]) -> Iterable[Chart]:
    with_curve = [training for training in trainings if training.curve]
    if not with_curve:
        return
    yield Chart(charts.curves(with_curve, "step"), "Loss over the updates. Arms of another size have another number of them.")
    yield Chart(charts.curves(with_curve, "epoch"), "The same over the epochs: how often every example of the arm was seen.")


CHARTS: dict[str, list[Callable[[ReportData], Iterable[Chart]]]] = {
    "answer": [lambda data: _answer(data.first)],
    "verdicts": [lambda data: (_outcomes(pair) for pair in data.verdicts if pair.groups.pooled[0].judged)],
    "ranking": [lambda data: map(_ranking, data.ranking)],
    "radars": [lambda data: (_radar(entry) for entry in data.radars if _is_main(entry, data.verdicts))],
    "more_radars": [lambda data: (_radar(entry) for entry in data.radars if not _is_main(entry, data.verdicts))],
    "selection": [lambda data: _selection(data.selection)],
    "trainings": [lambda data: _trainings(data.trainings)],
}
"""What draws the charts of each section of the page; without data it draws none."""
