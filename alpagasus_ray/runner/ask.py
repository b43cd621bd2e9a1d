"""One row's way to its reply: attempts with pauses in between, until there is a reply or a reason why there is none.

Each attempt is one request; nothing is repeated anywhere else.
"""

import time
from collections.abc import Callable

import tenacity

from alpagasus_ray.engines.base import Engine, Request
from alpagasus_ray.errors import RowRefused, TryAgain
from alpagasus_ray.runner.ledger import Outcome

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0

_backoff = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)


async def ask(engine: Engine, request: Request, max_attempts: int, stopping: Callable[[], bool]) -> Outcome:
    """Ask until there is a reply, a refusal of the row, or no attempt left; only `EngineUnusable` is raised. Once the stage
    is `stopping`, what failed is not tried again."""
    attempts = 0
    try:
        async for attempt in tenacity.AsyncRetrying(
            stop=lambda state: state.attempt_number >= max_attempts or stopping(),
            wait=_pause,
            retry=tenacity.retry_if_exception_type(TryAgain),
            reraise=True,
        ):
            with attempt:
                attempts += 1
                started = time.monotonic()
                reply = await engine.complete(request)
                return Outcome(reply, None, attempts, time.monotonic() - started)
    except (RowRefused, TryAgain) as error:
        return Outcome(None, str(error), attempts, None)
    raise AssertionError("the loop ends by a reply or an error")


def _pause(state: tenacity.RetryCallState) -> float:
    """As long as the server asked for, else doubling with full jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TryAgain) and error.retry_after_s is not None:
        return min(error.retry_after_s, LONGEST_PAUSE_S)
    return _backoff(state)
