"""The page: findings, figures and blobs put into `page/page.html.j2`. Knows nothing of runs.

All text goes through Jinja's escaping, or as gzip and base64 through a script element of no script type, which no text can
close. The content security policy allows no request, and no script but the page's own, known by its hash.
"""

import base64
import gzip
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from alpagasus_ray.reporting.chart_list import drawings
from alpagasus_ray.reporting.text import money

PAGE = files("alpagasus_ray.reporting") / "page"
SCRIPTS = ("browse.js", "page.js")
STYLES = ("page.css", "parts.css")
NOTHING = "no data"
HINTS = {
    "verdicts": "jobs/compare.py lets a judge compare the models' answers",
    "radars": "test sets with a skill or category, compared by jobs/compare.py, have some",
    "ratings": "jobs/score.py rates the examples",
    "selection": "jobs/pick_subset.py chooses the arms",
    "table": "jobs/ingest.py reads the examples",
    "trainings": "jobs/finetune.py trains a model on every arm",
    "sides": "jobs/generate.py lets models answer, jobs/compare.py compares their answers",
    "costs": "no stage of this run is finished; jobs/ingest.py is the first",
}


def page(found: Mapping[str, Any], table: Mapping[str, Any] | None, sides: Mapping[str, Any]) -> str:
    """The whole page; `table` and `sides` are the blobs of `table.py` and `sides.py`."""
    style, script = (read(*names) for names in (STYLES, SCRIPTS))
    return (
        _environment()
        .from_string(read("page.html.j2"))
        .render(
            found=found,
            figures=drawings(found),
            hints=HINTS,
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            table=packed(table) if table else None,
            sides=packed(sides) if sides["shown"] else None,
        )
    )


def read(*names: str) -> str:
    """Files of the page, one after the other."""
    return "\n".join((PAGE / name).read_text(encoding="utf-8") for name in names)


def fingerprint() -> str:
    """Tells pages that another version of this package would make otherwise."""
    return hashlib.sha256(read("page.html.j2", *STYLES, *SCRIPTS).encode()).hexdigest()[:16]


def packed(value: Any) -> str:
    """JSON as gzip (without a date, so that equal values are equal bytes) in base64."""
    return base64.b64encode(gzip.compress(orjson.dumps(value), compresslevel=6, mtime=0)).decode()


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    named = (count, number, percent, dollars, duration, p_value, between, times)
    environment.filters.update({function.__name__: function for function in named})
    return environment


def count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:.{digits}%}"


def dollars(value: float | None) -> str:
    return NOTHING if value is None else f"${money(value)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:,.1f} h"


def p_value(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def between(found: Mapping[str, float | None], digits: int = 3) -> str:
    """A value with its interval."""
    if found["value"] is None:
        return NOTHING
    value = f"{found['value']:.{digits}f}"
    return value if found["low"] is None else f"{value} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def times(ratio: float | None) -> str:
    """How many times as much, in two digits."""
    if ratio is None:
        return NOTHING
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 1 else f"{ratio:.2f}×"
