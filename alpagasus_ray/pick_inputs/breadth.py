"""How broad each arm is: how near its examples come to all others, how many clusters it covers, and how its shares of them
differ from the dataset's. For every arm, spread or not; vectors are read once for all of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alpagasus_ray.pick_inputs.vectors import Made
from alpagasus_ray.selection import spread
from alpagasus_ray.selection.policies import Flags
from alpagasus_ray.selection.spread import Vectors


def of_arms(made: Made, kept: Mapping[str, Flags]) -> dict[str, dict[str, Any]]:
    """The figures of each arm, by its name (`spread.cluster_report`)."""
    covered = _coverage(made, kept)
    return {name: spread.cluster_report(made.space, made.cluster, flags, covered[name]) for name, flags in kept.items()}


def _coverage(made: Made, kept: Mapping[str, Flags]) -> dict[str, float | None]:
    """`spread.coverage` of each arm: mean cosine of sampled rows with the nearest row that is kept."""
    drawn = np.random.default_rng(0).permutation(made.listed.rows)[: spread.MEASURED]
    sample = _rows(made, np.sort(drawn))
    best = {name: np.full(len(sample), -1, dtype=np.float32) for name in kept}
    start = 0
    for rows in made.parts():
        here = slice(start, start + len(rows))
        for name, flags in kept.items():
            if (chosen := flags[here]).any():
                np.maximum(best[name], spread.nearest(sample, rows[chosen]), out=best[name])
        start = here.stop
    return {name: float(near.astype(np.float64).mean()) if kept[name].any() else None for name, near in best.items()}


def _rows(made: Made, numbers: Any) -> Vectors:
    """The vectors of some rows, in order."""
    taken, start = [], 0
    for rows in made.parts():
        first, last = np.searchsorted(numbers, [start, start + len(rows)])
        taken.append(rows[numbers[first:last] - start])
        start += len(rows)
    return np.concatenate(taken)
