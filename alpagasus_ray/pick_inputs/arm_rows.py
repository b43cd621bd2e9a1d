"""The rows of an arm as it is written: the kept ones with their scores, and the others with the reason of each.

Shard by shard: of all rows no more than a few are in memory.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from alpagasus_ray.data.schema import DROPPED, EXAMPLES, SUBSET, conformed
from alpagasus_ray.pick_inputs.cleaning import Cleaned
from alpagasus_ray.pick_inputs.columns import WHOSE, Loaded
from alpagasus_ray.selection.policies import Choice
from alpagasus_ray.store.run import Run


def whose_scores(loaded: Loaded, choice: Choice) -> dict[str, Any]:
    """Of ratings by a cascade: how many rows were kept by whose score."""
    if loaded.chosen_by is None:
        return {}
    rows = np.bincount(loaded.chosen_by[choice.kept], minlength=len(WHOSE)).tolist()
    return {"chosen_by": dict(zip(WHOSE, rows, strict=True))}


def schema(loaded: Loaded) -> pa.Schema:
    """Of the kept rows."""
    return SUBSET if loaded.chosen_by is None else SUBSET.append(pa.field("chosen_by", pa.string()))


def kept_tables(run: Run, loaded: Loaded, choice: Choice) -> Iterator[pa.Table]:
    """The kept examples with their scores, a table for each shard of examples."""
    examples = run.examples()
    start = 0
    for table in examples.tables(examples.finished()):
        here, scored = slice(start, start + len(table)), conformed(table, EXAMPLES)
        for field, values in (("score", loaded.columns.score), ("expected_score", loaded.columns.expected)):
            scored = scored.append_column(field, pa.array(values[here], from_pandas=True))
        if loaded.chosen_by is not None:
            scored = scored.append_column("chosen_by", pa.array(np.array(WHOSE)[loaded.chosen_by[here]]))
        yield scored.drop_columns("record").filter(pa.array(choice.kept[here]))
        start = here.stop


def dropped_tables(run: Run, loaded: Loaded, choice: Choice, cleaned: Cleaned | None, *, by_score: bool) -> Iterator[pa.Table]:
    """The rows that were left out with the reason of each, a table for each shard of examples. `by_score`: whether the arm goes
    by scores, so that a row without one is left out for that."""
    reasons = _Reasons(run, loaded, choice, cleaned, by_score=by_score)
    stage, start = run.examples(), 0
    for table in stage.tables(stage.finished(), ["example_id", "duplicate_of"]):
        rows = np.flatnonzero(~choice.kept[start : start + len(table)])
        dropped = table.take(pa.array(rows)).to_pydict()
        rows += start
        told = [reasons.of(int(row), earlier) for row, earlier in zip(rows, dropped["duplicate_of"], strict=True)]
        score = pa.array(loaded.columns.score[rows], from_pandas=True)
        yield pa.table({"example_id": dropped["example_id"], "score": score, "reason": told}, schema=DROPPED)
        start += len(table)


class _Reasons:
    """Why rows were dropped."""

    def __init__(self, run: Run, loaded: Loaded, choice: Choice, cleaned: Cleaned | None, *, by_score: bool) -> None:
        self._loaded, self._reason, self._by_score = loaded, choice.reason, by_score
        self._hits = {hit.row: hit.reason for hit in reversed(cleaned.hits)} if cleaned else {}
        repeated = cleaned.repeated if cleaned else {}
        ids = ids_of(run, repeated.values()) if repeated else {}
        self._near = {row: ids[better] for row, better in repeated.items()}

    def of(self, row: int, earlier: str | None) -> str:
        """The reason of one row, which repeats an `earlier` one or none."""
        if row in self._hits:
            return self._hits[row]
        if earlier and self._loaded.repeats[row]:
            return f"an exact duplicate of {earlier}"
        if row in self._near:
            return f"nearly repeats {self._near[row]}, which is rated no lower"
        if self._by_score and np.isnan(self._loaded.columns.score[row]):
            return f"no score: {self._loaded.statuses[self._loaded.status[row]]}"
        return self._reason


def ids_of(run: Run, numbers: Iterable[int]) -> dict[int, str]:
    """The ids of some rows, by their numbers."""
    wanted, stage, start, ids = np.unique(np.fromiter(numbers, dtype=np.int64)), run.examples(), 0, dict[int, str]()
    for table in stage.tables(stage.finished(), ["example_id"]):
        first, last = np.searchsorted(wanted, [start, start + len(table)])
        own = wanted[first:last]
        ids |= zip(own.tolist(), table["example_id"].take(pa.array(own - start)).to_pylist(), strict=True)
        start += len(table)
    return ids
