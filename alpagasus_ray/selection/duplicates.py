"""Choosing among some of the rows only: exact duplicates of earlier rows take no part. Pure functions over columns."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from alpagasus_ray.selection.policies import Choice, Columns, Flags


def only(columns: Columns, flags: Flags) -> Columns:
    """The rows of columns that are flagged."""

    def flagged(column: Any) -> Any:
        return column[flags] if isinstance(column, np.ndarray) else list(itertools.compress(column, flags))

    return columns if flags.all() else Columns._make(map(flagged, columns))


def among_all(choice: Choice, flags: Flags) -> Choice:
    """A choice among the flagged rows as one among all."""
    kept = np.zeros(len(flags), dtype=bool)
    kept[flags] = choice.kept
    return choice._replace(kept=kept)


def dropped_for_that(duplicate_of: Sequence[str | None], choice: Choice) -> int:
    """How many rows an arm has not because they repeat an earlier one."""
    return sum(earlier is not None and not kept for earlier, kept in zip(duplicate_of, choice.kept, strict=True))
