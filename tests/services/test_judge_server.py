"""The tests' own judge server: what it logs, counts, limits and breaks is what other tests take for true."""

import asyncio
import json
import os
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from judge_faults import FALSE_USAGE, Rule, Schedule, fate_of, retry_headers
from judge_log import RequestLog
from judge_rates import Arrivals, Bucket, Capacity, Limits, duration
from judge_server import message_hash, prompt_tokens
from loopback import JudgeStarter, LoopbackJudge


def _body(message: str) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": message}]}


def _ask(server: LoopbackJudge, *messages: str, timeout_s: float = 10.0) -> list[tuple[Any, ...]]:
    """Status, text and headers of the replies, asked for one after the other; the name of the error where none came."""

    async def one(session: aiohttp.ClientSession, message: str) -> tuple[Any, ...]:
        try:
            async with session.post(f"{server.base_url}/chat/completions", json=_body(message)) as reply:
                return reply.status, await reply.text(), dict(reply.headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            return (type(error).__name__,)

    async def all_of_them() -> list[tuple[Any, ...]]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
            return [await one(session, message) for message in messages]

    return asyncio.run(all_of_them())


def _rule(kind: str, **more: Any) -> dict[str, Any]:
    """A rule for the messages that name its kind."""
    return {"kind": kind, "match": f"<{kind}>", **more}


REFUSED = ["429", "529", "401", "400", "402", "404", "insufficient_quota"]
INSIDE = ["error_429", "error_402", "error_500"]
ERRORS = ["500", "502", "503", "504", "408"]
NO_REPLY = ["disconnect", "cut_body", "hang"]
WITH_200 = ["slow_body", "cut_json", "html", "empty_choices", "refusal", "truncated", "no_usage", "finish_error", *FALSE_USAGE]


def test_every_fault_is_logged_with_its_fate_and_looks_as_it_should(judge: JudgeStarter) -> None:
    kinds = [*REFUSED, *ERRORS, *NO_REPLY, *WITH_200]
    rules = [_rule(kind, **({"delay_s": 0.05} if kind in ("hang", "slow_body") else {})) for kind in kinds]
    server = judge("--faults", json.dumps(rules))
    replies = dict(zip(kinds, _ask(server, *(f"<{kind}>" for kind in kinds)), strict=True))
    assert server.arrivals() == [(message_hash(f"<{kind}>"), "refused" if kind in REFUSED else "billed") for kind in kinds]
    assert server.billed() == [message_hash(f"<{kind}>") for kind in (*ERRORS, *NO_REPLY, *WITH_200)]
    assert [str(replies[kind][0]) for kind in (*REFUSED[:-1], *ERRORS)] == [*REFUSED[:-1], *ERRORS]
    assert [replies[kind][0] for kind in NO_REPLY] == [
        "ServerDisconnectedError",
        "ClientPayloadError",
        "ServerDisconnectedError",
    ]
    assert {replies[kind][0] for kind in WITH_200} == {200}
    assert (replies["insufficient_quota"][0], "insufficient_quota" in replies["insufficient_quota"][1]) == (429, True)
    assert json.loads(replies["slow_body"][1])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(replies["truncated"][1])["choices"][0]["finish_reason"] == "length"
    assert json.loads(replies["refusal"][1])["choices"][0]["message"]["refusal"]
    assert json.loads(replies["empty_choices"][1])["choices"] == []
    assert "usage" not in json.loads(replies["no_usage"][1])
    with pytest.raises(json.JSONDecodeError):
        json.loads(replies["cut_json"][1])
    assert server.stats()["kinds"] == dict.fromkeys(kinds, 1)


def test_what_is_billed_is_what_was_done_whatever_is_said_of_it(judge: JudgeStarter) -> None:
    kinds = [*FALSE_USAGE, "no_usage", "500", "error_429"]
    server = judge("--tokens", "300,64", "--faults", json.dumps([_rule(kind) for kind in kinds]))
    replies = _ask(server, *(f"<{kind}>" for kind in kinds), "sound")
    assert server.bill() == [(300, 64, 0)] * (len(kinds) - 1 + 1)
    said = [json.loads(reply[1]).get("usage") for reply in replies]
    true = {"prompt_tokens": 300, "completion_tokens": 64, "total_tokens": 364, "prompt_tokens_details": {"cached_tokens": 0}}
    assert said[-1] == true
    assert true not in said[:-1]


def test_a_request_is_billed_up_to_the_largest_limit_that_it_holds(judge: JudgeStarter) -> None:
    server = judge("--tokens", "300,64")
    for limits in ({"max_tokens": 9}, {"max_tokens": 9, "max_completion_tokens": 20}, {"max_tokens": 9, "n": 3}):
        request = urllib.request.Request(f"{server.base_url}/chat/completions", json.dumps({**_body("?"), **limits}).encode())
        urllib.request.urlopen(request, timeout=10).close()
    assert server.bill() == [(300, 9, 0), (300, 20, 0), (300, 27, 0)]


def test_an_error_inside_a_200_is_no_work_where_the_error_is_none(judge: JudgeStarter) -> None:
    server = judge("--faults", json.dumps([_rule(kind) for kind in INSIDE]))
    replies = _ask(server, *(f"<{kind}>" for kind in INSIDE))
    assert {reply[0] for reply in replies} == {200}
    assert [json.loads(reply[1])["error"]["code"] for reply in replies] == [429, 402, 500]
    assert server.billed() == [message_hash("<error_500>")]


def test_a_line_is_on_disk_before_its_request_is_answered_and_requests_share_the_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "accepted.log"
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(file.read_text()))

    async def requests() -> None:
        log = RequestLog(str(file))
        first, second = log.add("a", "billed"), log.add("b", "refused")
        await first
        later = log.add("c", "billed")
        await second
        assert synced == ["a billed\nb refused\n"]
        await later

    asyncio.run(requests())
    assert synced == ["a billed\nb refused\n", "a billed\nb refused\nc billed\n"]


