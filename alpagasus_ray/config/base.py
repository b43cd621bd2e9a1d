"""What all sections of a recipe have in common: frozen pydantic models, and the identity of what is made with them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

DEBUG = "ALPAGASUS_DEBUG"
"""Environment variable: show the traceback of an unexpected error, and what Ray writes to the terminal."""

OPERATIONAL = object()
"""Marks a field that does not change what a stage produces."""

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that becomes a directory: letters, digits, dot, dash, underscore; at most 64."""
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
Labels = dict[
    Annotated[str, Field(pattern=rf"^([a-z0-9.-]{{1,253}}/)?{_LABEL}$")], Annotated[str, Field(pattern=rf"^{_LABEL}$")]
]
"""Names and values of node labels, as Kubernetes and Ray have them."""


class OneOf:
    """Marks a text that is the name of an entry of a table. The table is read each time, so that an entry that is
    added to it can be named in a recipe."""

    def __init__(self, table: Mapping[str, object]) -> None:
        self.table = table

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        """How pydantic checks the value: as the text that it is, and then by the table."""
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, name: str) -> str:
        if name in self.table:
            return name
        *others, last = (f"'{known}'" for known in self.table)
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": f"{', '.join(others)} or {last}"})


def ordered(range_of: tuple[int, int]) -> tuple[int, int]:
    """A range of two numbers, the smaller one first; `ValueError` where it is not."""
    if range_of[0] > range_of[1]:
        raise ValueError(f"the first number of a range is its smaller one: [{range_of[1]}, {range_of[0]}]")
    return range_of


class Section(BaseModel):
    """Base of all sections: frozen, strict about unknown keys, fields documented by their docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Names that are looked for in this section and are no knobs of it, and what to write instead."""
    stated: ClassVar[frozenset[str]] = frozenset()
    """Fields that `identity` names even at their default: those that the first manifests held, whose hashes stay as they are.
    A field that is added later is not listed here, so that runs made before it are the same with it."""


def differ(kind: str, names: list[str]) -> None:
    """`ValueError` where two have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two {kind} have the name {twice[0]!r}; each needs its own")


def identity(section: Section) -> dict[str, Any]:
    """The section's settings that decide what comes out, as plain JSON values: OPERATIONAL fields are left out, and others but
    those of `Section.stated` where they have their default.

    Two sections with equal identities make the same results. The default of a field that is left out must therefore never
    change: manifests that do not name the field were made with it (`tests/unit/test_identity.py` holds them).
    """
    plain = deciding(section)
    for key, field in type(section).model_fields.items():
        name, value = field.serialization_alias or key, getattr(section, key)
        if name not in plain:
            continue
        if isinstance(value, Section):
            plain[name] = identity(value)
        if key not in section.stated and _is_same(value, field.get_default(call_default_factory=True)):
            del plain[name]
    return plain


def _is_same(value: object, default: object) -> bool:
    """Whether results are the same with the value as with the default."""
    if isinstance(value, Section) and isinstance(default, Section):
        return identity(value) == identity(default)
    return value == default


def deciding(section: Section) -> dict[str, Any]:
    """The same with the defaults: all fields but the OPERATIONAL ones, as plain JSON values."""
    plain = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        value, name = getattr(section, key), field.serialization_alias or key
        if OPERATIONAL in field.metadata:
            del plain[name]
        elif isinstance(value, Section):
            plain[name] = deciding(value)
    return plain


def digest(value: object) -> str:
    """A short stable hash (16 hex digits) of any JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
