"""The rows that people hand in, whatever holds them: as a list of records, or as a location that `ingest` reads."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from alpagasus_ray.data import formats
from alpagasus_ray.errors import UsageError

Record = dict[str, Any]
KINDS = "a list of dictionaries, a pandas or Arrow table, a Hugging Face or Ray dataset, or a path"


class FrameIndex(NamedTuple):
    """The index of a pandas table, which its results have as well: a column that is assigned from one to the other fits."""

    labels: Any
    """The pandas index."""
    columns: tuple[Any, ...]
    """Its names, where it has some that no column of the table has: they are columns of the records."""

    @classmethod
    def of(cls, frame: Any) -> "FrameIndex":
        names = dict.fromkeys(name for name in frame.index.names if name is not None and name not in frame.columns)
        return cls(frame.index, tuple(names))

    def take(self, rows: Sequence[int]) -> "FrameIndex":
        """That of some rows, by their places."""
        return FrameIndex(self.labels.take(list(rows)), self.columns)


class Given(NamedTuple):
    """Rows as they were handed in."""

    source: str | None
    """A location; then `records` is empty."""
    records: list[Record]
    is_distributed: bool
    """Whether they came from a cluster, on which they are rated."""
    order: Sequence[int] = ()
    """Of records that lie sorted, the number that each had when it was handed in; empty where they lie as they came."""
    frame_index: FrameIndex | None = None
    """Of a pandas table."""


def given(rows: Any, columns: Mapping[str, str]) -> Given:
    """Read rows; `UsageError` tells of what holds none, and of columns that no example can be made of."""
    if isinstance(rows, str | Path):
        return Given(str(rows), [], is_distributed=False)
    records = records_of(rows)
    if not records:
        raise UsageError(f"rows: the {type(rows).__name__} holds no rows; give at least one")
    _check_columns(listed(records[0]), columns)
    if not _is_of(rows, "ray"):
        return Given(None, records, is_distributed=False, frame_index=FrameIndex.of(rows) if _is_of(rows, "pandas") else None)
    # Ray Data promises no order: the same rows have to be the same content each time
    lines = [as_lines([record]) for record in records]
    order = sorted(range(len(records)), key=lines.__getitem__)
    return Given(None, [records[number] for number in order], is_distributed=True, order=order)


def records_of(rows: Any) -> list[Record]:
    """The rows of whatever holds them; `UsageError` where it holds none."""
    if isinstance(rows, Mapping):
        parts = ", ".join(map(str, list(rows)[:5]))
        raise UsageError(f"rows: a {type(rows).__name__} of {parts} is no list of rows; give one of its parts, or {KINDS}")
    if _is_of(rows, "pandas"):
        plain = _with_index(rows).astype(object)  # where nothing is there, None and not NaN
        return [listed(record) for record in plain.where(plain.notna(), None).to_dict(orient="records")]
    if _is_of(rows, "pyarrow"):
        return list(rows.to_pylist())
    if not isinstance(rows, Iterable) and not hasattr(rows, "iter_rows"):
        raise UsageError(f"rows: a {type(rows).__name__} holds no rows; give {KINDS}")
    if _is_of(rows, "ray"):
        return [listed(row) for row in rows.iter_rows()]
    return [_record(number, row) for number, row in enumerate(rows)]


def _with_index(frame: Any) -> Any:
    """A pandas table with the named parts of its index as its first columns: an index that has a name holds data."""
    names = FrameIndex.of(frame).columns
    whole = frame.copy(deep=False)
    for place, name in enumerate(names):
        whole.insert(place, name, frame.index.get_level_values(list(frame.index.names).index(name)))
    return whole


def listed(value: Any) -> Any:
    """A value with lists in place of arrays, however deep: pandas and Ray hold the lists of a Parquet file as arrays, and a
    conversation is a list."""
    if isinstance(value, Mapping):
        return {key: listed(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple) or (_is_of(value, "numpy") and getattr(value, "ndim", False)):
        return [listed(entry) for entry in (value if isinstance(value, list | tuple) else value.tolist())]
    return value


def _is_of(rows: Any, library: str) -> bool:
    """Whether a library that need not be there has made it."""
    return type(rows).__module__.partition(".")[0] == library


def _record(number: int, row: Any) -> Record:
    if not isinstance(row, Mapping):
        raise UsageError(f"rows: row {number} is a {type(row).__name__}, not a dictionary of columns; give {KINDS}")
    return dict(row)


def _check_columns(record: Record, columns: Mapping[str, str]) -> None:
    """Refuse rows whose texts nobody can find, by the first of them; `ingest` looks at the others."""
    has = ", ".join(map(str, record))
    for field, column in columns.items():
        if field not in formats.MAPPED:
            raise UsageError(f"columns: {field!r} is no field of an example{_near(field, formats.MAPPED)}")
        if column not in record:
            raise UsageError(f"columns[{field!r}] = {column!r}: the rows have no such column{_near(column, record)}")
    if not columns and formats.detect(record) is None:
        raise UsageError(
            f"rows: no known layout has the columns {has}; say which hold the texts, e.g. "
            "columns={'instruction': 'question', 'output': 'answer'}"
        )


def _near(wrong: str, known: Iterable[Any]) -> str:
    names = [str(name) for name in known]
    near = difflib.get_close_matches(wrong, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"


def as_lines(records: Iterable[Record]) -> str:
    """The records as JSON lines."""
    return "".join(orjson.dumps(record, default=_other, option=OPTIONS).decode() + "\n" for record in records)


ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def _other(value: Any) -> Any:
    """What JSON has no word for: arrays of objects, as Ray and pandas hold lists; pictures, by their bytes; and what is told by
    its text. An object's address in memory is another at each call, and the same rows have to be the same lines."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "tobytes"):
        return f"{type(value).__name__} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return ADDRESS.sub("", str(value))
