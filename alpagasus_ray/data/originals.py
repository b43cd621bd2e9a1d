"""The text of a record that is kept beside its example, so that it can be written back as it came.

A record from JSON keeps the text it was written as; of other files its values are written as JSON, and read back by the Arrow
schema. Knows nothing of layouts.
"""

import base64
import datetime
import decimal
import json
from typing import Any

import pyarrow as pa

from alpagasus_ray.data import json_text
from alpagasus_ray.data.fields import missing
from alpagasus_ray.data.records import Record

SEPARATOR = "\x1e"
"""Between the texts of several records that make one, as in RFC 7464: no JSON text can hold it."""
TRIPLE = ("instruction", "input", "output")


def kept(record: Record) -> str | None:
    """What an example keeps of its record; None where its own instruction, input and output are all of it."""
    data = record.data or {}
    if tuple(data) == TRIPLE and all(isinstance(value, str) for value in data.values()):
        return None
    return text_of(record)


def text_of(record: Record) -> str:
    """A record as JSON: the text it came as where that is JSON, with nulls for what JSON does not know."""
    if record.text and (SEPARATOR in record.text or json_text.is_strict(record.text)):
        return record.text
    return json.dumps(_plain(record.data), ensure_ascii=False, default=_other)


def _plain(value: Any) -> Any:
    """A value without NaN, and without halves of characters."""
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None if missing(value) or value in (float("inf"), float("-inf")) else value


def _other(value: Any) -> Any:
    """What tables hold and JSON has no word for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)


def back(value: Any, kind: pa.DataType) -> Any:
    """A value that was written as JSON as what an Arrow type holds; the reverse of `text_of`."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: back(value.get(field.name), field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(back(key, kind.key_type), back(entry, kind.item_type)) for key, entry in value]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [back(entry, kind.value_type) for entry in value]
    if pa.types.is_dictionary(kind):
        return back(value, kind.value_type)
    return _scalar(value, kind)


def _scalar(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return base64.b64decode(value)
    if pa.types.is_timestamp(kind):
        return datetime.datetime.fromisoformat(value)
    if pa.types.is_date(kind):
        return datetime.date.fromisoformat(value[:10])
    if pa.types.is_time(kind):
        return datetime.time.fromisoformat(value)
    if pa.types.is_duration(kind):
        return datetime.timedelta(seconds=value)
    return decimal.Decimal(value) if pa.types.is_decimal(kind) else value
