"""What trainings took and how they went, as plain values. Pure.

A list with an entry for each arm: `arm`, the fields of `models/comparison.json` (`examples`, `steps`, `tokens`, `minutes`,
`training_minutes`, `dollars`, `label_tokens`, `epochs`, `tokens_per_s`, `mfu`, `loss`, `workers`, `device`, `wall_s`,
`heldout`), `model`, `parameters` and `curve`: `step`, `epoch`, `loss`, `learning_rate` in at most `CURVE_POINTS` points, of
which each is the mean of the updates up to it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from alpagasus_ray.reporting.arms_table import HELDOUT, TOLD

CURVE_POINTS = 240
LOSS_DIGITS = 5


def trained(arm: str, details: Mapping[str, Any], curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "arm": arm,
        "model": details.get("model"),
        "parameters": details.get("parameters"),
        **{name: details.get(name) for name in TOLD},
        HELDOUT: details.get(HELDOUT),
        "curve": thinned(curve),
    }


def thinned(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A curve in few points: the mean loss of each stretch of updates, told at its last one."""
    width = -(-len(curve) // CURVE_POINTS) or 1
    stretches = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [
        {
            "step": stretch[-1]["step"],
            "epoch": round(stretch[-1]["epoch"], 4),
            "loss": round(sum(row["loss"] for row in stretch) / len(stretch), LOSS_DIGITS),
            "learning_rate": stretch[-1]["learning_rate"],
        }
        for stretch in stretches
    ]
