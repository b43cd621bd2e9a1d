"""The two questions of a report: is the arm better than the baseline, and better than as many examples at random? Pure.

| answer | what it needs |
|---|---|
| Yes | the 95% interval and the exact sign test exclude parity, and at least 80% of the prompts are judged |
| No, the other way round | the same, on the other side of parity |
| Not shown | anything less |
| No data | nothing is judged |

All answers together (the badge) say no more than the weakest of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alpagasus_ray.evaluation.seeds import combined
from alpagasus_ray.reporting.comparisons_data import PairGames, StatisticsSettings, voters
from alpagasus_ray.reporting.measures import Entry, Group, PairStatistics, SeedStatistics, read

PARITY = 1.0
LARGEST_P = 0.05
"""Of the exact test; the interval has the confidence that goes with it."""
LEAST_JUDGED = 0.8
"""Share of the prompts below which those that have a verdict may be another kind of prompts."""
SHOWN, REVERSED, NOT_SHOWN, NO_DATA = "shown", "reversed", "not shown", "no data"
WORDS = {SHOWN: "Yes", REVERSED: "No, the other way round", NOT_SHOWN: "Not shown", NO_DATA: "No data"}
FULL, RANDOM = "full", "random"
NO_CHOICE = (RANDOM, FULL)
"""Policies of arms that nobody chose by anything: no control asks what their choice is worth."""
SAME_SIZE = 0.01
"""By what share of its rows a control may differ from the arm, duplicates being dropped from each."""


class Sides(NamedTuple):
    """Whom a question is about."""

    arm: str | None
    baseline: str | None


class Arms(NamedTuple):
    """What is known of the arms."""

    sizes: Mapping[str, int]
    """Rows of each, in the order of the experiment."""
    trained: Sequence[str]
    """Those with a model of this run, a training each."""


class Controls(NamedTuple):
    """Whom an arm is measured against, to see whether its choice matters or its size alone."""

    names: tuple[str, ...]
    """Arms of as many examples at random, that differ by their seed."""
    other_sizes: tuple[str, ...] = ()
    """Random arms of another size, which answer another question."""

    @property
    def label(self) -> str:
        """What the controls are called together."""
        return self.names[0] if len(self.names) == 1 else f"{RANDOM} ({len(self.names)} seeds)"


class Compared(NamedTuple):
    """The statistics that answer a question, and whose verdicts they are."""

    voter: str
    statistics: Group | SeedStatistics


class ControlComparison(NamedTuple):
    """What one judge says of an arm and its controls, as one comparison."""

    voter: str
    arm: str
    controls: Controls
    pairs: Sequence[tuple[str, str]]
    """The pairs of models that it stands for."""
    statistics: SeedStatistics


@dataclass(frozen=True)
class QuestionBaseline(Entry):
    """The other side of a question."""

    name: str | None
    arms: Sequence[str]
    """Several where controls differ by their seed."""
    rows: int | None


@dataclass(frozen=True)
class TrainingSeeds(Entry):
    """How many trainings of this run stand behind each side; null where none are known."""

    arm: int | None
    baseline: int | None


@dataclass(frozen=True)
class Question(Entry):
    """A question and its answer."""

    key: str
    """`baseline` or `random`."""
    against: str
    """Whom, in words."""
    question: str
    verdict: str
    """`shown`, `reversed`, `not shown`, `no data`."""
    word: str
    """The verdict as a reader's answer: Yes, …"""
    sentence: str
    """The numbers that the answer stands on."""
    judge: str | None
    pooled: Group | SeedStatistics | None
    """Statistics over all test sets."""
    baseline: QuestionBaseline
    seeds: TrainingSeeds
    behind: str
    """How many prompts and training seeds the answer stands on, in words."""


def controls(arm: str | None, policies: Mapping[str, str], sizes: Mapping[str, int]) -> Controls | None:
    """The random arms beside an arm; None where the arm is none that somebody chose in this run."""
    if arm is None or arm not in sizes or policies.get(arm) in NO_CHOICE:
        return None
    random = [name for name in sizes if policies.get(name) == RANDOM]
    alike = tuple(name for name in random if abs(sizes[name] - sizes[arm]) <= SAME_SIZE * sizes[arm])
    return Controls(alike, tuple(name for name in random if name not in alike))


