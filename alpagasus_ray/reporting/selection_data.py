"""What is rated and what is chosen: ratings by judge, arms, the cut, why examples are left out. Pure: from manifests."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alpagasus_ray.config.pick import POLICIES, PolicyKnobs
from alpagasus_ray.reporting.measures import Entry, read
from alpagasus_ray.selection.existing_arms import stale_controls
from alpagasus_ray.store.run import Manifest

RATINGS = "ratings/"
MOST_REASONS = 12
ANOTHER = "another example"
COPY, NEAR_COPY = f"an exact duplicate of {ANOTHER}", f"nearly repeats {ANOTHER}"
NUMBER = re.compile(r"\d+([.,]\d+)*")
NOTE_BEGINS = ". ("
"""What follows this in a reply of the offline judge says only that it was one."""
MAX_OUTSIDE, DOUBTFUL_OUTSIDE = 0.5, 0.2
"""Bounds of the mean of `outside`, where the recipe gives no others (`score.judge.max_outside`, `score.judge.warn_outside`)."""


@dataclass(frozen=True)
class RatingsEntry(Entry):
    """All ratings by one judge."""

    name: str
    main: bool
    """Whether the report's arm was chosen by them."""
    judge: str
    """Its model, or its kind."""
    kind: str | None
    dimension: str | None
    prompt_hash: str | None
    scale: Mapping[str, float | None] | None
    """Of the rubric: `min`, `max` and `step`; null where the ratings do not say."""
    rows: int
    counts: Mapping[str, int]
    """Rows by status."""
    reasons: Mapping[str, int]
    """Rows without a score by reason."""
    histogram: Mapping[str, int]
    """Rows by score."""
    mean: float | None
    seconds: float
    dollars: float | None
    outside: Mapping[str, float] | None
    """Of expected scores, the probability that the reply is no score: `rows`, `mean`, `p95`, `expected`."""
    doubts: Sequence[str]
    """What makes the judge unfit, in words."""


@dataclass(frozen=True)
class ArmEntry(Entry):
    """An arm as it was chosen."""

    arm: str
    policy: str
    rule: str
    """The policy in words."""
    rows: int
    dropped: int
    share: float | None
    tokens: int | None
    counted_by: str | None
    """Who counted the tokens."""
    length: float | None
    """Mean length of an output, in `length_unit`."""
    length_unit: str
    unscored: int | None
    ratings: str | None


@dataclass(frozen=True)
class RowCounts(Entry):
    """How many rows were kept."""

    all: int
    kept: int
    share: float | None


@dataclass(frozen=True)
class TokenCounts(Entry):
    """How many tokens were kept."""

    all: int
    kept: int
    counted_by: str


@dataclass(frozen=True)
class ScoreBin(Entry):
    """Rows with one score."""

    score: float
    rows: int
    kept: int


@dataclass(frozen=True)
class Cut(Entry):
    """What the arm would be with another threshold."""

    threshold: float
    rows: int
    share: float
    tokens: int


@dataclass(frozen=True)
class CategoryShare(Entry):
    """How much of a category was kept."""

    category: str | None
    rows: int
    kept: int
    share: float


@dataclass(frozen=True)
class Selection(Entry):
    """The report's arm: `selection.json`, where the cut lies, and why examples were left out."""

    arm: str
    rule: str
    by_score: bool
    by: str
    """`score` or `expected`."""
    cut: float | None
    """The lowest score kept, of arms that are chosen by the score."""
    rows: RowCounts
    tokens: TokenCounts
    histogram: Sequence[ScoreBin]
    threshold_curve: Sequence[Cut]
    categories: Sequence[CategoryShare]
    mean_output_length: Mapping[str, float | str | None]
    """`all`, `kept`, `dropped`, and their `unit`."""
    dropped_reasons: Mapping[str, int]
    judge_reasons: Mapping[str, int]
    """What the offline judge finds wrong with the examples that are left out."""


def ratings_of(arm: Manifest | None, names: Iterable[str]) -> str | None:
    """Which ratings an arm was picked by; where it does not say, the first there are."""
    made_from = [name.removeprefix(RATINGS) for name in (arm.inputs if arm else ()) if name.startswith(RATINGS)]
    known = list(names)
    return next((name for name in (*made_from, *known) if name in known), None)


