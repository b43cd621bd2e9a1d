"""How far judges can be trusted, for page, dataset card and `report.json`: from their cards, and from people's votes.

Whatever praises a score stands beside what costs no judge: a draw, the longest answers, and the score with length taken out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from alpagasus_ray.config import Rule
from alpagasus_ray.evaluation import agreement
from alpagasus_ray.evaluation.agreement import Comparison, Vote
from alpagasus_ray.evaluation.corrected_rates import JUDGE_ALONE
from alpagasus_ray.evaluation.judge_card import LIMITS
from alpagasus_ray.reporting import judge_verdicts, verdicts
from alpagasus_ray.reporting.comparisons_data import PairGames
from alpagasus_ray.reporting.judge_verdicts import Judged
from alpagasus_ray.reporting.measures import Entry, Interval
from alpagasus_ray.reporting.run_reader import FinishedStages

TOGETHER = "together.json"

FIGURES = (
    ("repeat", "exact_agreement", "equal scores when rated again"),
    ("repeat", "alpha", "alpha of both ratings"),
    ("repeat", "crossing", "rows that cross the cut when rated again"),
    ("repeat", "expected_flips", "chosen rows that would not be chosen again"),
    ("scale_use", "entropy_bits", "bits a score carries"),
    ("scale_use", "most_used", "share of the favourite score"),
    ("scale_use", "ties_at_cut", "share with exactly the cut's score"),
    ("scale_use", "outside", "probability that no score stands there"),
    ("length", "spearman", "rank correlation with length"),
    ("length", "points_per_doubling", "points for twice the length"),
    ("length", "padding", "points that filler adds"),
    ("position", "consistency", "same winner in both orders"),
    ("position", "first_slot", "first answer's share of decided games"),
    ("planted_defects", "all.auc", "planted defects rated below their originals"),
    ("planted_defects", "all.detected", "planted defects below the cut"),
    ("planted_defects", "all.originals_below", "originals below the cut"),
    ("gold", "exact_agreement", "equal to the given marks"),
    ("gold", "kappa", "kappa with the given marks"),
    ("gold", "at_cut.kappa", "kappa with the given marks at the cut"),
    ("gold", "marked_wrong", "points above what ratings marked as wrong deserve"),
    ("raters", "exact_agreement", "equal to people's median"),
    ("raters", "at_cut.kappa", "kappa with people at the cut"),
    ("raters", "near_cut.agreement", "on the same side of the cut as people, of examples near it"),
    ("raters", "people_alpha", "alpha of people with each other"),
    ("raters", "alternative_annotator.omega", "people it may stand in for"),
    ("raters", "alternative_annotator.rho", "items on which it keeps up"),
    ("voters", "with_majority.agreement", "equal to people's majority"),
    ("voters", "with_majority.kappa", "kappa with people's majority"),
    ("voters", "with_one_person.kappa", "kappa with one person"),
    ("voters", "alternative_annotator.omega", "people it may stand in for"),
    ("voters", "alternative_annotator.rho", "items on which it keeps up"),
    ("drift", "since.-1.mean_change", "change of stored probes since the first time"),
    ("failures", "failed", "requests without a rating"),
    ("failures", "usd_per_1000_rows", "dollars for 1,000 rows"),
    ("failures", "median_latency_s", "seconds for a row, median"),
)
"""Section, path in it, and the words for each figure that is shown."""


@dataclass(frozen=True)
class Estimated(Interval):
    """A value with its interval and how many observations it rests on."""

    n: int


@dataclass(frozen=True)
class TrustFigure(Estimated):
    """One figure of a judge's card."""

    section: str
    about: str
    grade: str | None
    """`good`, `weak` or `bad` where there are limits for it and observations enough."""


@dataclass(frozen=True)
class Beside(Entry):
    """A figure that praises a score, beside what costs no judge."""

    about: str
    random: float | None
    longest: Estimated | None
    judge: Estimated | None
    given_length: Estimated | None


