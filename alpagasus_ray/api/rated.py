"""Records with what a judge gave them, and the choice of the best of them."""

import html
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpagasus_ray.api import scorers
from alpagasus_ray.api.rows import FrameIndex, Record
from alpagasus_ray.api.written import write_lines
from alpagasus_ray.config import Arm
from alpagasus_ray.data.originals import SEPARATOR, TRIPLE
from alpagasus_ray.errors import UsageError
from alpagasus_ray.selection import draws
from alpagasus_ray.selection.cuts import cut_problem, scale_of
from alpagasus_ray.store.run import Manifest, Run, StageDir

Scale = Mapping[str, float | None]
"""`min`, `max` and `step` of ratings."""
SHOWN_ROWS, SHOWN_CHARACTERS = 10, 200
"""What of a table a notebook shows."""
SCORE, REASON, OTHER = "score", "reason", "alpagasus_"
"""Columns that are added to the records; `OTHER` stands before one that the records have themselves."""

NO_EXAMPLE = "no example: the record lacks a text"
"""The reason of a record that nobody can be asked about."""


class Histogram(dict[float, int]):
    """How many records have each score that occurs, from the lowest to the highest. In a notebook it is a picture, which has
    the scores of the `scale` that do not occur as well."""

    def __init__(self, counts: Mapping[float, int] | Iterable[tuple[float, int]] = (), scale: Scale | None = None) -> None:
        super().__init__(counts)
        self.scale = scale

    def svg(self, title: str = "") -> str:
        """The picture as an SVG file."""
        from alpagasus_ray.reporting.charts import histogram_file

        counts = {f"{score:g}": count for score, count in self.items()}
        return histogram_file(counts, counts, title or self._title(), self.scale)

    def _title(self) -> str:
        return f"{sum(self.values()):,} records by score"

    def _repr_html_(self) -> str:
        from alpagasus_ray.reporting.charts import histogram_html

        return histogram_html(self, self._title(), self.scale)


@dataclass(frozen=True)
class Selection:
    """Chosen records, in the order in which they came."""

    records: Sequence[Record]
    scores: Sequence[float]
    by: str = SCORE
    """What they were chosen by, which names the column of `scores`."""
    index: FrameIndex | None = field(default=None, compare=False)
    """Of the pandas table that they came in."""

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        if not self.scores:
            return "Selection(0 records)"
        return f"Selection({len(self):,} records, {self.by} {min(self.scores):g} to {max(self.scores):g})"

    def to_list(self) -> list[Record]:
        """The records as they came, all columns, each with what it was chosen by."""
        name = free(self.by, self.records)
        return [{**record, name: score} for record, score in zip(self.records, self.scores, strict=True)]

    def to_pandas(self) -> Any:
        """The same as a table, with the index of the table that the records came in."""
        return _table(self.to_list(), self.index)

    def to_jsonl(self, path: str | Path) -> Path:
        """Write the same, a JSON object a line: arrays as lists, NaN as null. `UsageError` tells of what JSON cannot hold, an
        image for instance."""
        return write_lines(self.to_list(), path)

    def _repr_html_(self) -> str:
        return f"<p>{len(self):,} records</p>{as_table(self.to_list())}"


