"""OpenAI's batch API on a judge server: files, batches that take their time, and the ways in which batches fail.

Knows nothing of scores: `answer` makes a completion of a row's body, `note` logs the row. Faults are JSON objects; each may
say `"batches": k` to hold for the first k batches only (default all):

    {"expire_after": n}              the first n rows are answered, then the batch expires
    {"row_status": 500, "every": 7}  a row's reply has that status; conditions as in `judge_faults.Rule`, counted in each batch
    {"fail_validation": n}           the first n batches fail: the provider takes no more tokens now
    {"lost_reply": n}                the first n batches are created, but the connection is dropped without a reply

Results stand in reverse order: nobody promised another, so nobody may count on one.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from judge_faults import Rule, Schedule, drop, error_body, file_or_json

DAY_S = 86_400
STEPS = 8
"""Shares in which a batch's rows are answered, so that its counts grow while it is in progress."""
OPEN = ("validating", "in_progress", "finalizing", "cancelling")
UNDONE = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled before."),
}
Row = dict[str, Any]
Answer = Callable[[Row], Row]
Note = Callable[[Row, str], Awaitable[None]]


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch-seconds", type=float, default=1.0)
    parser.add_argument("--batch-max-requests", type=int, default=50_000)
    parser.add_argument("--batch-max-bytes", type=int, default=200_000_000)
    parser.add_argument("--batch-faults")


