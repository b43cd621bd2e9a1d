"""Usage as servers tell it: what cannot be is not known, of two readings the dearer holds, nothing costs less than nothing."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.config import Price
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.engines.prices import Tariff
from alpagasus_ray.engines.usage import MOST_TOKENS, Usage, read_usage

unhurried = settings(deadline=None)
"""On a busy machine an example may take its time."""
TARIFF = Tariff(Price(input=1.0, output=10.0, cached_input=0.1), 1.0, 64)


def _usage(prompt: Any = 300, completion: Any = 20, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


@pytest.mark.parametrize(
    ("said", "known"),
    [
        (_usage(), (300, 20, None)),
        (_usage(total_tokens=320), (300, 20, None)),
        (_usage(prompt_tokens_details={"cached_tokens": 128}), (300, 20, 128)),
        # reasoning that only the total, or only a detail, counts
        (_usage(total_tokens=820), (300, 520, None)),
        (_usage(completion_tokens_details={"reasoning_tokens": 500}), (300, 520, None)),
        (_usage(completion_tokens_details={"reasoning_tokens": 15}), (300, 20, None)),
        (_usage(completion=None, total_tokens=320), (300, 20, None)),
        (_usage(total_tokens=10), (300, 20, None)),
        # more cached than there is
        (_usage(prompt_tokens_details={"cached_tokens": 1000}), (1300, 20, 1000)),
        (_usage(prompt_tokens_details={"cached_tokens": -1000}), (300, 20, None)),
        # what cannot be
        (_usage(prompt=0, completion=0, total_tokens=0), (None, None, None)),
        (_usage(prompt=0), (None, 20, None)),
        (_usage(completion=0), (300, None, None)),
        (_usage(prompt=-5, completion=-5), (None, None, None)),
        (_usage(completion=2**64 - 1), (300, None, None)),
        (_usage(prompt=MOST_TOKENS + 1), (None, 20, None)),
        (_usage(prompt="300", completion=20.0), (None, None, None)),
        (_usage(prompt=True, completion=True), (None, None, None)),
        (_usage(prompt_tokens_details=[128]), (300, 20, None)),
        (None, (None, None, None)),
        ([], (None, None, None)),
        ({}, (None, None, None)),
    ],
)
def test_usage_is_read_as_a_bill_is(said: Any, known: tuple[int | None, ...]) -> None:
    assert read_usage(said, has_text=True) == Usage(*known)


def test_a_reply_without_a_text_may_have_taken_no_token() -> None:
    assert read_usage(_usage(completion=0), has_text=False) == Usage(300, 0)


numbers = st.none() | st.booleans() | st.integers() | st.integers(0, 1000) | st.floats() | st.text(max_size=3)
details = (
    st.none() | st.lists(numbers, max_size=2) | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), numbers)
)
names = ["prompt_tokens", "completion_tokens", "total_tokens"]


@unhurried
@given(
    st.dictionaries(st.sampled_from(names), numbers),
    st.dictionaries(st.sampled_from(["prompt_tokens_details", "completion_tokens_details"]), details),
    st.booleans(),
)
def test_whatever_a_server_says_a_request_costs_nothing_or_more_and_not_less_than_what_it_says_of_the_reply(
    counts: dict[str, Any], inner: dict[str, Any], has_text: bool
) -> None:
    known = read_usage({**counts, **inner}, has_text=has_text)
    assert all(number is None or 0 <= number <= 3 * MOST_TOKENS for number in known)
    if known.tokens_in is not None:
        assert (known.tokens_cached or 0) <= known.tokens_in
    said = counts.get("completion_tokens")
    if known.tokens_out is not None and type(said) is int and 0 <= said <= MOST_TOKENS:
        assert known.tokens_out >= said
    cost = TARIFF.cost(Reply("4", "stop", *known))
    assert cost is None or cost >= 0
