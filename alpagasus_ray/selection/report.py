"""What a selection kept, in numbers: pure functions over columns, for `selection.json` and the terminal."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.selection.policies import Choice, Columns, Flags

BYTES_PER_TOKEN = 4
"""What an estimate counts with where no tokenizer is given; it is called an estimate wherever it is shown."""


class CountedBy(NamedTuple):
    """Who or what the numbers of a report were counted by."""

    tokens: str
    """Who counted tokens, for people to read."""
    lengths: str
    """What lengths are measured in: `tokens`, or `characters` where no tokenizer is named."""


def selection_report(columns: Columns, choice: Choice, tokens: NDArray[np.int64], counted_by: CountedBy) -> dict[str, Any]:
    """Rows, tokens, lengths, kept share of each category, threshold curve and histogram of one arm.

    `tokens` holds the tokens of each row (instruction, input and output); `counted_by` says who
    counted them, and what the lengths of the outputs are measured in.
    """
    kept = choice.kept
    return {
        "rows": {"all": len(kept), "kept": int(kept.sum()), "share": _share(int(kept.sum()), len(kept))},
        "unscored": int(np.isnan(columns.score).sum()),
        "tokens": {"all": int(tokens.sum()), "kept": int(tokens[kept].sum()), "counted_by": counted_by.tokens},
        "mean_output_length": {
            "all": _mean(columns.length),
            "kept": _mean(columns.length[kept]),
            "dropped": _mean(columns.length[~kept]),
            "unit": counted_by.lengths,
        },
        "categories": _categories(columns.category, kept),
        "threshold_curve": threshold_curve(columns, tokens),
        "histogram": histogram(columns, kept),
    }


def threshold_curve(columns: Columns, tokens: NDArray[np.int64]) -> list[dict[str, float]]:
    """What each possible cut would keep: one entry for each score that occurs, lowest first."""
    curve = []
    for cut in np.unique(columns.score[~np.isnan(columns.score)]):
        above = columns.score >= cut
        rows = int(above.sum())
        share = rows / len(above)
        curve.append({"threshold": float(cut), "rows": rows, "share": round(share, 6), "tokens": int(tokens[above].sum())})
    return curve


def histogram(columns: Columns, kept: Flags) -> list[dict[str, float]]:
    """Rows and kept rows of each score."""
    scores = columns.score
    return [
        {"score": float(value), "rows": int((scores == value).sum()), "kept": int((kept & (scores == value)).sum())}
        for value in np.unique(scores[~np.isnan(scores)])
    ]


def _categories(category: Sequence[str], kept: Flags) -> list[dict[str, Any]]:
    """Kept share of each category, largest first; empty where the examples have none."""
    every = Counter(category)
    chosen = Counter(name for name, keep in zip(category, kept, strict=True) if keep)
    if set(every) <= {""}:
        return []
    return [
        {"category": name or None, "rows": rows, "kept": chosen[name], "share": _share(chosen[name], rows)}
        for name, rows in every.most_common()
    ]


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _mean(values: NDArray[np.int64]) -> float | None:
    """None, not 0, where there is nothing to take a mean of."""
    mean = float(values.mean()) if len(values) else math.nan
    return None if math.isnan(mean) else round(mean, 2)