@dataclass
class Batch:
    """One batch as the API shows it, and what is not shown."""

    id: str
    number: int
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    status: str = "validating"
    created_at: int = field(default_factory=lambda: int(time.time()))
    times: dict[str, int] = field(default_factory=dict)
    errors: dict[str, Any] | None = None
    total: int = 0
    done: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancel: asyncio.Event = field(default_factory=asyncio.Event)

    async def pause(self, seconds: float) -> None:
        """Let time pass, less if the batch is cancelled."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.cancel.wait(), seconds)

    def move(self, status: str) -> None:
        self.status = status
        self.times[f"{status}_at"] = int(time.time())

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": self.errors,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "expires_at": self.created_at + DAY_S,
            "request_counts": {"total": self.total, "completed": len(self.done), "failed": len(self.failed)},
            "metadata": self.metadata,
            **self.times,
        }


class Batches:
    """All files and batches of a server; they are gone when it ends. A batch takes `seconds`, as they are when it starts."""

    def __init__(self, options: argparse.Namespace, answer: Answer, note: Note) -> None:
        self._options = options
        self.seconds: float = options.batch_seconds
        self._answer = answer
        self._note = note
        self._faults = file_or_json(options.batch_faults)
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, Batch] = {}
        self._names = itertools.count(1)
        self._running: set[asyncio.Task[None]] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self._upload),
            web.get("/v1/files/{id}/content", self._content),
            web.post("/v1/batches", self._create),
            web.get("/v1/batches", self._list),
            web.get("/v1/batches/{id}", self._show),
            web.post("/v1/batches/{id}/cancel", self._cancel),
        ]

    def __len__(self) -> int:
        return len(self._batches)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            return _error(400, "wanted: multipart with purpose=batch and a file")
        content = file.file.read()
        name = self._keep(content)
        about = {"id": name, "object": "file", "bytes": len(content), "created_at": int(time.time())}
        return web.json_response({**about, "filename": file.filename, "purpose": "batch", "status": "processed"})

    async def _content(self, request: web.Request) -> web.Response:
        content = self._files.get(request.match_info["id"])
        return _error(404, "no such file") if content is None else web.Response(body=content)

    async def _create(self, request: web.Request) -> web.Response:
        asked = orjson.loads(await request.read())
        if asked["input_file_id"] not in self._files:
            return _error(400, "no such file as input_file_id")
        number = len(self._batches) + 1
        batch = Batch(
            f"batch_{number:05d}",
            number,
            input_file_id=asked["input_file_id"],
            endpoint=asked["endpoint"],
            completion_window=asked["completion_window"],
            metadata=asked.get("metadata"),
        )
        self._batches[batch.id] = batch
        task = asyncio.create_task(self._live(batch))
        self._running.add(task)  # the loop holds tasks weakly
        task.add_done_callback(self._running.discard)
        if number <= self._fault(batch, "lost_reply", 0):
            return drop(request)
        return web.json_response(batch.shown())

    async def _list(self, request: web.Request) -> web.Response:
        newest_first = list(reversed(self._batches.values()))
        names = [batch.id for batch in newest_first]
        after, limit = request.query.get("after"), int(request.query.get("limit", 20))
        if after is not None and after not in names:
            return _error(400, "no such batch as `after`")
        start = names.index(after) + 1 if after is not None else 0
        page = newest_first[start : start + limit]
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        more = start + limit < len(names)
        return web.json_response({"object": "list", "data": [batch.shown() for batch in page], **ends, "has_more": more})

    async def _show(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        return web.json_response(batch.shown()) if batch else _error(404, "no such batch")

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self._batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "no such batch")
        if batch.status not in OPEN:
            return _error(409, f"cannot cancel a batch that is {batch.status}")
        if batch.status != "finalizing":
            batch.move("cancelling")
            batch.cancel.set()
        return web.json_response(batch.shown())

    async def _live(self, batch: Batch) -> None:
        """From validating to its end."""
        step_s = self.seconds / (STEPS + 2)
        await batch.pause(step_s)
        content = self._files[batch.input_file_id]
        if errors := self._invalid(batch, content):
            batch.errors = {"object": "list", "data": errors}
            batch.move("failed")
            return
        rows = [orjson.loads(line) for line in content.splitlines()]
        batch.total = len(rows)
        if batch.status == "validating":
            batch.move("in_progress")
        end = await self._work(batch, rows, step_s)
        if not batch.cancel.is_set():
            batch.move("finalizing")
        await batch.pause(step_s)
        self._finish(batch, rows, "cancelled" if batch.cancel.is_set() else end)

    async def _work(self, batch: Batch, rows: list[Row], step_s: float) -> str:
        """Answer the rows in shares, each share logged on disk before it counts; says how the batch ends."""
        reached = int(self._fault(batch, "expire_after", len(rows)))
        schedule = self._row_faults(batch)
        for step in range(STEPS):
            await batch.pause(step_s)
            if batch.cancel.is_set():
                break
            durable: Awaitable[None] | None = None
            for row in rows[reached * step // STEPS : reached * (step + 1) // STEPS]:
                rule = schedule.pick(row["body"]["messages"][-1]["content"], 0.0)
                durable = self._note(row["body"], rule.fate if rule else "billed")
                self._result(batch, row, rule)
            if durable is not None:
                await durable
        return "completed" if reached >= len(rows) else "expired"

    def _result(self, batch: Batch, row: Row, rule: Rule | None) -> None:
        status, body = (int(rule.kind), error_body(rule)) if rule else (200, self._answer(row["body"]))
        response = {"status_code": status, "request_id": self._name("req"), "body": body}
        line = {"id": self._name("batch_req"), "custom_id": row["custom_id"], "response": response, "error": None}
        (batch.failed if rule else batch.done).append(line)

    def _finish(self, batch: Batch, rows: list[Row], end: str) -> None:
        answered = {line["custom_id"] for line in batch.done + batch.failed}
        for row in rows:
            if row["custom_id"] not in answered:
                code, message = UNDONE[end]
                error = {"code": code, "message": message}
                name = self._name("batch_req")
                batch.failed.append({"id": name, "custom_id": row["custom_id"], "response": None, "error": error})
        batch.output_file_id = self._keep_lines(batch.done)
        batch.error_file_id = self._keep_lines(batch.failed)
        batch.move(end)

    def _invalid(self, batch: Batch, content: bytes) -> list[dict[str, Any]]:
        lines = content.splitlines()
        if batch.number <= self._fault(batch, "fail_validation", 0):
            return [_problem("token_limit_exceeded", "Enqueued token limit reached. Try again once some batches are done.")]
        if len(lines) > self._options.batch_max_requests:
            return [_problem("too_many_requests", f"{len(lines)} requests, more than {self._options.batch_max_requests}.")]
        if len(content) > self._options.batch_max_bytes:
            return [_problem("file_too_large", f"{len(content)} bytes, more than {self._options.batch_max_bytes}.")]
        if not lines:
            return [_problem("empty_file", "The input file holds no requests.")]
        return _invalid_lines(lines, batch.endpoint)

    def _fault(self, batch: Batch, name: str, default: float) -> float:
        held = (fault[name] for fault in self._faults if name in fault and batch.number <= fault.get("batches", batch.number))
        return float(next(held, default))

    def _row_faults(self, batch: Batch) -> Schedule:
        rules = []
        for fault in self._faults:
            if "row_status" in fault and batch.number <= fault.get("batches", batch.number):
                conditions = {key: value for key, value in fault.items() if key not in ("row_status", "batches")}
                rules.append(Rule(str(fault["row_status"]), **conditions))
        return Schedule(rules)

    def _keep_lines(self, lines: list[Row]) -> str | None:
        return self._keep(b"".join(orjson.dumps(line) + b"\n" for line in reversed(lines))) if lines else None

    def _keep(self, content: bytes) -> str:
        name = self._name("file-")
        self._files[name] = content
        return name

    def _name(self, kind: str) -> str:
        return f"{kind}{next(self._names):08d}"


def _invalid_lines(lines: list[bytes], endpoint: str) -> list[dict[str, Any]]:
    """What is wrong with the rows, at most 50 of them as the real API has it."""
    problems: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        try:
            row = orjson.loads(line)
            name, url = row["custom_id"], row["url"]
            _ = row["method"], row["body"]["messages"][-1]["content"]
        except orjson.JSONDecodeError:
            problems.append(_problem("invalid_json_line", "This line is not valid JSON.", number))
            continue
        except (KeyError, IndexError, TypeError) as error:
            problems.append(_problem("missing_required_parameter", f"Missing required parameter: {error}.", number))
            continue
        if name in seen:
            problems.append(_problem("duplicate_custom_id", f"The custom_id {name!r} is used twice.", number))
        if url != endpoint:
            problems.append(_problem("mismatched_url", f"{url!r} is not the batch's endpoint {endpoint!r}.", number))
        seen.add(name)
    return problems[:50]


def _problem(code: str, message: str, line: int | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": None}


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