def test_the_first_rule_that_holds_wins_and_each_counts_for_itself() -> None:
    schedule = Schedule([Rule("500", every=3), Rule("429", match="odd", first=2), Rule("hang", between=(10, 20))])
    picked = [schedule.pick("odd" if n % 2 else "even", float(n)) for n in range(1, 13)]
    assert [rule.kind if rule else "" for rule in picked] == [
        "429",
        "",
        "500",
        *[""] * 2,
        "500",
        *[""] * 2,
        "500",
        "hang",
        "hang",
        "500",
    ]


def test_random_faults_are_the_same_for_the_same_seed_and_keep_their_share() -> None:
    def drawn(seed: int) -> list[bool]:
        rule = Rule("500", seed=seed, share=0.2)
        return [rule.holds("", 0.0) for _ in range(2000)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 320 < sum(drawn(1)) < 480


def test_a_rule_may_state_a_fate_and_an_unknown_kind_is_refused() -> None:
    assert (fate_of("hang"), Rule("hang", fate="refused").fate) == ("billed", "refused")
    with pytest.raises(ValueError, match="no such kind of fault: 'disconect'"):
        Rule("disconect")


def test_every_way_to_say_when_to_come_back() -> None:
    now = 1_700_000_000.4
    assert [retry_headers(form, now) for form in (None, "2", "0.3", 600)] == [
        {},
        {"Retry-After": "2"},
        {"Retry-After": "0.3"},
        {"Retry-After": "600"},
    ]
    assert retry_headers({"ms": 250}, now) == {"retry-after-ms": "250"}
    assert retry_headers({"reset": "1s"}, now) == {"x-ratelimit-reset-requests": "1s"}
    date = parsedate_to_datetime(retry_headers({"date_in_s": 3}, now)["Retry-After"])
    assert date.timestamp() == 1_700_000_004


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (0.0114, "12ms"),
        (0.012, "12ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (86.4, "1m26.4s"),
        (360, "6m0s"),
        (4320, "1h12m0s"),
    ],
)
def test_resets_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    assert duration(seconds) == written


def test_the_busiest_minute_is_found_wherever_it_begins() -> None:
    arrivals = Arrivals()
    for now in (0.0, 30.0, 59.9, 60.0, 61.0, 89.0, 200.0):
        arrivals.add(100, now)
    report = arrivals.report()
    assert (report["most_per_minute"], report["most_tokens_per_minute"]) == (5, 500)
    assert report["per_minute"] == pytest.approx(6 / 200 * 60)
    assert report["tokens_per_minute"] == pytest.approx(600 / 200 * 60)
    assert Arrivals().report() == {
        "most_per_minute": 0,
        "most_tokens_per_minute": 0,
        "per_minute": 0.0,
        "tokens_per_minute": 0.0,
    }


def test_limits_refuse_beyond_the_bucket_and_state_what_is_left() -> None:
    limits = Limits("60,1000", now=0.0)
    assert [limits.take(400, 0.0) for _ in range(2)] == [None, None]
    assert limits.take(400, 0.0) == ("tokens", 12.0)
    assert limits.headers(0.0) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "58",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "200",
        "x-ratelimit-reset-tokens": "48s",
    }
    assert limits.take(400, 12.0) is None
    assert Bucket(10, 1, 0.0).wait_s(11, 0.0) == 0.0


