"""What one judge's own ratings and verdicts say about it: the sections of a judge card that need no person. Pure.

Scores are arrays over rows, NaN where a row has no rating; `cut` is the score from which on a row is chosen. Each section is
plain JSON values; each figure in it an `Estimate`: value, 95 percent interval and n. Rows asked for a section are taken to be
a random sample of the stage's rows.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alpagasus_ray.evaluation.estimates import (
    Estimate,
    Floats,
    alpha,
    auc,
    both_present,
    estimate,
    mean,
    normal_quantile,
    present,
    proportion,
    rank_correlation,
    ratio,
    slope,
    within,
)
from alpagasus_ray.evaluation.intervals import holm
from alpagasus_ray.evaluation.match_rules import Match

SIGNIFICANCE = 0.05
MOST_REASONS = 10
LEAST_SAME = 0.9
"""Share of equal scores up to which another model or fingerprint counts as another judge."""
UNRATED_SCORE = -np.inf
"""A planted defect that got no rating is not chosen: it stands below every score."""


class Asked(NamedTuple):
    """What one request came to: `status` of the rating, the short `reason` of a failure, price and time."""

    status: str
    reason: str = ""
    cost_usd: float | None = None
    latency_s: float | None = None


class Planted(NamedTuple):
    """A row and a copy of it with one defect of a kind, and the judge's score of each, NaN without a rating."""

    kind: str
    original: float
    defect: float
    words: float = np.nan
    """Of the row's answer, and of the copy's."""
    defect_words: float = np.nan


class ProbeRound(NamedTuple):
    """The stored probes asked once: when, which model answered (name and fingerprint as the server gave them), the scores."""

    asked_at: str
    model: str
    fingerprint: str
    scores: ArrayLike


def repeat(first: ArrayLike, second: ArrayLike, cut: float, chosen: int | None = None) -> dict[str, Any]:
    """The same rows rated twice. `chosen`: how many rows of the whole stage reach the cut.

    `flips_among_chosen` is the share of the rows chosen by the first rating that the second would not choose, and
    `expected_flips` the same in rows of the whole stage.
    """
    one, other = both_present(first, second)
    kept, kept_again = one >= cut, other >= cut
    flips = proportion(int((kept & ~kept_again).sum()), int(kept.sum()))
    return {
        "rows": len(np.asarray(first)),
        "exact_agreement": proportion(int((one == other).sum()), len(one)),
        "alpha": alpha(np.column_stack([one, other])),
        "crossing": proportion(int((kept != kept_again).sum()), len(one)),
        "flips_among_chosen": flips,
        "expected_flips": None if chosen is None else _times(flips, chosen),
    }


def _times(figure: Estimate, factor: float) -> Estimate:
    ends = (None if (end := figure[key]) is None else end * factor for key in ("value", "low", "high"))
    return estimate(int(figure["n"] or 0), *ends)


def scale_use(scores: ArrayLike, cut: float, outside: ArrayLike | None = None) -> dict[str, Any]:
    """How much of its scale the judge uses. `outside`: the probability that it gave to anything but a score, by row.

    `entropy_bits` corrects for the rows it is counted from (Miller, 1955). `ties_at_cut` is the share of rows that have exactly
    the cut's score: which of them are chosen is decided by something else where only some are wanted.
    """
    known = present(scores)
    values, counts = np.unique(known, return_counts=True)
    return {
        "rows": len(known),
        "histogram": [
            {"score": float(value), **proportion(int(count), len(known))} for value, count in zip(values, counts, strict=True)
        ],
        "entropy_bits": _entropy(counts),
        "most_used": proportion(int(counts.max(initial=0)), len(known)),
        "ties_at_cut": proportion(int((known == cut).sum()), len(known)),
        "at_or_above_cut": proportion(int((known >= cut).sum()), len(known)),
        "outside": None if outside is None else mean(outside),
    }


def _entropy(counts: np.ndarray) -> Estimate:
    n = int(counts.sum())
    if not n:
        return estimate(0, None)
    shares = counts / n
    plain = -float(shares @ np.log2(shares))
    error = normal_quantile() * float(np.sqrt(max(float(shares @ np.log2(shares) ** 2) - plain**2, 0.0) / n))
    return within(n, plain + (len(counts) - 1) / (2 * n * np.log(2)), error, least=0)


def length(
    scores: ArrayLike, words: ArrayLike, plain: ArrayLike | None = None, padded: ArrayLike | None = None
) -> dict[str, Any]:
    """Whether length moves the score. words: of each row's answer. plain, padded: scores of answers without and with filler.

    A correlation may be deserved, longer answers being better; what filler adds is not. `points_per_doubling` is the slope on
    the logarithm of the words to the base 2.
    """
    long = np.maximum(np.asarray(words, dtype=np.float64), 1)
    section: dict[str, Any] = {
        "spearman": rank_correlation(scores, long),
        "points_per_doubling": slope(scores, np.log2(long)),
        "padding": None,
    }
    if plain is not None and padded is not None:
        before, after = both_present(plain, padded)
        section["padding"] = mean(after - before)
    return section


