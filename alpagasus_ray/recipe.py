"""From a recipe file and `--set` overrides to a checked `Recipe`; every mistake is told with its key, value and fix.

Knows YAML and pydantic's error list; knows nothing of what the knobs mean.
"""

import ast
import difflib
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from alpagasus_ray.config import Recipe, Section, credentials
from alpagasus_ray.config.base import OneOf
from alpagasus_ray.errors import UsageError

SECRET = re.compile(r"(^|_)(key|secret|token|password)(_|$)", re.IGNORECASE)
LOGIN = re.compile(r"(?<=//)[^'\"]*@|[^\s'\"/]+:(?!//)[^'\"]*@")
"""What stands before the host of an address: `//name:password@`, with or without a scheme."""


class Loaded(NamedTuple):
    """A checked recipe, and what of it the user wrote himself (nested plain values)."""

    recipe: Recipe
    written: dict[str, Any]


def load(path: str | None, overrides: Sequence[str]) -> Loaded:
    """Read the recipe at a path or URI (None: defaults alone) and apply `key.sub=value` overrides (values are YAML) in
    order."""
    written, lines = _read_yaml(path) if path else ({}, {})
    for override in overrides:
        _apply(written, override)
    typed = {tuple(override.partition("=")[0].split(".")) for override in overrides}
    return checked(written, lambda problem: _line(problem, lines, path, typed))


def checked(written: dict[str, Any], where: Callable[[Any], str] = lambda problem: "") -> Loaded:
    """The recipe that plain values make, or a `UsageError`; `where` says in which line one of pydantic's problems is."""
    problems: list[str] = []
    try:
        recipe = Recipe.model_validate(written)
    except ValidationError as error:
        problems = list(dict.fromkeys(_explain(problem) + where(problem) for problem in error.errors()))
    told = [problem for problem in problems if "environment" in problem]
    found = credentials.found_in(written)
    problems += [credentials.advice(key, why) for key, why in found if not any(f"`{key}`:" in problem for problem in told)]
    if problems:
        raise UsageError("\n".join(problems))
    return Loaded(recipe, written)


Lines = Mapping[tuple[str, ...], int]
"""On which line of the recipe's file each key stands, counted from 1."""


def _read_yaml(path: str) -> tuple[dict[str, Any], Lines]:
    shown = _without_login(path)
    try:
        text = _text(path)
        content = yaml.safe_load(text)
        lines = dict(_lines(yaml.compose(text, yaml.SafeLoader), ()))
    except UsageError as error:
        raise UsageError(f"recipe {shown}: {_without_login(str(error))}") from None
    except OSError as error:
        raise UsageError(f"recipe {shown}: {error.strerror or _without_login(str(error))}{_meant(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {shown} is not valid YAML: {_without_login(str(error))}") from None
    if content is None:
        return {}, {}
    if not isinstance(content, dict):
        raise UsageError(f"recipe {shown} holds a {type(content).__name__}, not sections; start with e.g. `ingest:`")
    return {section: knobs for section, knobs in content.items() if knobs is not None}, lines


