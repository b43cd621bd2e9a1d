"""Charts as parts of the page, in its own colours and at any width with text of one size, and as files.

A caption says every chart in words, and its numbers stand in a table of the page. What is drawn with is in `svg.py`; which
charts there are is in `chart_list.py`.
"""

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from alpagasus_ray.reporting import svg
from alpagasus_ray.reporting.selection_data import CategoryShare, Cut, ScoreBin
from alpagasus_ray.reporting.svg import Axis, Key, Row, bar, element, joined, line, percent, rows
from alpagasus_ray.reporting.training_data import Training

STYLE = files("alpagasus_ray.reporting") / "page" / "charts.css"
HEIGHT = 240
SERIES = 7
"""Lines that are told apart by colour and dashes; more of them repeat."""
MOST_BINS = 40
"""Columns of a histogram; of more scores several share one."""
MOST_COUNTED = 12
"""Columns that have room for their counts."""
PARITY = "parity"
OUTCOMES = ("win", "tie", "lose")
PERCENTS = {0.0: "0%", 0.25: "25%", 0.5: "50%", 0.75: "75%", 1.0: "100%"}


class Bar(NamedTuple):
    """Outcomes of one group, from a's side."""

    label: str
    win: int
    tie: int
    lose: int


class Estimate(NamedTuple):
    """A value with its interval; either end is None where there is none."""

    label: str
    value: float
    low: float | None
    high: float | None


class Column(NamedTuple):
    """A column of the histogram: rows with a score from `low` up to `high`, which is None for one score alone."""

    low: float
    high: float | None
    rows: int
    kept: int

    @property
    def name(self) -> str:
        return f"{self.low:g}" if self.high is None else f"{self.low:g}..{self.high:g}"


def outcome_bars(bars: Sequence[Bar]) -> Markup:
    """Shares of win, tie and lose, a bar for each group, the first at the top; counts stand in the bars."""
    entries = [Row(entry.label, _outcomes(entry), f"{entry.win:,} / {entry.tie:,} / {entry.lose:,}") for entry in bars]
    half = line(("50%", 0), ("50%", svg.ROW_HEIGHT), PARITY)
    marked = [entry._replace(drawn=entry.drawn + half) for entry in entries]
    return rows(marked, PERCENTS, "share of judged prompts", [Key(name, name) for name in OUTCOMES])


def _outcomes(entry: Bar) -> Markup:
    parts, start, whole = [], 0.0, max(1, entry.win + entry.tie + entry.lose)
    for name in OUTCOMES:
        count = getattr(entry, name)
        end = start + count / whole
        parts.append(bar(start, end, name))
        if end - start > 0.14:
            parts.append(svg.label(f"{count:,}", percent((start + end) / 2), 17, kind=f"on-{name}"))
        start = end
    return joined(parts)


def estimates(values: Sequence[Estimate], parity: float | None, label: str, digits: int = 2) -> Markup:
    """Values with their intervals beside a line at parity."""
    ends = [end for _, value, low, high in values for end in (value, low, high) if end is not None]
    scale = _around(ends, parity)
    entries = [Row(one.label, _estimate(one, scale, parity), _in_words(one, digits)) for one in values]
    return rows(entries, {scale.at(tick): f"{tick:g}" for tick in scale.ticks()}, label)


def estimates_file(values: Sequence[Estimate], parity: float, title: str, label: str) -> str:
    """The same as the text of an SVG file."""
    ends = [end for _, value, low, high in values for end in (value, low, high) if end is not None]
    scale, height = _around(ends, parity), svg.ROW_HEIGHT * len(values)
    parts = [svg.label(title, "16", 26, "start", "head"), svg.label(label, "350", height + 84, kind="title")]
    for place, one in enumerate(values):
        top = 44 + place * svg.ROW_HEIGHT
        drawn = _estimate(one, scale, parity)
        parts.append(element("svg", drawn, x=170, y=top, width=330, height=svg.ROW_HEIGHT, overflow="visible"))
        parts.append(svg.label(one.label, "160", top + 17, "end"))
        parts.append(svg.label(_in_words(one, 3), "510", top + 17, "start"))
    parts += [svg.label(f"{tick:g}", f"{170 + 330 * scale.at(tick):.0f}", height + 62, kind="tick") for tick in scale.ticks()]
    style = element("style", Markup(STYLE.read_text(encoding="utf-8")))  # noqa: S704 - the package's own
    paper = element("rect", width="100%", height="100%", fill="#ffffff")
    size = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 720 {height + 100}", "width": 720, "height": height + 100}
    return str(element("svg", joined([style, paper, *parts]), class_="plot", **size))


