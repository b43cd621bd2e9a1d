"""What a batch API's words mean: refusals of batches, errors of rows."""

import io
import json

import pytest

from alpagasus_ray.engines.base import Reply
from alpagasus_ray.engines.openai_api import failure
from alpagasus_ray.engines.openai_batches import read_results, refusal_of
from alpagasus_ray.errors import EngineUnusable, RowRefused, TryAgain


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("token_limit_exceeded: Enqueued token limit reached for toy", "queue"),
        ("too_many_tasks: The number of requests is too large", "size"),
        ("http 400: The batch input file is larger than the 209715200 maximum", "size"),
        ("model_mismatch: The batch names two models", "other"),
    ],
)
def test_refusals_are_told_apart(words: str, kind: str) -> None:
    assert refusal_of(words).kind == kind


@pytest.mark.parametrize(
    ("status", "text", "error", "told"),
    [
        (400, "This model's maximum context length is 9", RowRefused, "too long: "),
        (400, "bad field", RowRefused, "http 400: bad field"),
        (429, "Request too large for toy", RowRefused, "too long: "),
        (429, "slow down", TryAgain, "http 429: slow down"),
        (429, "insufficient_quota", EngineUnusable, "http 429: the account has no money left"),
        (404, "no such model", EngineUnusable, "http 404: no such model or address"),
        (0, "", TryAgain, "http 0"),
    ],
)
def test_an_error_of_a_row_means_what_it_means_to_a_request(status: int, text: str, error: type, told: str) -> None:
    found = failure(status, text, text)
    assert type(found) is error
    assert str(found).startswith(told)


def test_results_are_read_in_any_order_and_lines_that_are_none_are_left_out() -> None:
    chat = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
    lines = [
        {"custom_id": "b", "response": None, "error": {"code": "batch_expired", "message": "too late"}},
        {"custom_id": "a", "response": {"status_code": 200, "body": chat}, "error": None},
        {"custom_id": "c", "response": {"status_code": 200, "body": {}}, "error": None},
        {"custom_id": "d", "response": None, "error": None},
        {"nothing": "known"},
        [],
    ]
    file = io.BytesIO(b"\n".join([*(json.dumps(line).encode() for line in lines), b'{"custom_id": "cu']))
    found = dict(read_results(file))
    assert found["a"] == Reply("4")
    told = {key: (str(got), got.cause) for key, got in found.items() if isinstance(got, TryAgain)}
    assert told == {
        "b": ("batch expired: too late", "refused"),
        "c": ("malformed reply: {}", "unknown"),
        "d": ("no result", "unknown"),
    }
