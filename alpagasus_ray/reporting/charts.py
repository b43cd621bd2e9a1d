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
from alpagasus_ray.reporting.score_steps import score_steps
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
NOTEBOOK = "alpagasus-picture"
"""The class of a picture in a notebook, where other pages' names may mean other things."""
NARROW = "\n@media (max-width: 44rem) { .alpagasus-picture .plot text.count { display: none; } }"
Scale = Mapping[str, float | None]
"""Of ratings: `min`, `max` and `step`."""
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
    """A column of the histogram: rows with a score from `low` to below `high` (the last column to `high` itself); `high` is
    None for one score alone."""

    low: float
    high: float | None
    rows: int
    kept: int
    pool: int = 0
    """Rows that some cut would keep: not those that are left out whatever their score."""
    is_last: bool = False

    @property
    def name(self) -> str:
        """As the page's links have it."""
        return f"{self.low:g}" if self.high is None else f"{self.low:g}..{self.high:g}"

    @property
    def words(self) -> str:
        between = "to" if self.is_last else "to under"
        return f"{self.low:g}" if self.high is None else f"{self.low:g} {between} {self.high:g}"


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
    scale = around(ends, parity)
    entries = [Row(one.label, drawn_estimate(one, scale, parity), estimate_words(one, digits)) for one in values]
    return rows(entries, {scale.at(tick): f"{tick:g}" for tick in scale.ticks()}, label)


def around(ends: Sequence[float], parity: float | None) -> Axis:
    """A scale that holds all ends; parity in the middle, so that the eye is not drawn to either side."""
    low, high = min(ends), max(ends)
    if parity is not None:
        far = max(high - parity, parity - low, 1e-3) * 1.1
        return Axis(parity - far, parity + far)
    room = (high - low or 1.0) * 0.08
    return Axis(low - room, high + room)


def drawn_estimate(one: Estimate, scale: Axis, parity: float | None) -> Markup:
    """The dot and the line of one value."""
    middle = svg.ROW_HEIGHT / 2
    parts = [] if parity is None else [line((scale.across(parity), 0), (scale.across(parity), svg.ROW_HEIGHT), PARITY)]
    if one.low is not None and one.high is not None:
        parts.append(line((scale.across(one.low), middle), (scale.across(one.high), middle), "interval"))
    return joined([*parts, element("circle", cx=scale.across(one.value), cy=middle, r=5, class_="dot")])


def estimate_words(one: Estimate, digits: int) -> str:
    """A value and the ends of its interval."""
    if one.low is None or one.high is None:
        return f"{one.value:,.{digits}f}"
    return f"{one.value:,.{digits}f} ({one.low:,.{digits}f} to {one.high:,.{digits}f})"


def rate_bars(groups: Sequence[Estimate]) -> Markup:
    """Win rates of a few groups."""
    return estimates(groups, 0.5, "win rate, ties as half")