def ratings(manifests: Mapping[str, Manifest], main: str | None) -> list[RatingsEntry]:
    """All ratings, the main ones first."""
    order = sorted(manifests, key=lambda name: (name != main, name))
    return [_ratings(name, manifests[name], is_main=name == main) for name in order]


def _ratings(name: str, manifest: Manifest, *, is_main: bool) -> RatingsEntry:
    judge, rubric = judge_of(manifest), manifest.settings.get("rubric", {})
    histogram = manifest.details.get("histogram", {})
    scored = sum(histogram.values())
    return RatingsEntry(
        name=name,
        main=is_main,
        judge=judge.get("model") or judge.get("kind") or "unknown",
        kind=judge.get("kind"),
        dimension=rubric.get("dimension"),
        prompt_hash=rubric.get("prompt"),
        scale=rubric.get("scale"),
        rows=manifest.rows,
        counts=manifest.counts,
        reasons=manifest.details.get("reasons", {}),
        histogram=histogram,
        mean=round(sum(float(score) * rows for score, rows in histogram.items()) / scored, 4) if scored else None,
        seconds=round(manifest.seconds, 3),
        dollars=manifest.usage.get("cost_usd"),
        outside=manifest.details.get("outside"),
        doubts=list(judge_doubts(manifest.details, judge.get("max_outside", MAX_OUTSIDE))) if "model" in judge else [],
    )


def judge_of(manifest: Manifest) -> Mapping[str, Any]:
    """The judge of ratings as their settings name it; of ratings made of others, their names and how."""
    combine = manifest.settings.get("combine")
    if combine is None:
        judge: Mapping[str, Any] = manifest.settings.get("judge", {})
        return judge
    return {"kind": f"the {combine['by']} of {', '.join(combine['ratings'])}"}


def judge_doubts(
    details: Mapping[str, Any], max_outside: float = MAX_OUTSIDE, doubtful: float = DOUBTFUL_OUTSIDE
) -> Iterator[str]:
    """What makes a judge unfit or doubtful, a sentence each, from the details of its ratings' manifest: nearly all rows have
    one score; the probability that no score stands where one should is above a bound."""
    if one := details.get("one_score"):
        yield f"{one['share']:.1%} of the scored rows have one score, {one['score']:g}: this judge hardly tells them apart"
    outside = details.get("outside")
    if outside is None or outside["mean"] <= doubtful:
        return
    how = (
        f"the probability that no score of the scale stands where it should is {outside['mean']:.2f} in the mean, "
        f"{outside['p95']:.2f} at the 95th percentile"
    )
    if outside["mean"] > max_outside:
        yield f"this judge is unfit for expected scores: {how}; {outside['expected']:,} of {outside['rows']:,} rows have one"
    else:
        yield f"expected scores are doubtful: {how}"


def arm_entries(arms: Mapping[str, Manifest]) -> list[ArmEntry]:
    """All arms; the rule of a control says where it no longer holds."""
    old = stale_controls(arms)
    return [_arm_entry(name, manifest, f"; it {old[name]}" if name in old else "") for name, manifest in arms.items()]


def _arm_entry(name: str, manifest: Manifest, but: str) -> ArmEntry:
    details, dropped = manifest.details, manifest.counts.get("dropped", 0)
    tokens, length = details.get("tokens", {}), mean_length(details)
    whole = manifest.rows + dropped
    return ArmEntry(
        arm=name,
        policy=manifest.settings["arm"]["policy"],
        rule=rule(manifest.settings["arm"]) + but,
        rows=manifest.rows,
        dropped=dropped,
        share=round(manifest.rows / whole, 6) if whole else None,
        tokens=tokens.get("kept"),
        counted_by=tokens.get("counted_by"),
        length=length.get("kept"),
        length_unit=length["unit"],
        unscored=details.get("unscored"),
        ratings=ratings_of(manifest, [key.removeprefix(RATINGS) for key in manifest.inputs if key.startswith(RATINGS)]),
    )


