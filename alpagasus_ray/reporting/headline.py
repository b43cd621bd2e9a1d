"""The first screen of a report: the question, its answer, and what that stands on and cost. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alpagasus_ray.errors import UsageError
from alpagasus_ray.reporting import chosen, questions
from alpagasus_ray.reporting.answers_data import Answers, ExactComparison, exact_comparison
from alpagasus_ray.reporting.comparisons_data import PairEntry
from alpagasus_ray.reporting.measures import Entry, Group, Interval, PairStatistics
from alpagasus_ray.reporting.number_text import ratio_text
from alpagasus_ray.reporting.questions import FULL, Arms, Compared, ControlComparison, Controls, Question, Sides
from alpagasus_ray.reporting.selection_data import RatingsEntry, Selection
from alpagasus_ray.reporting.training_data import Training

TRAINING, SELECTION = "training", "selection"
"""What a first screen is about."""
RATIOS = {
    "examples": "training examples",
    "steps": "updates",
    "tokens": "training tokens",
    "training_minutes": "minutes of training",
    "minutes": "minutes in all",
    "dollars": "dollars",
}
IN_THE_ANSWER = {
    "examples": ("examples", "as many examples"),
    "training_minutes": ("training time", "as much training time"),
    "dollars": ("money", "as much money"),
}


class Names(NamedTuple):
    """The names that a question can be about."""

    sizes: Mapping[str, int]
    """Rows of each arm, in the order of the experiment."""
    models: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    """Models that were compared, by arm where they have one."""
    controls: frozenset[str] = frozenset()
    """Arms that are there to be measured against: `full`, and those that take the size of another."""


class Parts(NamedTuple):
    """What the first screen is made of."""

    pairs: Sequence[PairEntry]
    trainings: Sequence[Training]
    ratings: Sequence[RatingsEntry]
    answers: Sequence[Answers]
    arm_of: Mapping[str, str]
    """Arm of each model that has one."""
    sizes: Mapping[str, int]
    stale: Sequence[str]
    controls: Controls | None
    """The random arms beside the arm."""
    control_comparisons: Sequence[ControlComparison]


@dataclass(frozen=True)
class Side(Entry):
    """The arm or the baseline."""

    name: str | None
    rows: int | None


@dataclass(frozen=True)
class OtherComparison(Entry):
    """A pair and judge beside the main one; arms that differ by their seed are one."""

    a: str
    b: str
    voter: str
    prompts: int
    judged: int
    win: int
    tie: int
    lose: int
    no_verdict: int
    winning_score: Interval
    verdict: str


@dataclass(frozen=True)
class Ratio(Entry):
    """How many times as much the baseline took."""

    key: str
    what: str
    arm: float
    baseline: float
    times: float | None


@dataclass(frozen=True)
class RatingCost(Entry):
    """What the ratings took that the arm was chosen by."""

    name: str
    seconds: float
    dollars: float | None


@dataclass(frozen=True)
class HeldoutComparison(Entry):
    """Losses over held-out examples."""

    arm: Mapping[str, float]
    baseline: Mapping[str, float]
    difference: float
    """Loss of the arm minus that of the baseline."""


@dataclass(frozen=True)
class Headline(Entry):
    """The first screen."""

    about: str
    """`training`: the answers to `questions`; `selection`: what was chosen and why, as nothing is trained or compared."""
    question: str
    """The heading: the question, or what was chosen."""
    verdict: str | None
    """The weakest of the answers to `questions`: `shown`, `reversed`, `not shown`, `no data`; null where none is asked."""
    word: str | None
    """The same as a reader's answer: Yes, …"""
    questions: Sequence[Question]
    sentence: str
    """What the answer against the baseline stands on, or how the examples were chosen and why others are left out."""
    cheaper: str | None
    """For how much less."""
    arm: Side
    baseline: Side
    judge: str | None
    pooled: Group | None
    """Statistics of the arm against the baseline, over all test sets."""
    test_sets: Sequence[Group]
    others: Sequence[OtherComparison]
    ratios: Sequence[Ratio]
    rating_cost: RatingCost | None
    heldout: HeldoutComparison | None
    exact: ExactComparison | None
    claim: str | None
    notes: Sequence[str]