@dataclass(frozen=True)
class Rated:
    """Records with what a judge gave them."""

    records: Sequence[Record]
    """As they came, all columns."""
    scores: Sequence[float | None]
    """One for each record; None where there is none, for the reason in `reasons`."""
    reasons: Sequence[str | None]
    """Why a record has no score: a status such as `refused`, with what is known of it; None where it has one."""
    run: Run
    """Where everything is kept; `alpagasus report` makes a page of it."""
    manifest: Manifest
    index: FrameIndex | None = field(default=None, compare=False, repr=False)
    """Of the pandas table that the records came in."""
    spent_usd: float | None = None
    """What this call has spent: 0 where every reply was there, None where no price is known. Of several calls these add up."""

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        cost = "" if self.cost_usd is None else f", ${self.cost_usd:,.4f}"
        if self.spent_usd is not None and self.cost_usd is not None and self.spent_usd != self.cost_usd:
            cost += f" in all, ${self.spent_usd:,.4f} by this call"
        return f"Rated({len(self):,} records, {len(self) - sum(self.unscored.values()):,} with a score{cost})"

    @property
    def unscored(self) -> dict[str, int]:
        """How many records have no score, by reason."""
        return dict(Counter(reason for reason in self.reasons if reason is not None).most_common())

    @property
    def cost_usd(self) -> float | None:
        """What the replies of these rows together have cost when they were bought, in whichever call with the same rows; a
        reply that was bought with other rows counts 0, and one that was bought while no price was known is not in it. None
        where no price is known of any. Not to be added up over calls: `spent_usd` is."""
        return self.manifest.usage.get("cost_usd")

    def histogram(self) -> Histogram:
        """How many records have each score."""
        counts = sorted(Counter(score for score in self.scores if score is not None).items())
        return Histogram(counts, self.manifest.settings.get("rubric", {}).get("scale"))

    def to_list(self) -> list[Record]:
        """All records as they came, each with its `score` and, where there is none, its `reason`; `alpagasus_score` and
        `alpagasus_reason` where the records have columns of these names."""
        score_name, reason_name = free(SCORE, self.records), free(REASON, self.records)
        return [
            {**record, score_name: score, reason_name: reason}
            for record, score, reason in zip(self.records, self.scores, self.reasons, strict=True)
        ]

    def to_pandas(self) -> Any:
        """The same as a table; of rows that came in one, with its index: `df["score"] = rated.to_pandas()["score"]` fits."""
        return _table(self.to_list(), self.index)

    def _repr_html_(self) -> str:
        without = "".join(f"<li>{count:,} without a score: {html.escape(why)}</li>" for why, count in self.unscored.items())
        head = f"<p>{html.escape(repr(self))}</p><ul>{without}</ul>"
        return head + self.histogram()._repr_html_() + as_table(self.to_list())

    def pick(
        self,
        *,
        top: int | None = None,
        threshold: float | None = None,
        share: float | None = None,
        by: str = SCORE,
        per: str | None = None,
    ) -> Selection:
        """The best records: `top` of them, those from `threshold` on, or a `share` of those with a score; `by` the judge's
        score or a scorer of one's own (`scorer`); with `per` so many of each value of that column. Ties at the cut are drawn by
        a fixed seed. Raises `UsageError` where not exactly one is given, there are not so many with a score, nothing would be
        chosen, or a threshold is none of the judge's scores."""
        given = [name for name, value in (("top", top), ("threshold", threshold), ("share", share)) if value is not None]
        if len(given) != 1:
            raise UsageError(f"pick takes exactly one of top, threshold and share; given: {', '.join(given) or 'none'}")
        if top is not None and top < 1:
            raise UsageError(f"pick(top={top}): give the number of records to take, at least 1")
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"pick(share={share}): give a part of all, above 0 and at most 1")
        if per is not None and not any(per in record for record in self.records):
            raise UsageError(f"pick(per={per!r}): no record has that column; there are: {', '.join(map(str, self.records[0]))}")
        if threshold is not None:
            self._check_threshold(threshold, by)
        scores = self.scores if by == SCORE else scorers.named(by).of(self.records)
        groups: dict[Any, dict[int, float]] = {}
        for number, (record, score) in enumerate(zip(self.records, scores, strict=True)):
            if score is not None:
                groups.setdefault(record.get(per) if per else None, {})[number] = score
        if threshold is not None:
            chosen = [number for group in groups.values() for number, score in group.items() if score >= threshold]
        else:
            where = {value: f" of {per} = {value!r}" if per else "" for value in groups}
            chosen = [number for value, group in groups.items() for number in _best(group, top, share, where[value])]
        if not chosen:
            highest = max((score for score in scores if score is not None), default=None)
            best = "no record has one" if highest is None else f"the highest {by} is {highest:g}"
            wanted = next(value for value in (top, threshold, share) if value is not None)
            raise UsageError(f"pick({given[0]}={wanted:g}) would be empty ({best})")
        chosen.sort()
        index = self.index.take(chosen) if self.index else None
        return Selection([self.records[n] for n in chosen], [float(scores[n] or 0.0) for n in chosen], by, index)

    def _check_threshold(self, threshold: float, by: str) -> None:
        """What `pick` of the command refuses as well: a cut that means nothing on the scale of the ratings."""
        if not math.isfinite(threshold):
            raise UsageError(f"pick(threshold={threshold}): give a number")
        known = scale_of(self.manifest.settings)
        if by != SCORE or known is None:
            return
        scale, steps = known
        # of ratings with expected scores those are what a record has, and they lie between the steps
        steps = steps and all(scale.holds(score) for score in self.scores if score is not None)
        arm = Arm(name="selected", policy="threshold", threshold=threshold, out_of=scale.max)
        if problem := cut_problem(arm, threshold, scale, steps=steps):
            raise UsageError(f"pick(threshold={threshold:g}) {problem}")


