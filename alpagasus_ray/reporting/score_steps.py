"""The steps of a scale, those included that nobody was given, so that a gap between two scores looks like one. Pure."""

from collections.abc import Iterable, Mapping
from fractions import Fraction

USUAL = (1.0, 0.5, 0.25, 0.1)
"""Steps that scores are looked for on where the scale does not say its own."""
MOST_STEPS = 41
NEAR = 1e-9


def score_steps(scores: Iterable[float], scale: Mapping[str, float | None] | None = None) -> list[float]:
    """All steps from the scale's lowest to its highest score; without a scale, from the lowest to the highest of `scores`, in
    the largest usual step that all of them stand on. Empty where they stand on no step, or on more than `MOST_STEPS`."""
    given = sorted({float(score) for score in scores})
    low, high, step = (scale or {}).get("min"), (scale or {}).get("max"), (scale or {}).get("step")
    if low is None or high is None:
        if not given:
            return []
        low, high = given[0], given[-1]
    low, high = min([low, *given[:1]]), max([high, *given[-1:]])
    for width in [step] if step else USUAL:
        count = (high - low) / width
        if count <= MOST_STEPS - 1 + NEAR and all(_is_whole((score - low) / width) for score in [*given, high]):
            return [_sum(low, number, width) for number in range(round(count) + 1)]
    return []


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < NEAR


def _sum(low: float, number: int, width: float) -> float:
    """Without the rounding of sums such as 3 x 0.1: a score has to be found among the steps."""
    exact = Fraction(str(low)) + number * Fraction(str(width))
    return float(exact)
