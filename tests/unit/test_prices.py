"""What requests cost: where a price comes from, and that no reply costs more than was foreseen."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.config import Endpoint, Judge, Price
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.engines.openai_api import request_body
from alpagasus_ray.engines.prices import OVERHEAD_TOKENS, Tariff, price, price_list, tariff

MINI = Price(input=0.15, cached_input=0.075, output=0.6)


def _judge(**changes: Any) -> Judge:
    return Judge(**{"model": "gpt-4o-mini", **changes})


def test_a_listed_model_has_its_providers_price() -> None:
    assert price(_judge()) == MINI
    assert price(_judge(base_url="https://api.openai.com/v1")) == MINI


def test_every_listed_price_is_one() -> None:
    models = price_list()["providers"]["api.openai.com"]["models"]
    assert {name: price(_judge(model=name)) for name in models} == {name: Price(**entry) for name, entry in models.items()}


def test_a_dated_snapshot_costs_what_its_model_costs() -> None:
    assert price(_judge(model="gpt-4o-mini-2024-07-18")) == MINI


def test_a_snapshot_that_is_listed_itself_has_its_own_price() -> None:
    assert price(_judge(model="gpt-4o-2024-05-13")) == Price(input=5, output=15)
    assert price(_judge(model="gpt-4o-2024-08-06")) == price(_judge(model="gpt-4o"))


@pytest.mark.parametrize(
    ("tier", "known"), [(None, True), ("auto", True), ("default", True), ("flex", False), ("priority", False)]
)
def test_a_tier_of_service_that_is_not_the_standard_one_has_no_listed_price(tier: str | None, known: bool) -> None:
    extra = {"service_tier": tier}
    assert price(_judge(extra=extra)) == (MINI if known else None)
    assert price(_judge(extra=extra, price=MINI)) == MINI


@pytest.mark.parametrize("model", ["gpt-4o-mini-2024", "gpt-4o-mini-2024-07-18-x", "4o-mini", "", None])
def test_a_name_that_is_not_listed_has_no_price(model: str | None) -> None:
    assert price(_judge(model=model)) is None


@pytest.mark.parametrize(
    "address", ["http://localhost:8000/v1", "https://api.openai.com.example/v1", "https://reseller.example/v1"]
)
def test_a_listed_model_at_an_address_that_is_not_its_providers_has_no_price(address: str) -> None:
    assert price(_judge(base_url=address)) is None
    assert tariff(_judge(base_url=address)).dollars(1000, 1000) is None


def test_several_endpoints_have_a_price_only_where_all_are_the_providers() -> None:
    own, other = Endpoint(api_key_env="KEY_A"), Endpoint(base_url="http://localhost:8000/v1")
    assert price(_judge(endpoints=(own, Endpoint(api_key_env="KEY_B")))) == MINI
    assert price(_judge(endpoints=(own, other))) is None


def test_a_price_in_the_recipe_is_the_price_whatever_the_list_says() -> None:
    given_price = Price(input=1, output=2)
    assert price(_judge(price=given_price)) == given_price
    assert price(_judge(price=given_price, base_url="http://localhost:8000/v1")) == given_price


def test_the_batch_api_halves_everything() -> None:
    messages = [{"role": "user", "content": "How much?"}]
    live, batch = tariff(_judge()), tariff(_judge(mode="batch"))
    assert batch.dollars(1e6, 1e6, 5e5) == pytest.approx((0.5 * 0.15 + 0.5 * 0.075 + 0.6) / 2)
    live_need, batch_need = live.need(messages).usd, batch.need(messages).usd
    assert live_need is not None
    assert batch_need == pytest.approx(live_need / 2)


def test_cached_tokens_cost_their_own_price_and_that_of_others_where_they_have_none() -> None:
    reply = Reply("4", tokens_in=1000, tokens_out=100, tokens_cached=400)
    assert tariff(_judge()).cost(reply) == pytest.approx((600 * 0.15 + 400 * 0.075 + 100 * 0.6) / 1e6)
    plain = tariff(_judge(price=Price(input=0.15, output=0.6)))
    assert plain.cost(reply) == plain.cost(reply._replace(tokens_cached=None)) == pytest.approx((1000 * 0.15 + 100 * 0.6) / 1e6)


def test_a_reply_that_does_not_tell_its_tokens_has_no_cost() -> None:
    assert tariff(_judge()).cost(Reply("4")) is None


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({}, 256),
        ({"max_tokens": None}, None),
        ({"max_tokens": 900}, 900),
        ({"max_tokens": 900, "max_tokens_field": "max_completion_tokens"}, 900),
    ],
)
def test_the_longest_reply_is_the_one_limit_that_is_sent(changes: dict[str, Any], longest: int | None) -> None:
    judge = _judge(**changes)
    sent = [value for name, value in request_body(judge).items() if name.startswith("max")]
    assert tariff(judge).max_tokens == longest
    assert sent == ([] if longest is None else [longest])


def test_a_request_without_a_bound_or_a_price_has_no_most_it_can_cost() -> None:
    messages = [{"role": "user", "content": "How much?"}]
    assert tariff(_judge(max_tokens=None)).need(messages).usd is None
    assert tariff(_judge(model="unknown")).need(messages).usd is None


@st.composite
def _asked_and_answered(draw: st.DrawFn) -> tuple[Tariff, list[dict[str, str]], Reply]:
    """Any prompt, any reply to it that keeps to the limits: of tokens, at most one for each byte and the overhead."""
    dollars = st.floats(0, 1000, allow_nan=False)
    asked = draw(dollars)
    cost = Price(input=asked, output=draw(dollars), cached_input=draw(st.none() | st.floats(0, asked)))
    messages = [{"role": "user", "content": text} for text in draw(st.lists(st.text(max_size=50), max_size=4))]
    longest = draw(st.integers(1, 10_000))
    most_in = sum(len(message["content"].encode()) for message in messages) + OVERHEAD_TOKENS
    tokens_in = draw(st.integers(0, most_in))
    reply = Reply("", "stop", tokens_in, draw(st.integers(0, longest)), draw(st.none() | st.integers(0, tokens_in)))
    return Tariff(cost, draw(st.sampled_from([1.0, 0.5])), longest), messages, reply


@given(_asked_and_answered())
def test_no_reply_within_the_limits_costs_more_than_was_foreseen(case: tuple[Tariff, list[dict[str, str]], Reply]) -> None:
    terms, messages, reply = case
    foreseen, cost = terms.need(messages).usd, terms.cost(reply)
    assert foreseen is not None
    assert cost is not None
    assert cost <= foreseen * (1 + 1e-12)  # sums of floats in another order


def test_a_reply_whose_usage_is_not_known_counts_as_the_most_it_can_have_cost() -> None:
    terms = tariff(_judge())
    need = terms.need([{"role": "user", "content": "How much?"}])
    assert terms.charge(Reply("4"), need) == terms.charge(Reply("4", tokens_in=9), need) == need.usd
    assert terms.charge(Reply("4", tokens_in=9, tokens_out=2), need) == terms.dollars(9, 2)
    assert tariff(_judge(model="unknown")).charge(Reply("4"), need) is None


def test_no_reply_costs_less_than_nothing() -> None:
    """The ledgers of earlier versions may hold more cached tokens than the prompt has."""
    cost = tariff(_judge()).cost(Reply("4", tokens_in=300, tokens_out=20, tokens_cached=1_000_000))
    assert cost == pytest.approx((300 * 0.075 + 20 * 0.6) / 1e6)
