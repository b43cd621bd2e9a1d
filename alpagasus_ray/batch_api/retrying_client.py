"""A provider's batch API with retries: each call is made until it is answered, and a batch is created once whatever happens.

Knows batches by their token; nothing of shards, ledgers or dollars.
"""

import tempfile
import time
from collections.abc import Callable
from typing import IO, TypeVar

from openai.types import Batch

from alpagasus_ray.batch_api.openai_batches import TOKEN, BatchClient, read_results
from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import Reply, ReplyForm, Request
from alpagasus_ray.errors import EngineError, TryAgain
from alpagasus_ray.inference.endpoint import patience_s
from alpagasus_ray.inference.retry import Unanswered, retry_call

LONGEST_HOLD_S = 900.0
T = TypeVar("T")


class RetryingBatchClient:
    """Every call raises `TryAgain` when an outage lasts longer than `judge.max_outage_s`, and else as `BatchClient` does."""

    def __init__(self, judge: Judge, form: ReplyForm) -> None:
        self._client = BatchClient(judge, form)
        self.address = self._client.address
        self._poll_s, self._max_outage_s = judge.batch.poll_s, judge.max_outage_s
        self._answered = False

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def line(self, request: Request) -> bytes:
        """A request as a line of an input file."""
        return self._client.line(request)

    def upload(self, file: IO[bytes], name: str) -> str:
        """Send an input file; its id."""
        return self._patiently(lambda: self._client.upload(file, name))

    def create(self, token: str, file_id: str, about: dict[str, str]) -> Batch:
        """Create a batch, once: where a reply was lost it is looked for before it is asked for again."""
        unsure = False

        def once() -> Batch:
            nonlocal unsure
            # only after a reply was lost: a batch that was created without our knowing is billed whether we collect it or not
            found = self._find(token, file_id) if unsure else None
            try:
                return found or self._client.create(file_id, {TOKEN: token, **about})
            except TryAgain as error:
                unsure = unsure or error.cause == "unknown"
                raise

        return self._patiently(once)

    def find(self, token: str, file_id: str) -> Batch | None:
        """The batch with this token, if it was created."""
        return self._patiently(lambda: self._find(token, file_id))

    def look(self, batch_id: str) -> Batch:
        """A batch as it is now."""
        return self._patiently(lambda: self._client.look(batch_id))

    def results(self, batch: Batch) -> dict[str, Reply | EngineError]:
        """What a batch's files say, by request."""
        return self._patiently(lambda: self._results(batch))

    def _find(self, token: str, file_id: str) -> Batch | None:
        found = self._client.find(token, file_id)
        if found is None:  # a list may be a moment behind
            time.sleep(self._poll_s)
            found = self._client.find(token, file_id)
        return found

    def _results(self, batch: Batch) -> dict[str, Reply | EngineError]:
        found: dict[str, Reply | EngineError] = {}
        with tempfile.TemporaryFile() as lines:
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                self._client.download(file_id, lines)
            for key, got in read_results(lines, self._client.safe):
                # a key may stand in both files; an answer holds against an error
                found[key] = found[key] if isinstance(found.get(key), Reply) else got
        counted = batch.request_counts.completed if batch.request_counts else 0
        # a download that ends early looks like a whole file of fewer lines; the batch's own count tells
        if len(found) < counted:
            raise TryAgain("cut reply", f"{len(found):,} results where batch {batch.id} counts {counted:,}")
        return found

    def _patiently(self, call: Callable[[], T]) -> T:
        answer = retry_call(lambda: self._once(call), self._patience_s)
        if not isinstance(answer, Unanswered):
            return answer
        wish = answer.error.retry_after_s
        later = f", and wants to be left alone for {wish:.0f} s (Retry-After)" if wish else ""
        reason = f"{self.address} has given none for {answer.seconds:.0f} s ({answer.error}){later}"
        raise TryAgain("no answer", reason)

    def _once(self, call: Callable[[], T]) -> T:
        try:
            result = call()
        except TryAgain as error:
            # whatever its status, it shows that the address is right
            self._answered = self._answered or error.category.startswith("http ")
            raise
        self._answered = True
        return result

    def _patience_s(self) -> float:
        return patience_s(self._max_outage_s, ever_answered=self._answered)


class QueueFull:
    """How long to leave a provider alone whose queue of tokens is full. Not the retry rule: nothing has failed, room comes when
    batches end, which takes minutes to hours, and until then those that are there go on being looked at."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._refusals = 0
        self._since = self._until = 0.0

    def refused(self) -> float:
        """Seconds for which it has been full."""
        now = time.monotonic()
        self._since = self._since if self._refusals else now
        self._refusals += 1
        self._until = now + min(LONGEST_HOLD_S, self._poll_s * 2**self._refusals)
        return now - self._since

    def holds(self, undecided: bool) -> bool:
        """Whether to offer nothing now; as long as it has been full, nothing while it is `undecided` about a batch."""
        return time.monotonic() < self._until or (self._refusals > 0 and undecided)

    def over(self) -> None:
        """It has taken a batch, or one is through: there may be room."""
        self._refusals, self._until = 0, 0.0
