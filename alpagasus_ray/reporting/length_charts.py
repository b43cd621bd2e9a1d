"""Charts of score, choice and category beside the length of the output (`lengths_data.py`)."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from alpagasus_ray.reporting import svg
from alpagasus_ray.reporting.charts import HEIGHT, overall_line, percents, shares_scale
from alpagasus_ray.reporting.lengths_data import QUANTILES, LengthBand, LengthBin, ScoreLengths, Spread
from alpagasus_ray.reporting.svg import Axis, Key, Row, bar, joined, line, percent, rows


def length_bands(bands: Sequence[LengthBand], overall: float | None, unit: str) -> Markup:
    """Kept share of the examples of each length."""
    scale = shares_scale((band.share for band in bands), overall)
    entries = [
        Row(
            _range(band.low, band.high),
            bar(0, scale.at(band.share), "kept") + overall_line(overall, scale),
            f"{band.share:.1%} of {band.rows:,}",
        )
        for band in bands
    ]
    return rows(entries, percents(scale), f"share kept, by length of the output in {unit}")


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def score_lengths(entries: Sequence[ScoreLengths], unit: str) -> Markup:
    """Lengths of the outputs of each score: the middle half as a bar, four fifths as a line, the median as a tick."""
    scale = _logarithmic(min(one.p10 for one in entries), max(one.p90 for one in entries))
    made = [
        Row(f"score {one.name}", _box(one, scale), f"{one.median:,.0f} ({one.rows:,} examples)", _to_score(one))
        for one in entries
    ]
    return rows(made, scale.ticks(), f"length of the output in {unit}, on a logarithmic scale", _BOX_KEYS)


_BOX_KEYS = (Key("half", "middle half"), Key("whisker", "middle four fifths"), Key("median", "median"))


def _to_score(one: ScoreLengths) -> str:
    return f"#examples?score={quote(one.name)}"


class _Logarithmic(NamedTuple):
    """A logarithmic scale of lengths; an empty output stands at its beginning."""

    least: float
    most: float

    def at(self, length: float) -> float:
        low, high = math.log10(self.least + 1), math.log10(self.most + 1)
        return (math.log10(length + 1) - low) / (high - low)

    def ticks(self) -> dict[float, str]:
        steps = [step * 10**power for power in range(7) for step in (1, 2, 5)]
        inside = [step for step in steps if self.least <= step <= self.most]
        every = -(-len(inside) // 6) or 1
        return {self.at(step): f"{step:,}" for step in inside[::every]}


def _logarithmic(least: float, most: float) -> _Logarithmic:
    """A scale that holds both, and is wide enough to have ticks where they are equal."""
    return _Logarithmic(max(0.0, min(least, most / 2)), max(most, 2 * least, 4))


def _box(spread: Spread, scale: _Logarithmic) -> Markup:
    middle = svg.ROW_HEIGHT / 2
    place = {name: scale.at(getattr(spread, name)) for name in QUANTILES}
    return joined(
        [
            line((percent(place["p10"]), middle), (percent(place["p90"]), middle), "whisker"),
            bar(place["p25"], place["p75"], "half"),
            line((percent(place["median"]), 4), (percent(place["median"]), 22), "median"),
        ]
    )


def length_histogram(bins: Sequence[LengthBin], unit: str) -> Markup:
    """How long the outputs of what was kept and of what was left out are: each as shares of its own."""
    totals = {name: sum(getattr(one, name) for one in bins) or 1 for name in ("dropped", "kept")}
    up = Axis(0, max(getattr(one, name) / totals[name] for one in bins for name in totals) * 1.08)
    width = 1 / len(bins)
    every = -(-len(bins) // 6)
    across = [(percent(number * width), f"{one.low:,}") for number, one in enumerate(bins) if number % every == 0]
    beside = [(up.at(tick), f"{100 * tick:g}%") for tick in up.ticks(4)]
    parts = [svg.axes(across, beside, HEIGHT, (f"length of the output in {unit}", "share of each group"))]
    for name, kind in (("dropped", "area-left-out"), ("kept", "area-kept")):
        stairs = [(number * width, up.at(getattr(one, name) / totals[name])) for number, one in enumerate(bins)]
        corners = [place for x, y in stairs for place in ((x, y), (x + width, y))]
        parts.append(svg.path(corners, HEIGHT, kind, closed=True))
    return svg.plot(parts, HEIGHT, [Key("kept", "kept"), Key("left-out", "left out")])
