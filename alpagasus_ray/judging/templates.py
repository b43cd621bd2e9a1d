"""What all rubrics share: files that ship or that users write, templates, and blocks that the text inside cannot close."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import jinja2.sandbox
import yaml
from pydantic import BaseModel, ValidationError

from alpagasus_ray.engines.base import Message
from alpagasus_ray.errors import UsageError

TAG_LENGTH = 8
Found = TypeVar("Found", bound=BaseModel)


def load(name: str, folder: str, made: Callable[[Any], Found], tried: Callable[[Found], object]) -> Found:
    """A rubric that ships in `folder`, by name, or any by the path of its file: `made` of what the YAML holds, and `tried` once
    so that a template that cannot be filled is told now. Raises `UsageError`."""
    text = _text(name, folder)
    try:
        # `safe_load`: a rubric is somebody's file, and YAML can make any object of Python
        rubric = made(yaml.safe_load(text))
        tried(rubric)
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, p['loc']))}`: {p['msg']}" for p in error.errors())
        raise UsageError(f"rubric {name}: {problems}") from None
    except (yaml.YAMLError, jinja2.TemplateError) as error:
        raise UsageError(f"rubric {name}: {error}") from None
    return rubric


def _text(name: str, folder: str) -> str:
    home = resources.files(__package__).joinpath(folder)
    shipped = sorted(entry.name.removesuffix(".yaml") for entry in home.iterdir())
    if name in shipped:
        return home.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    if not Path(name).is_file():
        raise UsageError(f"rubric {name!r} is neither shipped ({', '.join(shipped)}) nor a file")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"rubric {name} cannot be read: {error}") from None


def messages(system: str, user: str, fields: Mapping[str, Any]) -> list[Message]:
    """Both templates, filled."""
    return [
        {"role": "system", "content": _template(system).render(fields).strip()},
        {"role": "user", "content": _template(user).render(fields).strip()},
    ]


@functools.cache
def _template(text: str) -> jinja2.Template:
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)


def blocks(parts: Mapping[str, str]) -> dict[str, str]:
    """Each text with its own delimiters; an empty one stays empty."""
    tag = _tag(parts.values())
    return {name: _block(name, text, tag) for name, text in parts.items()}


def _tag(texts: Iterable[str]) -> str:
    """A mark that none of the texts can hold, because it is made from all of them: they cannot know it, and cannot close
    their own block or open one of ours. The same texts always have the same mark, so that their prompt has one hash."""
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:TAG_LENGTH]


def _block(name: str, text: str, tag: str) -> str:
    if not text.strip():
        return ""
    label = name.replace("_turn", "")
    # a text made to hold its own mark would need a fixed point of the hash; should one turn up, it loses the mark
    disarmed = text.replace(tag, "-" * len(tag))
    return f"<{label} {tag}>\n{disarmed}\n</{label} {tag}>"
