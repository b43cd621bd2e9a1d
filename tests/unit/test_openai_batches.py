"""What a batch API's words mean: refusals of batches, errors of rows."""

import http.server
import io
import json
from collections.abc import Iterator

import pytest

from alpagasus_ray.batch_api.openai_batches import BatchClient, read_results, refusal, refusal_of
from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.engines.openai_reply import failure, short
from alpagasus_ray.errors import EngineUnusable, RowRefused, TryAgain
from servers import serving


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
    found = dict(read_results(file, short))
    assert found["a"] == Reply("4")
    told = {key: (str(got), got.cause) for key, got in found.items() if isinstance(got, TryAgain)}
    assert told == {
        "b": ("batch expired: too late", "refused"),
        "c": ("malformed reply: {}", "unknown"),
        "d": ("no result", "unknown"),
    }


KEY = "canary-77"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every question with a batch whose validation has failed, and repeats the key."""

    def do_GET(self) -> None:
        said = {"code": "invalid", "message": f"{self.headers['Authorization']} may not", "line": 3, "param": None}
        batch = {"id": "batch_1", "status": "failed", "errors": {"object": "list", "data": [said]}}
        body = json.dumps(batch if self.path.endswith("batch_1") else said["message"]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchClient]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        client = BatchClient(Judge(model="toy", base_url=f"http://127.0.0.1:{server.server_port}/v1"))
        yield client
        client.close()


def test_a_refusal_is_told_without_the_key(client: BatchClient) -> None:
    assert refusal(client.look("batch_1")).message == "invalid: Bearer (the key) may not (line 3)"


def test_what_is_no_batch_is_told_without_the_key(client: BatchClient) -> None:
    with pytest.raises(TryAgain, match="malformed reply") as raised:
        client.look("batch_2")
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"code": "odd", "message": f"{KEY} may not"}},
        {"response": {"status_code": 200, "body": {"told": KEY}}},
        {"response": {"status_code": 403, "body": {"error": {"message": f"{KEY} may not"}}}},
        {"response": {"status_code": 403, "body": KEY}},
    ],
)
def test_an_error_of_a_row_is_told_without_the_key(client: BatchClient, said: dict[str, object]) -> None:
    ((_, got),) = read_results(io.BytesIO(json.dumps({"custom_id": "a", **said}).encode()), client.safe)
    assert "(the key)" in str(got)
    assert KEY not in str(got)
