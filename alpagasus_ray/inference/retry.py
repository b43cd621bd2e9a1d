"""One row's way to its reply: attempts with pauses in between, until there is a reply or a reason why there is none.

Each attempt is one request; nothing is repeated anywhere else. What counts against a row is what may be its own fault.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import tenacity

from alpagasus_ray.engines.base import Reply, Request
from alpagasus_ray.engines.prices import Tariff
from alpagasus_ray.errors import EngineError, EngineUnusable, RowRefused, TryAgain
from alpagasus_ray.inference.dispatcher import Dispatcher, Stopping
from alpagasus_ray.inference.endpoint import Endpoint
from alpagasus_ray.inference.ledger import Outcome

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
LIGHT = 0.1
"""How much of an attempt it counts when the server turned the request away or was not reached."""
WHILE_DOWN = {"unknown": 0.25, "refused": 0.05, "unreached": 0.0}
"""How much of an attempt it counts while the server is down: that is hardly the row's fault, but a few rows that no server
takes must not look like an outage for ever."""
MANY = 25
"""So many rows that failed before, and fail again with nothing answered in between, are hardly all at fault themselves."""
PROVEN = 2
"""So often answers to others must have come between a row's failures until these say nothing of the server any more."""
PATIENT = 10
"""So often a row goes again as soon as the server's own pause is over; then it waits longer by itself."""

Note = Callable[[Outcome], None]
Mark = Callable[[Outcome], Awaitable[None]]
_backoff = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)


@dataclass
class Attempts:
    """What a row's attempts came to."""

    sent: int = 0
    maybe_billed_twice: int = 0
    counted: float = 0.0
    latency_s: float | None = None
    has_failed: bool = False
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
        self.refuted += self.last_failed_at < answered_at
        self.failed_at, self.last_failed_at = min(self.failed_at, now), now

    def is_doubtful(self, answered_at: float) -> bool:
        """Whether the row was left without an answer before, and the server has answered others since: where few rows are left,
        those that no server can take would look like an outage."""
        return self.has_failed or self.failed_at < answered_at

    def without_reply(self, error: Exception | None = None) -> Outcome:
        return Outcome(None, None if error is None else str(error), self.sent, None, self.maybe_billed_twice)

    def before_the_next(self) -> Outcome:
        """What there will be once another attempt is sent, as long as nobody knows what became of it."""
        return Outcome(None, None, self.sent + 1, None, self.maybe_billed_twice + 1)


class AttemptLog(NamedTuple):
    """Where it is written down what a row's attempts come to; whoever asks has written the first one down already."""

    note: Note
    """Takes what is known now, in place of what was known before; on storage soon."""
    mark: Mark | None = None
    """Writes down, before it is sent, an attempt that may be billed besides earlier ones; on storage when it returns. None
    where nothing is billed."""


async def complete_with_retries(
    dispatcher: Dispatcher, request: Request, tariff: Tariff, max_attempts: int, books: AttemptLog, *, has_failed: bool = False
) -> Outcome:
    """Ask until there is a reply, a refusal of the row, or no attempt left. If it ends without a reply, the books hold the
    attempts that may have been billed. `has_failed`: an earlier call has given the row up. Raises `EngineUnusable`, and
    `Stopping` when the stage stops."""
    tally = Attempts(has_failed=has_failed)
    retrying = tenacity.AsyncRetrying(
        # ten light ones in floating point are a hair less than one
        stop=lambda _: tally.counted > max_attempts - LIGHT / 2,
        wait=_pause,
        retry=tenacity.retry_if_exception_type(TryAgain),
        before_sleep=lambda state: _count_retry(dispatcher, state),
        sleep=dispatcher.sleep,
        reraise=True,
    )
    try:
        async for attempt in retrying:
            with attempt:
                reply = await _attempt(dispatcher, request, tariff, tally, books)
                return Outcome(reply, None, tally.sent, tally.latency_s, tally.maybe_billed_twice)
    except (RowRefused, TryAgain) as error:
        outcome = tally.without_reply(error)
        if not _is_noted(error):
            books.note(outcome)
        return outcome
    except (Stopping, EngineUnusable):
        books.note(tally.without_reply())  # what was marked and was not sent, or was turned away
        raise
    raise AssertionError("the loop ends by a reply or an error")


async def _attempt(dispatcher: Dispatcher, request: Request, tariff: Tariff, tally: Attempts, books: AttemptLog) -> Reply:
    need = tariff.need(request.messages)
    if tally.maybe_billed_twice and books.mark is not None:
        await books.mark(tally.before_the_next())
    endpoint = await dispatcher.enter(request.key, need)
    started = dispatcher.now()
    tally.sent += 1
    try:
        reply = await endpoint.engine.complete(request)
    except TryAgain as error:
        row_fault = _is_row_fault(error, request.key, tally, endpoint)
        dispatcher.failed(endpoint, need, error, request.key, started, row_fault=row_fault)
        # where only rows are asked that were given up before, an outage and rows that no server takes look the same: one
        # attempt each is enough then, and they are what they were
        given_up = row_fault and len(endpoint.suspects) >= MANY and not tally.is_proven
        tally.counted += math.inf if given_up else _counts(error, endpoint.breaker.is_open)
        if _is_noted(error):
            tally.fails(dispatcher.now(), endpoint.answered_at)
            tally.maybe_billed_twice += 1
            books.note(tally.without_reply(error))
        raise
    except EngineUnusable as error:
        raise dispatcher.unusable(endpoint, need, error) from None
    except EngineError as error:
        raise dispatcher.refused(endpoint, need, error) from None
    except BaseException:
        dispatcher.broke_off(endpoint, need)
        raise
    reply = reply._replace(cost_usd=tariff.charge(reply, need)) if reply.cost_usd is None else reply
    dispatcher.answered(endpoint, need, reply)
    tally.latency_s = dispatcher.now() - started
    return reply


def _is_noted(error: EngineError) -> bool:
    """Whether an attempt that ended so may have been billed, and is written down at once."""
    return isinstance(error, TryAgain) and error.cause == "unknown"


def _is_row_fault(error: TryAgain, row: str, tally: Attempts, endpoint: Endpoint) -> bool:
    """Whether a failure says more of the row than of the server; too many suspects say something of the server."""
    if error.cause != "unknown" or not tally.is_doubtful(endpoint.answered_at):
        return False
    endpoint.suspects.add(row)
    return tally.has_failed or tally.is_proven or len(endpoint.suspects) < MANY


def _counts(error: TryAgain, is_down: bool) -> float:
    """What a failed attempt counts against the row."""
    if is_down:
        return WHILE_DOWN[error.cause]
    return 1.0 if error.cause == "unknown" else LIGHT


def _count_retry(dispatcher: Dispatcher, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TryAgain):
        dispatcher.counts[f"retries {error.category}"] += 1


def _pause(state: tenacity.RetryCallState) -> float:
    """Where the server named a time its endpoint keeps to it, and the row may go to another; else, or where that time is so
    short that a row would be through with its attempts in no time, doubling with full jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TryAgain) and (error.retry_after_s or 0.0) >= FIRST_PAUSE_S and state.attempt_number <= PATIENT:
        return 0.0
    return _backoff(state)
