"""The knobs of `jobs/distill.py`: a small model of a judge, fitted on some of its ratings."""

from typing import Annotated

from pydantic import PositiveInt

from alpagasus_ray.config.base import OPERATIONAL, Name, Section


class Distill(Section):
    """`jobs/distill.py`: fit a small model of a judge, which then scores every row for nothing."""

    stated = frozenset({"ratings", "name", "labels", "seed"})

    ratings: Name = "judge"
    """Which ratings to learn from: the `score.name` they were made under. They may be of a part of the rows. Not used with
    `labels`."""
    name: Name = "student"
    """Directory under `judges/`, and the name by which `score.judge.model` and `score.cascade.first` find it."""
    labels: PositiveInt | None = None
    """Ask the judge of `score.judge` first about so many rows, drawn from the whole dataset, under the limits and the cap
    of `score`: `score.max_cost_usd` holds for these labels and for what the same judge rates afterwards together. 1,000 are of
    use, 5,000 better; `fit.json` tells what more would bring."""
    seed: int = 0
    """Of the draw of rows."""
    cut: Annotated[float | None, OPERATIONAL] = None
    """The score from which on the judge is taken to keep a row, for the measures in `fit.json`; by default nine tenths up the
    scale, which is the paper's 4.5 of 5."""
