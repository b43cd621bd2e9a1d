"""A judge as a step of somebody's own Ray Data pipeline."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from alpagasus_ray.api.rated import NO_EXAMPLE, REASON, SCORE, Rated, free
from alpagasus_ray.api.rating import cache, cached, carry_out, settings
from alpagasus_ray.api.rows import Record, given, listed, records_of
from alpagasus_ray.data import formats
from alpagasus_ray.errors import RunLocked, UsageError

ACROSS = ("max_cost_usd", "requests_per_minute", "tokens_per_minute")
"""Knobs of `score` that only one driver for all rows can keep."""
WAIT_S = 0.2


class Rater:
    """Rates the batches that Ray Data gives it: `ds.map_batches(ag.Rater(judge="…"), concurrency=4)`.

    Each batch comes back with the columns `score` (a float, NaN where there is none) and `reason` (why there is none); they are
    `alpagasus_score` and `alpagasus_reason` where the rows have columns of these names. Replies are kept below `folder`
    (default as for `rate`), so that a row that an earlier batch has rated is not paid for again; batches that are rated at the
    same time do not see each other's replies. On several machines it has to be a folder that all of them reach, for instance
    `s3://…`. `knobs` are those of `rate`; `concurrency` is that of each process. Limits for all rows together, such
    as a cap on dollars, are for `ag.rate(ds, …)`, whose driver sees all rows: `UsageError`.
    """

    def __init__(
        self,
        judge: str | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
        **knobs: Any,
    ) -> None:
        for knob in ACROSS:
            if knob in knobs:
                raise UsageError(
                    f"{knob} = {knobs[knob]!r}: a Rater sees its own batches only, and cannot keep it for all rows; "
                    f"ag.rate(ds, {knob}=…) can"
                )
        self._columns = dict(columns or {})
        self._asked = settings(judge, self._columns, knobs)
        if self._asked.score.judge.in_job:
            raise UsageError("a Rater asks a server; ag.rate(ds, kind='vllm', …) runs the model on the cluster's GPUs")
        self._folder = str(folder) if folder is not None else cache()
        self.__name__ = type(self).__name__  # Ray Data names the step by it

    def __repr__(self) -> str:
        judge = self._asked.score.judge
        return f"Rater({judge.model or judge.kind!r}, folder={self._folder!r})"

    def __call__(self, batch: Any) -> Any:
        """Rate a batch: columns as arrays, a pandas table or an Arrow table; the same comes back, with two more columns."""
        records = _records(batch)
        if not records:
            return batch
        scores = np.full(len(records), np.nan)
        reasons = np.full(len(records), NO_EXAMPLE, dtype=object)
        # one row without a text is no reason to end a pipeline, even where it is a batch of its own
        sound = [number for number, record in enumerate(records) if not self._lacks_text(record)]
        if sound:
            rated = self._rate([records[number] for number in sound])
            scores[sound] = [np.nan if score is None else score for score in rated.scores]
            reasons[sound] = rated.reasons
        return _with_columns(batch, {free(SCORE, records): scores, free(REASON, records): reasons})

    def _lacks_text(self, record: Record) -> bool:
        layout = formats.detect(record)
        if layout is None and not self._columns:
            return False  # the columns are told as unknown
        try:
            formats.reader(layout or "", self._columns, "first")(record)
        except formats.NoExample:
            return True
        return False

    def _rate(self, records: Sequence[Record]) -> Rated:
        rows = given(records, self._columns)
        place = cached(rows, self._asked, self._folder)
        while True:
            try:
                return carry_out(rows, self._asked, place, spread=False)
            except RunLocked:  # an equal batch is being rated by another process
                time.sleep(WAIT_S)


def _records(batch: Any) -> list[Record]:
    if isinstance(batch, Mapping):
        lists = {name: values.tolist() if hasattr(values, "tolist") else list(values) for name, values in batch.items()}
        columns = listed(lists)
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return records_of(batch)


def _with_columns(batch: Any, added: Mapping[str, Any]) -> Any:
    """The batch with columns of numbers (NaN) and of texts (None) behind its own."""
    if isinstance(batch, Mapping):
        return {**batch, **added}
    if isinstance(batch, pa.Table):
        for name, values in added.items():
            batch = batch.append_column(name, pa.array(values, pa.string() if values.dtype == object else None))
        return batch
    import pandas as pd

    # the column of an array would be one of pandas' texts, in which None is NaN
    return batch.assign(**{name: pd.Series(values, index=batch.index, dtype=values.dtype) for name, values in added.items()})
