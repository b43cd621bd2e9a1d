"""The knobs of a cascade: a judge is asked only where a cheaper one points."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, model_validator

from alpagasus_ray.config.base import Name, Section

Part = Annotated[float, Field(gt=0, le=1)]


class Cascade(Section):
    """`score.cascade`: ask the judge about the rows where a cheaper one points, and about a random part of all others."""

    first: Name | None = None
    """Who points: ratings of this run (a `score.name`, whatever engine made them), or a judge that `alpagasus distill` has
    fitted (its `distill.name`). By default a small model that is fitted on what the judge says here."""
    calls: Part | None = None
    """Look for the rows that the judge keeps: ask about the best first, until so large a share of all rows is asked about,
    the random ones included; 0.4 unless given."""
    band: Part | None = None
    """Ask only around the cut, about so large a share of all rows: those above are kept, those below left, unasked."""
    refit: Part | None = None
    """Fit the small model again each time that so large a share of the rows more was asked about: 0.1 unless given; with
    `first`, never unless given."""
    labels: NonNegativeInt = 1000
    """Without `first`: how many rows drawn at random the first model is fitted on."""
    audit: Part = 0.02
    """Share of the rows that is drawn at random and always asked about: it says how much is missed."""
    cut: float | None = None
    """The score from which on the judge is taken to keep a row; by default nine tenths up the scale, the paper's 4.5 of 5."""
    seed: int = 0
    """Of the draws."""

    @model_validator(mode="after")
    def _one_aim(self) -> "Cascade":
        if self.calls is not None and self.band is not None:
            raise ValueError("`calls` looks for what the judge keeps and `band` asks around the cut; give one of them")
        return self

    @property
    def share(self) -> float:
        """The share of the rows that the judge is asked about."""
        return self.band or self.calls or 0.4