def _best(scores: Mapping[int, float], top: int | None, share: float | None, where: str) -> list[int]:
    """The numbers of the best records of a group."""
    wanted = top if top is not None else round((share or 0.0) * len(scores))
    if wanted > len(scores):
        raise UsageError(f"pick(top={wanted}): {len(scores)} records{where} have a score")
    ties = dict(zip(scores, draws.seeded_hashes([str(number) for number in scores], "ties", 0).tolist(), strict=True))
    return sorted(scores, key=lambda number: (-scores[number], ties[number]))[:wanted]


def rated_of(run: Run, name: str, manifest: Manifest, records: Sequence[Record] | None = None) -> Rated:
    """The ratings of a run, by the record that each example comes from; a record without an example has a reason as well.
    Without `records` they are those that the run's examples keep."""
    examples = table_of(run.examples())
    ratings = {row["example_id"]: row for row in table_of(run.ratings(name))}
    numbers = range(len(examples)) if records is None else [row["row"] for row in examples]
    records = [record_of(row) for row in examples] if records is None else records
    scores: list[float | None] = [None] * len(records)
    reasons: list[str | None] = [NO_EXAMPLE] * len(records)
    for number, example in zip(numbers, examples, strict=True):
        rating = ratings[example["example_id"]]
        value = rating["expected_score"] if rating["expected_score"] is not None else rating["score"]
        scores[number] = value
        reasons[number] = None if value is not None else f"{rating['status']}: {rating['error']}"
    return Rated(records, scores, reasons, run, manifest)


def record_of(example: Mapping[str, Any]) -> Record:
    """The record that an example came from, where that is one; else its own columns."""
    text = example.get("record")
    if text and SEPARATOR not in text:
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {key: example[key] for key in (*TRIPLE, "category") if key in TRIPLE or example.get(key) is not None}


def table_of(stage: StageDir) -> list[Record]:
    """All rows of a finished stage."""
    return [row for table in stage.tables(stage.finished()) for row in table.to_pylist()]


def _table(rows: list[Record], index: FrameIndex | None) -> Any:
    """Rows as a pandas table; the names of its index are no columns beside it."""
    import pandas as pd

    if index is None:
        return pd.DataFrame(rows)
    return pd.DataFrame(rows, index=index.labels).drop(columns=list(index.columns))


def free(name: str, records: Sequence[Record]) -> str:
    """A name for a column that none of the records has."""
    while any(name in record for record in records):
        name = f"{OTHER}{name}"
    return name


def as_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The first rows as a table of HTML, long texts cut."""
    shown = list(rows)
    columns = list(dict.fromkeys(key for row in shown[:SHOWN_ROWS] for key in row))
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(_cell(row.get(column)) for column in columns)}</tr>" for row in shown[:SHOWN_ROWS])
    more = f"<p>and {len(shown) - SHOWN_ROWS:,} more</p>" if len(shown) > SHOWN_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    cut = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return f"<td>{html.escape(cut)}</td>"