def _around(ends: Sequence[float], parity: float | None) -> Axis:
    """A scale that holds all ends; parity in the middle, so that the eye is not drawn to either side."""
    low, high = min(ends), max(ends)
    if parity is not None:
        far = max(high - parity, parity - low, 1e-3) * 1.1
        return Axis(parity - far, parity + far)
    room = (high - low or 1.0) * 0.08
    return Axis(low - room, high + room)


def _estimate(one: Estimate, scale: Axis, parity: float | None) -> Markup:
    middle = svg.ROW_HEIGHT / 2
    parts = [] if parity is None else [line((scale.across(parity), 0), (scale.across(parity), svg.ROW_HEIGHT), PARITY)]
    if one.low is not None and one.high is not None:
        parts.append(line((scale.across(one.low), middle), (scale.across(one.high), middle), "interval"))
    return joined([*parts, element("circle", cx=scale.across(one.value), cy=middle, r=5, class_="dot")])


def _in_words(one: Estimate, digits: int) -> str:
    if one.low is None or one.high is None:
        return f"{one.value:,.{digits}f}"
    return f"{one.value:,.{digits}f} ({one.low:,.{digits}f} to {one.high:,.{digits}f})"


def rate_bars(groups: Sequence[Estimate]) -> Markup:
    """Win rates of a few groups."""
    return estimates(groups, 0.5, "win rate, ties as half")


