"""Messages as a model takes them."""

from collections.abc import Sequence

from alpagasus_ray.engines.base import Message


def merged(messages: Sequence[Message]) -> list[Message]:
    """The messages with the system turn at the head of the first user turn, for models that take none."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return list(messages)
    head, first, *rest = messages
    return [{**first, "content": f"{head['content']}\n\n{first['content']}"}, *rest]
