"""The thinking in an answer of a dataset: found, counted, and taken off where that is asked for.

Pure functions; what a judge's reply or a model's answer thinks is taken off where those are read.
"""

import re

from alpagasus_ray.data.conversations import Draft
from alpagasus_ray.data.fields import NoExample
from alpagasus_ray.data.side_fields import Tally

BLOCK = re.compile(r"(?:<(think|thinking|thought|reasoning)>.*?</\1>|\[THINK\].*?\[/THINK\])\s*", re.DOTALL | re.IGNORECASE)
HEADLESS = re.compile(r"(?:(?!<think).)*?</(?:think|thinking|thought|reasoning)>[ \t]*\n\s*", re.DOTALL | re.IGNORECASE)
"""A block whose opening mark a chat template writes; its end stands alone at the end of a line."""
OPEN = re.compile(r"\s*(?:<(?:think|thinking|thought|reasoning)>|\[THINK\])", re.IGNORECASE)


def thinks(text: str) -> bool:
    """Whether a text begins with thinking."""
    return without(text) != text or OPEN.match(text) is not None


def without(text: str) -> str:
    """A text without the thinking that it begins with."""
    found = BLOCK.match(text.lstrip()) or HEADLESS.match(text.lstrip())
    return text.lstrip()[found.end() :] if found else text


def handled(draft: Draft, reasoning: str, tally: Tally) -> Draft:
    """An example with its thinking, or without where `reasoning` is `drop`. Raises `NoExample` where nothing else is left."""
    count = sum(map(thinks, (draft.output, *(said for _, said in draft.history))))
    if not count:
        return draft
    if reasoning == "keep":
        tally.told["answers with thinking, which is kept; ingest.reasoning=drop takes it off"] += count
        return draft
    if OPEN.match(without(draft.output)):
        raise NoExample("the output is thinking that does not end")
    tally.told["answers whose thinking was taken off by ingest.reasoning=drop"] += count
    history = tuple((asked, without(said)) for asked, said in draft.history)
    return draft._replace(output=without(draft.output), history=history)
