"""What requests cost: the price of a judge's model, the most a request can cost before it is sent, what a reply did cost.

Prices come from the recipe, else from `prices.yaml`, which lists them by provider with the date they were read. A model at
an address that is not the provider's own has no price there: resellers and servers of your own charge what they like.
"""

import functools
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from alpagasus_ray.config import EngineConfig, Price
from alpagasus_ray.engines.base import Message, Reply

MILLION = 1_000_000
OVERHEAD_TOKENS = 64
"""What a chat template may add to the texts of a prompt: marks of roles, a standing system turn."""
BYTES_PER_TOKEN = 4
"""Of English text, for what is an estimate; the most that texts can be is a token for each byte."""
STANDARD = (None, "auto", "default")
"""Values of `service_tier` at which requests cost what is listed; at others they cost less or more."""
SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Need(NamedTuple):
    """What a request may use up before its reply is known."""

    tokens: int
    """Estimated, of the prompt and of the longest reply."""
    usd: float | None
    """The most it can cost; None where there is no price or no bound."""


class Tariff(NamedTuple):
    """How a judge's requests are counted."""

    price: Price | None
    share: float
    """Of the list price: less than 1 through a batch API."""
    max_tokens: int | None
    """Longest reply, in tokens; None where the recipe sets no bound."""

    def need(self, messages: Sequence[Message]) -> Need:
        """Tokens that a request may use and dollars that it may cost at most, by its messages' bytes and the longest reply."""
        texts = [message["content"] for message in messages]
        size = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
        # for limits a minute an estimate is enough, as the reply's own usage settles it; dollars below go by the most
        tokens = size // BYTES_PER_TOKEN + OVERHEAD_TOKENS + (self.max_tokens or 0)
        if self.price is None or self.max_tokens is None:
            return Need(tokens, None)
        # a tokenizer that works on bytes makes at most one token of each
        # nobody knows before what the provider has in its cache, and a recipe may price that higher
        dearest = max(self.price.input, self.price.cached_input or 0.0)
        dollars = (size + OVERHEAD_TOKENS) * dearest + self.max_tokens * self.price.output
        return Need(tokens, dollars * self.share / MILLION)

    def cost(self, reply: Reply) -> float | None:
        """Dollars that a reply cost; None where the price or its tokens are not known."""
        if reply.tokens_in is None or reply.tokens_out is None:
            return None
        return self.dollars(reply.tokens_in, reply.tokens_out, reply.tokens_cached or 0)

    def charge(self, reply: Reply, need: Need) -> float | None:
        """Dollars that a reply counts as: what it cost, or the most that it can have cost where its usage is not known. None
        without a price, or where neither is known."""
        known = self.cost(reply)
        # usage that is not told is not free: counted as the most, it can stop a stage too early, never too late
        return need.usd if known is None and self.price is not None else known

    def dollars(self, tokens_in: float, tokens_out: float, tokens_cached: float = 0) -> float | None:
        """Dollars for so many tokens; None without a price."""
        if self.price is None:
            return None
        cached = self.price.input if self.price.cached_input is None else self.price.cached_input
        tokens_cached = min(tokens_cached, tokens_in)  # also of ledgers of earlier versions: no tokens cost less than nothing
        millionths = (tokens_in - tokens_cached) * self.price.input + tokens_cached * cached + tokens_out * self.price.output
        return millionths * self.share / MILLION


def tariff(judge: EngineConfig) -> Tariff:
    """How the requests of this judge are counted; `max_tokens` is the one limit that is sent, whatever its name (`extra` may
    hold none)."""
    share = float(price_list()["batch_share"]) if judge.mode == "batch" else 1.0
    return Tariff(price(judge), share, judge.max_tokens)


def host(judge: EngineConfig) -> str:
    """The host of a judge's address."""
    return urlsplit(judge.base_url).hostname or ""


def price(judge: EngineConfig) -> Price | None:
    """The price of a judge's model: the recipe's, else the listed one if all its endpoints are the provider's own and its
    tier of service is the standard one."""
    if not judge.is_remote or judge.price is not None:
        return judge.price
    if judge.extra.get("service_tier") not in STANDARD:
        return None
    found = {_listed(place) for place in judge.at_each_endpoint()}
    # endpoints of different prices have no common one, and a cap by the wrong one would hold nothing
    return found.pop() if len(found) == 1 else None


def _listed(judge: EngineConfig) -> Price | None:
    models = price_list()["providers"].get(host(judge), {}).get("models", {})
    name = judge.model or ""
    # `gpt-4o-mini-2024-07-18` costs what `gpt-4o-mini` does, unless it is listed by itself
    entry = models.get(name) or models.get(SNAPSHOT.sub("", name))
    return Price(**entry) if entry else None


@functools.cache
def price_list() -> dict[str, Any]:
    """The shipped list: `as_of`, `batch_share`, `providers`."""
    loaded: dict[str, Any] = yaml.safe_load(resources.files(__package__).joinpath("prices.yaml").read_text(encoding="utf-8"))
    return loaded
