"""How far a student can be trusted, in numbers, for `fit.json`: pure functions over scores and what a student expected unseen.

Each number stands beside the same number for the length of the output alone, and beside that within ten groups of equal length:
much of what is called quality is length, and a student that has learned no more than that is not worth its file.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.distill import student
from alpagasus_ray.distill.student import Labels

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LENGTH_GROUPS = 10
FIRST_SIZE = 250
FEWEST = 10
"""Rows that the judge keeps, and that it does not keep, from which on numbers of a group say something."""
CAUTION = (
    "A student repeats its judge's taste, with the judge's mistakes and its own. It knows words, not facts: it cannot see that "
    "an answer is wrong. Read ratings that were asked for one thing (accuracy, rarity, helpfulness) as that and nothing else."
)


class Seen(NamedTuple):
    """What numbers are made of; all of one length."""

    scores: Floats
    keepers: Flags
    """Rows that the judge scores at or above the cut."""
    length: Floats

    def rows(self, chosen: NDArray[np.int64]) -> "Seen":
        return Seen(self.scores[chosen], self.keepers[chosen], self.length[chosen])


def fit_report(labels: Labels, expected: Floats, cut: float) -> dict[str, Any]:
    """All of `fit.json`.

    `expected` is of students that had not seen the row (see `student.fit`); the judge keeps a row from score `cut` on.
    """
    seen = Seen(labels.scores, labels.scores >= cut, labels.length)
    return {
        "labels": len(labels.scores),
        "cut": cut,
        "kept": _rounded(float(seen.keepers.mean())),
        "student": measures(expected, seen),
        "length": measures(seen.length, seen),
        "given_length": within_length(expected, seen),
        "categories": by_category(expected, seen, labels.category),
        "learning_curve": learning_curve(labels, seen),
        "calibration": calibration(expected, seen.scores),
        "caution": CAUTION,
    }


def in_words(report: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for a terminal: how good, how much of it is length, and whether more labels would pay."""
    lines = [f"{report['labels']:,} labels, of which the judge keeps {report['kept']:.1%} (score {report['cut']:g} or more)"]
    for name, word in (("auc", "AUC"), ("precision", "precision")):
        own, length = _shown(report["student"][name]), _shown(report["length"][name])
        within, chance = (_shown(report["given_length"][who][name]) for who in ("student", "chance"))
        lines.append(f"{word} {own} (length alone {length}; among rows of equal length {within}, chance {chance})")
    for entry in report["learning_curve"]:
        gain = _gain(entry) if entry is not report["learning_curve"][0] else ""
        lines.append(
            f"with {entry['labels']:,} labels: precision {_shown(entry['precision'])}, AUC {_shown(entry['auc'])}{gain}"
        )
    return [*lines, report["caution"]]


def _gain(entry: Mapping[str, Any]) -> str:
    """What the labels added brought."""
    if entry["gain"] is None:
        return ", what the labels added brought is unknown: the judge keeps too few rows"
    error = "unknown" if entry["gain_error"] is None else f"{entry['gain_error']:.3f}"
    return f", {entry['gain']:+.3f} ± {error} for the labels added"


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}".removeprefix("0")


def measures(values: Floats, seen: Seen) -> dict[str, float | None]:
    """AUC, precision among as many rows as the judge keeps, and rank correlation with the scores (Spearman).

    None where the judge keeps all or none, or all values are equal.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values)
    return {
        "auc": _rounded(_auc(ranks, seen.keepers)),
        "precision": _rounded(precision(values, seen.keepers)),
        "rank_correlation": _rounded(_correlation(ranks, rankdata(seen.scores))),
    }


def precision(values: Floats, keepers: Flags) -> float | None:
    """Share of the judge's own rows among as many with the highest values."""
    count = int(keepers.sum())
    if not count:
        return None
    return float(keepers[np.argsort(-values, kind="stable")[:count]].mean())


def _auc(ranks: Floats, keepers: Flags) -> float | None:
    """Probability that a kept row has a higher value than one that is not kept."""
    kept = int(keepers.sum())
    other = len(keepers) - kept
    if not kept or not other:
        return None
    return (float(ranks[keepers].sum()) - kept * (kept + 1) / 2) / (kept * other)


