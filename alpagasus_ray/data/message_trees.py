"""Open-Assistant's trees: messages with their replies, put together where they come one by one, and the way down them.

The best ranked reply that is not deleted is followed. Pure functions; knows nothing of files.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from alpagasus_ray.data.conversations import Turn
from alpagasus_ray.data.fields import NoExample, list_of, missing
from alpagasus_ray.data.originals import SEPARATOR, text_of
from alpagasus_ray.data.records import Record

TABLE = "oasst message"


def turns(record: Mapping[str, Any]) -> list[Turn]:
    """Follow the best ranked replies down a tree."""
    found = []
    node: Any = record["prompt"] if isinstance(record.get("prompt"), Mapping) else record
    while node is not None:
        found.append(Turn(node, table=TABLE))
        replies = list_of(node, "replies")
        if not all(isinstance(reply, Mapping) for reply in replies):
            raise NoExample("`replies` holds something that is no message")
        replies = [reply for reply in replies if not reply.get("deleted")]
        node = min(replies, key=_rank, default=None)
    return found


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    if not isinstance(rank, int | float | None):
        raise NoExample(f"`rank` is {rank!r}, not a number")
    return float("inf") if missing(rank) else float(rank or 0)


def grown(stream: Iterable[Record]) -> Iterator[Record]:
    """Open-Assistant messages as trees: nested ones pass as they are, flat ones (one message a record, with `parent_id`
    and `message_tree_id`) are put together. Needs the messages of one tree to stand together, as they are published."""

    def tree_of(record: Record) -> object:
        data = record.data or {}
        flat = "message_tree_id" in data and "replies" not in data and "prompt" not in data
        return data["message_tree_id"] if flat else record.position

    for _, group in itertools.groupby(stream, key=tree_of):
        yield from _grow(list(group))


def _grow(group: list[Record]) -> Iterator[Record]:
    """The trees of a group of flat messages; what hangs on no root is a record with a problem, never lost."""
    if len(group) == 1:
        yield group[0]
        return
    nodes = {_message_id(record): {**(record.data or {}), "replies": []} for record in group}
    children: dict[object, list[object]] = {}
    for key, node in nodes.items():
        children.setdefault(node.get("parent_id"), []).append(key)
    root_of: dict[object, object] = {key: key for key in children.get(None, ())}
    waiting = list(root_of)
    while waiting:
        key = waiting.pop()
        below = children.get(key, ())
        root_of |= dict.fromkeys(below, root_of[key])
        nodes[key]["replies"] = [nodes[child] for child in below]
        waiting += below
    for record in group:
        key = _message_id(record)
        if key not in root_of:
            parent = (record.data or {}).get("parent_id")
            yield record._replace(data=None, problem=f"its parent {parent!r} does not stand in the same tree", raw=str(key))
        elif nodes[key].get("parent_id") is None:
            texts = [text_of(other) for other in group if root_of.get(_message_id(other)) == key]
            yield record._replace(data=nodes[key], text=SEPARATOR.join(texts))


def _message_id(record: Record) -> object:
    """The id of a message; one without is known by its position, and nothing can hang on it."""
    return (record.data or {}).get("message_id", ("position", record.position))
