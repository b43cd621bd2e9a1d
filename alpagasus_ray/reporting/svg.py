"""Parts that charts are made of: SVG whose places across are percentages, so that a chart has any width while its text keeps
its size, and rows of HTML for charts with a label in front of each bar. Colours and sizes are those of `page/charts.css`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

TICKS = 5


class Axis(NamedTuple):
    """A scale from `low` to `high`."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value stands, as a share of the way."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def across(self, value: float) -> str:
        """The same in percent."""
        return percent(self.at(value))

    def ticks(self, most: int = TICKS) -> list[float]:
        """Round values within the scale, about so many."""
        step = _round_step((self.high - self.low) / most) if self.high > self.low else 1.0
        first = math.ceil(self.low / step - 1e-9)
        return [round(number * step, 10) for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Key(NamedTuple):
    """An entry of a legend: the class of its colour, and what it stands for."""

    kind: str
    text: str


def percent(share: float) -> str:
    """`12.5%` of .125."""
    return f"{100 * share:.6g}%"


def element(name: str, text: object = None, **attributes: object) -> Markup:
    """An element with escaped text and attributes; `_` in a name is `-` and at its end nothing; None leaves one out."""
    given = Markup(" ").join(
        Markup('{}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    content = escape(text) if text is not None else Markup("")
    return Markup("<{0}{1}{2}>{3}</{0}>").format(Markup(name), Markup(" ") if given else "", given, content)  # noqa: S704


def joined(parts: Iterable[Markup]) -> Markup:
    """Parts one after the other."""
    return Markup("").join(parts)


def label(text: str, x: str, y: float, anchor: str = "middle", kind: str | None = None) -> Markup:
    """Text at a place."""
    return element("text", text, x=x, y=f"{y:g}", text_anchor=anchor, class_=kind)


def line(start: tuple[str, float], end: tuple[str, float], kind: str) -> Markup:
    """A straight line."""
    return element("line", x1=start[0], y1=f"{start[1]:g}", x2=end[0], y2=f"{end[1]:g}", class_=kind)


def path(points: Sequence[tuple[float, float]], height: int, kind: str, *, closed: bool = False) -> Markup:
    """A line through points, each given as shares across and of the height from below; closed, the area below it."""
    if not points:
        return Markup("")
    places = [(round(1000 * x, 2), round(height * (1 - y), 2)) for x, y in points]
    drawn = [f"M{places[0][0]:g} {places[0][1]:g}"]
    drawn += [f"L{x:g} {y:g}" for x, y in places[1:]]
    if closed:
        drawn.append(f"V{height}H{places[0][0]:g}Z")
    shape = element("path", d="".join(drawn), class_=kind, vector_effect="non-scaling-stroke")
    view = f"0 0 1000 {height}"
    return element("svg", shape, width="100%", height=height, viewBox=view, preserveAspectRatio="none")


def plot(parts: Iterable[Markup], height: int, keys: Sequence[Key] = (), left: int = 56) -> Markup:
    """A drawing `height` pixels high between its axes, with room for them, below its legend."""
    drawn = element("svg", joined(parts), width="100%", height=height, focusable="false")
    return legend(keys) + element("div", drawn, class_="plot", style=f"padding-left: {left}px")


def legend(keys: Sequence[Key]) -> Markup:
    """What the colours stand for; nothing where there is nothing to tell apart."""
    items = joined(element("li", element("i", class_=f"key {key.kind}") + escape(key.text)) for key in keys)
    return element("ul", items, class_="legend") if keys else Markup("")


def axes(across: Sequence[tuple[str, str]], up: Sequence[tuple[float, str]], height: int, titles: tuple[str, str]) -> Markup:
    """Both axes: `across` has places and texts, `up` shares of the height and texts; `titles` say what they measure."""
    lines = [line(("0", y), ("100%", y), "grid") for share, _ in up if (y := round(height * (1 - share), 1)) < height]
    beside = [label(text, "-8", round(height * (1 - share), 1) + 4, "end", "tick") for share, text in up]
    below = [label(text, x, height + 18, kind="tick") for x, text in across]
    names = [label(titles[0], "50%", height + 38, kind="title"), label(titles[1], "0", -10, "start", "title")]
    return joined([*lines, line(("0", height), ("100%", height), "axis"), *beside, *below, *(names if any(titles) else ())])


class Row(NamedTuple):
    """A row of a chart: its label, what is drawn, and its value in words."""

    label: str
    drawn: Markup
    value: str = ""
    link: str | None = None
    """Where its label leads."""


ROW_HEIGHT = 26


def rows(entries: Sequence[Row], ticks: Mapping[float, str], title: str, keys: Sequence[Key] = ()) -> Markup:
    """Rows of equal scale below one another; `ticks` go from shares across to texts."""
    grid = joined(line((percent(share), 0), (percent(share), ROW_HEIGHT), "grid") for share in ticks)
    made = [_row(entry, grid) for entry in entries]
    below = joined(label(text, percent(share), 14, _anchor(share), "tick") for share, text in ticks.items())
    scale = element("svg", below, width="100%", height=18, focusable="false")
    last = element("div", element("span") + scale + element("span"), class_="bar-row scale")
    return legend(keys) + element("div", joined([*made, last]), class_="bar-rows") + element("p", title, class_="axis-title")


def _anchor(share: float) -> str:
    """Labels at the ends do not reach beyond them."""
    return "start" if share < 0.02 else "end" if share > 0.98 else "middle"


def _row(entry: Row, grid: Markup) -> Markup:
    drawn = element("svg", grid + entry.drawn, width="100%", height=ROW_HEIGHT, focusable="false")
    name = element("a", entry.label, href=entry.link) if entry.link else escape(entry.label)
    parts = [element("span", name, class_="bar-label"), drawn, element("span", entry.value, class_="bar-value")]
    return element("div", joined(parts), class_="bar-row")


def bar(start: float, end: float, kind: str, top: int = 5, height: int = 16) -> Markup:
    """A bar of a row, from one share across to another."""
    return element("rect", x=percent(start), width=percent(max(0.0, end - start)), y=top, height=height, class_=kind)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * (1 - 1e-9))
