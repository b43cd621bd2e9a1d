"""How a stage that asks a judge goes about it: the conditions for its workers, the cap, and what earlier calls have cost.

Knows the recipe's words for these; nothing of ratings or answers.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from alpagasus_ray.config import Asking, EngineConfig
from alpagasus_ray.engines.base import Rate
from alpagasus_ray.engines.identity import body, checkpoint_print, identity_of, request_key, weights_print, with_template
from alpagasus_ray.engines.model_names import is_same_model
from alpagasus_ray.engines.prices import Tariff, host, price_list
from alpagasus_ray.errors import BudgetReached, StageFailed, UsageError
from alpagasus_ray.inference.budget import at_most_spent
from alpagasus_ray.inference.coordinator import SAID, Cap
from alpagasus_ray.inference.endpoint import Terms
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.shards import READERS, Job, Work, committed, missing, record
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.terminal import say

__all__ = ["body", "checkpoint_print", "identity_of", "request_key", "weights_print", "with_template"]

CONCURRENCY = 64
"""Most requests in flight from a worker to an endpoint, where the recipe does not say."""
BOUGHT = ("tokens_in", "tokens_out", "tokens_cached", "cost_usd")
"""The fields of a row that tell what its reply took."""
TRUNCATED = "truncated"
FEW_FAILURES = 20
"""Up to so many failures their share says nothing."""
Verdict = Callable[[Mapping[str, int]], str | None]
"""Looks at the counts so far and says why to stop, or None."""


def concurrency(config: Asking, asked: EngineConfig) -> int:
    """Most requests in flight from each worker to an endpoint."""
    if config.concurrency is not None:
        return config.concurrency
    sequences = asked.vllm.max_num_seqs
    return sequences + max(1, sequences // 8) if asked.in_job else CONCURRENCY


def terms(config: Asking, asked: EngineConfig, workers: int = 1) -> Terms:
    """The conditions under which the workers of a stage send requests."""
    return Terms(
        concurrency=concurrency(config, asked),
        rates=rates(config, asked) if asked.is_remote else (Rate(),),
        workers=workers,
        capped=asked.is_remote and config.max_cost_usd is not None,
        adaptive=asked.is_remote,
        max_outage_s=asked.max_outage_s,
    )


def rates(config: Asking, asked: EngineConfig) -> tuple[Rate, ...]:
    """The limits a minute of each endpoint."""
    common = Rate(config.requests_per_minute, config.tokens_per_minute)
    own = [Rate(place.requests_per_minute, place.tokens_per_minute) for place in asked.endpoints]
    return tuple(Rate(*(a or b for a, b in zip(rate, common, strict=True))) for rate in own) or (common,)


def check_cap(config: Asking, asked: EngineConfig, tariff: Tariff) -> None:
    """A cap needs a price and a bound for each reply; without them it would hold nothing."""
    if config.max_cost_usd is None or not asked.is_remote:
        return
    cap = f"`{config.section}.max_cost_usd` = {config.max_cost_usd:g} cannot be kept"
    if tariff.price is None:
        raise UsageError(
            f"{cap}: {_unknown_price(asked)}. Give the price in dollars a million tokens, e.g. --set "
            f"'{asked.where}.price={{input: 0.15, output: 0.6}}'"
        )
    if tariff.max_tokens is None:
        raise UsageError(
            f"{cap}: a reply has no longest length. Set {asked.where}.max_tokens; for a model that wants it as "
            f"max_completion_tokens, set {asked.where}.max_tokens_field besides"
        )


def _unknown_price(asked: EngineConfig) -> str:
    places = ", ".join(sorted({host(place) for place in asked.at_each_endpoint()}))
    return f"the price list of {price_list()['as_of']} has none for {asked.model!r} at {places}"


class Part(NamedTuple):
    """A job, and what it reads."""

    job: Job
    source: Manifest

    def shards(self) -> list[str]:
        return [entry.name for entry in self.source.parts()]


class Bill(NamedTuple):
    """What is paid together: the jobs under one cap, and where its bound is kept."""

    name: str
    storage: Storage
    parts: Sequence[Part]
    finished_usd: float = 0.0
    """What finished stages under the same cap have cost."""


@dataclass(frozen=True)
class Account:
    """Where a stage stands before it goes on."""

    rows_left: int
    """Rows that have no reply yet."""
    spent_usd: float
    """What all calls so far have cost at most."""


def account(bill: Bill) -> Account:
    """Look through commit records, ledgers and the rows of shards that have some replies."""
    left, found = 0, []
    for part in bill.parts:
        listed = {entry.name: entry for entry in part.source.parts()}
        replies = _replies(part)
        left += sum(
            _rows_left(part.job, listed[name], known) if known else listed[name].rows for name, known in replies.items()
        )
        found.append(replies)
    return Account(left, _spent(bill, found))


def _replies(part: Part) -> dict[str, dict[str, Outcome]]:
    """The replies there are for each shard that is not committed, by request key."""
    open_shards = missing(part.job, part.shards())
    with ThreadPoolExecutor(READERS) as pool:
        return {name: known.replies for name, known in zip(open_shards, pool.map(part.job.known, open_shards), strict=True)}


def _rows_left(job: Job, shard: FileEntry, replies: Mapping[str, Outcome]) -> int:
    return sum(job.work.request(row).key not in replies for row in job.source.table(shard.name, shard.sha256).to_pylist())


def _spent(bill: Bill, found: Sequence[Mapping[str, Mapping[str, Outcome]]]) -> float:
    """What all calls have cost at most."""
    paid = bill.finished_usd
    for part, shards in zip(bill.parts, found, strict=True):
        tariff = part.job.tariff
        paid += sum(_cost_of(tariff, entry.usage) for entry in committed(part.job.home))
        replies = (outcome.reply for outcomes in shards.values() for outcome in outcomes.values())
        paid += sum(_cost_of(tariff, reply._asdict()) for reply in replies if reply)
    return max(paid, at_most_spent(bill.storage))


def _cost_of(tariff: Tariff, usage: Mapping[str, float | None]) -> float:
    """What was paid; by the present price where there was none at the time."""
    known = usage.get("cost_usd")
    if known is None:
        known = tariff.dollars(*(usage.get(f"tokens_{kind}") or 0 for kind in ("in", "out", "cached")))
    return known or 0.0


def at_the_cap(config: Asking, bill: Bill) -> BudgetReached:
    """What to tell when the cap is reached."""
    now, rows = account(bill), sum(part.source.rows for part in bill.parts)
    assert config.max_cost_usd is not None, "there is a cap"
    return BudgetReached(
        f"stopped at the budget: ${now.spent_usd:.6g} of `{config.section}.max_cost_usd` = {config.max_cost_usd:g} are spent, "
        f"and {now.rows_left:,} of {rows:,} rows are left. What is paid for is kept: raise the cap, and the same command "
        "goes on from here",
        {
            "stopped": "budget",
            "stage": bill.name,
            "spent_usd": now.spent_usd,
            "max_cost_usd": config.max_cost_usd,
            "rows_left": now.rows_left,
            "rows": rows,
        },
    )


def cap(config: Asking, bill: Bill) -> Cap | None:
    """The cap with what has been spent."""
    if not bill.parts[0].job.terms.capped:
        return None
    assert config.max_cost_usd is not None, "terms say so"
    return Cap(bill.storage, config.max_cost_usd, _spent(bill, [_replies(part) for part in bill.parts]))


def check_engine(asked: EngineConfig, work: Work) -> None:
    """Tell of a missing key or a wrong file before any worker starts; a model in the job is looked at where it will run."""
    if asked.is_remote:
        from alpagasus_ray.engines.openai_api import read_key

        for place in asked.at_each_endpoint():
            read_key(place)
    elif not asked.is_model:
        work.open_engines()


def too_many_failed(config: Asking, asked: EngineConfig, rows: int, failed: int, reasons: Mapping[str, int]) -> str | None:
    """Why to give up: more than `max_failed` of all rows failed. What somebody has recorded may fairly be of a part of them."""
    if asked.kind == "recorded" or failed <= max(FEW_FAILURES, config.max_failed * rows):
        return None
    kinds = sorted((entry for entry in reasons.items() if not entry[0].startswith(SAID)), key=lambda entry: -entry[1])
    listed = ", ".join(f"{count:,} x {reason}" for reason, count in kinds[:3])
    knob = f"{config.section}.max_failed = {config.max_failed:g}"
    said = Counter({key.removeprefix(SAID): count for key, count in reasons.items() if key.startswith(SAID)})
    commonest = f"; the commonest: {said.most_common(1)[0][0]}" if said else ""
    return f"{failed:,} rows failed, more than {knob} of {rows:,} allows ({listed}{commonest})"


def sentences(stage: StageDir, manifest: Manifest) -> Counter[str]:
    """What the failures of a stage say, counted, under the names that the board has for them."""
    found: Counter[str] = Counter()
    for entry in manifest.parts():
        if entry.counts.get("failed"):
            rows = stage.table(entry.name, entry.sha256, ["status", "error"]).to_pylist()
            found.update(f"{SAID}{row['error']}" for row in rows if row["status"] == "failed" and row["error"])
    return found


def hopeless(config: Asking, asked: EngineConfig, rows: int) -> Verdict:
    """What the driver watches the counts with."""

    def verdict(counts: Mapping[str, int]) -> str | None:
        reasons = {key.removeprefix("reason "): n for key, n in counts.items() if key.startswith(("reason ", SAID))}
        return too_many_failed(config, asked, rows, counts.get("status failed", 0), reasons)

    return verdict


def asked_again(asked: EngineConfig, statuses: Sequence[str]) -> tuple[str, ...]:
    """The statuses whose rows are asked again. A longer reply is for those whose reply was cut, and for no others."""
    if asked.retry_max_tokens is not None and tuple(statuses) != (TRUNCATED,):
        raise UsageError(
            f"{asked.where}.retry_max_tokens = {asked.retry_max_tokens} is for rows whose reply was cut, and --retry-failed "
            f"asks for those that are {', '.join(statuses)}; say --retry-failed {TRUNCATED}, or leave it out"
        )
    return tuple(statuses)


def raised(asked: EngineConfig, again: Sequence[str]) -> int | None:
    """The longest reply of rows that are asked again, where it is longer than that of the others."""
    longer = asked.retry_max_tokens
    if not again or longer is None or not asked.is_model:
        return None
    if asked.mode == "batch":
        raise UsageError(f"{asked.where}.retry_max_tokens is for live requests; set {asked.where}.mode to live for this call")
    if asked.max_tokens is not None and longer <= asked.max_tokens:
        raise UsageError(
            f"{asked.where}.retry_max_tokens = {longer} is no more than max_tokens = {asked.max_tokens}; give more"
        )
    return longer


def begin(
    stage: StageDir, settings: Mapping[str, Any], inputs: Mapping[str, str], asked_scale: Mapping[str, Any] | None = None
) -> Begun:
    """Begin a stage, or go on with what an earlier call has begun; results of other settings are refused. A call that came to
    nothing, by a misspelt model for instance, binds nobody."""
    begun = stage.begun()
    if begun is None or stage.is_bare():
        begun = Begun(settings=dict(settings), inputs=dict(inputs), asked_scale=dict(asked_scale or {}))
        stage.begin(begun)
        return begun
    stage.same_or_refuse(begun, settings, inputs)
    if begun.rescoring:
        raise UsageError(f"a --rescore of {stage.name} was interrupted; run it to its end with --rescore first")
    return begun


def reopen(stage: StageDir, done: Manifest, again: Collection[str], asked_scale: Mapping[str, Any] | None = None) -> None:
    """Make a finished stage unfinished, so that its rows with a status of `again` are asked anew; at every moment the manifest
    or all commit records are there. What their replies have cost stays part of the bill."""
    for entry in done.parts():
        record(stage, entry)
    begun = Begun(
        settings=done.settings,
        inputs=done.inputs,
        seconds=done.seconds,
        asked_scale=dict(asked_scale or {}),
        discarded=dict(_discarded(stage, done, again)),
        addresses=list(done.details.get("addresses", [])),
    )
    stage.begin(begun)
    stage.reopen()


def _discarded(stage: StageDir, done: Manifest, again: Collection[str]) -> Counter[str]:
    """The usage of the replies that are given up, with that of earlier ones."""
    found = Counter(done.details.get("discarded", {}))
    for entry in done.parts():
        if any(entry.counts.get(status) for status in again):
            rows = stage.table(entry.name, entry.sha256).to_pylist()
            for row in rows:
                if row["status"] in again and (row["reply"] is not None or row.get("raw") is not None):
                    found.update({field: row[field] for field in BOUGHT if row[field] is not None})
    return found


def tell_other_models(asked: EngineConfig, manifest: Manifest) -> None:
    """Tell on the terminal where another model than the one asked for has answered."""
    if not asked.is_remote or asked.model is None:
        return
    for name, rows in manifest.details.get("models", {}).items():
        if not is_same_model(asked.model, name):
            say(
                f"{manifest.stage}: {rows:,} of {manifest.rows:,} rows were answered by {name}, where {asked.model} was "
                f"asked for ({asked.where}.model)"
            )


def check_rows(manifest: Manifest, examples: Manifest) -> None:
    """Rows in = rows out, shard by shard."""
    expected = {entry.name: entry.rows for entry in examples.parts()}
    found = {entry.shard: entry.rows for entry in manifest.parts()}
    if found != expected:
        wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise StageFailed(f"{manifest.stage}: {len(wrong)} shards do not hold the rows of their input, {wrong[0]} first")
