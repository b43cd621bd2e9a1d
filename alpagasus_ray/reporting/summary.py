"""A stage's summary as a person reads it: a few lines and a small bar chart on a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

BAR = 40


def show(report: Mapping[str, Any], stream: TextIO) -> None:
    """Print a summary; which lines it gets depends on what it holds."""
    for line in _lines(report):
        print(line, file=stream)
    stream.flush()


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"{report['stage']}: {report['rows']:,} rows in {report['location']}"
    counts = report.get("counts")
    if counts:
        yield "  " + ", ".join(f"{count:,} {name}" for name, count in counts.items())
    for reason, count in report.get("reasons", {}).items():
        yield f"  {count:,} x {reason}"
    yield from _bars(report.get("histogram", {}))
    usage = report.get("usage")
    if usage:
        yield "  " + ", ".join(f"{value:,.0f} {name.replace('_', ' ')}" for name, value in usage.items())
    if report.get("rows_per_s"):
        yield f"  {report['seconds']:,.1f} s, {report['rows_per_s']:,.0f} rows/s"
    for arm in report.get("arms", ()):
        yield from _arm(arm)
    for note in report.get("notes", ()):
        yield f"  {note}"


def _bars(histogram: Mapping[str, int]) -> Iterator[str]:
    most = max(histogram.values(), default=0)
    for score, count in histogram.items():
        yield f"  {float(score):>5g} {'█' * max(1, round(BAR * count / most)):<{BAR}} {count:,}"


def _arm(arm: Mapping[str, Any]) -> Iterator[str]:
    words = arm["mean_output_words"]
    tokens = arm["tokens"]
    about = "about " if tokens["counted_by"].startswith("estimate") else ""
    kept = f"{arm['rows']:,} kept, {arm['dropped']:,} dropped"
    yield f"  {arm['name']}: {kept}, {about}{tokens['kept']:,} tokens, {words['kept']} words an output"
    yield f"    {arm['file']}"
