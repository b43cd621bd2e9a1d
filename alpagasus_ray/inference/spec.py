"""What a stage hands down: the engine and its conditions, resolved once from the recipe (`AskSpec`); the work on a row
(`RowTask`); one stage directory to fill (`Job`) and one shard of it (`Task`).

Everything here is frozen and is sent to the workers. Knows nothing of how requests are sent, nor of what is stored already.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from alpagasus_ray.config import Asking, EngineConfig
from alpagasus_ray.engines.base import Engine, Rate, ReplyForm, Request
from alpagasus_ray.engines.longer import with_longer
from alpagasus_ray.engines.prices import Tariff, host, price_list, tariff
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.backlog import Backlog
from alpagasus_ray.inference.endpoint import RequestLimits
from alpagasus_ray.inference.first_replies import Usable
from alpagasus_ray.inference.ledger import Ledger, Outcome, ledger_of
from alpagasus_ray.raycluster.pool import ONE, Pool, PoolRequest
from alpagasus_ray.store.lease import Lease
from alpagasus_ray.store.run import StageDir
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.version import __version__

CONCURRENCY = 64
"""Most requests in flight from a worker to an endpoint, where the recipe does not say."""
TRUNCATED = "truncated"


@dataclass(frozen=True)
class AskSpec:
    """How a stage asks its engine. `of` resolves it from the recipe; everything after that takes this, and no section."""

    section: str
    """The stage's section in the recipe, for messages."""
    engine: EngineConfig
    limits: RequestLimits
    tariff: Tariff
    processes: PoolRequest
    """What the recipe says of the workers."""
    pool: Pool = ONE
    """The workers, once the cluster is known (`on`)."""
    paid: bool = True
    """Whether replies cost something, so that a ledger is kept."""
    max_cost_usd: float | None = None
    max_failed: float = 1.0
    """Stop when a larger share of all rows has failed."""
    usable: Usable | None = None
    """Which results are of use, where the first ones are looked at."""
    again: frozenset[str] = frozenset()
    """Rows of earlier output with one of these statuses are asked anew, though they may have a reply."""
    longest: int | None = None
    """Longest reply, in tokens, of the rows that are asked again because theirs was cut; None where it is that of all."""

    @classmethod
    def of(cls, config: Asking, engine: EngineConfig, *, good: Collection[str] = (), again: Sequence[str] = ()) -> "AskSpec":
        """Resolve a section and its engine. `good` are the statuses of results that are of use (none: nobody looks); `again`
        those whose rows are asked anew. A `UsageError` tells of a longer reply that cannot be asked for."""
        again = retried(engine, again)
        longest = longer_reply(engine, again)
        # what somebody has recorded may fairly be of a part of the rows
        looks = engine.is_model and good
        return cls(
            config.section,
            engine,
            limits_of(config, engine),
            # what a cap reserves has to cover the longest reply that this call allows
            tariff(with_longer(engine, longest)),
            PoolRequest.of(config, engine),
            paid=engine.is_model,
            max_cost_usd=config.max_cost_usd,
            max_failed=config.max_failed,
            usable=Usable(frozenset(good), config.max_unusable, f"{config.section}.max_unusable") if looks else None,
            again=frozenset(again),
            longest=longest,
        )

    def on(self, pool: Pool) -> "AskSpec":
        """The same with its workers: they share the rate limits."""
        # a rate is that of the whole cluster, whatever the number of those who send
        return replace(self, pool=pool, limits=self.limits._replace(workers=pool.most))

    @property
    def is_billed(self) -> bool:
        """Whether somebody else counts the requests, and may have billed one that was never answered."""
        # a model in the job bills nobody: what it did not answer is simply done again
        return self.paid and self.limits.adaptive

    @property
    def model(self) -> str | None:
        """The model that is asked for at an API; that another one answered is told."""
        return self.engine.model if self.engine.is_remote else None

    @property
    def max_attempts(self) -> int:
        return self.engine.max_attempts

    def check_cap(self) -> None:
        """A cap needs a price and a bound for each reply; without them it would hold nothing. Raises `UsageError`."""
        if self.max_cost_usd is None or not self.engine.is_remote:
            return
        engine = self.engine
        cap = f"`{self.section}.max_cost_usd` = {self.max_cost_usd:g} cannot be kept"
        if self.tariff.price is None:
            raise UsageError(
                f"{cap}: {_unknown_price(engine)}. Give the price in dollars a million tokens, e.g. --set "
                f"'{engine.where}.price={{input: 0.15, output: 0.6}}'"
            )
        if self.tariff.max_tokens is None:
            raise UsageError(
                f"{cap}: a reply has no longest length. Set {engine.where}.max_tokens; for a model that wants it as "
                f"max_completion_tokens, set {engine.where}.max_tokens_field besides"
            )


def _unknown_price(engine: EngineConfig) -> str:
    hosts = ", ".join(sorted({host(endpoint) for endpoint in engine.at_each_endpoint()}))
    return f"the price list of {price_list()['as_of']} has none for {engine.model!r} at {hosts}"


