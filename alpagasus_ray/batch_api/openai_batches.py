"""The client side of an OpenAI-compatible batch API: files go up, batches are created, found again, looked at and read.

One attempt per call and typed failures, as in `openai_api.py`. Knows requests by their key; nothing of shards or dollars.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Literal, NamedTuple

import httpx2 as httpx
import openai
import orjson
from openai import DefaultHttpxClient, OpenAI
from openai.types import Batch

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.engines.access import access
from alpagasus_ray.engines.base import ANY_FORM, Reply, ReplyForm, Request
from alpagasus_ray.engines.openai_api import (
    NO_KEY,
    key_wanted,
    messages_of,
    read_key,
    request_body,
    safe,
    shown_address,
    timeouts,
)
from alpagasus_ray.engines.openai_reply import failure, outcome_of, read_reply, short
from alpagasus_ray.engines.rate_headers import retry_after
from alpagasus_ray.errors import EngineError, EngineUnusable, RowRefused, TryAgain

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
WINDOW: Literal["24h"] = "24h"
TOKEN = "alpagasus_token"  # noqa: S105 - the name of a mark, no secret
"""Field of a batch's metadata by which it is found again."""
ENDED = ("completed", "expired", "cancelled", "failed")
PAGE = 100
QUEUE_FULL = ("token_limit", "enqueued")
TOO_LARGE = ("too_many", "too many", "too_large", "too large", "larger than", "exceeds the maximum")
NOT_DONE = ("batch_expired", "batch_cancelled")
"""Codes of rows that the provider has not worked on."""


class Refusal(NamedTuple):
    """Why the provider did not take a batch: its queue is full, the batch is too large, or something else."""

    kind: Literal["queue", "size", "other"]
    message: str


class Result(NamedTuple):
    """What a batch says about one request."""

    key: str
    got: Reply | EngineError
    """`TryAgain`: it may be asked again, and was perhaps billed unless the cause is `refused`."""


class BatchClient:
    """Talks to the batch API of a judge's first endpoint. Every call raises `TryAgain`, `RowRefused` (the provider does not
    take what was sent) or `EngineUnusable`."""

    def __init__(self, judge: EngineConfig, form: ReplyForm = ANY_FORM) -> None:
        self._place = place = judge.at_each_endpoint()[0]
        self._body = request_body(judge, form)
        carried = access(place)
        self._client = OpenAI(
            api_key=read_key(place),
            base_url=place.base_url,
            http_client=DefaultHttpxClient(event_hooks={"request": [carried.cleared]}),
            **carried.arguments,
            max_retries=0,
            timeout=timeouts(judge),
        )
        self.address = shown_address(self._client.base_url)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def line(self, request: Request) -> bytes:
        """A request as a line of an input file."""
        body = {**self._body, "messages": messages_of(self._place, request)}
        return orjson.dumps({"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": body}) + b"\n"

    def upload(self, file: IO[bytes], name: str) -> str:
        """Send an input file; its id."""
        file.seek(0)
        with self._typed(f"{self.address} has no batch API; set score.judge.mode to live"):
            return str(self._client.files.create(file=(name, file), purpose="batch").id)

    def create(self, file_id: str, marks: dict[str, str]) -> Batch:
        """Create a batch of an input file. After a `TryAgain` whose cause is `unknown` there may be one: `find` it."""
        with self._typed(f"{self.address} has no batch API; set score.judge.mode to live"):
            return self._sound(
                self._client.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window=WINDOW, metadata=marks)
            )

    def find(self, token: str, file_id: str) -> Batch | None:
        """The batch with this token, or of this input file where a provider keeps no metadata."""
        with self._typed(f"{self.address} has no batch API; set score.judge.mode to live"):
            # the client goes on page by page, newest first: what was just created is among the first
            for batch in self._client.batches.list(limit=PAGE):
                if (batch.metadata or {}).get(TOKEN) == token or batch.input_file_id == file_id:
                    return self._sound(batch)
        return None

    def look(self, batch_id: str) -> Batch:
        """A batch as it is now."""
        with self._typed(f"{self.address} knows no batch {batch_id}"):
            return self._sound(self._client.batches.retrieve(batch_id))

    def download(self, file_id: str, into: IO[bytes]) -> None:
        """Append a result file to `into`."""
        with self._typed(f"{self.address} knows no file {file_id}"):
            with self._client.files.with_streaming_response.content(file_id) as response:
                for chunk in response.iter_bytes():
                    into.write(chunk)
            into.write(b"\n")  # the last line of a file may have no end

    @contextmanager
    def _typed(self, missing: str) -> Iterator[None]:
        """Turn the client's errors into ours; `missing` is what a 404 means."""
        try:
            yield
        except openai.APIStatusError as error:
            if error.status_code == 404:
                raise EngineUnusable("http 404", missing) from None
            raise self._failure(error) from None
        except (openai.APIConnectionError, httpx.HTTPError) as error:
            raise TryAgain("connection", self.safe(str(error.__cause__ or error))) from None
        except (openai.APIError, ValueError, AttributeError) as error:  # what the client makes of a page of HTML
            raise TryAgain("malformed reply", self.safe(str(error))) from None

    def _failure(self, error: openai.APIStatusError) -> EngineError:
        text = error.response.text
        detail = self.safe(_message(error.body, text))
        if error.status_code == 401 and self._client.api_key == NO_KEY:
            return key_wanted(self._place, detail)
        return failure(error.status_code, detail, text, retry_after(error.response.headers))

    def safe(self, text: str) -> str:
        """What the provider said, as it may be told: short, and without the key."""
        return safe(text, self._client.api_key)

    def _sound(self, batch: Batch) -> Batch:
        """A batch whose words may be told; what a proxy answers in the provider's place is none."""
        if not isinstance(batch, Batch) or not getattr(batch, "id", None) or not getattr(batch, "status", None):
            raise TryAgain("malformed reply", self.safe(str(batch)))
        for error in (batch.errors.data if batch.errors else None) or []:
            error.message = self.safe(error.message or "")
        return batch