def _correlation(first: Floats, second: Floats) -> float | None:
    first, second = first - first.mean(), second - second.mean()
    power = math.sqrt(float((first * first).sum()) * float((second * second).sum()))
    return float((first * second).sum()) / power if power > 0 else None


def within_length(values: Floats, seen: Seen) -> dict[str, Any]:
    """The measures within ten groups of equal length, where length says nothing more, and what chance would reach there.

    Each is a mean over groups, weighted by pairs (AUC), kept rows (precision) and rows (rank correlation).
    """
    order = np.argsort(seen.length, kind="stable")
    groups = [group for group in np.array_split(order, LENGTH_GROUPS) if len(group)]
    parts = [seen.rows(group) for group in groups]
    each = [measures(values[group], part) for group, part in zip(groups, parts, strict=True)]
    kept = np.array([int(part.keepers.sum()) for part in parts])
    sizes = np.array([len(group) for group in groups])
    weights = {"auc": kept * (sizes - kept), "precision": kept, "rank_correlation": sizes}
    chance = {"auc": 0.5, "precision": _rounded(_mean(kept / sizes, kept)), "rank_correlation": 0.0}
    return {
        "student": {name: _rounded(_mean([part[name] for part in each], weight)) for name, weight in weights.items()},
        "chance": chance,
    }


def by_category(values: Floats, seen: Seen, category: Sequence[str]) -> list[dict[str, Any]]:
    """The measures of each category, largest first; null in those where the judge keeps, or leaves out, too few to tell."""
    names = np.asarray(category, dtype=object)
    if set(category) <= {""}:
        return []
    entries = []
    for name, rows in Counter(category).most_common():
        group = np.flatnonzero(names == name)
        part = seen.rows(group)
        kept = int(part.keepers.sum())
        enough = min(kept, rows - kept) >= FEWEST
        entries.append(
            {
                "category": name or None,
                "labels": rows,
                "kept": kept,
                "student": measures(values[group], part) if enough else None,
                "length": measures(part.length, part) if enough else None,
            }
        )
    return entries


def learning_curve(labels: Labels, seen: Seen) -> list[dict[str, Any]]:
    """Precision and AUC by the number of labels a student is fitted on, tested on the folds it has not seen.

    `gain` is what the step from the entry before brought in precision, with its standard error over the folds that have rows
    which the judge keeps; None where there are too few of these (one for a mean, two for an error).
    """
    folds = student.fold_of(len(labels.scores))
    entries: list[dict[str, Any]] = []
    before: Floats | None = None
    for size in curve_sizes(len(labels.scores)):
        values = student.out_of_fold(labels, size)
        each = _precision_by_fold(values, seen, folds)
        gains = np.empty(0) if before is None else (each - before)[~np.isnan(each - before)]
        entries.append(
            {
                "labels": size,
                **{name: value for name, value in measures(values, seen).items() if name != "rank_correlation"},
                "gain": _rounded(float(gains.mean())) if len(gains) else None,
                "gain_error": _rounded(float(gains.std(ddof=1)) / math.sqrt(len(gains))) if len(gains) > 1 else None,
            }
        )
        before = each
    return entries


def curve_sizes(count: int) -> list[int]:
    """250, 500, 1,000, … and at the end all that four of five folds hold."""
    most = count - math.ceil(count / student.FOLDS)
    sizes = []
    size = FIRST_SIZE
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, most]


def _precision_by_fold(values: Floats, seen: Seen, folds: NDArray[np.int64]) -> Floats:
    each = (precision(values[folds == fold], seen.keepers[folds == fold]) for fold in range(student.FOLDS))
    return np.array([np.nan if value is None else value for value in each])


def calibration(expected: Floats, scores: Floats, groups: int = 10) -> list[dict[str, float]]:
    """Mean expected and mean given score in groups of equal size, lowest first: a good student has both alike."""
    order = np.argsort(expected, kind="stable")
    return [
        {
            "labels": len(group),
            "expected": round(float(expected[group].mean()), 4),
            "score": round(float(scores[group].mean()), 4),
        }
        for group in np.array_split(order, groups)
        if len(group)
    ]


def _mean(values: Any, weights: NDArray[np.int64]) -> float | None:
    """Weighted mean of the values that there are."""
    known = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    there = ~np.isnan(known) & (weights > 0)
    return float((known[there] * weights[there]).sum() / weights[there].sum()) if there.any() else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
