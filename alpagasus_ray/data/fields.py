"""What a field of a record says: text, a number as it was written, a list, or nothing. Knows nothing of layouts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from alpagasus_ray.data.json_text import Number


class NoExample(Exception):
    """A record that cannot be an example; the message is the reason."""


def missing(value: Any) -> bool:
    """Whether a value says nothing: null, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def empty(value: Any) -> bool:
    """Whether a value says nothing, or is an empty text, list or object."""
    return missing(value) or (isinstance(value, str | Sequence | Mapping) and not value)


def text(record: Mapping[str, Any], key: str) -> str:
    """The text under a key; a number is text as it was written, anything else is none."""
    value = record.get(key)
    if value is None:
        raise NoExample(f"`{key}` is null" if key in record else f"no `{key}`")
    return checked(value, key)


def checked(value: Any, key: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise NoExample(f"`{key}` is {'NaN' if math.isnan(value) else 'infinite'}, not text")
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = value.text if isinstance(value, Number) else str(value)
    if not isinstance(value, str):
        raise NoExample(f"`{key}` is a {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NoExample(f"`{key}` holds half of a character (an unpaired surrogate)") from None
    return value


def list_of(record: Mapping[str, Any], key: str) -> Sequence[Any]:
    """The list under a key, empty where there is none."""
    value = record.get(key)
    if missing(value):
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise NoExample(f"`{key}` is a {type(value).__name__}, not a list")
    return value


def optional(record: Mapping[str, Any], *keys: str) -> str | None:
    """The text under the first of the keys that says something; two that say different things are no example."""
    said = {key: text(record, key) for key in keys if not missing(record.get(key)) and record[key] != ""}
    if len(set(said.values())) > 1:
        raise NoExample(f"{' and '.join(f'`{key}`' for key in said)} say different things")
    return next(iter(said.values()), None)
