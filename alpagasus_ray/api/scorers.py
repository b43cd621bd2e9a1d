"""Columns of one's own: a function of a record that gives a number, with a name and a version, that `pick` can go by."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alpagasus_ray.errors import UsageError

Function = Callable[[Mapping[str, Any]], float | None]
_known: dict[str, "Scorer"] = {}


@dataclass(frozen=True)
class Scorer:
    """A function of a record, and what identifies the numbers it gives."""

    name: str
    version: int
    function: Function = field(repr=False)

    def __call__(self, record: Mapping[str, Any]) -> float | None:
        return self.function(record)

    @property
    def column(self) -> str:
        """The name under which a run keeps its numbers: another version is another column."""
        return f"{self.name}-v{self.version}"

    def of(self, records: Iterable[Mapping[str, Any]]) -> list[float | None]:
        """Its number for each record; None, and NaN, is no number. `UsageError` names the row that it cannot be made for."""
        return [self._of(number, record) for number, record in enumerate(records)]

    def _of(self, number: int, record: Mapping[str, Any]) -> float | None:
        try:
            value = self.function(record)
            found = None if value is None else float(value)
        except Exception as error:  # whatever the function of a user raises is told with its row
            raise UsageError(f"scorer {self.name!r}, row {number}: {type(error).__name__}: {error}") from error
        return found if found is not None and math.isfinite(found) else None


def scorer(name: str, version: int = 1) -> Callable[[Function], Scorer]:
    """Make a function of a record a column that `pick(by=name)` goes by. Raise `version` when what it gives changes: a run
    keeps the numbers of each version for themselves.

    >>> @scorer("brevity")
    ... def brevity(record):
    ...     return -len(record["output"])
    >>> brevity({"output": "An apple."})
    -9
    """
    if not name.replace("_", "").replace("-", "").isalnum() or name in ("score", "expected"):
        raise UsageError(f"scorer({name!r}): give a name of letters, digits, - and _, other than score and expected")

    def register(function: Function) -> Scorer:
        _known[name] = Scorer(name, version, function)
        return _known[name]

    return register


def named(name: str) -> Scorer:
    """The scorer of a name; `UsageError` where there is none."""
    if name not in _known:
        near = difflib.get_close_matches(name, _known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(['score', *_known])}"
        raise UsageError(f"by = {name!r}: no scorer has that name; {meant} @ag.scorer({name!r}) above a function makes one")
    return _known[name]
