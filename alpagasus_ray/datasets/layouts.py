"""From one record to the examples in it: what the fields of each known dataset layout mean.

Policy for conversations: turns of one speaker in a row are joined by a blank line; what the assistant says before the
first user turn is left out; a last user turn without a reply is left out. `first` makes one example of the first
exchange, `all` makes one of every exchange, with those before it as its history. System turns are kept as `system`.
In Open-Assistant trees the best ranked reply is followed. A number is text; anything else that is not text is refused.

Pure functions; knows nothing of files or shards.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.datasets.sources import Record

SPEAKERS = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


class NoExample(Exception):
    """A record that cannot be an example; the message is the reason."""


class Draft(NamedTuple):
    """An example before it has an id."""

    instruction: str
    input: str
    output: str
    category: str | None = None
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()


Layout = Callable[[Mapping[str, Any]], list[Draft]]


def detect(record: Mapping[str, Any]) -> str | None:
    """Name of the layout that a record has, or None."""
    if isinstance(record.get("conversations"), Sequence):
        return "sharegpt"
    if isinstance(record.get("messages"), Sequence):
        return "messages"
    if {"message_id", "text", "role"} <= record.keys() or isinstance(record.get("prompt"), Mapping):
        return "oasst"
    if {"instruction", "response"} <= record.keys():
        return "dolly"
    if {"instruction", "output"} <= record.keys():
        return "alpaca"
    return None


def reader(layout: str, columns: Mapping[Any, str], turns: str) -> Layout:
    """The function that reads records of a layout; `columns` (field -> column) takes the place of a layout."""
    every = turns == "all"
    if columns:
        return lambda record: [_mapped(record, columns)]
    if layout == "dolly":
        renamed = {"input": "context", "output": "response"}
        return lambda record: [_mapped(record, renamed if "context" in record else {"output": "response"})]
    if layout == "alpaca":
        return lambda record: [_mapped(record, {})]
    read = {"sharegpt": _sharegpt, "messages": _messages, "oasst": _oasst}[layout]
    return lambda record: _exchanges(read(record), every, _optional(record, "category"))


def text(record: Mapping[str, Any], key: str) -> str:
    """The text under a key; numbers are written out, anything else is no text."""
    value = record.get(key)
    if value is None:
        raise NoExample(f"`{key}` is null" if key in record else f"no `{key}`")
    return _checked(value, key)


def _checked(value: Any, key: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise NoExample(f"`{key}` is a {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise NoExample(f"`{key}` holds half of a character (an unpaired surrogate)") from None
    return value


def _list(record: Mapping[str, Any], key: str) -> Sequence[Any]:
    """The list under a key, empty where there is none."""
    value = record.get(key)
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise NoExample(f"`{key}` is a {type(value).__name__}, not a list")
    return value


def _optional(record: Mapping[str, Any], key: str) -> str | None:
    return None if record.get(key) in (None, "") else text(record, key)


def _mapped(record: Mapping[str, Any], columns: Mapping[Any, str]) -> Draft:
    def column(field: str) -> str:
        return columns.get(field, field)

    instruction = text(record, column("instruction"))
    extra = _optional(record, column("input")) or ""
    if not (instruction.strip() or extra.strip()):
        raise NoExample(f"`{column('instruction')}` is empty")
    return Draft(
        instruction=instruction,
        input=extra,
        output=text(record, column("output")),
        category=_optional(record, column("category")),
        system=_optional(record, column("system")),
        history=tuple(_pair(turn) for turn in _list(record, "history")),
    )


def _pair(turn: Any) -> tuple[str, str]:
    if isinstance(turn, Sequence) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
        return turn[0], turn[1]
    raise NoExample("`history` is not a list of [instruction, output] pairs")


Turn = tuple[str, str]
"""Speaker (`user`, `assistant`, `system`) and what is said."""


def _sharegpt(record: Mapping[str, Any]) -> list[Turn]:
    return [_turn(turn, "from", "value") for turn in _list(record, "conversations")]


def _messages(record: Mapping[str, Any]) -> list[Turn]:
    return [_turn(turn, "role", "content") for turn in _list(record, "messages")]


def _turn(turn: Any, role_key: str, text_key: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise NoExample(f"a turn is a {type(turn).__name__}, not an object")
    role = str(turn.get(role_key))
    if role.lower() not in SPEAKERS:
        raise NoExample(f"a turn is by {role!r}, which is neither user, assistant nor system")
    content = turn.get(text_key)
    if isinstance(content, Sequence) and not isinstance(content, str):
        return SPEAKERS[role.lower()], "\n".join(_part(part) for part in content)
    return SPEAKERS[role.lower()], text(turn, text_key)


def _part(part: Any) -> str:
    """Text of one part of a message: `{type: text, text: …}`, as some write it `{type: text, value: …}`."""
    if isinstance(part, str):
        return _checked(part, "content")
    if not isinstance(part, Mapping) or part.get("type", "text") != "text":
        raise NoExample("a message has a part that is not text")
    return text(part, "text" if "text" in part else "value")


def _oasst(record: Mapping[str, Any]) -> list[Turn]:
    """Follow the best ranked replies down a tree."""
    turns = []
    node: Any = record["prompt"] if isinstance(record.get("prompt"), Mapping) else record
    while node is not None:
        turns.append(_turn(node, "role", "text"))
        replies = _list(node, "replies")
        if not all(isinstance(reply, Mapping) for reply in replies):
            raise NoExample("`replies` holds something that is no message")
        replies = [reply for reply in replies if not reply.get("deleted")]
        node = min(replies, key=_rank, default=None)
    return turns


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    if not isinstance(rank, int | float | None):
        raise NoExample(f"`rank` is {rank!r}, not a number")
    return float("inf") if rank is None else float(rank)


def _exchanges(turns: Iterable[Turn], every: bool, category: str | None) -> list[Draft]:
    system: list[str] = []
    done: list[tuple[str, str]] = []
    drafts: list[Draft] = []
    asked: str | None = None
    for speaker, said in _joined(turns):
        if speaker == "system":
            system.append(said)
        elif speaker == "user":
            asked = said if asked is None else f"{asked}\n\n{said}"
        elif asked is not None:
            if asked.strip():
                drafts.append(Draft(asked, "", said, category, "\n\n".join(system) or None, tuple(done)))
            done.append((asked, said))
            asked = None
            if not every:
                break
    if not drafts:
        raise NoExample("no user turn with a reply")
    return drafts


def _joined(turns: Iterable[Turn]) -> Iterator[Turn]:
    for speaker, run in itertools.groupby(turns, key=lambda turn: turn[0]):
        yield speaker, "\n\n".join(said for _, said in run)


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
    reached: set[object] = set()
    waiting = list(children.get(None, ()))
    while waiting:
        key = waiting.pop()
        reached.add(key)
        nodes[key]["replies"] = [nodes[child] for child in children.get(key, ())]
        waiting += children.get(key, ())
    for record in group:
        key = _message_id(record)
        if key not in reached:
            parent = (record.data or {}).get("parent_id")
            yield record._replace(data=None, problem=f"its parent {parent!r} does not stand in the same tree", raw=str(key))
        elif nodes[key].get("parent_id") is None:
            yield record._replace(data=nodes[key])


def _message_id(record: Record) -> object:
    """The id of a message; one without is known by its position, and nothing can hang on it."""
    return (record.data or {}).get("message_id", ("position", record.position))
