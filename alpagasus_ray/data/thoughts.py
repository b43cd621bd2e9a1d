"""The marks around thinking; the thinking in an answer of a dataset: counted, and taken off where that is asked for.

Pure functions. Replies are taken apart by the same marks in `judging.cleaning`, wherever in them these stand.
"""

import re

from alpagasus_ray.data.conversations import Draft
from alpagasus_ray.data.fields import NoExample
from alpagasus_ray.data.side_fields import Tally

_NAME = r"(?:[a-z]+:)?(?:think|thinking|thoughts?|reasoning|scratchpad)"
_OPENING = rf"<{_NAME}>|\[think\]|◁think▷|<\|(?:begin_of_thought|start_thinking)\|>"
_CLOSING = rf"</{_NAME}>|\[/think\]|◁/think▷|<\|(?:end_of_thought|end_thinking)\|>"
MARKS = re.compile(rf"`+[^`\n]*`+|(?P<opening>{_OPENING})|(?P<closing>{_CLOSING})", re.IGNORECASE)
"""Marks around thinking; one in backquotes is quoted, and has neither group."""
LINE_END = re.compile(r"[ \t]*\n")


def thinks(text: str) -> bool:
    """Whether a text begins with thinking."""
    return without(text) != text or _opens(text)


def without(text: str) -> str:
    """A text without the thinking that it begins with; marks further on belong to what it says."""
    body, is_open = text.lstrip(), False
    for mark in MARKS.finditer(body):
        if mark["opening"] and (is_open or mark.start() == 0):
            is_open = True
        # where a chat template writes the opening mark, the closing one stands at the end of a line
        elif mark["closing"] and (is_open or LINE_END.match(body, mark.end())):
            return body[mark.end() :].lstrip()
        elif mark["opening"] or mark["closing"]:
            break
    return text


def _opens(text: str) -> bool:
    mark = MARKS.match(text.lstrip())
    return mark is not None and mark["opening"] is not None


def handled(draft: Draft, reasoning: str, tally: Tally) -> Draft:
    """An example with its thinking, or without where `reasoning` is `drop`. Raises `NoExample` where nothing else is left."""
    count = sum(map(thinks, (draft.output, *(said for _, said in draft.history))))
    if not count:
        return draft
    if reasoning == "keep":
        tally.told["answers with thinking, which is kept; ingest.reasoning=drop takes it off"] += count
        return draft
    if _opens(without(draft.output)):
        raise NoExample("the output is thinking that does not end")
    tally.told["answers whose thinking was taken off by ingest.reasoning=drop"] += count
    history = tuple((asked, without(said)) for asked, said in draft.history)
    return draft._replace(output=without(draft.output), history=history)