def control_comparisons(
    arm: str | None,
    beside: Controls | None,
    pairs: Sequence[PairGames],
    arm_of: Mapping[str, str],
    settings: StatisticsSettings,
) -> list[ControlComparison]:
    """The arm and its controls by each judge; `arm_of` has the arm of each model that was trained in this run."""
    if arm is None or beside is None:
        return []
    comparisons = []
    for who, voter in voters(pairs).items():
        by_control = {
            arm_of.get(pair.b, pair.b): pair
            for pair in pairs
            if pair.who == who and arm_of.get(pair.a, pair.a) == arm and arm_of.get(pair.b, pair.b) in beside.names
        }
        if by_control:
            matches = [pair.matches for pair in by_control.values()]
            statistics = combined(matches, settings.rule, settings.resamples, settings.seed)
            models = [(pair.a, pair.b) for pair in by_control.values()]
            compared = Controls(tuple(by_control))
            comparisons.append(ControlComparison(voter, arm, compared, models, read(SeedStatistics, statistics)))
    return comparisons


def verdict(statistics: PairStatistics | None) -> str:
    """What the statistics of a pair allow to say."""
    if statistics is None or statistics.winning_score.value is None:
        return NO_DATA
    if doubts(statistics):
        return NOT_SHOWN
    return SHOWN if statistics.winning_score.value > PARITY else REVERSED


def doubts(statistics: PairStatistics) -> list[str]:
    """Why a difference is not shown; empty where it is."""
    reasons, low, high = [], statistics.winning_score.low, statistics.winning_score.high
    what, whole = "prompts", statistics.prompts
    if isinstance(statistics, SeedStatistics) and statistics.seeds > 1:
        what, whole = "comparisons", statistics.comparisons
    if statistics.judged < LEAST_JUDGED * whole:
        reasons.append(f"only {statistics.judged:,} of {whole:,} {what} are judged, and {LEAST_JUDGED:.0%} have to be")
    # both have to agree: with few prompts the bootstrap's interval is too narrow, which the exact test is not
    p = statistics.sign_test_p
    if low is None or high is None:
        reasons.append("all prompts went the same way, which leaves no interval to go by")
    elif low <= PARITY <= high:
        reasons.append("the interval includes parity")
    elif p is None or p >= LARGEST_P:
        shown = "no data" if p is None else f"{p:.3f}"
        reasons.append(f"the interval excludes parity, the exact sign test does not (p {shown})")
    return reasons


def question_text(sides: Sides, sizes: Mapping[str, int]) -> str:
    """The question about an arm and its baseline."""
    if sides.arm is None:
        return "What is in this run?"
    if sides.baseline is None:
        return f"Is {sides.arm} worth training on?"
    if sides.arm not in sizes or sides.baseline not in sizes:
        return f"Does {sides.arm} beat {sides.baseline}?"
    mine, other = sizes[sides.arm], sizes[sides.baseline]
    against = f"all {other:,}" if sides.baseline == FULL else f"the {other:,} of {sides.baseline}"
    return f"Does training on the {mine:,} {sides.arm} examples beat training on {against}?"


def sentence(sides: Sides, statistics: PairStatistics | None, sizes: Mapping[str, int]) -> str:
    """The numbers that the answer stands on, and what they allow to say."""
    if sides.arm is None or sides.baseline is None:
        return "There is nothing to compare yet; alpagasus run makes all of an experiment."
    if statistics is None:
        return f"No verdicts compare {sides.arm} with {sides.baseline}; alpagasus compare makes them."
    if not statistics.judged:
        prompts = f"Of {statistics.prompts:,} prompts"
        return f"{prompts} none has a verdict in both orders; alpagasus compare --retry-failed asks again."
    mine, other = (f"the model trained on {name}" if name in sizes else str(name) for name in sides)
    wins = f"{mine[0].upper()}{mine[1:]} wins {statistics.win:,} of {statistics.judged:,} prompts against {other}"
    counts = f"{wins}, ties {statistics.tie:,} and loses {statistics.lose:,}"
    return f"{counts}: a winning score of {_score_text(statistics)}"


def _seeds_sentence(arm: str, statistics: SeedStatistics) -> str:
    """The sentence of an arm against several controls that differ by their seed."""
    return (
        f"The model trained on {arm} wins {statistics.win:,} of {statistics.judged:,} comparisons against those trained on "
        f"{statistics.seeds} random draws, ties {statistics.tie:,} and loses {statistics.lose:,}: a mean winning score of "
        f"{_score_text(statistics)} By seed from {statistics.least:.3f} to {statistics.most:.3f}."
    )


def _score_text(statistics: PairStatistics) -> str:
    score, why = statistics.winning_score, "; ".join(doubts(statistics))
    interval = "" if score.low is None else f" (95%: {score.low:.3f} to {score.high:.3f}; parity is 1)"
    return f"{score.value:.3f}{interval}." + (f" {why[0].upper()}{why[1:]}: a difference is not shown." if why else "")