@dataclass(frozen=True)
class JudgeEntry(Entry):
    """One judge's card."""

    name: str
    judge: str
    """Its model, or its kind."""
    verdict: str
    why: Sequence[str]
    also: Sequence[str]
    notes: Sequence[str]
    """What people and marks say that is left out, and why."""
    figures: Sequence[TrustFigure]
    beside: Sequence[Beside]
    seen: Mapping[str, Estimated]
    """AUC by kind of planted defect."""
    missing: Mapping[str, str]
    """Sections that there is nothing for, and why."""
    dollars: float | None
    """What its probes have cost."""


@dataclass(frozen=True)
class TwoJudges(Entry):
    """What two judges have in common."""

    judges: Sequence[str]
    kappa: Estimated
    spearman: Estimated
    given_length: Estimated | None


@dataclass(frozen=True)
class TogetherEntry(Entry):
    """What all judges of examples have in common."""

    judges: Sequence[str]
    alpha: Estimated
    odd_one_out: str | None
    pairs: Sequence[TwoJudges]


@dataclass(frozen=True)
class WinRateEntry(Entry):
    """A judge's win rate of one pair, and beside it what people's votes make of it."""

    voter: str
    a: str
    b: str
    raw: Estimated
    people: Estimated | None
    ppi: Estimated | None
    """Prediction-powered inference; null with too few votes."""
    rogan_gladen_win: Estimated | None
    note: str | None
    """What stands beside a rate without votes, or with too few."""


@dataclass(frozen=True)
class Trust(Entry):
    """All that is known of how far the run's judges can be trusted."""

    cards: Sequence[JudgeEntry]
    together: TogetherEntry | None
    win_rates: Sequence[WinRateEntry]
    """In the order of `verdicts`."""
    note: str | None
    """What stands beside every win rate of a run that no person has voted in."""


def trust(
    stages: FinishedStages,
    pairs: Sequence[PairGames],
    voters: Mapping[tuple[str | None, str], str],
    given: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    rule: Rule,
) -> Trust:
    """From the run's cards and games, whose two orders `rule` makes one outcome of. `given`: the rows of each file of votes,
    with its name."""
    files = _cards(stages)
    win_rates = [_win_rate(pair, voters[pair.who], list(_votes(pair, given)), rule) for pair in pairs]
    is_alone = bool(win_rates) and all(rate.people is None for rate in win_rates)
    return Trust(
        cards=[_card(card) for name, card in files.items() if name != TOGETHER],
        together=_together(files[TOGETHER]) if TOGETHER in files else None,
        win_rates=win_rates,
        note=JUDGE_ALONE if is_alone else None,
    )


def _cards(stages: FinishedStages) -> dict[str, dict[str, Any]]:
    manifest = stages.manifests.get("judges")
    if manifest is None:
        return {}
    home = stages.stage("judges")
    return {entry.name: orjson.loads(home.storage.read(entry.name)) for entry in manifest.files}


def _card(card: Mapping[str, Any]) -> JudgeEntry:
    verdict, judge = card["verdict"], card["judge"]
    grades = {one["about"]: one["grade"] for one in verdict["graded"]}
    defects = card["planted_defects"] or {"kinds": {}}
    return JudgeEntry(
        name=judge["name"],
        judge=judge.get("model") or judge.get("kind") or "unknown",
        verdict=verdict["verdict"],
        why=verdict["why"],
        also=verdict["also"],
        notes=card.get("notes", []),
        figures=list(_figures(card, grades)),
        beside=list(_beside(card)),
        seen={kind: _estimated(one["auc"]) for kind, one in defects["kinds"].items()},
        missing=card["missing"],
        dollars=card["cost_usd"],
    )


def _estimated(figure: Mapping[str, Any]) -> Estimated:
    return Estimated(*(figure[key] for key in ("value", "low", "high", "n")))


