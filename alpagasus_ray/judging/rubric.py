"""A rubric: what is asked of a judge. From an example to chat messages, and how the reply's scale reads.

A rubric file is YAML with `name`, `dimension`, `scale` (`min`, `max`, `step`; a null step takes any number) and two Jinja
templates, `system` and `user`, which see `dimension`, `scale` and the example as blocks: `instruction`, `input`, `output`,
`system_turn`, `history`. A block comes with its own delimiters; an empty one is an empty text. `reply`, where it is given, is a
regular expression whose first group is the score: replies are read by it alone.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alpagasus_ray.config import digest
from alpagasus_ray.engines.base import Message
from alpagasus_ray.judging import templates

SHIPPED = "rubrics"


class Scale(BaseModel):
    """The scores a judge may give."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min: float = 0.0
    max: float = 5.0
    step: Annotated[float, Field(gt=0)] | None = 0.5

    @model_validator(mode="after")
    def _ordered(self) -> "Scale":
        if self.min >= self.max:
            raise ValueError(f"`min` {self.min:g} is not below `max` {self.max:g}")
        return self

    def holds(self, score: float) -> bool:
        """Whether the score is between the ends and on a step."""
        if not self.min <= score <= self.max:
            return False
        return self.step is None or abs((score - self.min) / self.step - round((score - self.min) / self.step)) < 1e-9

    def __str__(self) -> str:
        steps = f" in steps of {self.step:g}" if self.step else ""
        return f"{self.min:g} to {self.max:g}{steps}"


class Rubric(BaseModel):
    """What is asked of a judge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dimension: str
    scale: Scale = Scale()
    system: str
    user: str
    reply: str | None = None
    """Regular expression by which replies are read, in place of the usual rules; its first group is the score."""

    @model_validator(mode="after")
    def _has_a_group(self) -> "Rubric":
        if self.reply is None:
            return self
        try:
            groups = re.compile(self.reply).groups
        except re.error as error:
            raise ValueError(f"`reply` is no regular expression: {error}") from None
        if groups < 1:
            raise ValueError(f"`reply` = {self.reply!r} has no group: put the score into brackets, e.g. 'Grade: ([0-9.]+)'")
        return self

    def prompt_hash(self) -> str:
        """Version of what is asked: a stored reply answers this and no other prompt."""
        return digest([self.dimension, self.system, self.user])

    def messages(self, example: Mapping[str, Any]) -> list[Message]:
        """The chat messages that ask for the rating of one example (a row of `schema.EXAMPLES`)."""
        fields = _blocks(example) | {"dimension": self.dimension, "scale": self.scale}
        return templates.messages(self.system, self.user, fields)


def load(name: str) -> Rubric:
    """A shipped rubric by name, or any rubric by the path of its file. Raises `UsageError`."""
    return templates.load(name, SHIPPED, Rubric.model_validate, _try)


def _try(rubric: Rubric) -> None:
    for text in ("", "text"):
        turns = [{"instruction": text, "output": text}] if text else None
        rubric.messages({"instruction": text, "input": text, "output": text, "system": text, "history": turns})


def _blocks(example: Mapping[str, Any]) -> dict[str, str]:
    history = "\n\n".join(f"User: {turn['instruction']}\nAssistant: {turn['output']}" for turn in example.get("history") or ())
    parts = {
        "instruction": example["instruction"],
        "input": example["input"],
        "output": example["output"],
        "system_turn": example.get("system") or "",
        "history": history,
    }
    return templates.blocks(parts)