def against_one(sides: Sides, compared: Compared | None, arms: Arms) -> Question:
    """The question about the arm and one other."""
    statistics = compared and compared.statistics
    answer = verdict(statistics)
    name, rows = sides.baseline, arms.sizes.get(sides.baseline or "")
    baseline = QuestionBaseline(name=name, arms=[name] if name else [], rows=rows)
    seeds = _training_seeds(sides.arm, baseline, arms)
    return Question(
        key="baseline",
        against=f"all {rows:,}" if name == FULL and rows is not None else name or "another arm",
        question=question_text(sides, arms.sizes),
        verdict=answer,
        word=WORDS[answer],
        sentence=sentence(sides, statistics, arms.sizes),
        judge=compared.voter if compared else None,
        pooled=statistics,
        baseline=baseline,
        seeds=seeds,
        behind=_behind(Sides(sides.arm, name), compared, seeds),
    )


def against_random(arm: str, beside: Controls, comparison: ControlComparison | None, arms: Arms) -> Question:
    """The question whether the choice matters, and not the size alone."""
    compared = comparison and Compared(comparison.voter, comparison.statistics)
    among = beside if comparison is None else comparison.controls
    answer = verdict(comparison and comparison.statistics)
    name = among.label if among.names else None
    baseline = QuestionBaseline(name, list(among.names), arms.sizes.get(among.names[0]) if among.names else None)
    seeds = _training_seeds(arm, baseline, arms)
    return Question(
        key="random",
        against="as many at random",
        question=f"Does training on the {arms.sizes[arm]:,} {arm} examples beat training on as many drawn at random?",
        verdict=answer,
        word=WORDS[answer],
        sentence=_controls_sentence(Sides(arm, name), beside, comparison, arms.sizes),
        judge=compared.voter if compared else None,
        pooled=compared.statistics if compared else None,
        baseline=baseline,
        seeds=seeds,
        behind=_behind(Sides(arm, name), compared, seeds),
    )


def _controls_sentence(sides: Sides, beside: Controls, comparison: ControlComparison | None, sizes: Mapping[str, int]) -> str:
    if not beside.names:
        others = f" ({', '.join(beside.other_sizes)}: of another size)" if beside.other_sizes else ""
        return (
            f"This run has no arm of as many examples at random{others}: whether the choice matters, or its size alone, is not "
            f"known. `pick.arms` with {{name: random, policy: random}} draws one."
        )
    if comparison is None:
        return sentence(Sides(sides.arm, " or ".join(beside.names)), None, sizes)
    if comparison.statistics.seeds == 1 or not comparison.statistics.judged:
        return sentence(sides, comparison.statistics, sizes)
    return _seeds_sentence(comparison.arm, comparison.statistics)


def badge_question(questions: Sequence[Question]) -> str:
    """What all answers together are about."""
    question = questions[0].question
    if len(questions) == 1 or not questions[0].baseline.arms:
        return question
    return f"{question.removesuffix('?')}, and training on as many drawn at random?"


def weakest(verdicts: Iterable[str]) -> str:
    """What all answers together allow to say: no more than the weakest of them, and an answer that is missing shows nothing."""
    every = set(verdicts)
    if REVERSED in every:
        return REVERSED
    if every <= {NO_DATA}:
        return NO_DATA
    return SHOWN if every == {SHOWN} else NOT_SHOWN


def summary(questions: Sequence[Question]) -> list[str]:
    """The answers in sentences: whom against, the word, what it stands on and what is behind it."""
    if len(questions) == 1:
        return [_joined(questions[0].sentence, questions[0].behind)]
    return [_joined(f"Against {one.against}: {one.word}.", one.sentence, one.behind) for one in questions]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _training_seeds(arm: str | None, baseline: QuestionBaseline, arms: Arms) -> TrainingSeeds:
    trained = sum(name in arms.trained for name in baseline.arms)
    return TrainingSeeds(arm=int(arm in arms.trained) or None, baseline=trained or None)


def _behind(sides: Sides, compared: Compared | None, seeds: TrainingSeeds) -> str:
    """How many prompts and training seeds an answer stands on."""
    if compared is None:
        return ""
    return f"Behind it: {_prompts_text(compared.statistics)}; {_seeds_text(sides, seeds)}."


def _prompts_text(statistics: PairStatistics) -> str:
    if isinstance(statistics, SeedStatistics) and statistics.seeds > 1:
        judged = f"{statistics.judged:,} of {statistics.comparisons:,} comparisons judged"
        return f"{statistics.prompts:,} prompts, {judged}"
    return f"{statistics.judged:,} of {statistics.prompts:,} prompts judged"


def _seeds_text(sides: Sides, seeds: TrainingSeeds) -> str:
    if seeds.arm is None or seeds.baseline is None:
        return "of how many training seeds is not known, as not both were trained in this run"
    words = f"{seeds.arm} training seed of {sides.arm} and {seeds.baseline} of {sides.baseline}"
    return f"{words}: what another seed would change is not known" if seeds.baseline == 1 else words
