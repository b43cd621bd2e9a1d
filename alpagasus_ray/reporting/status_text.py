"""How far a run is, as a person reads it: a line for each stage, and what failed in it."""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.progress import clock
from alpagasus_ray.reporting.number_text import money

WELL = ("examples", "scored", "kept", "dropped", "whole", "cut", "answered", "judged", "duplicates")
"""Outcomes that nobody has to be told of."""


def status_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The summary of `stages/status.py`."""
    driver = report["driver"]
    yield f"{report['location']}: {f'{driver} is at work on it' if driver else 'no driver is at work on it'}"
    if not report["stages"]:
        yield "  nothing is there yet"
    for stage in report["stages"]:
        yield f"  {stage['stage']}: {', '.join(_words(stage))}"
        for reason, count in stage["reasons"].items():
            yield f"    {count:,} x {reason}"
    if report["stages"]:
        cost = "" if report["dollars"] is None else f", ${money(report['dollars'])}"
        yield f"  in all {clock(report['seconds'])}{cost}"
    if "damaged" in report:
        yield from (f"  damaged: {line}" for line in report["damaged"])
        whole = "all of them are as they were written" if report["ok"] else f"{len(report['damaged']):,} are not as written"
        yield f"  {report['files']:,} files compared with their checksums: {whole}"


def _words(stage: Mapping[str, Any]) -> Iterator[str]:
    yield _far(stage)
    if stage["replies"]:
        yield f"{stage['replies']:,} replies in shards that are not done yet"
    for outcome, count in stage["counts"].items():
        if count and outcome not in WELL:
            yield f"{count:,} {outcome}"
    yield clock(stage["seconds"])
    if stage["dollars"] is not None:
        yield f"${money(stage['dollars'])}"


def _far(stage: Mapping[str, Any]) -> str:
    rows, of = ("steps", "of_steps") if stage["steps"] is not None else ("rows", "of")
    what = "updates" if rows == "steps" else "rows"
    if stage["state"] == "finished":
        return f"finished, {stage[rows]:,} {what}"
    total = "" if stage[of] is None else f" of {stage[of]:,}"
    share = f" ({stage[rows] / stage[of]:.0%})" if stage[of] else ""
    return f"unfinished, {stage[rows]:,}{total} {what}{share}"
