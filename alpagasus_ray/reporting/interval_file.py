"""Values with their intervals as an SVG file of its own, for docs and elsewhere outside the page."""

from collections.abc import Sequence

from markupsafe import Markup

from alpagasus_ray.reporting import svg
from alpagasus_ray.reporting.charts import STYLE, Estimate, around, drawn_estimate, estimate_words
from alpagasus_ray.reporting.svg import element, joined


def estimates_file(values: Sequence[Estimate], parity: float, title: str, label: str) -> str:
    """The text of the file; a dotted line stands at parity."""
    ends = [end for _, value, low, high in values for end in (value, low, high) if end is not None]
    scale, height = around(ends, parity), svg.ROW_HEIGHT * len(values)
    parts = [svg.label(title, "16", 26, "start", "head"), svg.label(label, "350", height + 84, kind="title")]
    for place, one in enumerate(values):
        top = 44 + place * svg.ROW_HEIGHT
        drawn = drawn_estimate(one, scale, parity)
        parts.append(element("svg", drawn, x=170, y=top, width=330, height=svg.ROW_HEIGHT, overflow="visible"))
        parts.append(svg.label(one.label, "160", top + 17, "end"))
        parts.append(svg.label(estimate_words(one, 3), "510", top + 17, "start"))
    parts += [svg.label(f"{tick:g}", f"{170 + 330 * scale.at(tick):.0f}", height + 62, kind="tick") for tick in scale.ticks()]
    style = element("style", Markup(STYLE.read_text(encoding="utf-8")))  # noqa: S704 - the package's own
    paper = element("rect", width="100%", height="100%", fill="#ffffff")
    size = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 720 {height + 100}", "width": 720, "height": height + 100}
    return str(element("svg", joined([style, paper, *parts]), class_="plot", **size))
