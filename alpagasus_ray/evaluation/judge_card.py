"""The judge card: the sections that there is material for, and one line that says what the judge is good for. Pure.

A section without material stands in the card as None, with the reason under `missing`: a recorded judge, for one, cannot be
asked again. The verdict grades figures by stated limits and no others; it reads a figure's value, and leaves out figures of
fewer observations than `FEWEST`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.corrected_rates import JUDGE_ALONE

Verdict = Literal["fit to choose data", "only with a stronger judge near the cut", "no"]
Grade = Literal["good", "weak", "bad"]

FIT, NEAR_CUT, NO = VERDICTS = ("fit to choose data", "only with a stronger judge near the cut", "no")
FEWEST = 30
"""Observations below which a figure is shown and not graded."""
FEWEST_OF_A_KIND = 10
BLIND = 0.6
"""AUC up to which a judge is said not to see a kind of planted defect; a half is chance."""
EVIDENCE = ("planted_defects", "gold", "raters", "voters")
"""Sections that say whether the judge is right. All others can only say that it is not."""

WITHOUT = {
    "repeat": "no rows were rated twice (card.repeat)",
    "scale_use": "the judge has rated no rows",
    "length": "the judge has rated no rows",
    "position": "the judge has compared no pairs of answers in both orders",
    "planted_defects": "no defects were planted (card.probes)",
    "gold": "no marks that are taken to be right were given (card.gold)",
    "raters": "no people have rated examples (alpagasus people)",
    "voters": "no people have voted on pairs of answers (alpagasus people)",
    "drift": "the stored probes were asked once or never",
    "failures": "the ratings hold no status of requests",
    "several": "the run holds the ratings of no other judge",
}


class Limit(NamedTuple):
    """A graded figure: its path in the card, the worst value that is `good` and the best that is `bad`, and a judge's words.

    `about` is what the figure is, as the verdict's reasons name it. Between both values it is weak; `centre` measures the
    distance from a value instead, and `worst` says how bad the figure can be called at most.
    """

    path: str
    good: float
    bad: float
    about: str
    centre: float | None = None
    worst: Grade = "bad"


LIMITS = (
    Limit("repeat.alpha", 0.8, 0.5, "alpha of the same rows rated twice"),
    Limit("repeat.crossing", 0.05, 0.2, "share of rows that cross the cut when rated again"),
    Limit("scale_use.most_used", 0.7, 0.95, "share of rows with the judge's favourite score"),
    Limit("scale_use.outside", 0.2, 0.5, "probability that no score stands where one should"),
    Limit("length.spearman", 0.4, 0.8, "rank correlation of score and length", centre=0.0, worst="weak"),
    Limit("length.padding", 0.1, 1.0, "points that filler adds", centre=0.0),
    Limit("position.consistency", 0.8, 0.5, "share of pairs judged alike in both orders"),
    Limit("position.first_slot", 0.05, 0.2, "first slot's share of decided games, less a half", centre=0.5),
    Limit("planted_defects.all.auc", 0.85, 0.65, "AUC for planted defects"),
    Limit("gold.at_cut.kappa", 0.6, 0.2, "kappa with the given marks at the cut"),
    Limit("raters.at_cut.kappa", 0.6, 0.2, "kappa with people at the cut"),
    Limit("voters.with_majority.kappa", 0.4, 0.1, "kappa with the people's majority"),
    Limit("failures.failed", 0.02, 0.2, "share of requests without a rating"),
    Limit("several.alpha", 0.4, 0.0, "alpha of the judges together", worst="weak"),
)


class Graded(NamedTuple):
    """A figure beside its limits; `section` is the part of the card that it stands in."""

    section: str
    about: str
    value: float
    grade: Grade
    limits: tuple[float, float]


def judge_card(
    judge: Mapping[str, Any],
    sections: Mapping[str, Mapping[str, Any] | None],
    limits: Sequence[Limit] = LIMITS,
    missing: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The card of a judge in plain JSON values.

    judge: its name, model, rubric and what else identifies it. sections: by the names of `WITHOUT`. missing: better reasons
    for sections that are None. Raises UsageError for a section of another name.
    """
    if odd := set(sections) - set(WITHOUT):
        raise UsageError(f"a judge card has no section {', '.join(sorted(odd))}; its sections are {', '.join(WITHOUT)}")
    known = {name: sections.get(name) for name in WITHOUT}
    return {
        "judge": dict(judge),
        **known,
        "missing": {name: (missing or {}).get(name, reason) for name, reason in WITHOUT.items() if known[name] is None},
        "verdict": verdict(str(judge.get("name", "judge")), known, limits),
        "win_rate_note": JUDGE_ALONE if known["position"] is not None and known["voters"] is None else None,
    }


