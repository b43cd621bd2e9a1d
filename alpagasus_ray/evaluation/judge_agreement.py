"""A judge beside people, beside marks that are taken to be right, and beside other judges. Pure.

Raw agreement is never told alone: two raters who give most rows the same score agree often by chance, so that kappa or alpha
stands beside it everywhere.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from alpagasus_ray.evaluation.agreement import VOTES, Vote, agreement
from alpagasus_ray.evaluation.alternative_annotator import EXPERTS, Marks, alternative_annotator
from alpagasus_ray.evaluation.estimates import (
    Estimate,
    Floats,
    Integers,
    alpha,
    alpha_of,
    both_present,
    coded,
    coincidences,
    columns,
    estimate,
    jackknife,
    kappa,
    mean,
    proportion,
    rank_correlation,
)
from alpagasus_ray.evaluation.match_rules import Winner

FEWEST_JUDGES_FOR_AN_ODD_ONE = 3


def gold(judge: ArrayLike, marks: ArrayLike, cut: float, words: ArrayLike | None = None) -> dict[str, Any]:
    """A judge's scores beside marks on the same scale that are taken to be right, row by row; NaN where either is missing.

    `at_cut` is about the one question that choosing data asks: at or above the cut, or below. `calibration` is the mean mark of
    the rows that the judge gave each score. `beside` is what costs no judge, for the lengths of the answers in `words`: as many
    rows at random, as many of the longest, and the judge's correlation with length taken out.
    """
    scores, right = both_present(judge, marks)
    kept, should = scores >= cut, right >= cut
    return {
        "rows": len(scores),
        "exact_agreement": proportion(int((scores == right).sum()), len(scores)),
        "kappa": kappa(scores, right, quadratic=True),
        "alpha": alpha(np.column_stack([scores, right])),
        "spearman": rank_correlation(scores, right),
        "mean_difference": mean(scores - right),
        "at_cut": {
            "agreement": proportion(int((kept == should).sum()), len(scores)),
            "kappa": kappa(kept.astype(np.float64), should.astype(np.float64)),
            "precision": proportion(int((kept & should).sum()), int(kept.sum())),
            "recall": proportion(int((kept & should).sum()), int(should.sum())),
        },
        "calibration": [{"score": float(score), **mean(right[scores == score])} for score in np.unique(scores)],
        "beside": None if words is None else _beside(scores, right, cut, _known_with(judge, marks, words)),
    }


def _known_with(judge: ArrayLike, marks: ArrayLike, words: ArrayLike) -> Floats:
    """The lengths of the rows that have both a score and a mark."""
    known = ~(np.isnan(np.asarray(judge, dtype=np.float64)) | np.isnan(np.asarray(marks, dtype=np.float64)))
    return np.asarray(np.asarray(words, dtype=np.float64)[known])


def _beside(scores: Floats, right: Floats, cut: float, words: Floats) -> dict[str, Any]:
    """The same figures of a draw and of the longest answers, as many as the judge keeps."""
    should, size = right >= cut, int((scores >= cut).sum())
    longest = np.zeros(len(scores), dtype=np.bool_)
    longest[np.argsort(-words, kind="stable")[:size]] = True
    return {
        "random": {"precision": proportion(int(should.sum()), len(scores))},
        "longest": {
            "precision": proportion(int((longest & should).sum()), size),
            "kappa": kappa(longest.astype(np.float64), should.astype(np.float64)),
            "spearman": rank_correlation(words, right),
        },
        "given_length": {"spearman": rank_correlation(scores, right, words)},
    }


def raters(judge: Marks, people: Mapping[str, Marks], cut: float, words: Marks, epsilon: float = EXPERTS) -> dict[str, Any]:
    """A judge's scores beside those of several people; `judge`, `words` and each of `people` map a row to a number.

    The people's mark of a row is their median. `people_alpha` is how far they agree with each other: more cannot be wanted.
    """
    rows, table, medians = _rated(judge, people)
    return {
        **gold(np.array([float(judge[row]) for row in rows]), medians, cut, np.array([float(words[row]) for row in rows])),
        "people": len(people),
        "people_alpha": alpha(table),
        "alternative_annotator": alternative_annotator(people, judge, fit="near", epsilon=epsilon),
    }


def near_cut(judge: Marks, people: Mapping[str, Marks], cut: float) -> dict[str, Any]:
    """A judge beside people on rows that were chosen for being near the cut: figures of these rows alone, where a judge is most
    often wrong, and not of all that it rates."""
    rows, _, medians = _rated(judge, people)
    scores = np.array([float(judge[row]) for row in rows])
    kept, should = (scores >= cut).astype(np.float64), (medians >= cut).astype(np.float64)
    agreeing = proportion(int((kept == should).sum()), len(rows))
    return {"rows": len(rows), "agreement": agreeing, "kappa": kappa(kept, should), "mean_difference": mean(scores - medians)}


def _rated(judge: Marks, people: Mapping[str, Marks]) -> tuple[list[Any], Floats, Floats]:
    """The rows that the judge and people have rated, people's ratings of them (rows, people), and their medians."""
    rows = sorted(set(judge) & {row for marks in people.values() for row in marks}, key=str)
    table = np.array([[float(marks.get(row, np.nan)) for marks in people.values()] for row in rows]).reshape(len(rows), -1)
    return rows, table, np.nanmedian(table, axis=1) if rows else np.empty(0)