def refusal(batch: Batch) -> Refusal:
    """Why a batch is `failed`: what its validation found, the first of it."""
    found = (batch.errors.data if batch.errors else None) or []
    told = [f"{error.code or 'invalid'}: {error.message or ''}{_place(error.line)}" for error in found]
    return refusal_of(short("; ".join(told[:3])) or "the provider says no reason")


def refusal_of_error(error: RowRefused) -> Refusal:
    """The kind of a refusal by status or, where that does not tell, by the provider's words."""
    return Refusal("size", str(error)) if error.category == "too long" else refusal_of(str(error))


def refusal_of(message: str) -> Refusal:
    """The kind of a refusal by its words; providers have no common codes."""
    words = message.lower()
    if any(mark in words for mark in QUEUE_FULL):
        return Refusal("queue", message)
    return Refusal("size" if any(mark in words for mark in TOO_LARGE) else "other", message)


def read_results(lines: IO[bytes], tellable: Callable[[str], str]) -> Iterator[Result]:
    """The results in output and error files, in whatever order they stand there; a line that is none is left out. `tellable`
    makes of what the provider says what may be told (`BatchClient.safe`)."""
    lines.seek(0)
    for line in lines:
        try:
            entry = orjson.loads(line)
            yield Result(str(entry["custom_id"]), _got(entry, tellable))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _got(entry: dict[str, Any], tellable: Callable[[str], str]) -> Reply | EngineError:
    response, error = entry.get("response"), entry.get("error")
    if not response:
        code = str((error or {}).get("code") or "no result")
        cause: Literal["refused", "unknown"] = "refused" if code in NOT_DONE else "unknown"
        return TryAgain(code.replace("_", " "), tellable(str((error or {}).get("message") or "")), cause)
    if response.get("status_code") == 200:
        try:
            return read_reply(orjson.dumps(response["body"]), tellable)
        except TryAgain as malformed:
            return malformed
    body = response.get("body")
    text = orjson.dumps(body).decode()
    return outcome_of(int(response.get("status_code") or 0), tellable(_message(body, "")), text)


def _message(body: object, otherwise: str) -> str:
    """What a body says of an error; `{"error": {...}}` or the inner part of it."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error) if error else otherwise


def _place(line: int | None) -> str:
    return f" (line {line})" if line else ""
