"""Comparisons as a person reads them on a terminal: win, tie and lose, what an interval allows to say, what the order did."""

from collections.abc import Iterator, Mapping
from typing import Any


def compared_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A pair on a test set, in three lines."""
    counts = f"{found['win']:,} win, {found['tie']:,} tie, {found['lose']:,} lose"
    missing = f", {found['no_verdict']:,} without a verdict" if found["no_verdict"] else ""
    yield f"  {found['a']} against {found['b']} on {found['test_set']}, judged by {found['judge']}: {counts}{missing}"
    if not found["judged"]:
        yield "    no prompt has a verdict in both orders: no data"
        return
    score, p = found["winning_score"], found["sign_test_p"]
    certain = "" if p is None else f", sign test p = {p:.2g}"
    yield f"    winning score {score['value']:.3f} ({between(score)}; parity is 1){certain}"
    place = found["position"]
    if place["consistency"] is not None:
        same, first = share(place["consistency"]), share(place["first_slot_share"])
        yield f"    the same winner in both orders: {same} of the prompts; the first answer wins {first} of the decided games"


def share(value: float | None) -> str:
    return "no data" if value is None else f"{value:.0%}"


def between(found: Mapping[str, float | None]) -> str:
    """The interval of a score."""
    return "too few to tell an interval" if found["low"] is None else f"95%: {found['low']:.3f} to {found['high']:.3f}"
