"""How a stage that asks a judge goes about it: the conditions for its workers, the cap, and what earlier calls have cost.

Knows the recipe's words for these; nothing of ratings.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.datasets.run import Manifest
from alpagasus_ray.engines.base import Rate
from alpagasus_ray.engines.prices import Tariff, host, price_list
from alpagasus_ray.errors import BudgetReached, UsageError
from alpagasus_ray.runner.board import Cap
from alpagasus_ray.runner.budget import at_most_spent
from alpagasus_ray.runner.lane import Terms
from alpagasus_ray.runner.ledger import Outcome
from alpagasus_ray.runner.shards import READERS, Job, committed, missing


def terms(config: Score, workers: int) -> Terms:
    """The conditions under which the workers of a stage send requests."""
    judge = config.judge
    return Terms(
        concurrency=config.concurrency,
        rates=rates(config) if judge.paid else (Rate(),),
        workers=workers,
        capped=judge.paid and config.max_cost_usd is not None,
        adaptive=judge.paid,
        max_outage_s=judge.max_outage_s,
    )


def rates(config: Score) -> tuple[Rate, ...]:
    """The limits a minute of each endpoint."""
    common = Rate(config.requests_per_minute, config.tokens_per_minute)
    own = [Rate(place.requests_per_minute, place.tokens_per_minute) for place in config.judge.endpoints]
    return tuple(Rate(*(a or b for a, b in zip(rate, common, strict=True))) for rate in own) or (common,)


def check_cap(config: Score, tariff: Tariff) -> None:
    """A cap needs a price and a bound for each reply; without them it would hold nothing."""
    judge = config.judge
    if config.max_cost_usd is None or not judge.paid:
        return
    if tariff.price is None:
        raise UsageError(
            f"`score.max_cost_usd` = {config.max_cost_usd:g} cannot be kept: {_unknown_price(judge)}. Give the price in "
            "dollars a million tokens, e.g. --set 'score.judge.price={input: 0.15, output: 0.6}'"
        )
    if tariff.max_tokens is None:
        raise UsageError(
            f"`score.max_cost_usd` = {config.max_cost_usd:g} cannot be kept: a reply has no longest length. Set "
            "score.judge.max_tokens, or max_completion_tokens in score.judge.extra"
        )


def _unknown_price(judge: Judge) -> str:
    places = ", ".join(sorted({host(place) for place in judge.at_each_endpoint()}))
    return f"the price list of {price_list()['as_of']} has none for {judge.model!r} at {places}"


@dataclass(frozen=True)
class Account:
    """Where a stage stands before it goes on."""

    rows_left: int
    """Rows that have no reply yet."""
    spent_usd: float
    """What all calls so far have cost at most."""


def account(job: Job, examples: Manifest) -> Account:
    """Look through commit records, ledgers and the rows of shards that have some replies."""
    rows = {entry.name: entry.rows for entry in examples.parts()}
    found = _replies(job, examples)
    left = sum(_rows_left(job, shard, replies) if replies else rows[shard] for shard, replies in found.items())
    return Account(left, _spent(job, found))


def _replies(job: Job, examples: Manifest) -> dict[str, dict[str, Outcome]]:
    """The replies there are for each shard that is not committed, by request key."""
    open_shards = missing(job, [entry.name for entry in examples.parts()])
    with ThreadPoolExecutor(READERS) as pool:
        return {shard: known.replies for shard, known in zip(open_shards, pool.map(job.known, open_shards), strict=True)}


def _rows_left(job: Job, shard: str, replies: Mapping[str, Outcome]) -> int:
    return sum(job.work.request(row).key not in replies for row in job.source.storage.read_table(shard).to_pylist())


def _spent(job: Job, found: Mapping[str, Mapping[str, Outcome]]) -> float:
    """What all calls have cost at most."""
    paid = sum(_cost_of(job.tariff, entry.usage) for entry in committed(job.home))
    replies = (outcome.reply for outcomes in found.values() for outcome in outcomes.values())
    paid += sum(_cost_of(job.tariff, reply._asdict()) for reply in replies if reply)
    return max(paid, at_most_spent(job.home.storage))


def _cost_of(tariff: Tariff, usage: Mapping[str, float | None]) -> float:
    """What was paid; by the present price where there was none at the time."""
    known = usage.get("cost_usd")
    if known is None:
        known = tariff.dollars(*(usage.get(f"tokens_{kind}") or 0 for kind in ("in", "out", "cached")))
    return known or 0.0


def at_the_cap(config: Score, job: Job, examples: Manifest) -> BudgetReached:
    """What to tell when the cap is reached."""
    now = account(job, examples)
    assert config.max_cost_usd is not None, "there is a cap"
    return BudgetReached(
        f"stopped at the budget: ${now.spent_usd:.6g} of `score.max_cost_usd` = {config.max_cost_usd:g} are spent, and "
        f"{now.rows_left:,} of {examples.rows:,} rows are left. What is paid for is kept: raise the cap, and the same command "
        "goes on from here",
        {
            "stopped": "budget",
            "stage": job.home.name,
            "spent_usd": now.spent_usd,
            "max_cost_usd": config.max_cost_usd,
            "rows_left": now.rows_left,
            "rows": examples.rows,
        },
    )


def cap(config: Score, job: Job, examples: Manifest) -> Cap | None:
    """The cap with what has been spent."""
    if not job.terms.capped:
        return None
    assert config.max_cost_usd is not None, "terms say so"
    return Cap(job.home.storage, config.max_cost_usd, _spent(job, _replies(job, examples)))
