"""Marks that are taken to be right: what people say that examples deserve. Pure: records in, marks out.

A record has `example_id` and `score`, what the example deserves; `out_of` says where its scale ends, and may be left out where
all ratings of the run are on one scale. The report's page exports such a file of the ratings that were marked as wrong:
`example_id,score,judged,mark,comment`, where `judged` is what the judge gave and `mark` is `wrong rating`: these were chosen
for being wrong, and do not say how often a judge is right. People's ratings come as `example_id,voter,score,out_of,drawn`,
where `drawn` is `random` or `near the cut`; what was chosen for being near the cut is no sample either.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.errors import InputError
from alpagasus_ray.judging.rubric import Scale

WRONG = "wrong rating"
RANDOM, NEAR = DRAWN = "random", "near the cut"
COLUMNS = ("example_id", "score", "judged", "mark", "comment", "voter", "out_of", "drawn")
"""All columns that such a file may have; the first two it must have."""


class GoldMark(NamedTuple):
    """What one example deserves, by whom it was said and why."""

    example_id: str
    score: float
    voter: str = ""
    comment: str = ""
    chosen: bool = False
    """Whether the example was marked because its rating is wrong; such marks are no sample of the ratings."""
    out_of: float = 5.0
    """The end of the scale that the mark is on."""
    near: bool = False
    """Whether the example was chosen for being near the cut; such marks are no sample of the ratings either."""


def gold_marks(
    records: Iterable[tuple[str, Mapping[str, Any]]], file: str, scales: Sequence[Scale], known: Collection[str] | None = None
) -> list[GoldMark]:
    """The marks of a file, in its order; `records` are places in it, for messages, with what stands there. `scales` are those
    of the run's ratings; a mark may say that it is on another.

    Raises InputError for a column of another name, an example that is none of `known`, a score that its scale does not have,
    one whose scale cannot be known, a mark of another kind, and for two marks of one voter on one example.
    """
    marks: dict[tuple[str, str], GoldMark] = {}
    for place, record in records:
        mark = _mark(record, file, place, scales)
        if known is not None and mark.example_id not in known:
            raise InputError(file, place, f"the run has no example {mark.example_id!r}; give marks of this run's examples")
        if (mark.example_id, mark.voter) in marks:
            raise InputError(file, place, f"{mark.example_id!r} is marked twice; leave one of the two marks out")
        marks[mark.example_id, mark.voter] = mark
    return list(marks.values())


def _mark(record: Mapping[str, Any], file: str, place: str, scales: Sequence[Scale]) -> GoldMark:
    if odd := [str(name) for name in record if name not in COLUMNS]:
        raise InputError(file, place, f"no column is called {', '.join(odd)}; columns can be {', '.join(COLUMNS)}")
    example_id, kind = _text(record, "example_id"), _text(record, "mark")
    if not example_id:
        raise InputError(file, place, "there is no `example_id`; name the example that the mark is about")
    if kind not in ("", WRONG):
        raise InputError(file, place, f"the mark is {kind!r}; write {WRONG!r}, or leave it empty")
    if (drawn := _text(record, "drawn")) not in ("", *DRAWN):
        raise InputError(file, place, f"`drawn` is {drawn!r}; write {' or '.join(map(repr, DRAWN))}, or leave it empty")
    scale = _scale(record, file, place, scales)
    said = _text(record, "voter"), _text(record, "comment")
    return GoldMark(example_id, _score(record, file, place, scale), *said, kind == WRONG, scale.max, drawn == NEAR)


def _scale(record: Mapping[str, Any], file: str, place: str, scales: Sequence[Scale]) -> Scale:
    """The scale that a mark is on."""
    said = _text(record, "out_of")
    fit = [scale for scale in scales if not said or _number(said) == scale.max]
    if not said and len({(scale.min, scale.max) for scale in fit}) > 1:
        there = ", ".join(sorted({f"{scale.min:g} to {scale.max:g}" for scale in fit}))
        raise InputError(
            file,
            place,
            f"the ratings are on several scales ({there}), and the mark does not say which of them it is on; add a column "
            "`out_of` with the end of its scale, or name ratings of one scale in card.ratings",
        )
    if fit:
        return min(fit, key=lambda scale: scale.min)
    if not (most := _number(said)) > 0:
        raise InputError(file, place, f"`out_of` is {said!r}; write the number that the mark's scale ends at, such as 10")
    return Scale(max=most, step=None)


def _number(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        return math.nan


def _score(record: Mapping[str, Any], file: str, place: str, scale: Scale) -> float:
    said = _text(record, "score")
    score = _number(said)
    if not scale.holds(score):
        raise InputError(file, place, f"`score` is {said!r}; write what the example deserves, from {scale}")
    return score


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return "" if value is None else str(value).strip()