def voters(judge: Mapping[str, Winner], votes: Sequence[Vote], epsilon: float = EXPERTS) -> dict[str, Any]:
    """A judge's verdicts on pairs of answers beside people's votes, by item.

    The judge is compared with the majority of each item, where there is one, and with each person; the people with each other.
    `calibration` is, for each verdict of the judge, how people voted.
    """
    people: defaultdict[str, dict[str, Winner]] = defaultdict(dict)
    by_item: defaultdict[str, list[Winner]] = defaultdict(list)
    for item, voter, vote in votes:
        people[voter][item] = vote
        by_item[item].append(vote)
    most = {item: winner for item, given in by_item.items() if (winner := majority(given)) and item in judge}
    pairs = [(judge[item], winner) for item, winner in most.items()]
    single = [
        pair for marks in people.values() for pair in ((judge[item], vote) for item, vote in marks.items() if item in judge)
    ]
    return {
        "items": len(most),
        "people": len(people),
        "with_majority": nominal(pairs),
        "with_one_person": nominal(single),
        "people_with_each_other": agreement(votes),
        "calibration": [_votes_at(verdict, [vote for said, vote in single if said == verdict]) for verdict in VOTES],
        "alternative_annotator": alternative_annotator(people, judge, epsilon=epsilon),
    }


def majority(votes: Sequence[Winner]) -> Winner | None:
    """The vote that more than half have given, or None."""
    vote, count = Counter(votes).most_common(1)[0]
    return vote if 2 * count > len(votes) else None


def nominal(pairs: Sequence[tuple[Winner, Winner]]) -> dict[str, Estimate]:
    """Raw and chance-corrected agreement of two raters of kinds, not amounts."""
    codes = np.array([[VOTES.index(one), VOTES.index(other)] for one, other in pairs], dtype=np.float64).reshape(-1, 2)
    equal = int((codes[:, 0] == codes[:, 1]).sum())
    return {"agreement": proportion(equal, len(codes)), "kappa": kappa(codes[:, 0], codes[:, 1])}


def _votes_at(verdict: Winner, votes: Sequence[Winner]) -> dict[str, Any]:
    return {"verdict": verdict, **{vote: proportion(votes.count(vote), len(votes)) for vote in VOTES}}


def several(ratings: Mapping[str, ArrayLike], cut: float, words: ArrayLike | None = None) -> dict[str, Any]:
    """What several judges of the same rows have in common: each two of them, and all. With the lengths of the answers in
    `words`, also what is left of each correlation with length taken out.

    `odd_one_out` is the judge without whom the others agree better, where the interval of that gain in alpha lies above 0; None
    where there is none, and for two judges, of whom nobody can say which is odd.
    """
    table, names = columns(list(ratings.values())), list(ratings)
    without = _gains(table) if len(names) >= FEWEST_JUDGES_FOR_AN_ODD_ONE else []
    gains = dict(zip(names, without, strict=False))
    best = max(gains, key=lambda name: gains[name]["value"] or 0.0, default=None)
    return {
        "judges": names,
        "rows": len(table),
        "alpha": alpha(table),
        "pairs": [
            {
                "judges": [names[i], names[j]],
                "exact_agreement": _equal(table[:, i], table[:, j]),
                "kappa": kappa(table[:, i], table[:, j], quadratic=True),
                "spearman": rank_correlation(table[:, i], table[:, j]),
                "spearman_given_length": None if words is None else rank_correlation(table[:, i], table[:, j], words),
                "kept_by_both": _overlap(table[:, i] >= cut, table[:, j] >= cut),
            }
            for i, j in combinations(range(len(names)), 2)
        ],
        "alpha_gained_without": gains,
        "odd_one_out": best if best is not None and (gains[best]["low"] or 0.0) > 0 else None,
    }


def _equal(first: Floats, second: Floats) -> Estimate:
    one, other = both_present(first, second)
    return proportion(int((one == other).sum()), len(one))


def _overlap(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Of the rows that either keeps, the share that both keep."""
    return proportion(int((first & second).sum()), int((first | second).sum()))


def _gains(table: Floats) -> list[Estimate]:
    """By how much alpha of the others is above alpha of all, for each judge."""
    scale, codes = coded(table)
    if len(scale) < 2:
        return [estimate(len(table), None) for _ in range(table.shape[1])]
    patterns, counts = np.unique(codes, axis=0, return_counts=True)
    every = coincidences(patterns, len(scale))
    others = [coincidences(np.delete(patterns, judge, axis=1), len(scale)) for judge in range(table.shape[1])]

    def statistic(weights: Integers) -> Floats:
        return np.column_stack([alpha_of(pairable, weights) for pairable in others]) - alpha_of(every, weights)[:, None]

    return jackknife(statistic, counts)
