"""How numbers are written for people, on the page, the card and the terminal; what nobody knows is `no data`."""

import math

from alpagasus_ray.reporting.measures import Interval

NO_DATA = "no data"
FOUR_DECIMALS = 0.001
"""The least that four decimals of a dollar show two digits of."""


def count(value: float | None) -> str:
    return NO_DATA if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int = 3) -> str:
    return NO_DATA if value is None else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    return NO_DATA if value is None else f"{value:.{digits}%}"


def money(dollars: float | None) -> str:
    """Two decimals, four of what is less than a dollar, and two digits of what is less than a tenth of a cent."""
    if dollars is None:
        return "unknown"
    digits = 2 if dollars >= 1 or not dollars else 4 if dollars >= FOUR_DECIMALS else 1 - math.floor(math.log10(dollars))
    return f"{dollars:,.{digits}f}"


def dollars(value: float | None) -> str:
    return NO_DATA if value is None else f"${money(value)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NO_DATA
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:,.1f} h"


def p_value(value: float | None) -> str:
    if value is None:
        return NO_DATA
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def between(interval: Interval, digits: int = 3) -> str:
    """A value with its interval."""
    if interval.value is None:
        return NO_DATA
    value = f"{interval.value:.{digits}f}"
    return value if interval.low is None else f"{value} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def times(ratio: float | None) -> str:
    """How many times as much, in two digits."""
    if ratio is None:
        return NO_DATA
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 1 else f"{ratio:.2f}×"


def ratio_text(ratio: float) -> str:
    """How many times as much, in a sentence."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
