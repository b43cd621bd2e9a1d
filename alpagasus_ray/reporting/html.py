"""The page: the data of a report, its charts, and the two tables for the script, put into `page/page.html.j2`.

All text goes through Jinja's escaping, or as gzip and base64 through a script element of no script type, which no text can
close. The content security policy allows no request, and no script but the page's own, known by its hash.
"""

import base64
import gzip
import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from alpagasus_ray.reporting import number_text
from alpagasus_ray.reporting.chart_list import chart_list
from alpagasus_ray.reporting.examples_table import ExamplesTable
from alpagasus_ray.reporting.report_data import ReportData
from alpagasus_ray.reporting.side_by_side import SideBySide

PAGE = files("alpagasus_ray.reporting") / "page"
SCRIPTS = ("browse.js", "page.js")
STYLES = ("page.css", "parts.css")
FILTERS = ("count", "number", "percent", "dollars", "duration", "p_value", "between", "times")
"""Functions of `number_text` that the template uses."""
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


def page(data: ReportData, table: ExamplesTable | None, sides: SideBySide) -> str:
    """The whole page."""
    style, script = (read(*names) for names in (STYLES, SCRIPTS))
    return (
        _environment()
        .from_string(read("page.html.j2"))
        .render(
            found=data,
            figures=chart_list(data),
            hints=HINTS,
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            table=packed(table) if table else None,
            sides=packed(sides) if sides.shown else None,
            judges=Markup(_environment().from_string(read("trust.html.j2")).render(trust=data.trust)),  # noqa: S704
        )
    )


def read(*names: str) -> str:
    """Files of the page, one after the other."""
    return "\n".join((PAGE / name).read_text(encoding="utf-8") for name in names)


def fingerprint() -> str:
    """A hash of the files of the page: another version of them makes another page."""
    return hashlib.sha256(read("page.html.j2", "trust.html.j2", *STYLES, *SCRIPTS).encode()).hexdigest()[:16]


def packed(value: Any) -> str:
    """JSON as gzip (without a date, so that equal values are equal bytes) in base64."""
    return base64.b64encode(gzip.compress(orjson.dumps(value), compresslevel=6, mtime=0)).decode()


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update({name: getattr(number_text, name) for name in FILTERS})
    # Jinja's own knows plain values alone; it still escapes what this returns for HTML
    environment.policies["json.dumps_function"] = _json
    return environment


def _json(value: Any, **options: Any) -> str:
    """JSON of values with entries of the report in them."""
    return json.dumps(value, default=asdict, **options)