def position(matches: Sequence[Match]) -> dict[str, Any]:
    """Whether the order of two answers decides. Both games of a prompt are one observation of the first-slot share."""
    both = [(match.ab, match.ba) for match in matches if match.ab and match.ba]
    same = sum(ab.winner == ba.winner for ab, ba in both)
    turned = sum({ab.winner, ba.winner} == {"a", "b"} for ab, ba in both)
    first = [(ab.winner == "a") + (ba.winner == "b") for ab, ba in both]
    decided = [(ab.winner != "tie") + (ba.winner != "tie") for ab, ba in both]
    return {
        "pairs": len(both),
        "consistency": proportion(same, len(both)),
        "turned": proportion(turned, len(both)),
        "first_slot": ratio(first, decided),
    }


def planted_defects(planted: Sequence[Planted], cut: float) -> dict[str, Any]:
    """What the judge can see: by kind of defect, how often it rates the defect below the row that it was made from.

    `auc` is one half where the judge is blind to a kind. `detected` is the share of defects below the cut, `originals_below`
    the same share of the rows they were made from: a judge that rates everything low detects everything. A defect without a
    rating counts as below all others; a row without one is left out with its defect. `longest` is the AUC of taking the longer
    text for the better one, which costs nothing; chance has one half.
    """
    kinds = dict.fromkeys(one.kind for one in planted)
    return {
        "all": _seen(planted, cut),
        "kinds": {kind: _seen([one for one in planted if one.kind == kind], cut) for kind in kinds},
    }


def _seen(planted: Sequence[Planted], cut: float) -> dict[str, Any]:
    rated = [one for one in planted if not np.isnan(one.original)]
    good = np.array([one.original for one in rated])
    bad = np.array([UNRATED_SCORE if np.isnan(one.defect) else one.defect for one in rated])
    return {
        "planted": len(planted),
        "auc": auc(good, bad),
        "longest": auc([one.words for one in rated], [one.defect_words for one in rated]),
        "detected": proportion(int((bad < cut).sum()), len(bad)),
        "originals_below": proportion(int((good < cut).sum()), len(good)),
    }


def drift(rounds: Sequence[ProbeRound]) -> dict[str, Any]:
    """Whether the judge of today is the judge of the first day: each later round of the same probes against the first.

    The mean's change has a paired interval and a p value; `changed` where that stays below .05 after Holm's correction for
    the number of rounds, or where another model or fingerprint answered and a tenth of the scores or more are others.
    """
    if len(rounds) < 2:
        return {"rounds": len(rounds), "changed": None, "since": []}
    base = rounds[0]
    since = [_since(base, later) for later in rounds[1:]]
    for one, p in zip(since, holm([one["p"] for one in since]), strict=True):
        swapped = one["answered_by_another"] and (one["exact_agreement"]["value"] or 0) <= LEAST_SAME
        one["changed"] = bool((p is not None and p < SIGNIFICANCE) or swapped)
    return {"rounds": len(rounds), "changed": any(one["changed"] for one in since), "since": since}


def _since(base: ProbeRound, later: ProbeRound) -> dict[str, Any]:
    from scipy.stats import ttest_rel

    before, after = both_present(base.scores, later.scores)
    is_varied = len(before) > 1 and np.ptp(after - before) > 0
    is_moved = len(before) > 1 and before[0] != after[0]
    p = float(ttest_rel(after, before).pvalue) if is_varied else float(not is_moved)
    return {
        "asked_at": later.asked_at,
        "model": later.model,
        "fingerprint": later.fingerprint,
        "answered_by_another": (later.model, later.fingerprint) != (base.model, base.fingerprint),
        "mean_change": mean(after - before),
        "exact_agreement": proportion(int((before == after).sum()), len(before)),
        "alpha": alpha(np.column_stack([before, after])),
        "p": p,
        "changed": False,
    }


def failures(asked: Sequence[Asked], useful: Sequence[str] = ("scored",)) -> dict[str, Any]:
    """Requests by status and reason, what 1,000 rows cost, and how long one takes. `useful`: statuses that are no failure."""
    statuses = Counter(one.status for one in asked)
    reasons = Counter((one.status, one.reason) for one in asked if one.status not in useful)
    costs = np.array([np.nan if one.cost_usd is None else one.cost_usd for one in asked], dtype=np.float64)
    return {
        "rows": len(asked),
        "failed": proportion(sum(n for status, n in statuses.items() if status not in useful), len(asked)),
        "by_status": {status: proportion(n, len(asked)) for status, n in statuses.most_common()},
        "by_reason": [
            {"status": status, "reason": reason, "rows": n} for (status, reason), n in reasons.most_common(MOST_REASONS)
        ],
        "usd_per_1000_rows": mean(1000 * costs),
        "median_latency_s": _median([one.latency_s for one in asked if one.latency_s is not None]),
    }


def _median(values: Sequence[float]) -> Estimate:
    """With the distribution-free interval between two order statistics (Conover, 1999, 3.2)."""
    from scipy.stats import binom

    n = len(values)
    if n < 6:  # below, no two of them hold 95 percent
        return estimate(n, float(np.median(values)) if n else None)
    ordered: Floats = np.sort(np.asarray(values, dtype=np.float64))
    place = int(binom.ppf(SIGNIFICANCE / 2, n, 0.5))
    return estimate(n, float(np.median(ordered)), float(ordered[max(place - 1, 0)]), float(ordered[min(n - place, n - 1)]))
