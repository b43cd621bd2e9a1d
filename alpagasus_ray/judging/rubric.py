"""A rubric: what is asked of a judge. From an example to chat messages, and how the reply's scale reads.

A rubric file is YAML with `name`, `dimension`, `scale` (`min`, `max`, `step`; a null step takes any number) and two Jinja
templates, `system` and `user`, which see `dimension`, `scale` and the example as blocks: `instruction`, `input`, `output`,
`system_turn`, `history`. A block comes with its own delimiters; an empty one is an empty text.
"""

import functools
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import jinja2
import jinja2.sandbox
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alpagasus_ray.config import digest
from alpagasus_ray.engines.base import Message
from alpagasus_ray.errors import UsageError

SHIPPED = "rubrics"
TAG_LENGTH = 8


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

    def prompt_hash(self) -> str:
        """Version of what is asked: a stored reply answers this and no other prompt."""
        return digest([self.dimension, self.system, self.user])

    def version(self) -> str:
        """Version of the whole rubric, the reading of replies included."""
        return digest(self.model_dump(mode="json"))

    def messages(self, example: Mapping[str, Any]) -> list[Message]:
        """The chat messages that ask for the rating of one example (a row of `schema.EXAMPLES`)."""
        fields = _blocks(example) | {"dimension": self.dimension, "scale": self.scale}
        return [
            {"role": "system", "content": _template(self.system).render(fields).strip()},
            {"role": "user", "content": _template(self.user).render(fields).strip()},
        ]


def load(name: str) -> Rubric:
    """A shipped rubric by name, or any rubric by the path of its file."""
    shipped = sorted(entry.name.removesuffix(".yaml") for entry in resources.files(__package__).joinpath(SHIPPED).iterdir())
    if name in shipped:
        text = resources.files(__package__).joinpath(SHIPPED, f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = _read(name)
    else:
        raise UsageError(f"rubric {name!r} is neither shipped ({', '.join(shipped)}) nor a file")
    try:
        rubric = Rubric.model_validate(yaml.safe_load(text))
        for text in ("", "text"):
            turns = [{"instruction": text, "output": text}] if text else None
            rubric.messages({"instruction": text, "input": text, "output": text, "system": text, "history": turns})
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, p['loc']))}`: {p['msg']}" for p in error.errors())
        raise UsageError(f"rubric {name}: {problems}") from None
    except (yaml.YAMLError, jinja2.TemplateError) as error:
        raise UsageError(f"rubric {name}: {error}") from None
    return rubric


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"rubric {path} cannot be read: {error}") from None


@functools.cache
def _template(text: str) -> jinja2.Template:
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)


def _blocks(example: Mapping[str, Any]) -> dict[str, str]:
    history = "\n\n".join(f"User: {turn['instruction']}\nAssistant: {turn['output']}" for turn in example.get("history") or ())
    parts = {
        "instruction": example["instruction"],
        "input": example["input"],
        "output": example["output"],
        "system_turn": example.get("system") or "",
        "history": history,
    }
    tag = _tag(parts.values())
    return {name: _block(name, text, tag) for name, text in parts.items()}


def _tag(texts: Any) -> str:
    """A mark that none of the texts can hold, because it is made from all of them: they cannot know it, and cannot close
    their own block or open one of ours. The same example always has the same mark, so that its prompt has one hash."""
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:TAG_LENGTH]


def _block(name: str, text: str, tag: str) -> str:
    if not text.strip():
        return ""
    label = name.replace("_turn", "")
    # a text made to hold its own mark would need a fixed point of the hash; should one turn up, it loses the mark
    disarmed = text.replace(tag, "-" * len(tag))
    return f"<{label} {tag}>\n{disarmed}\n</{label} {tag}>"
