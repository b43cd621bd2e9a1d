"""Ratings that somebody already has, as an engine: each row's rating is looked up and returned as a reply.

Three kinds of file: a table (CSV, JSON, JSON lines, Parquet) with `score` and `example_id`; the same with `index`, the number
of the row in the source from 0; and the AlpaGasus release format, a list of objects with `triplet`, `review` and `score`,
which is joined by the triplet's text (gpt4life/alpagasus `rating/chatgpt_rating.py` writes it). Never by position.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.data import readers
from alpagasus_ray.data.readers import Record
from alpagasus_ray.engines.base import Rate, Reply, Request
from alpagasus_ray.errors import InputError, RowRefused, UsageError

TRIPLET = "###Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n{output}\n\n"
"""How the release writes an example; the text is its join key, so it is kept to the letter."""


class RecordedEngine:
    """Looks ratings up; `by` says whether keys are example ids, row numbers or triplets."""

    address = "the file of ratings"
    stated = Rate()

    def __init__(self, by: str, replies: Mapping[str, str], scores: Mapping[float, str]) -> None:
        self._by, self._replies, self.scores = by, replies, scores
        """`scores`: every different score of the file, and the place where it stands first."""

    @classmethod
    def open(cls, path: str, columns: Mapping[Any, str]) -> "RecordedEngine":
        """Read a file of ratings; `columns` gives the file's names for `index`, `example_id` and `score`."""
        replies: dict[str, str] = {}
        scores: dict[float, str] = {}
        by = ""
        for file in readers.expand(path):
            for record in readers.records(file):
                by = by or _key_kind(file.path, record, columns)
                key, reply = _entry(file.path, record, by, columns)
                if (score := _number(record, reply, by, columns)) is not None:
                    scores.setdefault(score, f"{file.path}, {record.place}")
                # the same example twice in a release may have two reviews; the same row or id may not have two ratings
                if replies.setdefault(key, reply) != reply and by != "triplet":
                    raise InputError(file.path, record.place, f"a second, different rating for {by} {key[:60]!r}")
        return cls(by, replies, scores)

    def check(self, least: float, most: float) -> None:
        """Refuse a file with scores beyond these ends: a row that is too good for the scale would be a row without a score."""
        beyond = [score for score in self.scores if not least <= score <= most]
        if beyond:
            low, high = min(self.scores), max(self.scores)
            raise UsageError(
                f"score.judge.ratings: the scores go from {low:g} to {high:g}, and the scale is {least:g} to {most:g} "
                f"({beyond[0]:g} stands in {self.scores[beyond[0]]}). Name the scale that they were given on by "
                f"score.judge.scale, e.g. --set 'score.judge.scale={{min: {math.floor(low)}, max: {math.ceil(high)}}}'"
            )

    async def complete(self, request: Request) -> Reply:
        row = request.row
        keys = {"example_id": row["example_id"], "index": str(row["row"])}
        key = keys.get(self._by) or TRIPLET.format_map(row)
        reply = self._replies.get(key)
        if reply is None:
            raise RowRefused("not recorded", f"the file has no rating for this example (looked up by {self._by})")
        return Reply(reply)


def _key_kind(path: str, record: Record, columns: Mapping[Any, str]) -> str:
    fields = record.data or {}
    if "triplet" in fields and ("review" in fields or "score" in fields):
        return "triplet"
    score = columns.get("score", "score")
    for by in ("example_id", "index"):
        if columns.get(by, by) in fields and score in fields:
            return by
    needs = f"`{score}`, and `{columns.get('example_id', 'example_id')}` or `{columns.get('index', 'index')}`"
    fix = "name them by score.judge.columns, e.g. '{index: alpaca_index, score: gpt-4o-mini}'"
    raise InputError(path, record.place, f"ratings need {needs}; the fields are {', '.join(fields)}; {fix}")


def _entry(path: str, record: Record, by: str, columns: Mapping[Any, str]) -> tuple[str, str]:
    """Join key and reply text of one record."""
    fields = record.data
    place = record.place
    if fields is None:
        raise InputError(path, place, record.problem)
    try:
        if by == "triplet":
            return str(fields["triplet"]), "\n".join(_release_reply(fields))
        value = fields[columns.get("score", "score")]
        key = fields[columns.get(by, by)]
    except KeyError as missing:
        raise InputError(path, place, f"no {missing} in this record") from None
    return _index(path, place, key) if by == "index" else str(key), "" if value is None else str(value)


def _number(record: Record, reply: str, by: str, columns: Mapping[Any, str]) -> float | None:
    """The score of a record as a number; of a release without one, what stands alone on the review's first line."""
    fields = record.data or {}
    given = fields.get("score" if by == "triplet" else columns.get("score", "score"))
    try:
        found = float(str(given if given is not None else reply.partition("\n")[0]))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _release_reply(fields: Mapping[str, Any]) -> Iterator[str]:
    """The review as it was received; the number alone where the review is not there."""
    if fields.get("review"):
        yield str(fields["review"])
    elif fields.get("score") is not None:
        yield str(fields["score"])


def _index(path: str, place: str, value: object) -> str:
    number = str(value).strip().removesuffix(".0")
    if number.isdecimal():
        return str(int(number))
    raise InputError(path, place, f"index {value!r} is not a row number")