def sides(arm: str | None, baseline: str | None, names: Names) -> Sides:
    """The arm and the baseline: as the recipe says, else the first arm against what it was compared with; or once models are
    trained, against `full` or the largest of the controls and of the other trained arms. Raises `UsageError` for a name that
    the run does not have."""
    every = list(dict.fromkeys([*names.sizes, *names.models, *(name for pair in names.pairs for name in pair)]))
    for key, value in (("arm", arm), ("baseline", baseline)):
        if value is not None and value not in every:
            there = f"it has {', '.join(every)}" if every else "it has no arm or model yet"
            raise UsageError(f"report.{key} is {value!r}, which this run does not have; {there}")
    arm = arm or _first(names)
    return Sides(arm, baseline or _opponent(arm, names, every))


def _first(names: Names) -> str | None:
    compared = [pair for pair in names.pairs if pair[0] != pair[1]] or list(names.pairs)
    among = {name for pair in compared for name in pair}
    of_the_run = next(iter(names.sizes), None)
    return compared[0][0] if compared and of_the_run not in among else of_the_run or next(iter(names.models), None)


def _opponent(arm: str | None, names: Names, every: Iterable[str]) -> str | None:
    met = [name for pair in names.pairs if arm in pair for name in pair if name != arm]
    if not met and not names.models:
        return arm if (arm, arm) in names.pairs else None
    trained = {*names.controls, *names.models}
    for others in (met, [name for name in names.sizes if name != arm and name in trained]):
        if others:
            return FULL if FULL in others else max(others, key=lambda name: names.sizes.get(name, 0))
    rest = (name for name in every if name != arm and name not in names.sizes)
    return next(rest, arm if (arm, arm) in names.pairs else None)


def headline(about: Sides, parts: Parts, claim: str | None, selection: Selection | None = None) -> Headline:
    """The first screen of a report about these two; where nothing is trained or compared, about what was chosen."""
    asks = bool(parts.pairs or parts.trainings or parts.answers)
    main = _main_pair(about, parts)
    by_arm = {entry.arm: entry for entry in parts.trainings}
    mine, other = by_arm.get(about.arm or ""), by_arm.get(about.baseline or "")
    pooled = main.groups.pooled[0] if main else None
    sizes = (parts.sizes.get(about.arm or ""), parts.sizes.get(about.baseline or ""))
    ratios = _ratios(mine, other, sizes) if asks else []
    question_list = _questions(about, parts) if asks else []
    badge = questions.weakest(one.verdict for one in question_list) if asks else None
    return Headline(
        about=TRAINING if asks else SELECTION,
        question=questions.badge_question(question_list) if asks else chosen.heading(selection),
        verdict=badge,
        word=questions.WORDS[badge] if badge else None,
        questions=question_list,
        sentence=questions.sentence(about, pooled, parts.sizes) if asks else chosen.sentence(selection, parts.ratings),
        cheaper=_cheaper(about, ratios),
        arm=Side(about.arm, sizes[0]),
        baseline=Side(about.baseline, sizes[1]),
        judge=main.voter if main else None,
        pooled=pooled,
        test_sets=main.groups.test_sets if main else [],
        others=_others(parts.pairs, main, parts.control_comparisons),
        ratios=ratios,
        rating_cost=_rating_cost(parts.ratings),
        heldout=_heldout(mine, other),
        exact=exact_comparison(about.arm, about.baseline, parts.answers),
        claim=claim,
        notes=[*_notes(main, parts.pairs, parts.stale), *_heldout_notes(mine, other)],
    )


def _rating_cost(ratings: Iterable[RatingsEntry]) -> RatingCost | None:
    rating = next((entry for entry in ratings if entry.main), None)
    return RatingCost(rating.name, rating.seconds, rating.dollars) if rating else None


def _questions(about: Sides, parts: Parts) -> list[Question]:
    """Against the baseline, and against as many at random."""
    arms = Arms(parts.sizes, [entry.arm for entry in parts.trainings])
    main = _main_pair(about, parts)
    if about.arm is None or parts.controls is None:
        return [questions.against_one(about, _compared(main), arms)]
    by_voter = {entry.voter: entry for entry in parts.control_comparisons}
    comparison = by_voter.get(main.voter if main else "") or next(iter(parts.control_comparisons), None)
    at_random = questions.against_random(about.arm, parts.controls, comparison, arms)
    if about.baseline not in parts.controls.names:
        return [questions.against_one(about, _compared(main), arms), at_random]
    # a control as the baseline must not hide how the arm does against everything
    whole = Sides(about.arm, FULL)
    if FULL not in parts.sizes:
        return [at_random]
    return [questions.against_one(whole, _compared(_main_pair(whole, parts)), arms), at_random]


