"""How the trainings of an experiment's arms compare: the table that the paper makes (AlpaGasus, table 5), with ratios.

Knows the details of trainings as plain values; knows nothing of runs.
"""

from collections.abc import Mapping
from typing import Any

COMPARED = ("examples", "steps", "tokens", "minutes", "training_minutes", "dollars")
TOLD = (*COMPARED, "label_tokens", "epochs", "tokens_per_s", "mfu", "loss", "workers", "device", "wall_s")
HELDOUT = "heldout"
"""What was measured over held-out examples; null where none were, and of trainings of earlier versions."""


def comparison(trainings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One entry for each arm: what it took, and how many times as much the largest arm took. `minutes` are wall time with
    start, loading and saving, `training_minutes` that of the updates alone; null is what nobody knows."""
    if not trainings:
        return {"largest": None, "arms": []}
    largest = max(trainings, key=lambda arm: trainings[arm]["examples"])
    most = trainings[largest]
    arms = [
        {
            "arm": arm,
            **{name: took[name] for name in TOLD},
            HELDOUT: took.get(HELDOUT),
            "times_less_than_largest": {name: _ratio(most[name], took[name]) for name in COMPARED},
        }
        for arm, took in trainings.items()
    ]
    return {"largest": largest, "arms": arms}


def _ratio(most: float | None, this: float | None) -> float | None:
    return None if most is None or not this else most / this