def _at(value: Any, path: str) -> Any:
    """What lies at a path of keys and places; None where there is nothing."""
    for key in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and value:
            value = value[int(key)]
        else:
            return None
    return value


def _figures(card: Mapping[str, Any], grades: Mapping[str, str]) -> Iterator[TrustFigure]:
    limits = {limit.path: limit.about for limit in LIMITS}
    for section, path, about in FIGURES:
        figure = _at(card.get(section), path)
        if isinstance(figure, Mapping):
            grade = grades.get(limits.get(f"{section}.{path}", ""))
            value, low, high, n = (figure[key] for key in ("value", "low", "high", "n"))
            yield TrustFigure(value, low, high, n, section, about, grade)


def _beside(card: Mapping[str, Any]) -> Iterator[Beside]:
    """Praise beside chance and length: planted defects, and precision and correlation with marks and with people."""
    if seen := _at(card.get("planted_defects"), "all"):
        yield Beside("AUC for planted defects", 0.5, _estimated(seen["longest"]), _estimated(seen["auc"]), None)
    for section, whose in (("gold", "the given marks"), ("raters", "people")):
        rated = card.get(section)
        if rated and rated["beside"]:
            free = rated["beside"]
            drawn, longest, at_cut = free["random"]["precision"]["value"], free["longest"], rated["at_cut"]
            yield Beside(
                f"precision at the cut by {whose}",
                drawn,
                _estimated(longest["precision"]),
                _estimated(at_cut["precision"]),
                None,
            )
            yield Beside(
                f"rank correlation with {whose}",
                0.0,
                _estimated(longest["spearman"]),
                _estimated(rated["spearman"]),
                _estimated(free["given_length"]["spearman"]),
            )


def _together(read: Mapping[str, Any]) -> TogetherEntry:
    pairs = [
        TwoJudges(
            pair["judges"],
            _estimated(pair["kappa"]),
            _estimated(pair["spearman"]),
            _estimated(pair["spearman_given_length"]) if pair["spearman_given_length"] else None,
        )
        for pair in read["pairs"]
    ]
    return TogetherEntry(read["judges"], _estimated(read["alpha"]), read["odd_one_out"], pairs)


def _votes(pair: PairGames, given: Iterable[tuple[str, Sequence[Mapping[str, Any]]]]) -> Iterator[Vote]:
    """The votes on a pair, from the side of its a; those that fit another pair are that pair's."""
    turned = [Comparison(match.prompt_id, match.test_set, pair.a, pair.b) for match in pair.matches]
    ids = {id_ for one in turned for id_ in (one.prompt_id, one.prompt_id.removeprefix(f"{one.test_set}-"))}
    for name, rows in given:
        fit = [row for row in rows if str(row.get("prompt_id", row.get("question_id"))) in ids and _is_of(row, pair)]
        yield from agreement.read_votes(fit, turned, name)


def _is_of(row: Mapping[str, Any], pair: PairGames) -> bool:
    named = {row.get("a"), row.get("b")} - {None, ""}
    return not named or named == {pair.a, pair.b}


def _win_rate(pair: PairGames, voter: str, given: Sequence[Vote], rule: Rule) -> WinRateEntry:
    about = verdicts.Comparison(pair.judge, pair.a, pair.b, pair.test_sets, pair.label)
    [rates] = judge_verdicts.win_rates_of([Judged(about, pair.matches, given, (), rule)])
    corrected = rates["rogan_gladen"]
    return WinRateEntry(
        voter=voter,
        a=pair.a,
        b=pair.b,
        raw=_estimated(rates["raw"]),
        people=_estimated(rates["people"]) if given else None,
        ppi=_estimated(rates["ppi"]) if rates["ppi"] else None,
        rogan_gladen_win=_estimated(corrected["win"]) if corrected else None,
        note=rates["note"] or (rates["why_not"] if not corrected else None),
    )
