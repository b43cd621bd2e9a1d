"""Lists for the page's script: JSON as gzip in base64, within a number of bytes."""

import base64
import gzip
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

Made = TypeVar("Made")


def packed(value: Any) -> str:
    """JSON as gzip (without a date, so that equal values are equal bytes) in base64."""
    return base64.b64encode(gzip.compress(orjson.dumps(value), compresslevel=6, mtime=0)).decode()


def packed_within(make: Callable[[int], Made], limit: int, most: int) -> tuple[Made, str]:
    """What `make` makes of texts of at most so many bytes, and the same packed. The limit becomes smaller until what is packed
    takes at most `most` bytes: how far texts can be compressed is only known when it is done."""
    while True:
        made = make(limit)
        text = packed(made)
        if len(text) <= most or not limit:
            return made, text
        limit = int(0.95 * limit * most / len(text))
