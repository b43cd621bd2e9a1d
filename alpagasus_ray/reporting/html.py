"""The page: the data of a report, its charts, and the two tables for the script, put into `page/page.html.j2`.

All text goes through Jinja's escaping, or as gzip and base64 through a script element of no script type, which no text can
close. The content security policy allows no request, and no script but the page's own, known by its hash.
"""

import base64
import bisect
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from alpagasus_ray.reporting import number_text
from alpagasus_ray.reporting.chart_list import chart_list, scale_of, slider_cuts
from alpagasus_ray.reporting.report_data import ReportContents, ReportData

PAGE = files("alpagasus_ray.reporting") / "page"
SCRIPTS = ("browse.js", "marks.js", "page.js", "examples.js", "sides.js", "cut.js")
STYLES = ("page.css", "charts.css", "parts.css", "print.css")
MOST_MARKS = 12
"""Numbers below the slider."""
FILTERS = ("count", "number", "percent", "dollars", "duration", "p_value", "between", "times")
"""Functions of `number_text` that the template uses."""
SECTIONS = {
    "answer": "Answer",
    "ratings": "Selection",
    "judges": "Judges",
    "examples": "Examples",
    "verdicts": "Verdicts",
    "skills": "Skills",
    "sides": "Side by side",
    "training": "Training",
    "costs": "Cost",
    "chain": "Origin",
}
"""The parts of the page in their order: the template `page/<name>.html.j2`, and its link's text. The panels of `panels.py`
follow `judges`."""
PANELS_AFTER = "judges"
PARTS = ("page", "macros", "panel", "chosen", "cutter")
TEMPLATES = tuple(f"{name}.html.j2" for name in (*PARTS, *SECTIONS))
HINTS = {
    "verdicts": "alpagasus compare lets a judge compare the models' answers",
    "radars": "test sets with a skill or category, compared by alpagasus compare, have some",
    "ratings": "alpagasus score rates the examples",
    "judges": "alpagasus card tells how far each judge can be trusted; to look at what a run holds costs nothing",
    "selection": "alpagasus pick chooses the arms",
    "table": "alpagasus ingest reads the examples",
    "trainings": "alpagasus train trains a model on every arm",
    "sides": "alpagasus answer lets models answer, alpagasus compare compares their answers",
    "costs": "no stage of this run is finished; alpagasus ingest is the first",
}


def page(contents: ReportContents) -> str:
    """The whole page."""
    data = contents.data
    style, script = (read(*names) for names in (STYLES, SCRIPTS))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            found=data,
            sections=SECTIONS,
            panels_after=PANELS_AFTER,
            cuts=_cuts(data),
            marks=_marks(data),
            figures=chart_list(data),
            hints=HINTS,
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            table=contents.table,
            sides=contents.sides,
        )
    )


def _cuts(data: ReportData) -> dict[str, Any] | None:
    """What the page needs to try another cut."""
    selection = data.selection
    if selection is None or not selection.threshold_curve:
        return None
    main = next((entry.name for entry in data.ratings if entry.main), None)
    knobs = "" if main in (None, "judge") else f" -s pick.ratings={main}"
    scores = [entry.score for entry in selection.histogram]
    below = [0, *itertools.accumulate(entry.kept for entry in selection.histogram)]
    points = []
    for point in slider_cuts(selection.threshold_curve, scale_of(data.ratings)):
        # `full` holds duplicates, which no cut would keep
        above = below[-1] - below[bisect.bisect_left(scores, point.threshold)]
        points.append({**asdict(point), "kept": min(above, point.rows)})
    about = {"cut": selection.cut, "arm": selection.arm, "kept": selection.rows.kept, "knobs": knobs, "marks": _marked(points)}
    return {"curve": points, **about}


def _marked(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """Which cuts of the slider have their number below it, from 0 to 100 across."""
    every = max(1, -(-len(points) // MOST_MARKS))
    last = max(1, len(points) - 1)
    return [(round(100 * n / last, 3), f"{point['threshold']:g}") for n, point in enumerate(points) if n % every == 0]


def _marks(data: ReportData) -> dict[str, Any]:
    """What the page needs to mark ratings as wrong: a name that tells one set of ratings from another, and their scale."""
    main = next((entry for entry in data.ratings if entry.main), None)
    made = next((link.content_hash for link in data.chain if main and link.stage == f"ratings/{main.name}"), "")
    return {"ratings": made, "scale": main.scale if main else None}


def read(*names: str) -> str:
    """Files of the page, one after the other."""
    return "\n".join((PAGE / name).read_text(encoding="utf-8") for name in names)


def fingerprint() -> str:
    """A hash of the files of the page: another version of them makes another page."""
    return hashlib.sha256(read(*TEMPLATES, *STYLES, *SCRIPTS).encode()).hexdigest()[:16]


def _environment() -> Environment:
    loader = FunctionLoader(read)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update({name: getattr(number_text, name) for name in FILTERS})
    # Jinja's own knows plain values alone; it still escapes what this returns for HTML
    environment.policies["json.dumps_function"] = _json
    return environment


def _json(value: Any, **options: Any) -> str:
    """JSON of values with entries of the report in them."""
    return json.dumps(value, default=asdict, **options)
