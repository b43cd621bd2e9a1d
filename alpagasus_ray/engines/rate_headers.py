"""What servers say in headers about when to come back and how much they take; every form of it that is in use.

Pauses: `Retry-After` in seconds, fractions or as a date (RFC 9110, section 10.2.3), `retry-after-ms`, and the time to reset
of a used-up `x-ratelimit-*`. Limits: `x-ratelimit-limit-*` with `-remaining-*` and `-reset-*`, for requests and for tokens.
"""

import email.utils
import re
import time
from collections.abc import Mapping
from datetime import UTC

from alpagasus_ray.engines.base import Rate

KINDS = ("requests", "tokens")
LONGEST_WAIT_S = 366 * 86_400.0
"""More than any server means; what is beyond has overflowed on its way."""
LONGEST_WINDOW_S = 300.0
"""A limit over a longer time (a day, say) is no pace to keep; when it is used up the server says how long to wait."""
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before the next request, a finite number, or None where the server names none."""
    seconds = _retry_after(headers)
    return None if seconds is None else min(seconds, LONGEST_WAIT_S)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    # first, as the finer of the two where a server sends both
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    said = headers.get("retry-after")
    if said is None:
        # only of what is used up: servers send these headers with every reply, and a reset of tokens says nothing of requests
        resets = [duration(headers.get(f"x-ratelimit-reset-{kind}")) for kind in KINDS if _is_used_up(headers, kind)]
        return max((seconds for seconds in resets if seconds is not None), default=None)
    seconds = _number(said)
    if seconds is not None:
        return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(said)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)  # dates of HTTP are in GMT, said or not
        return max(0.0, date.timestamp() - time.time())
    except (ArithmeticError, LookupError, TypeError, ValueError):  # dates beyond the calendar, or none
        return duration(said)


def stated_rate(headers: Mapping[str, str]) -> Rate:
    """The limits a minute that a reply's headers state."""
    return Rate(*(_per_minute(headers, kind) for kind in KINDS))


def duration(text: str | None) -> float | None:
    """`12ms`, `1s`, `6m0s`, `1h2m3.5s` or plain seconds, in seconds; None for anything else."""
    number = _number(text)
    if number is not None or text is None:
        return number
    parts = _PARTS.findall(text)
    if not parts or "".join(value + unit for value, unit in parts) != text.strip():
        return None
    return sum(float(value) * _UNIT_S[unit] for value, unit in parts)


def _per_minute(headers: Mapping[str, str], kind: str) -> float | None:
    limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
    if not limit or limit < 0:
        return None
    # the same header holds a limit a minute here and a limit a day there: the time that what was used takes to come back
    # tells which
    remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
    reset_s = duration(headers.get(f"x-ratelimit-reset-{kind}"))
    if reset_s and remaining is not None and remaining < limit and reset_s * limit / (limit - remaining) > LONGEST_WINDOW_S:
        return None
    return limit


def _is_used_up(headers: Mapping[str, str], kind: str) -> bool:
    return (_number(headers.get(f"x-ratelimit-remaining-{kind}")) or 0.0) <= 0


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    # also drops `nan`, with which no comparison is true
    return value if value is not None and abs(value) < float("inf") else None