def _lines(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, str(key.value))
            yield below, key.start_mark.line + 1
            yield from _lines(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield (*path, str(number)), value.start_mark.line + 1
            yield from _lines(value, (*path, str(number)))


def _line(problem: Any, lines: Lines, path: str | None, typed: AbstractSet[tuple[str, ...]]) -> str:
    """Where in the file the problem is, if it is the file that has it, and not a key typed on the command line."""
    where = tuple(str(part) for part in problem["loc"])
    if any(where[: len(key)] == key for key in typed):
        return ""
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return f" ({_without_login(path or '')}, line {lines[where[:length]]})"
    return ""


RECIPES = Path(__file__).parent / "recipes"
"""Those that ship with the package, each `NAME.yaml`."""


def _meant(path: str) -> str:
    """What to say beside a name that is neither a file nor the name of a recipe that ships: those of near names."""
    if "://" in path:
        return ""
    folder = Path(path).parent
    ours = shipped() if "/" not in path else []
    known = {**{name: name for name in ours}, **{file.name: str(file) for file in folder.glob("*.y*ml")}}
    near = [known[name] for name in difflib.get_close_matches(Path(path).name, known, n=2)]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; recipes that ship with the package: {', '.join(ours)}" if ours and "." not in path else ""


def shipped() -> list[str]:
    """The names of the recipes that ship with the package."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def _text(path: str) -> str:
    if "://" not in path:
        shipped = RECIPES / f"{path}.yaml"
        named = "/" not in path and not Path(path).exists() and shipped.exists()
        return (shipped if named else Path(path)).read_text(encoding="utf-8")
    from alpagasus_ray.store.storage import resolve

    fs, inside = resolve(path)
    with fs.open_input_stream(inside) as stream:
        return bytes(stream.read()).decode()


def _apply(written: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {_shown('', override)} is not of the form key=value, e.g. --set score.judge.model=gpt-4o-mini")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = _without_login(str(error))
        raise UsageError(f"--set {key}: the value {_shown(key, text)} is not valid YAML: {reason}") from None
    *parents, last = key.split(".")
    node: Any = written
    for depth, parent in enumerate(parents):
        if isinstance(node, dict) and node.get(parent) is None and (default := _default_list(parents[: depth + 1])):
            node[parent] = default
        node = _step(node, parent, key)
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _step(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        child = node[_index(node, part, key)]
    else:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
    if not isinstance(child, dict | list):
        raise UsageError(f"--set {key}: `{part}` is {_shown(part, child)} and has nothing inside; set `{part}` itself")
    return child


def _index(node: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        places = f"give 0 to {len(node) - 1}" if node else "it is empty"
        raise UsageError(f"--set {key}: `{part}` is no place in a list of {len(node)}; {places}")
    return int(part)


def _explain(problem: Any) -> str:
    """One line for one entry of pydantic's error list: key, value, what is allowed, nearest known key."""
    where = _known_path([str(part) for part in problem["loc"]], problem["type"])
    key = ".".join(where) or "recipe"
    if problem["type"] == "extra_forbidden":
        parent = ".".join(where[:-1])
        known = sorted(_fields_at(where[:-1]))
        near = difflib.get_close_matches(where[-1], known, n=2, cutoff=0.7)
        meant = " or ".join(f"`{'.'.join([*where[:-1], key])}`" for key in near)
        instead = _section_at(where[:-1]).elsewhere.get(where[-1])
        hint = instead or f"did you mean {meant}?" if near or instead else f"known keys: {', '.join(known)}"
        return f"unknown key `{key}` = {_shown(where[-1], problem['input'])}{f' in `{parent}`' if parent else ''}; {hint}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if problem["type"] == "value_error":
        return f"`{key}`: {message}"
    return f"`{key}` = {_shown(where[-1], problem['input'])}: {message[0].lower()}{message[1:]}"


def _shown(key: str, value: Any) -> str:
    """A value as an error shows it; one that may be a secret stays out of terminals and logs."""
    hidden = SECRET.search(key) or any(True for _ in credentials.found_in(value))
    return _without_login(repr(value)) if not hidden or (isinstance(value, str) and not SECRET.search(key)) else "(not shown)"


def _without_login(text: str) -> str:
    return credentials.without(LOGIN.sub("(not shown)@", text))


def _known_path(where: list[str], kind: str) -> list[str]:
    """The part of pydantic's location that the user wrote: without the names of union members and of map keys."""
    if where and where[-1] == "[key]":
        return where[:-1]
    for length in range(len(where), 0, -1):
        if where[length - 1].isdigit() or where[length - 1] in _fields_at(where[: length - 1]):
            return where[: length + (kind == "extra_forbidden" and length < len(where))]
    return where


def _default_list(path: Sequence[str]) -> list[dict[str, Any]]:
    """The default of a knob that is a list of sections, as plain values, so that one entry of it can be overridden."""
    node: Any = Recipe()
    for part in path:
        node = getattr(node, part, None)
    return [item.model_dump(mode="json", exclude_unset=True) for item in node] if isinstance(node, tuple) else []


def _fields_at(path: Sequence[str]) -> set[str]:
    return set(_fields(_section_at(path)))


def _section_at(path: Sequence[str]) -> type[Section]:
    """The section at a path; one without fields where the path leads to none."""
    annotation: Any = Recipe
    for part in path:
        if part.isdigit():
            continue
        field = _fields(annotation).get(part)
        if field is None:
            return Section
        annotation = _inner_section(field.annotation)
    found: type[Section] = annotation if _is_section(annotation) else Section
    return found


def _fields(annotation: Any) -> dict[str, FieldInfo]:
    """The fields of a section by the keys they have in a recipe: one has the name `import`, which Python keeps for itself."""
    if not _is_section(annotation):
        return {}
    return {field.alias or name: field for name, field in annotation.model_fields.items()}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _inner_section(annotation: Any) -> Any:
    """The Section class inside `Section`, `Section | None` or `tuple[Section, ...]`; else the annotation itself."""
    for candidate in typing.get_args(annotation):
        if _is_section(candidate):
            return candidate
    return annotation


class Knob(NamedTuple):
    """One line of `--help`."""

    key: str
    kind: str
    default: str
    doc: str


def knobs(section: type[Section], prefix: str) -> Iterator[Knob]:
    """All knobs of a section and of the sections inside it, in the order of their definition."""
    docs = _docs(section)
    for name, field in _fields(section).items():
        key = f"{prefix}.{name}"
        inner = _inner_section(field.annotation)
        doc = docs.get(name, "")
        if _is_section(field.annotation):
            yield from knobs(typing.cast("type[Section]", field.annotation), key)
        elif _is_section(inner):
            is_list = typing.get_origin(field.annotation) is tuple
            yield Knob(
                key, "list" if is_list else "null|section", _default_text(field.get_default(call_default_factory=True)), doc
            )
            yield from knobs(inner, f"{key}.<n>" if is_list else key)
        else:
            yield Knob(
                key,
                _kind_of(field),
                "" if field.is_required() else _default_text(field.get_default(call_default_factory=True)),
                doc,
            )


def _docs(section: type[Section]) -> dict[str, str]:
    """What stands under the fields of a section in its source, in one line each; a field without a text is left out."""
    # pydantic would read the sources of all sections whenever the package is imported, which is half of that import's time
    docs: dict[str, str] = {}
    for kind in (one for one in reversed(section.__mro__) if issubclass(one, Section)):
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef), "the source of a class"
        for line, below in itertools.pairwise(tree.body):
            match line, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return {field.alias or name: docs[name] for name, field in section.model_fields.items() if name in docs}


def _default_text(default: Any) -> str:
    if isinstance(default, tuple):
        default = [v.model_dump(mode="json", exclude_unset=True) if isinstance(v, Section) else v for v in default]
    return yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _kind_of(field: FieldInfo) -> str:
    """What a field takes: the names in its table, or what its type says."""
    tables = (mark.table for mark in field.metadata if isinstance(mark, OneOf))
    return next(("|".join(table) for table in tables), None) or _kind_text(field.annotation)


def _kind_text(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "|".join(str(option) for option in inner)
    if origin is typing.Annotated:
        return _kind_text(inner[0])
    if origin in (typing.Union, types.UnionType):
        return "|".join("null" if part is type(None) else _kind_text(part) for part in inner)
    if origin is tuple:
        return "list"
    if origin is dict:
        return "map"
    return {"str": "text", "int": "number", "float": "number", "bool": "true|false"}.get(annotation.__name__, "value")
