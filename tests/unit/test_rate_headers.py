"""What servers say in headers about pauses and limits: every form in use, and what must not be taken for one."""

import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.engines.base import Rate
from alpagasus_ray.engines.rate_headers import duration, retry_after, stated_rate

unhurried = settings(deadline=None)
"""On a busy machine an example may take its time."""


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def _zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("0.25", 0.25),
        ("1e1", 10.0),
        (" 7 ", 7.0),
        ("-5", 0.0),
        ("12ms", 0.012),
        ("20s", 20.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("1d", 86_400.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("6m later", None),
        ("2026-01-01T00:00:00Z", None),
        ("Wed, 99 Oct 2099 07:28:00 GMT", None),
    ],
)
def test_every_form_of_retry_after_is_read_and_nothing_else(said: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": said}) == seconds


def _date(form: str, at: float) -> str:
    return formatdate(at, usegmt=True) if form == "imf" else time.strftime(form, time.gmtime(at))


@pytest.mark.usefixtures("_zone")
@pytest.mark.parametrize(
    "form",
    [
        "imf",
        "%A, %d-%b-%y %H:%M:%S GMT",
        "%a %b %e %H:%M:%S %Y",
        "%a, %d %b %Y %H:%M:%S UTC",
        "%a, %d %b %Y %H:%M:%S -0000",
    ],
)
def test_a_date_is_a_pause_until_then_wherever_this_machine_is(form: str) -> None:
    seconds = retry_after({"retry-after": _date(form, time.time() + 600)})
    assert seconds is not None
    assert 590 < seconds <= 600


@unhurried
@given(
    st.text(max_size=40)
    | st.from_regex(r"((Mon|Sunday),? )?\d{1,3}[ -](Jan|Feb|Xyz)[ -]\d{1,6} \d{1,2}:\d{1,2}(:\d{1,2})? ?[A-Z0-9+-]{0,6}")
)
def test_whatever_a_server_says_is_a_pause_or_none(said: str) -> None:
    seconds = retry_after({"retry-after": said})
    assert seconds is None or seconds >= 0


def test_milliseconds_come_before_seconds() -> None:
    assert retry_after({"retry-after-ms": "1500", "retry-after": "2"}) == 1.5
    assert retry_after({"retry-after-ms": "soon", "retry-after": "2"}) == 2.0
    assert retry_after({"retry-after-ms": "-1"}) == 0.0


def test_a_server_that_names_no_pause_asks_for_none() -> None:
    assert retry_after({}) is None


def test_without_retry_after_the_pause_is_that_of_the_used_up_limit() -> None:
    both = {"x-ratelimit-reset-requests": "12ms", "x-ratelimit-reset-tokens": "6m0s"}
    assert retry_after({**both, "x-ratelimit-remaining-requests": "5", "x-ratelimit-remaining-tokens": "0"}) == 360.0
    assert retry_after({**both, "x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "9"}) == 0.012
    assert retry_after({**both, "x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "0"}) == 360.0
    assert retry_after({**both, "x-ratelimit-remaining-requests": "5", "x-ratelimit-remaining-tokens": "9"}) is None
    assert retry_after({**both, "x-ratelimit-remaining-requests": "0", "retry-after": "1"}) == 1.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8.64s", 8.64), ("1h0m0s", 3600.0), ("59", 59.0), ("1m 5s", None), ("s", None), ("5x", None), (None, None)],
)
def test_durations_are_read_whole_or_not_at_all(text: str | None, seconds: float | None) -> None:
    assert duration(text) == seconds


def _limits(**said: str) -> dict[str, str]:
    return {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in said.items()}


OPENAI = _limits(
    limit_requests="500",
    remaining_requests="499",
    reset_requests="120ms",
    limit_tokens="30000",
    remaining_tokens="29000",
    reset_tokens="2s",
)
GROQ = _limits(
    limit_requests="14400",
    remaining_requests="14370",
    reset_requests="2m59.56s",
    limit_tokens="18000",
    remaining_tokens="17997",
    reset_tokens="7.66ms",
)


@pytest.mark.parametrize(
    ("headers", "rate"),
    [
        (OPENAI, Rate(500, 30_000)),
        (GROQ, Rate(None, 18_000)),  # its requests are counted by the day
        (_limits(limit_requests="60", remaining_requests="0", reset_requests="60"), Rate(60, None)),
        (_limits(limit_requests="1000", remaining_requests="0", reset_requests="23h59m59s"), Rate()),
        (_limits(limit_requests="1000", remaining_requests="999", reset_requests="1m26.4s"), Rate()),
        (_limits(limit_requests="500"), Rate(500, None)),
        (_limits(limit_requests="500", remaining_requests="500", reset_requests="0s"), Rate(500, None)),
        (_limits(limit_requests="0", limit_tokens="-1"), Rate()),
        (_limits(limit_requests="none", limit_tokens="inf"), Rate()),
        ({}, Rate()),
    ],
)
def test_limits_a_minute_are_taken_and_limits_a_day_are_not(headers: dict[str, str], rate: Rate) -> None:
    assert stated_rate(headers) == rate


words = st.none() | st.sampled_from(["0", "-1", "5", "1e9", "nan", "inf", "1s", "6m0s", "x", ""]) | st.text(max_size=8)


@unhurried
@given(words, words, words)
def test_whatever_stands_in_the_headers_a_limit_is_positive_or_none(
    limit: str | None, remaining: str | None, reset: str | None
) -> None:
    said = {"limit_tokens": limit, "remaining_tokens": remaining, "reset_tokens": reset}
    tokens = stated_rate(_limits(**{name: value for name, value in said.items() if value is not None})).tokens
    assert tokens is None or tokens > 0


@unhurried
@given(st.integers(1, 100_000), st.floats(0.01, 1.0))
def test_a_minute_limit_is_known_however_much_of_it_is_used(limit: int, share: float) -> None:
    used = max(1, int(limit * share))
    said = _limits(limit_requests=str(limit), remaining_requests=str(limit - used), reset_requests=f"{used / limit * 60:.3f}s")
    assert stated_rate(said) == Rate(limit, None)