def verdict(name: str, sections: Mapping[str, Mapping[str, Any] | None], limits: Sequence[Limit] = LIMITS) -> dict[str, Any]:
    """`verdict`, one of three; `why`, the reasons as sentences; `graded`, every figure it rests on with its limits.

    One bad figure is a no. A weak one, a kind of planted defect that the judge does not see, a change since the first probes,
    being the odd one of several, or no evidence that it is right at all, leave it the rows that are far from the cut.
    """
    graded = [one for limit in limits if (one := _graded(limit, sections))]
    bad = [_sentence(one) for one in graded if one.grade == "bad"]
    weak = [_sentence(one) for one in graded if one.grade == "weak"] + _doubts(name, sections, graded)
    outcome = NO if bad else NEAR_CUT if weak else FIT
    good = f"all {len(graded)} graded figures are within their limits"
    return {
        "verdict": outcome,
        "why": bad or weak or [good],
        "also": weak if bad else [],
        "graded": [{**one._asdict(), "limits": list(one.limits)} for one in graded],
    }


def line(card: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    outcome = card["verdict"]
    return f"{card['judge'].get('name', 'judge')}: {outcome['verdict']}: {'; '.join(outcome['why'])}."


def with_limits(changed: Mapping[str, Sequence[float]]) -> tuple[Limit, ...]:
    """The limits with some replaced: `{"repeat.alpha": [0.9, 0.6]}` is the worst good and the best bad value.

    Raises UsageError for an unknown figure, and for two values in the other order than the figure's own.
    """
    known = {limit.path: limit for limit in LIMITS}
    for path, values in changed.items():
        if path not in known:
            raise UsageError(f"card.limits.{path}: no graded figure has this name; write one of {', '.join(known)}")
        old = known[path]
        if len(values) != 2 or values[0] == values[1] or (values[0] < values[1]) != (old.good < old.bad):
            wanted = f"[good, bad], as [{old.good:g}, {old.bad:g}] is"
            raise UsageError(f"card.limits.{path}: {list(values)}; write two different numbers {wanted}")
        known[path] = old._replace(good=float(values[0]), bad=float(values[1]))
    return tuple(known.values())


def _graded(limit: Limit, sections: Mapping[str, Any]) -> Graded | None:
    figure: Any = sections
    for key in limit.path.split("."):
        figure = figure.get(key) if isinstance(figure, Mapping) else None
    if not isinstance(figure, Mapping) or figure.get("value") is None or figure["n"] < FEWEST:
        return None
    value = figure["value"]
    measured = value if limit.centre is None else abs(value - limit.centre)
    sign = 1 if limit.good > limit.bad else -1
    grade: Grade = "good" if sign * measured >= sign * limit.good else "weak" if sign * measured > sign * limit.bad else "bad"
    if grade == "bad" and limit.worst == "weak":
        grade = "weak"
    return Graded(limit.path.split(".")[0], limit.about, measured, grade, (limit.good, limit.bad))


def _sentence(one: Graded) -> str:
    good, bad = one.limits
    side = "at least" if good > bad else "at most"
    return f"{one.about} is {one.value:.2f} ({side} {good:g} is good, {'up to' if good > bad else 'from'} {bad:g} is bad)"


def _doubts(name: str, sections: Mapping[str, Any], graded: Sequence[Graded]) -> list[str]:
    doubts = []
    if not any(one.section in EVIDENCE for one in graded):
        doubts.append(f"neither people's marks nor planted defects, {FEWEST} of them or more, say whether its scores are right")
    if blind := blind_to(sections.get("planted_defects")):
        doubts.append(f"it does not see these planted defects: {', '.join(blind)}")
    for section in ("raters", "voters"):
        test = (sections.get(section) or {}).get("alternative_annotator") or {}
        if test.get("passes") is False:
            doubts.append(f"it cannot stand in for one of the people (omega {test['omega']['value']:.2f}, 0.5 is needed)")
    if (sections.get("drift") or {}).get("changed"):
        since = next(one for one in sections["drift"]["since"] if one["changed"])
        who = " ".join(filter(None, (since["model"], since["fingerprint"])))
        doubts.append(f"it rates the stored probes otherwise than at first: since {since['asked_at']}, when {who} answered")
    if (sections.get("several") or {}).get("odd_one_out") == name:
        doubts.append("it is the odd one out: without it the other judges agree better")
    return doubts


def blind_to(section: Mapping[str, Any] | None) -> list[str]:
    """The kinds of planted defects that the judge does not rate below the rows they were made from."""
    kinds = {kind: seen["auc"] for kind, seen in (section or {}).get("kinds", {}).items()}
    return [kind for kind, auc in kinds.items() if auc["n"] >= FEWEST_OF_A_KIND and auc["value"] <= BLIND]
