"""Records as JSON lines that another program reads: what JSON has no word for is converted, or refused with the fix."""

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from alpagasus_ray.errors import UsageError


def write_lines(records: Iterable[Mapping[str, Any]], path: str | Path) -> Path:
    """Write records, a JSON object a line. `UsageError` tells of a value that JSON cannot hold; then no file is written."""
    lines = [_line(number, record) for number, record in enumerate(records)]
    target = Path(path)
    with target.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    return target


def _line(number: int, record: Mapping[str, Any]) -> str:
    plain = {key: _plain(value, f"record {number}, {key!r}") for key, value in record.items()}
    return json.dumps(plain, ensure_ascii=False) + "\n"


def _plain(value: Any, place: str) -> Any:
    """A value as JSON has it: arrays as lists, NaN and infinity as null, times in the form of ISO 8601."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(entry, f"{place}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{place}[{number}]") for number, entry in enumerate(value)]
    return _scalar(value, place) if type(value).__module__ != "numpy" else _of_numpy(value, place)


def _of_numpy(value: Any, place: str) -> Any:
    if getattr(value, "ndim", 0):
        return [_plain(entry, f"{place}[{number}]") for number, entry in enumerate(value)]
    if value.dtype.kind in "Mm":  # `item` would make a number of nanoseconds of it
        return None if str(value) == "NaT" else str(value)
    return _plain(value.item(), place)


def _scalar(value: Any, place: str) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return int(value)
    if type(value).__name__ in ("NaTType", "NAType"):  # pandas' words for nothing
        return None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal | uuid.UUID | PurePath):
        return str(value)
    shown = repr(value)
    raise UsageError(
        f"{place} = {shown if len(shown) <= 80 else shown[:80] + '…'}: JSON has no word for a {type(value).__name__}; "
        "convert that column or leave it out of the rows, or write the table of `to_pandas()`"
    )
