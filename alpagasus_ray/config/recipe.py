"""A whole recipe: one section for each stage."""

from collections.abc import Mapping

from pydantic import Field

from alpagasus_ray.config.base import Section
from alpagasus_ray.config.bench import Bench
from alpagasus_ray.config.compare import Compare, Report
from alpagasus_ray.config.distill import Distill
from alpagasus_ray.config.finetune import Finetune
from alpagasus_ray.config.pick import Pick
from alpagasus_ray.config.race import Race
from alpagasus_ray.config.stages import Generate, Ingest, Score
from alpagasus_ray.config.trust import Card, People

AFTER_PICK: Mapping[str, str] = {"finetune": "finetune.model", "generate": "generate.test_sets", "compare": "compare.judge"}
"""Sections of what comes after the choice of the arms, and the key that asks for each."""


class Recipe(Section):
    """A whole run."""

    ingest: Ingest = Ingest()
    score: Score = Field(default_factory=Score)
    distill: Distill = Distill()
    pick: Pick = Pick()
    race: Race = Race()
    finetune: Finetune = Finetune()
    generate: Generate = Generate()
    compare: Compare = Field(default_factory=Compare)
    bench: Bench = Bench()
    card: Card = Card()
    people: People = People()
    report: Report = Report()

    @property
    def ends_with_report(self) -> bool:
        """Whether nobody has asked for trainings, answers and comparisons: these sections say nothing but the defaults."""
        plain = Recipe()
        return all(getattr(self, section) == getattr(plain, section) for section in AFTER_PICK)
