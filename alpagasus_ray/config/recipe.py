"""A whole recipe: one section for each stage."""

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