def shortened(label: str, most: int = 26) -> str:
    """A label that leaves room for what it labels."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def columns(bins: Sequence[ScoreBin], scale: Scale | None = None, curve: Sequence[Cut] = ()) -> list[Column]:
    """The columns of a histogram, side by side as the scores are apart: one for each step of the scale, also where nobody has
    that score; of scores on no step, `MOST_BINS` of equal width. `curve` tells how many rows each cut would keep."""
    scores = [entry.score for entry in bins]
    if steps := score_steps(scores, scale) or scores * (len(bins) == 1):
        by_score = {round(entry.score, 6): entry for entry in bins}
        rows_at = [(step, by_score.get(round(step, 6), ScoreBin(step, 0, 0))) for step in steps]
        return _with_pool([Column(step, None, entry.rows, entry.kept) for step, entry in rows_at], curve)
    if not bins:
        return []
    low, high = bins[0].score, bins[-1].score
    edges = [round(low + (high - low) * number / MOST_BINS, 6) for number in range(MOST_BINS + 1)]
    made = [Column(low, high, 0, 0) for low, high in itertools.pairwise(edges)]
    for entry in bins:
        place = min(max(bisect.bisect_right(edges, entry.score) - 1, 0), MOST_BINS - 1)
        made[place] = made[place]._replace(rows=made[place].rows + entry.rows, kept=made[place].kept + entry.kept)
    made[-1] = made[-1]._replace(is_last=True)
    return _with_pool(made, curve)


def _with_pool(shown: Sequence[Column], curve: Sequence[Cut]) -> list[Column]:
    """Columns with what cuts would keep of each; without a curve, all rows."""
    if not curve:
        return [column._replace(pool=column.rows) for column in shown]
    above = [curve[0].rows, *(rows_kept(curve, column.low) for column in shown[1:]), 0]
    return [column._replace(pool=above[number] - above[number + 1]) for number, column in enumerate(shown)]


def rows_kept(curve: Sequence[Cut], cut: float) -> int:
    """How many rows a cut keeps that need not be one of the curve: as many as the next higher score does, above the highest
    none."""
    place = bisect.bisect_left(curve, cut - 1e-9, key=lambda point: point.threshold)
    return curve[place].rows if place < len(curve) else 0


def histogram(bins: Sequence[ScoreBin], scale: Scale | None = None, curve: Sequence[Cut] = ()) -> Markup:
    """Rows by score, the kept ones in another colour; a column leads to its rows."""
    keys = [Key("kept", "kept"), Key("left-out", "left out")]
    return svg.plot(_histogram(columns(bins, scale, curve), links=True), HEIGHT, keys)


def histogram_html(counts: Mapping[float, int], title: str, scale: Scale | None = None) -> str:
    """Rows by score for a notebook: as wide as there is room, its text always of one size."""
    bins = [ScoreBin(score, counts[score], counts[score]) for score in sorted(counts)]
    drawn = svg.plot(_histogram(columns(bins, scale), links=False), HEIGHT)
    style = element("style", Markup(_only_within(STYLE.read_text(encoding="utf-8") + NARROW, f".{NOTEBOOK}")))  # noqa: S704
    head = element("p", title, style="font: 600 15px system-ui, sans-serif; margin: 0 0 8px; color: #1c2430")
    look = "max-width: 700px; padding: 12px; background: #ffffff; overflow: hidden"
    return str(element("div", joined([style, head, drawn]), class_=NOTEBOOK, style=look))


def _only_within(style: str, place: str) -> str:
    """Rules of a style, a line each, for what is inside one element: the rest of a notebook is not theirs."""

    def scoped(rule: str) -> str:
        selectors, brace, rest = rule.partition(" {")
        return ", ".join(f"{place} {one.strip()}" for one in selectors.split(",")) + brace + rest if brace else rule

    return "\n".join(rule if rule.startswith("@") else scoped(rule) for rule in style.splitlines())


def histogram_file(counts: Mapping[str, int], kept: Mapping[str, int], title: str, scale: Scale | None = None) -> str:
    """The same as the text of an SVG file; `counts` and `kept` go from score to rows."""
    bins = [ScoreBin(float(score), counts[score], kept.get(score, 0)) for score in sorted(counts, key=float)]
    drawn = element(
        "svg", joined(_histogram(columns(bins, scale), links=False)), x=70, y=60, width=610, height=HEIGHT, overflow="visible"
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
        about = f"score {column.words}: {column.rows:,} examples, {column.kept:,} kept"
        named = element("title", about) + drawn
        data = {"data_low": f"{column.low:.12g}", "data_rows": column.rows, "data_kept": column.kept, "data_pool": column.pool}
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


def cut_axis(points: Sequence[Cut], scale: Scale | None = None) -> Axis:
    """The cuts that a curve is drawn over: those of the whole scale where it is known."""
    known = (end for key in ("min", "max") if (end := (scale or {}).get(key)) is not None)
    ends = [points[0].threshold, points[-1].threshold, *known]
    return Axis(min(ends), max(ends))


def cut_stairs(points: Sequence[Cut], across: Axis) -> list[tuple[float, int]]:
    """Corners of the line of rows kept over cuts: a cut between two scores keeps what the higher one keeps, and one above the
    highest keeps nothing."""
    starts = [across.low, *(point.threshold for point in points)]
    stairs = [(x, point.rows) for start, point in zip(starts, points, strict=False) for x in (start, point.threshold)]
    return [*stairs, (points[-1].threshold, 0), (across.high, 0)]


def threshold_curve(points: Sequence[Cut], cut: float | None, scale: Scale | None = None) -> Markup:
    """Examples kept at each possible cut. The page's script moves the mark of the cut that is tried by `data-` attributes."""
    across = cut_axis(points, scale)
    up = Axis(0, max(point.rows for point in points) * 1.05)
    turned = [(across.at(threshold), up.at(rows)) for threshold, rows in cut_stairs(points, across)]
    parts = [
        svg.axes(
            [(across.across(tick), f"{tick:g}") for tick in across.ticks()],
            [(up.at(tick), f"{tick:,.0f}") for tick in up.ticks(4) if tick == int(tick)],
            HEIGHT,
            ("lowest score kept", "examples kept"),
        ),
        svg.path(turned, HEIGHT, "line series-0"),
    ]
    if len(points) <= MOST_BINS:  # a dot says which end of a step holds at the score itself
        at = ((across.across(point.threshold), round(HEIGHT * (1 - up.at(point.rows)), 2)) for point in points)
        parts += [element("circle", cx=x, cy=y, r=4, class_="dot") for x, y in at]
    if cut is not None:
        place = across.across(cut)
        anchor = "end" if across.at(cut) > 0.5 else "start"
        parts += [line((place, 0), (place, HEIGHT), "cut"), svg.label(f"cut at {cut:g}", place, -10, anchor, "cut-label")]
    tried = joined([line(("0", 0), ("0", HEIGHT), "cut tried"), svg.label("", "0", 14, kind="cut-label")])
    ends = {"data_low": f"{across.low:.12g}", "data_high": f"{across.high:.12g}"}
    parts.append(element("g", tried, id="cut-tried", display="none", **ends))
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
