"""What `evaluation` computes, as typed entries of `report.json`: a class has the fields of the plain values it is read from.

All counts and rates are from the side of model a; null is what there is nothing to compute from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, TypeAdapter


class Entry:
    """An object of `report.json`: its fields are the keys, in their order, and there are no others."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", use_attribute_docstrings=True)


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def read(kind: type[AnyEntry], values: Mapping[str, Any], **more: Any) -> AnyEntry:
    """An entry from plain values and more fields. Raises pydantic's `ValidationError` where a key is missing or not known."""
    # pydantic checks the keys here, so that a new one in `evaluation` fails a test and does not vanish from the report
    adapter: TypeAdapter[AnyEntry] = _adapter(kind)  # type: ignore[arg-type]  # mypy does not see that a class has a hash
    return adapter.validate_python({**values, **more})


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass(frozen=True)
class Interval(Entry):
    """A value with the ends of its 95% interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Position(Entry):
    """What the order of the answers did (`evaluation.statistics.position`)."""

    both_judged: int
    consistent: int
    flipped: int
    half: int
    consistency: float | None
    """Share of the prompts with the same winner in both orders."""
    flip_rate: float | None
    first_slot_wins: int
    second_slot_wins: int
    first_slot_share: float | None
    slot_bias_p: float | None


@dataclass(frozen=True)
class LengthControlled(Interval):
    """The win rate at equal length."""

    why_not: str | None
    """Why there is none."""


@dataclass(frozen=True)
class Length(Entry):
    """What the lengths of the answers did (`evaluation.length_control`)."""

    prompts: int
    unit: str
    """What lengths are in: `characters`, or `words` where verdicts of an earlier version are among them."""
    mean_length_a: float | None
    mean_length_b: float | None
    longer_win_share: float | None
    length_controlled_win_rate: LengthControlled


@dataclass(frozen=True)
class ScoreRatio(Entry):
    """Mean score of a in percent of that of b."""

    percent: float | None
    games: int
    by_skill_percent: float | None
    definition: str


@dataclass(frozen=True)
class Statistics(Entry):
    """One pair of models on some prompts (`evaluation.statistics.summarize`)."""

    prompts: int
    judged: int
    """Prompts with a verdict in both orders."""
    win: int
    tie: int
    lose: int
    no_verdict: int
    winning_score: Interval
    """(wins - losses) / judged + 1; 1 is parity."""
    win_rate: Interval
    """Ties count half."""
    resamples: int
    """Draws of the bootstrap behind the intervals."""
    sign_test_p: float | None
    position: Position
    length: Length
    score_ratio: ScoreRatio


@dataclass(frozen=True)
class GroupName(Entry):
    """Which prompts an entry is about."""

    group: str
    test_set: str | None
    """Null where it is about all test sets."""


@dataclass(frozen=True)
class Group(Statistics, GroupName):
    """Statistics of a group of prompts."""


@dataclass(frozen=True)
class Groups(Entry):
    """Statistics of one pair (`evaluation.statistics.grouped`)."""

    pooled: Sequence[Group]
    """One entry, over all test sets."""
    test_sets: Sequence[Group]
    categories: Sequence[Group]
    skills: Sequence[Group]
    difficulties: Sequence[Group]


@dataclass(frozen=True)
class SeedStatistics(Entry):
    """One model against several that differ by their seed (`evaluation.seeds.combined`)."""

    prompts: int
    seeds: int
    comparisons: int
    """One for each prompt and seed."""
    judged: int
    win: int
    tie: int
    lose: int
    no_verdict: int
    winning_score: Interval
    """Mean over the seeds, with an interval by prompt."""
    win_rate: Interval
    least: float | None
    """The lowest winning score of a single seed."""
    most: float | None
    resamples: int
    sign_test_p: float | None


PairStatistics = Statistics | SeedStatistics
"""What an answer can stand on."""


@dataclass(frozen=True)
class ExactMatch(Entry):
    """Answers beside references (`evaluation.exact_match`)."""

    prompts: int
    """Those with a reference."""
    exact: int
    share: float | None
    contains: int
    f1: float | None
    unanswered: int


@dataclass(frozen=True)
class RankedModel(Entry):
    """A model's place in a ranking."""

    model: str
    component: int
    """Ratings of two components cannot be compared."""
    rating: float
    low: float | None
    high: float | None
    results: int


@dataclass(frozen=True)
class BradleyTerry(Entry):
    """Ratings of several models on one scale (`evaluation.ranking.bradley_terry`)."""

    models: Sequence[RankedModel]
    """Best first."""
    components: Sequence[Sequence[str]]
    connected: bool
    ridge: bool
    """Whether a weak prior was needed, as a model won or lost everything."""
    no_interval: Sequence[str]
    prompts: int
    resamples: int


@dataclass(frozen=True)
class VoterPair(Entry):
    """Agreement of two voters."""

    voters: Sequence[str]
    items: int
    agreement: float | None
    kappa: float | None
    """Cohen's."""


@dataclass(frozen=True)
class FleissKappa(Entry):
    """Over the items with the most frequent number of votes."""

    kappa: float | None
    items: int
    votes_per_item: int | None


@dataclass(frozen=True)
class KrippendorffAlpha(Entry):
    """Over all items with two votes or more."""

    alpha: float | None
    items: int


@dataclass(frozen=True)
class Agreement(Entry):
    """How far judges and people agree (`evaluation.agreement.agreement`)."""

    items: int
    votes: int
    voters: Sequence[str]
    pairs: Sequence[VoterPair]
    fleiss: FleissKappa
    krippendorff: KrippendorffAlpha
