"""Benchmarks of models as a person reads them on a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.progress import clock
from alpagasus_ray.reporting.benchmarks_data import in_words, score_text
from alpagasus_ray.reporting.number_text import money

Summary = Mapping[str, Any]


def bench_lines(report: Summary) -> Iterator[str]:
    """A line for each result, then the differences."""
    results = report["benchmarks"]
    yield f"benchmarks: {report['rows']:,} documents scored in {report['location']}"
    width = max((len(f"{one['benchmark']}, {one['model']}") for one in results), default=0)
    for one in results:
        cost = "" if one["dollars"] is None else f", ${money(one['dollars'])}"
        name = f"{one['benchmark']}, {one['model']}"
        yield (
            f"  {name:<{width}}  {score_text(one['score'])} of {one['rows']:,} documents, {one['shots']} shots, "
            f"{clock(one['seconds'])}{cost}"
        )
    yield from (f"  {in_words(one)}" for one in report["differences"])
    yield from (f"  {note}" for note in report["notes"])


def fetched_lines(report: Summary) -> Iterator[str]:
    """What was written to a folder."""
    yield f"fetched: {report['rows']:,} documents in {report['location']}"
    for one in report["fetched"]:
        yield f"  {one['task']}: " + ", ".join(f"{count:,} {split}" for split, count in one["documents"].items())
    yield from (f"  {note}" for note in report["notes"])
