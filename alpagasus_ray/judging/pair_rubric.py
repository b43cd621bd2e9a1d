"""A rubric for two answers: what is asked of a judge that compares them, and the form of its reply.

A rubric file is YAML with `name`, `form` (`scores`: two numbers; `verdict`: the better one or a tie), `scale` for scores
(`min`, `max`, `step`; a null step takes any number), and two Jinja templates, `system` and `user`, which see `scale` and the
texts as blocks: `instruction`, `input`, `first`, `second`, `reference`. A block comes with its own delimiters; an empty one is
an empty text.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from alpagasus_ray.config import digest
from alpagasus_ray.engines.base import Message
from alpagasus_ray.judging import templates
from alpagasus_ray.judging.rubric import Scale

SHIPPED = "pair_rubrics"
SEEN = ("instruction", "input", "first", "second", "reference")


class PairRubric(BaseModel):
    """What is asked of a judge of two answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    form: Literal["scores", "verdict"]
    scale: Scale = Scale(min=1, max=10, step=None)
    system: str
    user: str

    @property
    def shows_reference(self) -> bool:
        """Whether the judge sees the test set's reference answer; what it does not see leaves no trace in what is asked."""
        return "reference" in f"{self.system} {self.user}"

    def prompt_hash(self) -> str:
        """Version of what is asked: a stored reply answers this and no other prompt."""
        return digest([self.system, self.user])

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """The chat messages that ask about one game (a row of `schema.PAIRS`)."""
        hidden = () if self.shows_reference else ("reference",)
        fields = templates.blocks({name: "" if name in hidden else row.get(name) or "" for name in SEEN})
        return templates.messages(self.system, self.user, {**fields, "scale": self.scale})


def load(name: str) -> PairRubric:
    """A shipped rubric by name, or any by the path of its file. Raises `UsageError`."""
    return templates.load(name, SHIPPED, PairRubric.model_validate, _try)


def _try(rubric: PairRubric) -> None:
    for text in ("", "text"):
        rubric.messages(dict.fromkeys(SEEN, text))
