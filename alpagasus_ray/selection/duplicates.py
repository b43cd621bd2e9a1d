"""Choosing among some of the rows only: exact duplicates of earlier rows take no part. Pure functions over columns."""

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from alpagasus_ray.selection.policies import Choice, Columns, Flags, is_one_value


def only(columns: Columns, flags: Flags) -> Columns:
    """The rows of columns that are flagged."""

    def flagged(column: Any) -> Any:
        if not isinstance(column, np.ndarray):
            return list(itertools.compress(column, flags))
        return np.broadcast_to(column[:1], (int(flags.sum()),)) if is_one_value(column) else column[flags]

    return columns if flags.all() else Columns(Some(columns.ids, flags), *map(flagged, columns[1:]))


class Some(Collection[str]):
    """The flagged ones of ids, which may lie in files: they are not held."""

    def __init__(self, ids: Collection[str], flags: Flags) -> None:
        self._ids, self._flags, self._count = ids, flags, int(flags.sum())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return itertools.compress(self._ids, self._flags)

    def __contains__(self, example_id: object) -> bool:
        return any(example_id == own for own in self)


def among_all(choice: Choice, flags: Flags) -> Choice:
    """A choice among the flagged rows as one among all."""
    kept = np.zeros(len(flags), dtype=bool)
    kept[flags] = choice.kept
    return choice._replace(kept=kept)
