"""What servers answer in the field, and what has to come of it: bodies that were seen to go wrong, over HTTP on loopback."""

import json
from pathlib import Path
from typing import Any

import pytest
from fixed_server import answering, ask

from alpagasus_ray.engines.base import CONTENT_FILTER, FINISH_REASONS, LENGTH, REFUSAL, STOP, Reply
from alpagasus_ray.engines.finish_reasons import MISSING, WORDS, finish_reason
from alpagasus_ray.errors import EngineError, EngineUnusable, RowRefused, TryAgain

GOOD = {"content": "4\nGood."}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-77")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))  # to read all certificates takes longer than a test


def _ask(status: int, body: object, **headers: str) -> Reply:
    with answering(status, body, headers) as server:
        return ask(server)


def _failure(status: int, body: object, **headers: str) -> EngineError:
    with pytest.raises(EngineError) as raised:
        _ask(status, body, **headers)
    return raised.value


def _chat(message: dict[str, Any], finish: object = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], **more}


# the collected answers


@pytest.fixture(scope="module")
def seen(shared: Path) -> dict[str, dict[str, Any]]:
    lines = (shared / "cases" / "http_replies.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    return {case["about"]: case for case in cases}


RETRIED, STOPPED, LEFT = TryAgain, EngineUnusable, RowRefused
FAILURES = {
    "error 429 inside a 200": (RETRIED, "http 429: Provider returned error", "refused"),
    "error 402 inside a 200": (STOPPED, "http 402: the account has no money left: Insufficient credits", ""),
    "no system turn allowed": (LEFT, "http 400: System role not supported", ""),
    "wrong key as a 400 (Gemini form)": (STOPPED, "http 400: the server refuses the key: API key not valid", ""),
    "daily quota as a 429 (Gemini form)": (STOPPED, "http 429: the quota of the day is used up: You exceeded your", ""),
    "408 after the work was done": (RETRIED, "http 408: Request timed out upstream", "unknown"),
    "503 of a proxy whose upstream went": (RETRIED, "http 503: upstream connect error", "unknown"),
    "terminal codes in an error": (STOPPED, r"http 401: the server refuses the key: \x1b]0;owned\x07 invalid key", ""),
    "one 401 after many good answers": (STOPPED, "http 401: the server refuses the key: invalid key", ""),
}
REPLIES = {
    "empty text beside reasoning": Reply(
        "", STOP, 300, 20, reasoning="The user wants a score. It is right.\nScore 4.5", model="m"
    ),
    "null text beside reasoning_content": Reply("", STOP, 300, 20, reasoning="Score: 3?", model="m"),
    "content filter as a 400": Reply("", CONTENT_FILTER),
    "usage larger than 64 bits allow": Reply("4\nGood.", STOP, 300, None, model="m"),
    "usage of zeros beside a text": Reply("4\nGood.", STOP, None, None, model="m"),
    "log probabilities beyond sense": Reply("4\nGood.", STOP, 300, 20, model="m"),
}


@pytest.mark.parametrize("about", FAILURES)
def test_an_error_is_what_the_server_means_by_it(seen: dict[str, dict[str, Any]], about: str) -> None:
    kind, told, cause = FAILURES[about]
    failed = _failure(seen[about]["status"], seen[about]["body"])
    assert type(failed) is kind
    assert str(failed).startswith(told)
    assert getattr(failed, "cause", "") == cause


@pytest.mark.parametrize("about", REPLIES)
def test_a_reply_is_what_stands_in_its_text_and_tokens_that_cannot_be_are_not_known(
    seen: dict[str, dict[str, Any]], about: str
) -> None:
    assert _ask(seen[about]["status"], seen[about]["body"]) == REPLIES[about]


def test_every_collected_answer_is_looked_at(seen: dict[str, dict[str, Any]]) -> None:
    assert set(seen) == {*FAILURES, *REPLIES}


# an error in place of a reply


@pytest.mark.parametrize(
    ("error", "kind", "told", "cause"),
    [
        ({"message": "later", "code": 429}, TryAgain, "http 429: later", "refused"),
        ({"message": "later", "code": "429"}, TryAgain, "http 429: later", "refused"),
        ({"message": "later", "code": "rate_limit_exceeded"}, TryAgain, "http 429: later", "refused"),
        ({"message": "gone", "code": 502}, TryAgain, "http 502: gone", "unknown"),
        ({"message": "gone", "type": "server_error", "code": None}, TryAgain, "http 500: gone", "unknown"),
        ({"message": "late", "code": 408}, TryAgain, "http 408: late", "unknown"),
        ({"message": "too busy", "type": "overloaded_error"}, TryAgain, "http 529: too busy", "refused"),
        ({"message": "pay", "code": "insufficient_quota"}, EngineUnusable, "http 402: the account has no money left: pay", ""),
        ({"message": "who?", "code": 401}, EngineUnusable, "http 401: the server refuses the key: who?", ""),
        ({"message": "odd field", "code": 400}, RowRefused, "http 400: odd field", ""),
        ({"message": "maximum context length is 9", "code": 400}, RowRefused, "too long: maximum context length", ""),
        ({"message": "a riddle", "code": "xyzzy"}, TryAgain, "malformed reply", "unknown"),
    ],
)
def test_an_error_inside_a_200_is_that_error(error: dict[str, Any], kind: type[EngineError], told: str, cause: str) -> None:
    for body in (
        {"error": error},
        {"error": error, "choices": None, "usage": None},
        [{"error": error}],
        {"object": "error", **error},
        {"choices": [{"message": {"content": None}, "finish_reason": "error", "error": error}]},
    ):
        failed = _failure(200, body)
        if kind is TryAgain and told == "malformed reply":
            assert failed.category in ("malformed reply", "error in the reply"), body
        else:
            assert str(failed).startswith(told), body
        assert type(failed) is kind, body
        assert getattr(failed, "cause", "") == cause, body


def test_an_error_beside_a_text_is_no_reply() -> None:
    body = {"choices": [{"message": {"content": "4 as far"}, "finish_reason": "stop", "error": {"code": "riddle"}}]}
    assert str(_failure(200, body)).startswith("error in the reply")


def test_a_content_filter_inside_a_200_has_declined_the_row() -> None:
    assert _ask(200, {"error": {"message": "no", "code": "content_filter"}}) == Reply("", CONTENT_FILTER)


@pytest.mark.parametrize(
    ("status", "body", "headers", "cause"),
    [
        (503, "gone", {}, "unknown"),
        (503, {"error": {"message": "Service Unavailable"}}, {}, "unknown"),
        (503, "gone", {"Retry-After": "3"}, "refused"),
        (503, {"error": {"message": "The model is overloaded. Please try again later.", "code": 503}}, {}, "refused"),
        (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, {}, "refused"),
        (503, "no healthy upstream", {}, "refused"),
        (408, "late", {"Retry-After": "3"}, "unknown"),
    ],
)
def test_a_server_that_does_not_say_that_it_did_nothing_may_have_billed(
    status: int, body: object, headers: dict[str, str], cause: str
) -> None:
    failed = _failure(status, body, **headers)
    assert isinstance(failed, TryAgain)
    assert failed.cause == cause


@pytest.mark.parametrize(
    ("message", "headers", "stops"),
    [
        ("Limit 200 requests per day (RPD) reached. Try again in 7m12s.", {"Retry-After": "432"}, False),
        ("Limit 200 requests per day reached.", {}, True),
        ("You have reached your daily limit.", {}, True),
        ("Limit 200 requests per min reached.", {}, False),
    ],
)
def test_the_quota_of_a_day_stops_unless_the_server_says_when_there_is_more(
    message: str, headers: dict[str, str], stops: bool
) -> None:
    failed = _failure(429, {"error": {"message": message}}, **headers)
    assert isinstance(failed, EngineUnusable if stops else TryAgain)
    assert message in str(failed)


# how a reply ended


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        *((word, ours) for ours in FINISH_REASONS for word in WORDS[ours]),
        *(("STOP", STOP), ("MAX_TOKENS", LENGTH), ("SAFETY", CONTENT_FILTER)),
        *((word, word) for word in ("tool_calls", "function_call", "abort", "xyzzy")),
        (None, MISSING),
        ("", MISSING),
    ],
)
def test_a_finish_reason_is_one_that_is_known_or_is_passed_on_as_it_is(said: str | None, meant: str) -> None:
    assert finish_reason(said) == meant
    assert _ask(200, _chat(GOOD, said)).finish_reason == meant


