"""The retry rule: attempts with pauses in between, until there is a reply or a reason why there is none.

Each attempt is one request; nothing is repeated anywhere else. What counts against a row is what may be its own fault. Below
the rule for rows are two simpler ones: for calls of a batch API (`retry_call`), and for writes (`write_patiently`).
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import tenacity

from alpagasus_ray.engines.base import Reply, Request
from alpagasus_ray.engines.prices import Tariff
from alpagasus_ray.errors import EngineError, EngineUnusable, RowRefused, TryAgain
from alpagasus_ray.inference.dispatcher import Dispatcher, Stopping
from alpagasus_ray.inference.endpoint import Endpoint
from alpagasus_ray.inference.ledger import FLUSH_S, Outcome

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
LIGHT = 0.1
"""How much of an attempt it counts when the server turned the request away or was not reached."""
WHILE_DOWN = {"unknown": 0.25, "refused": 0.05, "unreached": 0.0}
"""How much of an attempt it counts while the server is down: that is hardly the row's fault, but a few rows that no server
takes must not look like an outage for ever."""
MANY = 25
"""So many rows that failed before, and fail again with nothing answered in between, are hardly all at fault themselves."""
DOUBLINGS = 30
"""Beyond these the pause is the longest one anyway."""
PROVEN = 2
"""So often answers to others must have come between a row's failures until these say nothing of the server any more."""
PATIENT = 10
"""So often a row goes again as soon as the server's own pause is over; then it waits longer by itself."""
FLUSH_ATTEMPTS = 5
"""Attempts of a write to storage, `FLUSH_S` seconds apart."""

T = TypeVar("T")


@dataclass
class Attempts:
    """The attempts of one row so far."""

    sent: int = 0
    maybe_billed_twice: int = 0
    counted: float = 0.0
    """How many count against the row; light ones are parts of one."""
    latency_s: float | None = None
    has_failed: bool = False
    """Whether an earlier call has given the row up."""
    failed_at: float = math.inf
    """When an attempt first ended without anyone knowing what became of it."""
    last_failed_at: float = math.inf
    refuted: int = 0
    """How many of these attempts were followed by answers to other rows: the server was there."""

    @property
    def is_proven(self) -> bool:
        """Whether it is the row that no server takes, whatever becomes of others from now on."""
        return self.refuted >= PROVEN

    def fails(self, now: float, answered_at: float) -> None:
        """An attempt ended with an unknown fate."""
        self.refuted += self.last_failed_at < answered_at
        self.failed_at, self.last_failed_at = min(self.failed_at, now), now

    def is_suspect(self, answered_at: float) -> bool:
        """Whether the row was left without an answer before, and the server has answered others since: where few rows are left,
        those that no server can take would look like an outage."""
        return self.has_failed or self.failed_at < answered_at

    def without_reply(self, error: Exception | None = None) -> Outcome:
        """What there was so far."""
        return Outcome(None, None if error is None else str(error), self.sent, None, self.maybe_billed_twice)

    def with_one_more(self) -> Outcome:
        """What there will be once another attempt is sent, as long as nobody knows what became of it."""
        return Outcome(None, None, self.sent + 1, None, self.maybe_billed_twice + 1)


class AttemptLog(NamedTuple):
    """Where a row's attempts are written down; whoever asks has written the first one down already."""

    record: Callable[[Outcome], None]
    """Takes what is known now, in place of what was known before; on storage soon."""
    write_ahead: Callable[[Outcome], Awaitable[None]] | None = None
    """Writes down, before it is sent, an attempt that may be billed besides earlier ones; on storage when it returns. None
    where nothing is billed."""


async def complete_with_retries(
    dispatcher: Dispatcher, request: Request, tariff: Tariff, max_attempts: int, log: AttemptLog, *, has_failed: bool = False
) -> Outcome:
    """Ask until there is a reply, a refusal of the row, or no attempt left. If it ends without a reply, the log holds the
    attempts that may have been billed. `has_failed`: an earlier call has given the row up. Raises `EngineUnusable`, and
    `Stopping` when the stage stops."""
    attempts = Attempts(has_failed=has_failed)
    try:
        for number in itertools.count(1):
            try:
                reply = await _attempt(dispatcher, request, tariff, attempts, log)
            except TryAgain as error:
                # ten light ones in floating point are a hair less than one
                if attempts.counted > max_attempts - LIGHT / 2:
                    raise
                dispatcher.counts.retries[error.category] += 1
                pause_s = _pause(error, number)
            else:
                return Outcome(reply, None, attempts.sent, attempts.latency_s, attempts.maybe_billed_twice)
            await dispatcher.sleep(pause_s)
    except (RowRefused, TryAgain) as error:
        outcome = attempts.without_reply(error)
        # what may have been billed was written down when it happened
        if not _may_be_billed(error):
            log.record(outcome)
        return outcome
    except (Stopping, EngineUnusable):
        log.record(attempts.without_reply())  # what was written ahead and was not sent, or was turned away
        raise
    raise AssertionError("the loop ends by a reply or an error")


