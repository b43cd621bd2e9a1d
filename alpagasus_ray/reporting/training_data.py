"""What trainings took, how they went, and how those of an experiment compare (AlpaGasus, table 5, with ratios). Pure: from the
details of their manifests and their curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alpagasus_ray.reporting.measures import Entry

COMPARED = ("examples", "steps", "tokens", "minutes", "training_minutes", "dollars")
MEASURES = (*COMPARED, "label_tokens", "epochs", "tokens_per_s", "mfu", "loss", "workers", "device", "wall_s")
"""Details of a training that are reported; `minutes` are wall time with start, loading and saving, `training_minutes` that of
the updates alone."""
HELDOUT = "heldout"
"""Losses over held-out examples; null where none were given, and of trainings of earlier versions."""
CURVE_POINTS = 240
LOSS_DIGITS = 5

Details = Mapping[str, Any]
"""Those of a training's manifest."""


@dataclass(frozen=True)
class CurvePoint(Entry):
    """One update, or a stretch of them: its mean loss, and the rest at its last update."""

    step: int
    epoch: float
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Training(Entry):
    """The training of one arm; null is what nobody knows."""

    arm: str
    model: str | None
    """The model that it began with."""
    parameters: int | None
    examples: int | None
    steps: int | None
    """Updates."""
    tokens: int | None
    minutes: float | None
    """Wall time with start, loading and saving."""
    training_minutes: float | None
    """Wall time of the updates alone."""
    dollars: float | None
    label_tokens: int | None
    """Tokens with loss."""
    epochs: float | None
    tokens_per_s: float | None
    mfu: float | None
    """Model FLOPs utilization, from 0 to 1."""
    loss: Mapping[str, float] | None
    """`first`, and `last_tenth`: the mean of the last tenth of the updates."""
    workers: int | None
    device: str | None
    wall_s: Mapping[str, float] | None
    """Seconds of each part of the work."""
    heldout: Mapping[str, float] | None
    """`loss`, `examples`, `label_tokens`, and of newer runs `in_arm` and `left_out`."""
    curve: Sequence[CurvePoint]


def training(arm: str, details: Details, curve: Sequence[CurvePoint]) -> Training:
    """The entry of an arm; `curve` has a point for each update."""
    measures = {name: details.get(name) for name in ("model", "parameters", *MEASURES, HELDOUT)}
    return Training(arm=arm, **measures, curve=thinned(curve))


def thinned(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """A curve in at most `CURVE_POINTS` points."""
    # means, not every nth update: single losses are noise that hides the course
    width = -(-len(curve) // CURVE_POINTS) or 1
    stretches = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [
        CurvePoint(
            step=stretch[-1].step,
            epoch=round(stretch[-1].epoch, 4),
            loss=round(sum(point.loss for point in stretch) / len(stretch), LOSS_DIGITS),
            learning_rate=stretch[-1].learning_rate,
        )
        for stretch in stretches
    ]


def comparison(trainings: Mapping[str, Details]) -> dict[str, Any]:
    """`models/comparison.json`: what the training of each arm took, and how many times as much the largest arm took; null is
    what nobody knows."""
    if not trainings:
        return {"largest": None, "arms": []}
    largest = max(trainings, key=lambda arm: trainings[arm]["examples"])
    most = trainings[largest]
    arms = [
        {
            "arm": arm,
            **{name: details[name] for name in MEASURES},
            HELDOUT: details.get(HELDOUT),
            "times_less_than_largest": {name: _ratio(most[name], details[name]) for name in COMPARED},
        }
        for arm, details in trainings.items()
    ]
    return {"largest": largest, "arms": arms}


def _ratio(most: float | None, this: float | None) -> float | None:
    return None if most is None or not this else most / this