@pytest.mark.parametrize("said", WORDS["error"])
def test_a_reply_that_ended_by_an_error_is_asked_for_again_and_may_have_been_billed(said: str) -> None:
    failed = _failure(200, _chat(GOOD, said))
    assert isinstance(failed, TryAgain)
    assert failed.cause == "unknown"


def test_a_refusal_is_one_whatever_ended_it() -> None:
    assert _ask(200, _chat({"content": None, "refusal": "No."}, None))[:2] == ("No.", REFUSAL)


# who answered


def test_what_answered_is_told_as_far_as_the_server_names_it() -> None:
    told = _ask(200, _chat(GOOD, model="toy-2024-07-18", system_fingerprint="fp_1"))
    assert (told.model, told.fingerprint) == ("toy-2024-07-18", "fp_1")
    for nothing in (None, "", 7, ["toy"]):
        untold = _ask(200, _chat(GOOD, model=nothing, system_fingerprint=nothing))
        assert (untold.model, untold.fingerprint) == (None, None)


def test_a_body_in_a_charset_that_nobody_has_is_told_all_the_same() -> None:
    failed = _failure(400, b"\xff\xfe no", **{"Content-Type": "text/plain; charset=klingon"})
    assert str(failed).startswith("http 400: \ufffd\ufffd no")