def _compared(pair: PairEntry | None) -> Compared | None:
    return None if pair is None else Compared(pair.voter, pair.groups.pooled[0])


def _main_pair(about: Sides, parts: Parts) -> PairEntry | None:
    """The verdicts that the answer stands on: the first judge's of the two."""
    for entry in parts.pairs:
        if (parts.arm_of.get(entry.a, entry.a), parts.arm_of.get(entry.b, entry.b)) == about:
            return entry
    return None


def _ratios(mine: Training | None, other: Training | None, sizes: tuple[int | None, int | None]) -> list[Ratio]:
    """How many times as much the baseline took; where not both were trained, of examples alone."""
    took: list[Mapping[str, float | None]] = [{"examples": size} for size in sizes]
    if mine and other:
        took = [{key: getattr(training, key) for key in RATIOS} for training in (mine, other)]
    ratios = []
    for key, what in RATIOS.items():
        arm, baseline = (values.get(key) for values in took)
        if arm is not None and baseline is not None:
            ratios.append(Ratio(key, what, arm, baseline, round(baseline / arm, 4) if arm else None))
    return ratios


def _cheaper(about: Sides, ratios: Iterable[Ratio]) -> str | None:
    """For how much less, in a sentence."""
    known = {ratio.key: ratio_text(ratio.times) for ratio in ratios if ratio.times is not None}
    words = [
        alike if known[key] == "1" else f"{known[key]} times the {what}"
        for key, (what, alike) in IN_THE_ANSWER.items()
        if key in known
    ]
    if not words or about.baseline is None:
        return None
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    return f"Training on {about.baseline} took {listed}."


def _others(
    pairs: Iterable[PairEntry], main: PairEntry | None, control_comparisons: Sequence[ControlComparison]
) -> list[OtherComparison]:
    """The pairs and judges beside the main one; controls that differ by their seed are one."""
    several = [entry for entry in control_comparisons if len(entry.pairs) > 1]
    as_one = {(entry.voter, *pair) for entry in several for pair in entry.pairs}
    single = [pair for pair in pairs if pair is not main and (pair.voter, pair.a, pair.b) not in as_one]
    return [
        *(_other((pair.a, pair.b), pair.voter, pair.groups.pooled[0]) for pair in single),
        *(_other((entry.arm, entry.controls.label), entry.voter, entry.statistics) for entry in several),
    ]


def _other(pair: tuple[str, str], voter: str, statistics: PairStatistics) -> OtherComparison:
    return OtherComparison(
        a=pair[0],
        b=pair[1],
        voter=voter,
        prompts=statistics.prompts,
        judged=statistics.judged,
        win=statistics.win,
        tie=statistics.tie,
        lose=statistics.lose,
        no_verdict=statistics.no_verdict,
        winning_score=statistics.winning_score,
        verdict=questions.verdict(statistics),
    )


def _heldout(mine: Training | None, other: Training | None) -> HeldoutComparison | None:
    if not mine or not other or not mine.heldout or not other.heldout:
        return None
    difference = round(mine.heldout["loss"] - other.heldout["loss"], 5)
    return HeldoutComparison(mine.heldout, other.heldout, difference)


def _notes(main: PairEntry | None, pairs: Iterable[PairEntry], stale: Sequence[str]) -> list[str]:
    """What a reader of the answer has to know."""
    notes = []
    if main and main.label == "rules":
        notes.append("Judged by mechanical rules, a baseline: no language model read the answers.")
    alone = dict.fromkeys(pair.a for pair in pairs if pair.same_model)
    notes += [f"{a} is compared with itself: what differs from a tie there is the judge's doing." for a in alone]
    missing = main.groups.pooled[0].no_verdict if main else 0
    if missing == 1:
        notes.append("1 prompt has no verdict in both orders and counts for nobody.")
    elif missing:
        notes.append(f"{missing:,} prompts have no verdict in both orders and count for nobody.")
    if stale:
        more = f", and {len(stale) - 1:,} more of the kind" if len(stale) > 1 else ""
        notes.append(f"{stale[0]}{more}: some of what is told here is of an earlier state of the run.")
    return notes


def _heldout_notes(*trainings: Training | None) -> list[str]:
    """What makes a held-out loss too low."""
    measured = [(entry.arm, entry.heldout.get("in_arm")) for entry in trainings if entry and entry.heldout]
    return [
        f"{count:,} of the held-out examples are in {arm} too: its held-out loss is too low."
        for arm, count in measured
        if count
    ]