def limits_of(config: Asking, engine: EngineConfig) -> RequestLimits:
    """The limits that the workers of a stage keep to; `AskSpec.on` says how many workers share them."""
    # only a server of others has limits, costs dollars and pushes back: a model in the job takes all it is given
    return RequestLimits(
        concurrency=_concurrency(config, engine),
        rates=_rates(config, engine) if engine.is_remote else (Rate(),),
        workers=1,
        capped=engine.is_remote and config.max_cost_usd is not None,
        adaptive=engine.is_remote,
        max_outage_s=engine.max_outage_s,
    )


def _concurrency(config: Asking, engine: EngineConfig) -> int:
    """Most requests in flight from each worker to an endpoint. A model in the job gets an eighth more than it works on at a
    time, so that it never waits for the next."""
    if config.concurrency is not None:
        return config.concurrency
    sequences = engine.vllm.max_num_seqs
    # vLLM forms a new batch with each token: with a few requests waiting a place that is free is taken at once
    return sequences + max(1, sequences // 8) if engine.in_job else CONCURRENCY


def _rates(config: Asking, engine: EngineConfig) -> tuple[Rate, ...]:
    """The limits a minute of each endpoint."""
    common = Rate(config.requests_per_minute, config.tokens_per_minute)
    # an endpoint that names a limit has that one, and for the other still the stage's
    own = [Rate(endpoint.requests_per_minute, endpoint.tokens_per_minute) for endpoint in engine.endpoints]
    return tuple(Rate(*(a or b for a, b in zip(rate, common, strict=True))) for rate in own) or (common,)


def retried(engine: EngineConfig, statuses: Sequence[str]) -> tuple[str, ...]:
    """The statuses whose rows are asked again. A longer reply is for those whose reply was cut, and for no others: a
    `UsageError` tells of that."""
    if statuses and engine.retry_max_tokens is not None and tuple(statuses) != (TRUNCATED,):
        raise UsageError(
            f"{engine.where}.retry_max_tokens = {engine.retry_max_tokens} is for rows whose reply was cut, and --retry-failed "
            f"asks for those that are {', '.join(statuses)}; say --retry-failed {TRUNCATED}, or leave it out"
        )
    return tuple(statuses)


def longer_reply(engine: EngineConfig, again: Sequence[str]) -> int | None:
    """The longest reply of rows that are asked again, in tokens, where it is longer than that of the others. Raises
    `UsageError` where it cannot be."""
    longer = engine.retry_max_tokens
    if not again or longer is None or not engine.is_model:
        return None
    if engine.mode == "batch":
        raise UsageError(f"{engine.where}.retry_max_tokens is for live requests; set {engine.where}.mode to live for this call")
    if engine.max_tokens is not None and longer <= engine.max_tokens:
        raise UsageError(
            f"{engine.where}.retry_max_tokens = {longer} is no more than max_tokens = {engine.max_tokens}; give more"
        )
    return longer


class RowTask(Protocol):
    """What a stage does with each row; it is sent to the workers."""

    def open_engines(self) -> Sequence[Engine]:
        """The engines, opened once in each worker, one for each endpoint."""

    def request(self, row: Mapping[str, Any]) -> Request:
        """What to ask about a row of the input."""

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        """The row of the output, with a `status`."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the output."""

    @property
    def form(self) -> ReplyForm:
        """What is asked of every reply."""


@dataclass(frozen=True)
class Job:
    """One stage directory to fill: all that a worker needs to know."""

    work: RowTask
    spec: AskSpec
    source: StageDir
    home: StageDir
    """The stage's directory: ledgers and commit records."""
    output: Storage
    """Where output shards go: the stage's directory, or that of a trial."""
    version: str = __version__
    """Of the driver's package."""

    @property
    def backlog(self) -> Backlog:
        """What earlier calls have left of it."""
        return Backlog(self.home, self.spec.again, keeps_replies=self.spec.paid)

    def ledger(self, shard: str) -> Ledger:
        return ledger_of(self.home, shard)

    @property
    def is_trial(self) -> bool:
        return self.output != self.home.storage

    @property
    def lease(self) -> Lease | None:
        """The hold of the run's lock that the work is done under; None where there is no lock."""
        guard = self.home.storage.guard
        return guard if isinstance(guard, Lease) else None

    def file_of(self, shard: str) -> str:
        """The file that a shard's output goes to."""
        return shard if self.lease is None or self.is_trial else self.lease.file_of(shard)


class Task(NamedTuple):
    """One shard to do."""

    shard: str
    rows: Sequence[int] | None = None
    """Numbers of the rows to do, in order; None for all of them. A trial does a few."""
    job: int = 0
    """Number of its job among those that are done together."""
    sha256: str | None = None
    """Checksum of the shard, where the manifest that lists it is at hand."""

    def read(self, source: StageDir) -> pa.Table:
        """The rows to do. `StageFailed` tells of a shard that is not as it was written."""
        table = source.table(self.shard, self.sha256)
        return table if self.rows is None else table.take(pa.array(self.rows, pa.int64()))