def shortened(label: str, most: int = 26) -> str:
    """A label that leaves room for what it labels."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def columns(bins: Sequence[ScoreBin]) -> list[Column]:
    """The columns of a histogram: one for each score, or of very many scores so many of equal width."""
    if len(bins) <= MOST_BINS:
        return [Column(entry.score, None, entry.rows, entry.kept) for entry in bins]
    low, high = bins[0].score, bins[-1].score
    edges = [round(low + (high - low) * number / MOST_BINS, 6) for number in range(MOST_BINS + 1)]
    made = [Column(low, high, 0, 0) for low, high in itertools.pairwise(edges)]
    for entry in bins:
        place = min(max(bisect.bisect_right(edges, entry.score) - 1, 0), MOST_BINS - 1)
        made[place] = made[place]._replace(rows=made[place].rows + entry.rows, kept=made[place].kept + entry.kept)
    return made


def histogram(bins: Sequence[ScoreBin]) -> Markup:
    """Rows by score, the kept ones in another colour; a column leads to its rows."""
    return svg.plot(_histogram(columns(bins), links=True), HEIGHT, [Key("kept", "kept"), Key("left-out", "left out")])


def histogram_file(counts: Mapping[str, int], kept: Mapping[str, int], title: str) -> str:
    """The same as the text of an SVG file; `counts` and `kept` go from score to rows."""
    bins = [ScoreBin(float(score), counts[score], kept.get(score, 0)) for score in sorted(counts, key=float)]
    drawn = element(
        "svg", joined(_histogram(columns(bins), links=False)), x=70, y=60, width=610, height=HEIGHT, overflow="visible"
    )
    style = element("style", Markup(STYLE.read_text(encoding="utf-8")))  # noqa: S704 - the package's own
    paper = element("rect", width="100%", height="100%", fill="#ffffff")
    head = svg.label(title, "16", 26, "start", "head")
    size = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": "0 0 700 360", "width": 700, "height": 360}
    return str(element("svg", joined([style, paper, head, drawn]), class_="plot", **size))


def _histogram(shown: Sequence[Column], *, links: bool) -> list[Markup]:
    """Columns between their axes. The page's script reads `data-` attributes to draw another cut."""
    highest = max((column.rows for column in shown), default=0) or 1
    up = Axis(0, highest * 1.08)
    width = 1 / max(1, len(shown))
    every = -(-len(shown) // MOST_COUNTED)
    across = [(percent((n + 0.5) * width), f"{column.low:g}") for n, column in enumerate(shown) if n % every == 0]
    beside = [(up.at(tick), f"{tick:,.0f}") for tick in up.ticks(4) if tick == int(tick)]
    parts = [svg.axes(across, beside, HEIGHT, ("score", "examples"))]
    for number, column in enumerate(shown):
        drawn = _column(column, number * width, width, up, counted=len(shown) <= MOST_COUNTED)
        link = f"#examples?score={quote(column.name)}" if links else None
        about = f"score {column.name}: {column.rows:,} examples, {column.kept:,} kept"
        named = element("title", about) + drawn
        data = {"data_low": f"{column.low:.12g}", "data_rows": column.rows, "data_kept": column.kept}
        parts.append(
            element("a", named, href=link, class_="column", aria_label=f"{about}; show them", **data)
            if link
            else element("g", named)
        )
    return parts


def _column(column: Column, start: float, width: float, up: Axis, *, counted: bool) -> Markup:
    top, middle = HEIGHT * (1 - up.at(column.rows)), HEIGHT * (1 - up.at(column.kept))
    place = {"x": percent(start + 0.1 * width), "width": percent(0.8 * width)}
    parts = [
        element("rect", **place, y=round(top, 2), height=round(middle - top, 2), class_="left-out"),
        element("rect", **place, y=round(middle, 2), height=round(HEIGHT - middle, 2), class_="kept"),
    ]
    if counted:
        parts.append(svg.label(f"{column.rows:,}", percent(start + width / 2), round(top - 5, 2), kind="count"))
    return joined(parts)


def threshold_curve(points: Sequence[Cut], cut: float | None) -> Markup:
    """Examples kept at each possible cut."""
    across = Axis(points[0].threshold, points[-1].threshold)
    up = Axis(0, max(point.rows for point in points) * 1.05)
    # between two scores a cut keeps what the higher one keeps
    stairs = [(across.at(point.threshold), up.at(point.rows)) for point in points]
    drawn = [(x, after) for (x, _), (_, after) in zip(stairs, [stairs[0], *stairs], strict=False)]
    turned = [place for (x, y), (_, before) in zip(stairs, drawn, strict=True) for place in ((x, before), (x, y))]
    parts = [
        svg.axes(
            [(across.across(tick), f"{tick:g}") for tick in across.ticks()],
            [(up.at(tick), f"{tick:,.0f}") for tick in up.ticks(4) if tick == int(tick)],
            HEIGHT,
            ("lowest score kept", "examples kept"),
        ),
        svg.path(turned, HEIGHT, "line series-0"),
    ]
    if cut is not None:
        place = across.across(cut)
        anchor = "end" if across.at(cut) > 0.5 else "start"
        parts += [line((place, 0), (place, HEIGHT), "cut"), svg.label(f"cut at {cut:g}", place, -10, anchor, "cut-label")]
    return svg.plot(parts, HEIGHT)


def shares_scale(shown: Iterable[float], overall: float | None) -> Axis:
    """From nothing to a round share that holds all."""
    highest = max((*shown, overall or 0.0))
    return Axis(0, next(top for top in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if highest <= top))


def percents(scale: Axis) -> dict[float, str]:
    """Its ticks, in percent."""
    return {scale.at(tick): f"{100 * tick:g}%" for tick in scale.ticks()}


def shares(categories: Sequence[CategoryShare], overall: float | None) -> Markup:
    """Kept share of each category; the dotted line is that of all."""
    scale = shares_scale((one.share for one in categories), overall)
    entries = [
        Row(
            shortened(one.category or "none", 40),
            bar(0, scale.at(one.share), "kept") + overall_line(overall, scale),
            f"{one.share:.1%} of {one.rows:,}",
            f"#examples?category={quote(one.category)}" if one.category else None,
        )
        for one in categories
    ]
    return rows(entries, percents(scale), "share kept")


def overall_line(share: float | None, scale: Axis) -> Markup:
    """Where the share of all stands in a row."""
    return Markup("") if share is None else line((scale.across(share), 0), (scale.across(share), svg.ROW_HEIGHT), PARITY)


def curves(trainings: Sequence[Training], across: str) -> Markup:
    """Training losses, one line for each arm, over `step` or `epoch`."""
    points = [point for training in trainings for point in training.curve]
    losses = [point.loss for point in points]
    room = (max(losses) - min(losses) or 1.0) * 0.05
    wide = Axis(0, max(getattr(point, across) for point in points) or 1)
    up = Axis(min(losses) - room, max(losses) + room)
    parts = [
        svg.axes(
            [(wide.across(tick), f"{tick:,g}") for tick in wide.ticks()],
            [(up.at(tick), f"{tick:g}") for tick in up.ticks(4)],
            HEIGHT,
            ({"step": "update", "epoch": "epoch"}[across], "loss"),
        )
    ]
    for number, training in enumerate(trainings):
        line_of = [(wide.at(getattr(point, across)), up.at(point.loss)) for point in training.curve]
        parts.append(svg.path(line_of, HEIGHT, f"line series-{number % SERIES}"))
    return svg.plot(parts, HEIGHT, [Key(f"series-{n % SERIES}", shortened(one.arm)) for n, one in enumerate(trainings)])
