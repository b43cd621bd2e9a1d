"""Whether the model that a server says has answered is the one that was asked: providers answer by dated names of their own."""

import re

VERSION = re.compile(r"(?:[-@:](?:\d{4}-\d{2}-\d{2}|\d{3,8}|latest|free|v\d+(?:[.:]\d+)?))+")
"""What may follow a model's name without another model being meant: the day or number of a snapshot, a mark of a reseller."""


def is_same_model(asked: str, answered: str) -> bool:
    """Whether both are names of one model: `gpt-4o` and `gpt-4o-2024-08-06`, `openai/gpt-4o` and `gpt-4o`; not two snapshots,
    and not `gpt-4o` and `gpt-4o-mini`."""
    wanted, found = asked.strip().lower(), answered.strip().lower()
    return any(_is_of(short, long) for short in {wanted, _last(wanted)} for long in {found, _last(found)})


def _is_of(name: str, other: str) -> bool:
    """Whether `other` is the name, or a version of it; `-latest` is a version that is not said."""
    name = name.removesuffix("-latest").removesuffix(":latest")
    return other.startswith(name) and (other == name or VERSION.fullmatch(other[len(name) :]) is not None)


def _last(name: str) -> str:
    """A name without whose it is."""
    return name.rstrip("/").rpartition("/")[2]
