"""The knobs of `jobs/card.py` and `jobs/people.py`, and those by which several ratings become one."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from alpagasus_ray.config.base import OPERATIONAL, Name, Section, Share, differ
from alpagasus_ray.config.engines import Asking


class Combine(Section):
    """One rating made of others; nothing is asked."""

    ratings: tuple[Name, ...]
    """The ratings, by their names under `ratings/`; two or more, or one that is to be corrected."""
    by: Literal["median", "mean", "dawid-skene", "worst"] = "median"
    """`median`: one broken judge of three moves it no further than to the next of the others; `mean`; `dawid-skene`: each
    judge's confusions are learned from all ratings; `worst`: the lowest."""
    correct: Literal["none", "smooth"] = "none"
    """`smooth`: first replace each judge's probably wrong scores by what it gave to similar rows."""
    held: Name | None = None
    """With `smooth`: another judge's ratings, with which raw and corrected ones are compared; it has no part in them."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Combine":
        differ("ratings", list(self.ratings))
        if not self.ratings or (len(self.ratings) < 2 and self.correct == "none"):
            raise ValueError("`ratings` names two or more ratings; one alone only with `correct: smooth`")
        if self.held in self.ratings:
            raise ValueError(f"`held` is {self.held!r}, which has a part in the result; name another judge's ratings")
        if self.held is not None and self.correct == "none":
            raise ValueError("`held` is for `correct: smooth`")
        return self


class Card(Asking):
    """`jobs/card.py`: how far each judge can be trusted. Nothing is asked unless `repeat` or `probes` is set."""

    section: ClassVar[str] = "card"

    ratings: tuple[Name, ...] = ()
    """Which ratings get a card, by their names under `ratings/`; by default all."""
    repeat: bool = False
    """Ask the judge of `score` about `rows` of its rows once more."""
    probes: bool = False
    """Ask it about rows with filler around the answer, about rows with planted defects, and about stored probes again."""
    gold: tuple[str, ...] = ()
    """Files of marks that are taken to be right (CSV, JSON, JSON lines or Parquet): `example_id` and `score`, what the example
    deserves; the report's page exports such a file of ratings that a reader marked as wrong. `out_of` says where a mark's scale
    ends, where the run has ratings on several; marks on another scale than a judge's are left out of its card and counted."""
    rows: PositiveInt = 200
    """Rows that are asked about again, and as many with filler."""
    per_kind: PositiveInt = 20
    """Planted defects of each of the twelve kinds."""
    stored: PositiveInt = 50
    """Probes that are stored, and asked again each time the judge of that name has been used since."""
    cut: float = 4.5
    """The score from which on a row counts as chosen."""
    epsilon: Share = 0.2
    """What the judge's lower price is worth in the alternative annotator test: 0.2 where the people are experts, 0.1 for a
    crowd."""
    limits: dict[str, tuple[float, float]] = {}
    """Other limits of the verdict: the worst value that is good and the best that is bad, e.g. `{repeat.alpha: [0.9, 0.6]}`."""
    seed: int = 0
    """Seed of the rows and defects."""
    max_failed: Annotated[Share, OPERATIONAL] = 1.0
    """Stop when a larger share of the probes has failed; failures are a part of the card, so that all may."""


class People(Section):
    """`jobs/people.py`: a ballot for people, and their votes."""

    form: Literal["vote", "rate"] = "vote"
    """`vote`: which of two models' answers is better; `rate`: how good an example is."""
    pair: tuple[Name, Name] | None = None
    """`vote`: the two models, by their names under `answers/`; by default the first of `compare.pairs`, or the run's only
    two."""
    test_sets: tuple[Name, ...] = ()
    """`vote`: by default all that both have answered."""
    ratings: Name = "judge"
    """`rate`: the ratings on whose scale people rate, and by which rows near the cut are known."""
    voters: tuple[Annotated[str, Field(min_length=1, max_length=60)], ...] = ("voter 1", "voter 2", "voter 3")
    """Who votes; each has an order of her own."""
    per_test_set: PositiveInt = 40
    """`vote`: prompts of each test set, each skill with its share; the paper had 40 of four."""
    repeats: NonNegativeInt = 10
    """Items that are shown a second time, with sides swapped."""
    checks: NonNegativeInt = 4
    """Items with a garbled answer, which whoever reads will see."""
    near: NonNegativeInt = 50
    """`rate`: examples whose score is nearest to `cut`, besides those drawn at random. They are told apart in the card, and its
    verdict does not rest on them."""
    at_random: NonNegativeInt = 50
    """`rate`: examples drawn at random from all that have a score; what the card says of the judge beside people rests on these
    alone, and is graded from 30 on."""
    cut: float = 4.5
    """`rate`: the score from which on a row counts as chosen."""
    language: Literal["en", "zh", "es", "de"] = "en"
    """What the page speaks at first; each voter can change it."""

    @model_validator(mode="after")
    def _names_differ(self) -> "People":
        differ("voters", list(self.voters))
        if not self.voters:
            raise ValueError("`voters` names one person or more")
        return self

    @property
    def own_name(self) -> str | None:
        """The directory under `people/` of ratings by people; that of votes is the pair's."""
        return f"rate-{self.ratings}" if self.form == "rate" else None
