"""Every error this package raises on purpose.

    AlpagasusError            something a user can act on; the command line prints it as one message, exit code 1
    ├── UsageError            the command, the recipe or an input is wrong; exit code 2
    │   ├── InputError        a data file cannot be read: names the file and the place in it
    │   └── SettingsChanged   the run holds results made with other settings
    ├── RunLocked             another driver is working on the same run
    ├── StageFailed           a stage could not be finished: what is done stays, the same command goes on
    │   └── BudgetReached     it stopped at `max_cost_usd`; exit code 3
    └── EngineError           one request to an engine got no answer
        ├── RowRefused        asking the same again cannot help (too long for the context, malformed request)
        ├── TryAgain          a later attempt may succeed (429, 5xx, timeout, broken connection)
        ├── EngineDied        the engine in this worker has ended: another worker goes on
        └── EngineUnusable    no request can succeed (wrong key, unknown model, no money): the stage stops

An `assert` that fails is a mistake of this package, not of its user.
"""

from collections.abc import Mapping
from typing import Any, Literal

Cause = Literal["refused", "unreached", "unknown"]
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What goes wrong while something is read that somebody else has written: numbers, names and shapes that nobody foresaw."""


class AlpagasusError(Exception):
    """Base of all errors meant for the user."""

    exit_code = 1


class UsageError(AlpagasusError):
    """The command, the recipe or an input is wrong."""

    exit_code = 2


class InputError(UsageError):
    """A data file cannot be read."""

    def __init__(self, file: str, place: str, problem: str) -> None:
        self._parts = (file, place, problem)
        super().__init__(f"{file}, {place}: {problem}" if place else f"{file}: {problem}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        return type(self), self._parts


class SettingsChanged(UsageError):
    """The run holds results that were made with other settings."""


class RunLocked(AlpagasusError):
    """Another driver is working on the same run."""


class StageFailed(AlpagasusError):
    """A stage could not be finished; what is done stays."""


class BudgetReached(StageFailed):
    """The next request could pass `max_cost_usd`; what is paid for stays, and the same command goes on once it is raised."""

    exit_code = 3

    def __init__(self, message: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = report
        """The same in plain JSON values."""


class EngineError(AlpagasusError):
    """One request to an engine got no answer; `reason` starts with a short category that failures are counted by."""

    def __init__(self, category: str, detail: str = "") -> None:
        self.category, self.detail = category, detail
        super().__init__(f"{category}: {detail}" if detail else category)


class RowRefused(EngineError):
    """Asking the same again cannot help."""


class TryAgain(EngineError):
    """A later attempt may succeed.

    `cause` says what the attempt did: `refused` (turned away by a server that works, as by a 429), `unreached` (never
    sent) or `unknown` (taken, and perhaps billed, but there is no answer). `retry_after_s` is the server's own wish, where
    it named one.
    """

    def __init__(self, category: str, detail: str = "", cause: Cause = "unknown", retry_after_s: float | None = None) -> None:
        super().__init__(category, detail)
        self.cause: Cause = cause
        self.retry_after_s = retry_after_s


class EngineDied(EngineError):
    """The engine in this worker has ended."""


class EngineUnusable(EngineError):
    """No request can succeed."""


def reason_of(error: str) -> str:
    """The category that the text of an `EngineError`, as files hold it, begins with: failures are counted by it."""
    return error.partition(":")[0]
