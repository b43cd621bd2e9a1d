"""The Python interface: rate examples with a judge, look at the ratings, pick the best, and take the records along.

    import alpagasus_ray as ag
    rated = ag.rate(rows, judge="gpt-4o-mini", max_cost_usd=5)
    best = rated.pick(top=1000)
    best.to_jsonl("best.jsonl")

It is the code of the jobs: the same worker, ledger, limits, retries and cap. By default everything happens in
this process, and no Ray is started.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from alpagasus_ray.config import Ingest, Judge, Score, digest
from alpagasus_ray.errors import UsageError
from alpagasus_ray.selection import draws
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import Manifest, Run

CACHE = "ALPAGASUS_CACHE"
"""The variable that names the folder where ratings are kept whose `run` is not given."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """Chosen records, in the order in which they came."""

    records: Sequence[Record]
    scores: Sequence[float]

    def __len__(self) -> int:
        return len(self.records)

    def to_list(self) -> list[Record]:
        """The records as they came, each with its `score`."""
        return [{**record, "score": score} for record, score in zip(self.records, self.scores, strict=True)]

    def to_pandas(self) -> Any:
        """The same as a table."""
        import pandas as pd

        return pd.DataFrame(self.to_list())

    def to_jsonl(self, path: str | Path) -> Path:
        """Write the same, a JSON object a line."""
        target = Path(path)
        target.write_text(
            "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in self.to_list()), encoding="utf-8"
        )
        return target


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

    def __len__(self) -> int:
        return len(self.records)

    @property
    def unscored(self) -> dict[str, int]:
        """How many records have no score, by reason."""
        return dict(Counter(reason for reason in self.reasons if reason is not None).most_common())

    @property
    def cost_usd(self) -> float:
        """What the replies have cost, over all calls."""
        return float(self.manifest.usage.get("cost_usd", 0.0))

    def histogram(self) -> dict[float, int]:
        """How many records have each score, from the lowest to the highest."""
        return dict(sorted(Counter(score for score in self.scores if score is not None).items()))

    def to_list(self) -> list[Record]:
        """All records as they came, each with its `score` and, where there is none, its `reason`."""
        return [
            {**record, "score": score, "reason": reason}
            for record, score, reason in zip(self.records, self.scores, self.reasons, strict=True)
        ]

    def to_pandas(self) -> Any:
        """The same as a table."""
        import pandas as pd

        return pd.DataFrame(self.to_list())

    def pick(
        self, *, top: int | None = None, threshold: float | None = None, share: float | None = None, per: str | None = None
    ) -> Selection:
        """The best records: `top` of them, those from `threshold` on, or a `share` of all; with `per` so many of each value of
        that column. Ties at the cut are drawn by a fixed seed. Raises `UsageError` where not exactly one is given, or there
        are not so many with a score."""
        given = [name for name, value in (("top", top), ("threshold", threshold), ("share", share)) if value is not None]
        if len(given) != 1:
            raise UsageError(f"pick takes exactly one of top, threshold and share; given: {', '.join(given) or 'none'}")
        if top is not None and top < 1:
            raise UsageError(f"pick(top={top}): give the number of records to take, at least 1")
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"pick(share={share}): give a part of all, above 0 and at most 1")
        if per is not None and not any(per in record for record in self.records):
            raise UsageError(f"pick(per={per!r}): no record has that column")
        groups: dict[Any, list[int]] = {}
        for number, record in enumerate(self.records):
            if self.scores[number] is not None:
                groups.setdefault(record.get(per) if per else None, []).append(number)
        chosen = sorted(number for group in groups.values() for number in self._best(group, top, threshold, share))
        return Selection([self.records[n] for n in chosen], [float(self.scores[n] or 0.0) for n in chosen])

    def _best(self, numbers: Sequence[int], top: int | None, threshold: float | None, share: float | None) -> list[int]:
        if threshold is not None:
            return [number for number in numbers if float(self.scores[number] or 0.0) >= threshold]
        wanted = top if top is not None else round((share or 0.0) * len(numbers))
        if wanted > len(numbers):
            raise UsageError(f"pick(top={wanted}): {len(numbers)} records have a score")
        ties = dict(zip(numbers, draws.seeded_hashes([str(number) for number in numbers], "ties", 0).tolist(), strict=True))
        return sorted(numbers, key=lambda number: (-float(self.scores[number] or 0.0), ties[number]))[:wanted]


def rate(
    rows: Any,
    judge: str | None = None,
    *,
    run: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    max_cost_usd: float | None = None,
    ray: bool = False,
    **knobs: Any,
) -> Rated:
    """Rate examples with a judge, and return once each has a score or a reason why it has none.

    `rows`: a list of dictionaries, a pandas table, a Hugging Face dataset, or what `ingest.source` takes (a path, `s3://…`,
    `hf:…`); `columns` says which hold instruction, input and output where they have other names. `judge` is the model that an
    OpenAI-compatible server knows; further `knobs` are those of `score.judge` (`base_url`, `rubric`, `kind`, `temperature`, …)
    and of `score` (`concurrency`, `requests_per_minute`, …).

    Replies are kept in `run`, or without one in a folder below `$ALPAGASUS_CACHE` (default `~/.cache/alpagasus-ray`) that the
    rows name: the same rows are never paid for twice with the same judge and rubric. With `ray` the work is spread over the
    Ray cluster that `RAY_ADDRESS` names; a model in the job (`kind="vllm"`) always is.

    Raises `UsageError` for what cannot be asked, `StageFailed` where too much failed, `BudgetReached` at the cap; what was
    paid for is kept, and the same call goes on.

    >>> rated = rate([{"instruction": "Name a fruit.", "output": "An apple."}], kind="rules")
    >>> len(rated), rated.unscored
    (1, {})
    """
    source, records = _source(rows)
    opened = Run.open(str(run) if run is not None else _cached(source, records, columns))
    try:
        asked = Judge.model_validate(
            {"model": judge, **{key: knobs.pop(key) for key in list(knobs) if key in Judge.model_fields}}
        )
        name = "judge" if run is not None else f"judge-{digest(asked.model_dump(mode='json'))[:12]}"
        config = Score.model_validate({**knobs, "name": name, "judge": asked, "max_cost_usd": max_cost_usd})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise UsageError(
            f"rate: {'; '.join(problems)}. The knobs are those of `score` (alpagasus score RUN --help-all)"
        ) from None
    with lock.held(opened) as held:
        reading = Ingest(source=source or _written(held, records or []), name="rows", columns=dict(columns or {}))  # type: ignore[arg-type]
        ingest(reading, held)
        manifest = score(config, held, in_process=not ray and not asked.in_job)
    return _rated(opened, name, manifest, records)


def _source(rows: Any) -> tuple[str | None, list[Record] | None]:
    """A location, or the records themselves."""
    if isinstance(rows, str | Path):
        return str(rows), None
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):
        return None, rows.to_dict(orient="records")
    if isinstance(rows, Iterable):
        records = [dict(row) for row in rows]
        if records:
            return None, records
    raise UsageError(f"rate: {type(rows).__name__} holds no rows; give dictionaries, a table, a dataset or a path")


def _cached(source: str | None, records: Sequence[Record] | None, columns: Mapping[str, str] | None) -> str:
    """The folder of these rows; a location is known by its name, and refused by `ingest` where its files have changed."""
    folder = os.environ.get(CACHE) or str(Path.home() / ".cache" / "alpagasus-ray")
    content = _lines(records) if records is not None else str(source)
    return str(Path(folder) / "rated" / digest([content, sorted((columns or {}).items())])[:24])


def _lines(records: Sequence[Record]) -> str:
    return "".join(orjson.dumps(record, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n" for record in records)


def _written(run: Run, records: Sequence[Record]) -> str:
    """The records as a file of the run, for `ingest` to read."""
    content = _lines(records)
    place, name = run.storage.at("source"), f"{digest(content)[:16]}.jsonl"
    # named by what it holds: other rows in the same run are refused, and must not take the place of the first
    if not place.exists(name):
        place.write(name, content.encode())
    return place.path(name)


def _rated(run: Run, name: str, manifest: Manifest, records: Sequence[Record] | None) -> Rated:
    """Ratings by the record that each example comes from; a record without an example has a reason as well."""
    examples, ratings = _table(run.examples(), "ingest"), {row["example_id"]: row for row in _table(run.ratings(name), "score")}
    if records is None:
        records = [{key: row[key] for key in ("instruction", "input", "output", "category")} for row in examples]
        numbers = list(range(len(examples)))
    else:
        numbers = [row["row"] for row in examples]
    scores: list[float | None] = [None] * len(records)
    reasons: list[str | None] = ["no example: the record lacks a text"] * len(records)
    for number, example in zip(numbers, examples, strict=True):
        rating = ratings[example["example_id"]]
        value = rating["expected_score"] if rating["expected_score"] is not None else rating["score"]
        scores[number] = value
        reasons[number] = None if value is not None else f"{rating['status']}: {rating['error']}"
    return Rated(records, scores, reasons, run, manifest)


def _table(stage: Any, job: str) -> list[Record]:
    parts = stage.finished(job).parts()
    return [row for entry in parts for row in stage.table(entry.name, entry.sha256).to_pylist()]