def test_capacity_changes_with_time_and_tells_what_each_phase_answered() -> None:
    phases = [{"until_s": 2, "in_flight": 3}, {"until_s": 4, "per_second": 2}, {}]
    capacity = Capacity(phases)
    assert [capacity.wait_s(in_flight, 100.0) for in_flight in (0, 2, 3)] == [None, None, 0.0]
    capacity.note_answer(100.5)
    capacity.note_answer(101.9)
    assert [capacity.wait_s(50, 102.0) for _ in range(3)] == [None, None, 0.5]
    assert [capacity.wait_s(50, 102.5) for _ in range(2)] == [None, 0.5]
    capacity.note_answer(103.0)
    assert capacity.wait_s(5000, 105.0) is None
    reports = capacity.report()
    assert [(report["seconds"], report["answered"], report["refused"]) for report in reports] == [
        (2, 2, 1),
        (2, 1, 2),
        (1, 0, 0),
    ]
    assert [report["by_second"] for report in reports] == [[1, 1], [0, 1], []]
    assert [report["per_second"] for report in reports] == [1.0, 0.5, 0.0]


def test_limits_capacity_and_outages_turn_requests_away(judge: JudgeStarter) -> None:
    server = judge("--limit-headers", "4", "--usage-from-text", "--capacity", '{"in_flight": 0}')
    (full,) = _ask(server, "full")
    assert (full[0], "Retry-After" in full[2]) == (429, False)
    server.control(capacity=None, down="500")
    assert [reply[0] for reply in _ask(server, "down")] == [500]
    server.control(down=None, latency=0.001, faults=[{"kind": "402", "message": "pay", "first": 1}])
    replies = _ask(server, *"abcd")
    assert [reply[0] for reply in replies] == [402, 200, 200, 429]
    assert json.loads(replies[0][1]) == {"error": {"message": "pay"}}
    assert [reply[2]["x-ratelimit-remaining-requests"] for reply in replies] == ["2", "1", "0", "0"]
    assert {"Retry-After", "retry-after-ms"} <= set(replies[3][2])
    fates = ["refused", "billed", "refused", "billed", "billed", "refused"]
    assert server.arrivals() == list(zip(map(message_hash, ["full", "down", *"abcd"]), fates, strict=True))
    assert server.stats()["fates"] == {"refused": 3, "billed": 3}


def test_a_killed_server_refuses_connections_until_it_is_back_with_its_log(judge: JudgeStarter) -> None:
    server = judge()
    _ask(server, "early")
    server.kill()
    assert _ask(server, "lost") == [("ClientConnectorError",)]
    server.restart("--tokens", "100,5", "--key", "right", "--model", "small")
    asyncio.run(_asks_for_the_key(server))
    assert (server.stats()["wrong_key"], server.stats()["taken"]) == (2, 1)
    assert server.taken() == [message_hash("early"), message_hash("later")]


async def _asks_for_the_key(server: LoopbackJudge) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "prompt_tokens_details": {"cached_tokens": 0}}
    for key, status in (("right", 200), ("wrong", 401)):
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
            async with session.get(f"{server.base_url}/models") as reply:
                models = await reply.json()
                assert reply.status == status
            async with session.post(f"{server.base_url}/chat/completions", json=_body("later")) as reply:
                completion = await reply.json()
                assert reply.status == status
        if status == 200:
            assert ([model["id"] for model in models["data"]], completion["usage"]) == (["small"], usage)


def test_prompt_tokens_follow_the_bytes_of_the_text() -> None:
    assert prompt_tokens([{"role": "system", "content": "ä" * 4}, {"role": "user", "content": "abc"}]) == 11 // 4


