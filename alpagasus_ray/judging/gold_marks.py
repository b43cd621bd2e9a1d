"""Marks that are taken to be right: what people say that examples deserve. Pure: records in, marks out.

A record has `example_id` and `score`, what the example deserves on the judge's scale. The report's page exports such a file of
the ratings that were marked as wrong: `example_id,score,judged,mark,comment`, where `judged` is what the judge gave and `mark`
is `wrong rating`: these were chosen for being wrong, and do not say how often a judge is right. People's ratings come as
`example_id,voter,score`.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from alpagasus_ray.errors import InputError
from alpagasus_ray.judging.rubric import Scale

WRONG = "wrong rating"
COLUMNS = ("example_id", "score", "judged", "mark", "comment", "voter")
"""All columns that such a file may have; the first two it must have."""


class GoldMark(NamedTuple):
    """What one example deserves, by whom it was said and why."""

    example_id: str
    score: float
    voter: str = ""
    comment: str = ""
    chosen: bool = False
    """Whether the example was marked because its rating is wrong; such marks are no sample of the ratings."""


def gold_marks(
    records: Iterable[tuple[str, Mapping[str, Any]]], file: str, scale: Scale, known: Collection[str] | None = None
) -> list[GoldMark]:
    """The marks of a file, in its order; `records` are places in it, for messages, with what stands there.

    Raises InputError for a column of another name, an example that is none of `known`, a score that the scale does not have, a
    mark of another kind, and for two marks of one voter on one example.
    """
    marks: dict[tuple[str, str], GoldMark] = {}
    for place, record in records:
        mark = _mark(record, file, place, scale)
        if known is not None and mark.example_id not in known:
            raise InputError(file, place, f"the run has no example {mark.example_id!r}; give marks of this run's examples")
        if (mark.example_id, mark.voter) in marks:
            raise InputError(file, place, f"{mark.example_id!r} is marked twice; leave one of the two marks out")
        marks[mark.example_id, mark.voter] = mark
    return list(marks.values())


def _mark(record: Mapping[str, Any], file: str, place: str, scale: Scale) -> GoldMark:
    if odd := [str(name) for name in record if name not in COLUMNS]:
        raise InputError(file, place, f"no column is called {', '.join(odd)}; columns can be {', '.join(COLUMNS)}")
    example_id, kind = _text(record, "example_id"), _text(record, "mark")
    if not example_id:
        raise InputError(file, place, "there is no `example_id`; name the example that the mark is about")
    if kind not in ("", WRONG):
        raise InputError(file, place, f"the mark is {kind!r}; write {WRONG!r}, or leave it empty")
    score = _score(record, file, place, scale)
    return GoldMark(example_id, score, _text(record, "voter"), _text(record, "comment"), chosen=kind == WRONG)


def _score(record: Mapping[str, Any], file: str, place: str, scale: Scale) -> float:
    said = _text(record, "score")
    try:
        score = float(said)
    except ValueError:
        score = math.nan
    if not scale.holds(score):
        raise InputError(file, place, f"`score` is {said!r}; write what the example deserves, from {scale}")
    return score


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return "" if value is None else str(value).strip()