def mean_length(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mean lengths of the outputs with their `unit`; older runs measured in words."""
    lengths: Mapping[str, Any] = details.get("mean_output_length") or {**details.get("mean_output_words", {}), "unit": "words"}
    return lengths


def ordered(manifests: Mapping[str, Manifest], order: Sequence[str]) -> dict[str, Manifest]:
    """Arms, or models by their arm, in the order of the recipe; what it does not name comes after, arms chosen by their score
    first."""

    def rank(name: str) -> tuple[int, bool, str]:
        arm = manifests[name].settings.get("arm", {})
        is_by_score = isinstance(arm, Mapping) and knobs(arm).leads
        return order.index(name) if name in order else len(order), not is_by_score, name

    return {name: manifests[name] for name in sorted(manifests, key=rank)}


def knobs(arm: Mapping[str, Any]) -> PolicyKnobs:
    """What is known of an arm's policy; of one of another version nothing is taken for granted."""
    return POLICIES.get(arm.get("policy", ""), PolicyKnobs())


def is_control(arm: Mapping[str, Any]) -> bool:
    """Whether an arm is there for others to be measured against: all examples, or as many as another has."""
    return arm.get("policy") == "full" or knobs(arm).copies_size


def kind_of_reason(reason: str) -> str:
    """A reason of a row that was left out without the id of another row, so that equal reasons are counted together."""
    return next((kind for kind in (COPY, NEAR_COPY) if reason.startswith(kind.removesuffix(ANOTHER))), reason)


def rule(arm: Mapping[str, Any]) -> str:
    """How an arm was chosen, in words."""
    by = "expected score" if arm.get("by") == "expected" else "score"
    threshold = 4.5 if arm.get("threshold") is None else arm["threshold"]
    how = knobs(arm).words.format(by=by, size=_size(arm), threshold=threshold, seed=arm.get("seed", 0))
    return "; ".join([how or arm["policy"], *_divided(arm)])


def _size(arm: Mapping[str, Any]) -> str:
    """How much an arm takes, in words."""
    tokens = arm.get("tokens")
    rows = f"{arm['k']:,}" if arm.get("k") else f"{100 * arm['share']:.3g}% of the rows" if arm.get("share") else ""
    if rows:
        return rows + (f" (at most {tokens:,} tokens)" if tokens else "")
    return f"{tokens:,} tokens" if tokens else "as many as the selected arm has"


def _divided(arm: Mapping[str, Any]) -> Iterator[str]:
    """What else decides which examples an arm takes, in words."""
    if arm.get("spread") == "clusters":
        yield "spread over clusters of similar examples"
    if arm.get("spread") == "apart":
        yield f"none at a cosine of {arm.get('apart', 0.9):g} or more to a better one"
    if shares := arm.get("shares"):
        yield ", ".join(f"{100 * share:.3g}% of it from {name}" for name, share in shares.items())
    if cuts := arm.get("thresholds"):
        yield ", ".join(f"at least {cut:g} for {name}" for name, cut in cuts.items())
    if floors := arm.get("floors"):
        yield "at least " + ", ".join(f"{count:,} of {name}" for name, count in floors.items())


def selection(
    arm: str, manifest: Manifest, summary: Mapping[str, Any], reasons: Counter[str], judge_reasons: Mapping[str, int]
) -> Selection:
    """The report's arm; `summary` is its `selection.json`, `reasons` counts why rows were dropped."""
    kept = [entry["score"] for entry in summary["histogram"] if entry["kept"]]
    chosen_by_score = knobs(manifest.settings["arm"]).leads
    return Selection(
        arm=arm,
        rule=rule(manifest.settings["arm"]),
        by_score=chosen_by_score,
        by=manifest.settings["arm"].get("by", "score"),
        cut=min(kept) if kept and chosen_by_score else None,
        rows=read(RowCounts, summary["rows"]),
        tokens=read(TokenCounts, summary["tokens"]),
        histogram=[read(ScoreBin, entry) for entry in summary["histogram"]],
        threshold_curve=[read(Cut, entry) for entry in summary["threshold_curve"]],
        categories=[read(CategoryShare, entry) for entry in summary["categories"]],
        mean_output_length=mean_length(summary),
        dropped_reasons=dict(reasons.most_common(MOST_REASONS)),
        judge_reasons=judge_reasons,
    )


def rule_reasons(replies: Iterable[str | None]) -> dict[str, int]:
    """What the offline judge finds wrong, most frequent first; numbers are left out, so that equal findings are counted."""
    counts: Counter[str] = Counter()
    for reply in replies:
        sentence = (reply or "").partition("\n")[2].rpartition(NOTE_BEGINS)[0]
        counts.update(NUMBER.sub("N", reason.strip()) for reason in sentence.split(";") if reason.strip())
    return dict(counts.most_common(MOST_REASONS))