async def _attempt(dispatcher: Dispatcher, request: Request, tariff: Tariff, attempts: Attempts, log: AttemptLog) -> Reply:
    # the most that this request can use and cost: it is reserved before the request leaves, and settled by the reply
    need = tariff.need(request.messages)
    # the first attempt is in the ledger already; one that comes on top of an attempt of unknown fate has to be before it is
    # sent, or a kill would hide what it cost
    if attempts.maybe_billed_twice and log.write_ahead is not None:
        await log.write_ahead(attempts.with_one_more())
    # may wait for hours, in an outage for instance; until it returns nothing was sent
    endpoint = await dispatcher.enter(request.key, need)
    started = dispatcher.now()
    attempts.sent += 1
    try:
        reply = await endpoint.engine.complete(request)
    except TryAgain as error:
        row_fault = _is_row_fault(error, request.key, attempts, endpoint)
        dispatcher.failed(endpoint, need, error, request.key, started, row_fault=row_fault)
        # where only rows are asked that were given up before, an outage and rows that no server takes look the same: one
        # attempt each is enough then, and they are what they were
        given_up = row_fault and len(endpoint.suspects) >= MANY and not attempts.is_proven
        attempts.counted += math.inf if given_up else _weight(error, endpoint.breaker.is_open)
        if _may_be_billed(error):
            attempts.fails(dispatcher.now(), endpoint.answered_at)
            attempts.maybe_billed_twice += 1
            log.record(attempts.without_reply(error))
        raise
    except EngineUnusable as error:
        raise dispatcher.unusable(endpoint, need, error) from None
    except EngineError as error:
        raise dispatcher.refused(endpoint, need, error) from None
    # a cancelled request was sent all the same, and counts as billed; the error is for whoever cancelled it
    except BaseException:
        dispatcher.broke_off(endpoint, need)
        raise
    reply = reply._replace(cost_usd=tariff.charge(reply, need)) if reply.cost_usd is None else reply
    dispatcher.answered(endpoint, need, reply)
    attempts.latency_s = dispatcher.now() - started
    return reply


def _may_be_billed(error: EngineError) -> bool:
    """Whether an attempt that ended so may have been billed, and is written down at once."""
    return isinstance(error, TryAgain) and error.cause == "unknown"


def _is_row_fault(error: TryAgain, row: str, attempts: Attempts, endpoint: Endpoint) -> bool:
    """Whether a failure says more of the row than of the server; too many suspects say something of the server."""
    # a server that turns requests away says nothing of the row; nor does a failure since which it has answered nobody
    if error.cause != "unknown" or not attempts.is_suspect(endpoint.answered_at):
        return False
    endpoint.suspects.add(row)
    return attempts.has_failed or attempts.is_proven or len(endpoint.suspects) < MANY


def _weight(error: TryAgain, is_down: bool) -> float:
    """What a failed attempt counts against the row."""
    if is_down:
        return WHILE_DOWN[error.cause]
    return 1.0 if error.cause == "unknown" else LIGHT


def _pause(error: TryAgain, number: int) -> float:
    """Seconds after the attempt of this number, from 1. Where the server named a time its endpoint keeps to it, and the row may
    go to another; else, or where that time is so short that a row would be through with its attempts in no time, the usual
    pause."""
    return 0.0 if (error.retry_after_s or 0.0) >= FIRST_PAUSE_S and number <= PATIENT else _backoff_s(number)


def _backoff_s(number: int) -> float:
    """Doubling with full jitter: workers that were turned away together must not come back together."""
    longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(number - 1, DOUBLINGS))
    return random.uniform(0.0, longest_s)  # noqa: S311 - not for secrets


# other calls


class Unanswered(NamedTuple):
    """A call that was given up: the last error, and for how long it was tried."""

    error: TryAgain
    seconds: float


def retry_call(call: Callable[[], T], patience_s: Callable[[], float]) -> T | Unanswered:
    """Make a call that is no row's, again and again until it is answered, or until the next attempt would come later than
    `patience_s` after the first. What is repeated and how the pauses grow is the rule for rows; but no number of attempts ends
    it, because without the call nothing goes on, and a pause that the server wishes is waited for here, because there is no
    endpoint that keeps it for all. Other errors than `TryAgain` are raised at once."""

    def gives_up(state: tenacity.RetryCallState) -> bool:
        return tenacity.stop_before_delay(patience_s())(state)

    def wish_s(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return (error.retry_after_s if isinstance(error, TryAgain) else None) or 0.0

    started = time.monotonic()
    retrying = tenacity.Retrying(
        stop=gives_up,
        wait=lambda state: max(_backoff_s(state.attempt_number), wish_s(state)),
        retry=tenacity.retry_if_exception_type(TryAgain),
        reraise=True,
    )
    try:
        answer: T = retrying(call)
    except TryAgain as error:
        return Unanswered(error, time.monotonic() - started)
    return answer


async def write_patiently(write: Callable[[], None]) -> None:
    """Write to storage, which may be away for a moment; `OSError` when it stays away. Not the rule for requests: to write again
    costs nothing, and while it is away nothing is bought, so a few seconds are enough to know."""
    retrying = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(FLUSH_ATTEMPTS),
        wait=tenacity.wait_fixed(FLUSH_S),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            await asyncio.to_thread(write)