class BatchClient:
    """As much of the batch API's client side as the tests need."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self._session = session
        self._base_url = base_url

    async def get(self, path: str) -> Any:
        async with self._session.get(self._base_url + path) as reply:
            return (
                [json.loads(line) for line in (await reply.text()).splitlines()] if "/content" in path else await reply.json()
            )

    async def post(self, path: str, body: Any = None) -> Any:
        async with self._session.post(self._base_url + path, json=body) as reply:
            return await reply.json()

    async def create(self, lines: list[dict[str, Any]]) -> Any:
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", b"".join(json.dumps(line).encode() + b"\n" for line in lines), filename="rows.jsonl")
        async with self._session.post(f"{self._base_url}/files", data=form) as reply:
            file = await reply.json()
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return await self.post("/batches", {**asked, "metadata": {"shard": "0"}})

    async def ended(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch once it is over."""
        while batch["status"] in ("validating", "in_progress", "finalizing", "cancelling"):
            await asyncio.sleep(0.005)
            batch = await self.get(f"/batches/{batch['id']}")
        return batch

    async def results(self, batch: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The lines of the output file and of the error file."""
        files = (batch["output_file_id"], batch["error_file_id"])
        output, errors = [await self.get(f"/files/{name}/content") if name else [] for name in files]
        return output, errors


def _batches(server: LoopbackJudge, work: Callable[[BatchClient], Any]) -> None:
    async def with_session() -> None:
        async with aiohttp.ClientSession() as session:
            await work(BatchClient(session, server.base_url))

    asyncio.run(with_session())


def _rows(count: int) -> list[dict[str, Any]]:
    line = {"method": "POST", "url": "/v1/chat/completions"}
    return [{"custom_id": f"row-{n}", **line, "body": _body(f"row {n}")} for n in range(count)]


def test_a_batch_goes_through_its_states_and_answers_every_row(tmp_path: Path, judge: JudgeStarter) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({message_hash("row 3"): 4.5}))
    server = judge("--batch-seconds", "0.2", "--batch-max-requests", "20", "--batch-max-bytes", "2000", "--scores", str(scores))

    async def work(client: BatchClient) -> None:
        created = await client.create(_rows(10))
        assert (created["status"], created["output_file_id"], created["metadata"]) == ("validating", None, {"shard": "0"})
        batch = await client.ended(created)
        times = [key for key in batch if key.endswith("_at")]
        assert times == ["created_at", "expires_at", "in_progress_at", "finalizing_at", "completed_at"]
        assert batch["request_counts"] == {"total": 10, "completed": 10, "failed": 0}
        output, errors = await client.results(batch)
        assert ([line["custom_id"] for line in output], errors) == ([f"row-{n}" for n in reversed(range(10))], [])
        texts = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in output}
        assert {name for name, text in texts.items() if text.startswith("4.5")} == {"row-3"}

        too_many, too_large, twice, empty = [
            await client.create(rows) for rows in (_rows(21), [*_rows(9), {"filler": "x" * 2000}], [*_rows(2), *_rows(1)], [])
        ]
        failed = [await client.ended(batch) for batch in (too_many, too_large, twice, empty)]
        assert {batch["status"] for batch in failed} == {"failed"}
        codes = [[(error["code"], error["line"]) for error in batch["errors"]["data"]] for batch in failed]
        assert codes == [
            [("too_many_requests", None)],
            [("file_too_large", None)],
            [("duplicate_custom_id", 3)],
            [("empty_file", None)],
        ]

        server.control(batch_seconds=3600)
        cancelled = await client.post(f"/batches/{(await client.create(_rows(10)))['id']}/cancel")
        batch = await client.ended(cancelled)
        output, errors = await client.results(batch)
        assert (batch["status"], output) == ("cancelled", [])
        assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}

        first = await client.get("/batches?limit=4")
        rest = await client.get(f"/batches?limit=4&after={first['last_id']}")
        listed = [batch["id"] for batch in first["data"] + rest["data"]]
        assert (listed, first["has_more"], rest["has_more"]) == ([f"batch_{n:05d}" for n in (6, 5, 4, 3, 2, 1)], True, False)

    _batches(server, work)
    assert server.arrivals() == [(message_hash(f"row {n}"), "billed") for n in range(10)]


def test_batches_fail_as_they_are_told_to(judge: JudgeStarter) -> None:
    faults = [
        {"lost_reply": 1},
        {"fail_validation": 2},
        {"row_status": 500, "every": 4, "batches": 3},
        {"row_status": 400, "match": "row 0", "batches": 3},
        {"expire_after": 6, "batches": 3},
    ]
    server = judge("--batch-seconds", "0.1", "--batch-faults", json.dumps(faults))

    async def work(client: BatchClient) -> None:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.create(_rows(10))
        (lost,) = (await client.get("/batches"))["data"]
        for batch in (lost, await client.create(_rows(10))):
            ended = await client.ended(batch)
            assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "token_limit_exceeded")
        assert server.taken() == []

        batch = await client.ended(await client.create(_rows(10)))
        assert (batch["status"], batch["request_counts"]) == ("expired", {"total": 10, "completed": 4, "failed": 6})
        output, errors = await client.results(batch)
        assert {line["custom_id"] for line in output} == {"row-1", "row-2", "row-4", "row-5"}
        told = {line["custom_id"]: line["response"] and line["response"]["status_code"] for line in errors}
        assert told == {"row-0": 400, "row-3": 500, "row-6": None, "row-7": None, "row-8": None, "row-9": None}
        assert {line["error"]["code"] for line in errors if line["error"]} == {"batch_expired"}
        fates = ["refused", *["billed"] * 5]
        assert server.arrivals() == [(message_hash(f"row {n}"), fate) for n, fate in enumerate(fates)]

        batch = await client.ended(await client.create(_rows(10)))
        assert batch["request_counts"] == {"total": 10, "completed": 10, "failed": 0}

    _batches(server, work)
