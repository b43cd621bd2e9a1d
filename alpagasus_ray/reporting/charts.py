"""Charts as SVG: parts of the page, whose text stays text and whose colours follow its light and dark themes, and files.

Sizes are chosen for a phone: a chart is scaled to the width of its column, and its text stays readable there. A caption says
every chart in words, and its numbers stand in a table of the page. matplotlib is loaded when a chart is drawn.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from alpagasus_ray.reporting.selection_data import CategoryShare, Cut, ScoreBin
from alpagasus_ray.reporting.training_data import Training

INK, LINE, GROUND = "#010203", "#040506", "#070809"
"""Stand for the page's own colours of text, lines and ground."""
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY = "#0072b2 #e69f00 #009e73 #d55e00 #cc79a7 #56b4e9 #8a8f98".split()
"""Distinct with every common kind of colour blindness (Okabe and Ito's palette); blue is what wins or is kept, orange what
loses or is left out."""
THEME = {
    INK: "currentColor",
    LINE: "var(--line)",
    GROUND: "var(--card)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    VERMILLION: "var(--vermillion)",
    PURPLE: "var(--purple)",
    SKY: "var(--sky)",
    GREY: "var(--grey)",
}
PAPER = {INK: "#1a1a1a", LINE: "#b0b0b0", GROUND: "#ffffff"}
"""The page's own colours in a file, which has no theme."""
SERIES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY, GREY)
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
WIDTH = 4.2
RADAR_LABELS = 32
MOST_LEVEL = 12
"""Labels around a radar that find room without being turned."""
MOST_COUNTED = 12
"""Bars of a histogram that have room for their counts."""
STYLE: Any = {
    "text.parse_math": False,
    "svg.hashsalt": "alpagasus",
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
NOISE = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", re.DOTALL)
NAMES = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
"""Of the groups; what is referred to has other names."""
SIZE = re.compile(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>')

Draw = Callable[[Any], None]


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


def _svg(draw: Draw, size: tuple[float, float], style: Any, **options: Any) -> str:
    """A drawing as the text of an SVG file; `options` are those of its axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # ids in the file come from the salt of the style: without one the same chart would differ from call to call
    with matplotlib.rc_context({**STYLE, **style}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # whoever reads the page has other fonts than this machine
        figure, axes = pyplot.subplots(figsize=size, layout="constrained", subplot_kw=options or None)
        try:
            draw(axes)
            text = io.StringIO()
            # no layout knows of the labels around a circle
            figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight" if options else None)
        finally:
            pyplot.close(figure)
    return text.getvalue()


def _part_of_page(draw: Draw, height: float, width: float = WIDTH, **options: Any) -> Markup:
    return inline(_svg(draw, (width, height), {}, **options))


def inline(svg: str) -> Markup:
    """An SVG file as a part of a page: without what is only for files, in the page's colours, as wide as its column."""
    body = NAMES.sub("", NOISE.sub("", svg))
    for colour, name in THEME.items():
        body = body.replace(colour, name)
    head = r'<svg xmlns="http://www.w3.org/2000/svg" \1 aria-hidden="true" focusable="false">'
    return Markup(SIZE.sub(head, body, count=1).strip())  # noqa: S704 - matplotlib has escaped all text


def outcome_bars(bars: Sequence[Bar]) -> Markup:
    """Shares of win, tie and lose, a bar for each group, the first at the top; counts stand in the bars."""

    def draw(axes: Any) -> None:
        rows = range(len(bars))
        start = [0.0] * len(bars)
        # losses are hatched too: colours alone say nothing in a black and white print
        for name, colour, hatch in (("win", BLUE, ""), ("tie", GREY, ""), ("lose", ORANGE, "///")):
            counts = [getattr(bar, name) for bar in bars]
            widths = [count / max(1, bar.win + bar.tie + bar.lose) for count, bar in zip(counts, bars, strict=True)]
            axes.barh(
                rows, widths, left=start, color=colour, edgecolor=GROUND, linewidth=1, hatch=hatch, label=name, height=0.68
            )
            for row, count, left, width in zip(rows, counts, start, widths, strict=True):
                if width > 0.06:
                    box = None if name == "win" else {"facecolor": GROUND, "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
                    ink = GROUND if name == "win" else INK
                    axes.text(left + width / 2, row, f"{count:,}", color=ink, ha="center", va="center", fontsize=9.5, bbox=box)
            start = [left + width for left, width in zip(start, widths, strict=True)]
        _rows(axes, [bar.label for bar in bars])
        axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0", "25%", "50%", "75%", "100%"])
        axes.grid(False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=3, handlelength=1.2, columnspacing=1.4)

    return _part_of_page(draw, 0.85 + 0.36 * len(bars))


def estimates(values: Sequence[Estimate], parity: float | None, label: str) -> Markup:
    """Values with their intervals beside a line at parity."""

    def draw(axes: Any) -> None:
        for row, (_, value, low, high) in enumerate(values):
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=BLUE, linewidth=2.4, solid_capstyle="round")
            axes.plot([value], [row], "o", color=BLUE, markersize=6.5, markeredgecolor=GROUND)
        _rows(axes, [estimate.label for estimate in values])
        axes.grid(axis="y", visible=False)
        if parity is not None:
            axes.axvline(parity, color=INK, linewidth=1, linestyle=":")
            _symmetric(axes, parity)
        axes.set(xlabel=label)

    return _part_of_page(draw, 0.8 + 0.32 * len(values))


def _symmetric(axes: Any, middle: float) -> None:
    """Parity in the middle, so that the eye is not drawn to either side."""
    far = max(abs(end - middle) for end in axes.get_xlim())
    axes.set_xlim(middle - far, middle + far)


def _rows(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels=[shortened(label) for label in labels])
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def shortened(label: str, most: int = 26) -> str:
    """A label that leaves room for what it labels."""
    return label if len(label) <= most else f"{label[: most - 1]}…"


def radar(groups: Sequence[tuple[str, float]]) -> Markup:
    """Win rates around a circle; the dotted ring is parity."""
    shown = groups[:RADAR_LABELS]
    angles = [2 * math.pi * number / len(shown) for number in range(len(shown))]

    def draw(axes: Any) -> None:
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        axes.plot([*angles, angles[0]], [*(rate for _, rate in shown), shown[0][1]], color=BLUE, linewidth=1.8)
        axes.fill([*angles, angles[0]], [*(rate for _, rate in shown), shown[0][1]], color=BLUE, alpha=0.18)
        axes.plot([step / 36 * math.pi for step in range(73)], [0.5] * 73, color=INK, linewidth=1, linestyle=":")
        axes.set_ylim(0, 1)
        axes.set_yticks([0.25, 0.5, 0.75, 1], labels=[""] * 4)
        axes.set_xticks(angles, labels=[""] * len(angles))
        axes.spines["polar"].set_color(LINE)
        for angle, (name, _) in zip(angles, shown, strict=True):
            _around(axes, angle, name, turned=len(shown) > MOST_LEVEL)

    side = WIDTH if len(shown) <= MOST_LEVEL else 1.5 * WIDTH
    return _part_of_page(draw, 0.8 * side, side, projection="polar")


def _around(axes: Any, angle: float, name: str, *, turned: bool) -> None:
    """A label outside the circle, level where there is room, else along its ray."""
    across = math.sin(angle)
    side = "center" if abs(across) < 0.1 and not turned else "left" if across >= 0 else "right"
    degrees = 90 - math.degrees(angle)
    rotation = (degrees if across >= 0 else degrees + 180) if turned else 0
    size = 8.5 if turned else 9.5
    axes.text(angle, 1.08, name, ha=side, va="center", rotation=rotation, rotation_mode="anchor", fontsize=size)


def rate_bars(groups: Sequence[Estimate]) -> Markup:
    """Win rates of a few groups."""
    return estimates(groups, 0.5, "win rate, ties as half")


def histogram(bins: Sequence[ScoreBin]) -> Markup:
    """Rows by score, the kept ones in another colour."""
    return _part_of_page(lambda axes: _draw_histogram(axes, bins), 3.0)


def histogram_file(counts: Mapping[str, int], kept: Mapping[str, int], title: str) -> str:
    """The same as the text of an SVG file; `counts` and `kept` go from score to rows."""
    bins = [ScoreBin(float(score), counts[score], kept.get(score, 0)) for score in sorted(counts, key=float)]

    def draw(axes: Any) -> None:
        _draw_histogram(axes, bins)
        axes.set(ylabel="examples")
        axes.figure.suptitle(title)

    text = _svg(draw, (7, 3.5), {"figure.facecolor": GROUND})
    for colour, on_paper in PAPER.items():
        text = text.replace(colour, on_paper)
    return text


def _draw_histogram(axes: Any, bins: Sequence[ScoreBin]) -> None:
    labels, kept = [f"{entry.score:g}" for entry in bins], [entry.kept for entry in bins]
    left_out = [entry.rows - entry.kept for entry in bins]
    axes.bar(labels, kept, color=BLUE, label="kept")
    axes.bar(labels, left_out, bottom=kept, color=ORANGE, hatch="///", edgecolor=GROUND, linewidth=0, label="left out")
    for number, entry in enumerate(bins if len(bins) <= MOST_COUNTED else ()):
        axes.annotate(f"{entry.rows:,.0f}", (number, entry.rows), ha="center", va="bottom", fontsize=9)
    axes.set(xlabel="score")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1.2)


def threshold_curve(points: Sequence[Cut], cut: float | None) -> Markup:
    """Examples kept at each possible cut."""

    def draw(axes: Any) -> None:
        thresholds, rows = [entry.threshold for entry in points], [entry.rows for entry in points]
        axes.plot(thresholds, rows, color=BLUE, linewidth=1.8, marker="o", markersize=4.5, drawstyle="steps-pre")
        if cut is not None:
            axes.axvline(cut, color=VERMILLION, linewidth=1.6, linestyle=(0, (4, 2)), label=f"cut at {cut:g}")
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.set(xlabel="lowest score kept", ylim=(0, max(rows) * 1.06))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")

    return _part_of_page(draw, 3.0)


def shares(categories: Sequence[CategoryShare], overall: float | None) -> Markup:
    """Kept share of each category; the dotted line is that of all."""

    def draw(axes: Any) -> None:
        values = [entry.share for entry in categories]
        axes.barh(range(len(values)), values, color=BLUE, height=0.62)
        for row, share in enumerate(values):
            axes.text(share + 0.015, row, f"{share:.0%}", va="center", fontsize=9.5)
        if overall is not None:
            axes.axvline(overall, color=INK, linewidth=1, linestyle=":")
        _rows(axes, [entry.category or "none" for entry in categories])
        axes.set(xlim=(0, 1.12), xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0", "25%", "50%", "75%", "100%"])
        axes.grid(axis="y", visible=False)

    return _part_of_page(draw, 0.6 + 0.29 * len(categories))


def curves(trainings: Sequence[Training], across: str) -> Markup:
    """Training losses, one line for each arm, over `step` or `epoch`."""

    def draw(axes: Any) -> None:
        for number, training in enumerate(trainings):
            style = DASHES[number % len(DASHES)]
            color, label = SERIES[number % len(SERIES)], shortened(training.arm)
            progress = [getattr(point, across) for point in training.curve]
            losses = [point.loss for point in training.curve]
            axes.plot(progress, losses, color=color, linestyle=style, linewidth=1.6, label=label)
        axes.set(xlabel={"step": "update", "epoch": "epoch"}[across], ylabel="loss")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(3, len(trainings)), handlelength=2)

    return _part_of_page(draw, 3.2 + 0.2 * (len(trainings) // 4))
