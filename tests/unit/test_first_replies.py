"""A judge that cannot be read is found out after tens of replies; prompts that a server cuts are told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from alpagasus_ray.config import Compare, Generate, Judge, Recipe, Score
from alpagasus_ray.engines.advice import KNOWN, advice
from alpagasus_ray.engines.base import Rate
from alpagasus_ray.errors import StageFailed
from alpagasus_ray.inference.coordinator import Coordinator
from alpagasus_ray.inference.cut_prompts import MANY, CutPrompts
from alpagasus_ray.inference.failures import advising
from alpagasus_ray.inference.first_replies import FIRST, FirstLook, Usable
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.tasks.rating import prepare
from alpagasus_ray.inference.worker import Worker
from toy_runs import api_judge, toy_run

USABLE = Usable(frozenset({"scored"}), 0.5, "score.max_unusable")


def _reason(*statuses: str, reply: str = "a poem") -> str | None:
    look, reason = FirstLook(USABLE), None
    for status in statuses:
        reason = reason or look.saw({"status": status, "reply": reply})
    return reason


def test_whatever_the_status_rows_without_a_result_of_use_stop_a_stage_after_the_first_fifty() -> None:
    statuses = ["unparsed", "truncated", "refused", "failed", "never heard of"] * 10
    assert _reason(*statuses[: FIRST - 1]) is None
    reason = _reason(*statuses)
    assert reason is not None
    assert reason.startswith("50 of the first 50 rows have no usable result (10 x unparsed")
    assert "`score.max_unusable` = 0.5" in reason


def test_a_judge_whose_replies_are_mostly_of_use_is_not_stopped() -> None:
    assert _reason(*["scored", "unparsed"] * 500) is None


def test_one_reply_is_shown_as_it_came_and_commands_no_terminal() -> None:
    reason = _reason(*["unparsed"] * 50, reply="I think\n\x1b]0;owned\x07 4 of 5\u009b")
    assert reason is not None
    assert "one such reply, as it came:\n---\nI think\n\\x1b]0;owned\\x07 4 of 5\\x9b\n---" in reason


def test_the_reason_ends_with_what_else_may_help() -> None:
    look = FirstLook(USABLE._replace(advice="Try another model"))
    reason = [look.saw({"status": "unparsed", "reply": "no"}) for _ in range(50)][-1]
    assert reason is not None
    assert reason.endswith("---\nTry another model")


def test_what_is_recorded_may_be_of_a_part_of_the_rows() -> None:
    recorded, good = Judge(kind="recorded", ratings="x.csv"), {"scored"}
    assert AskSpec.of(Score(), recorded, good=good).usable is None
    assert AskSpec.of(Score(max_unusable=0.2), Judge(), good=good).usable == Usable(frozenset(good), 0.2, "score.max_unusable")


# prompts that are cut


def _told(lengths: range, counted: Any) -> list[str]:
    cut = CutPrompts()
    notes = (cut.saw([{"role": "user", "content": "word " * length}], counted(length)) for length in lengths)
    return [note for note in notes if note]


def test_many_long_prompts_that_are_counted_at_one_number_of_tokens_are_told_once() -> None:
    (note,) = _told(range(3000, 3100), lambda _: 2048)
    assert f"counts {MANY} of them at exactly 2,048 tokens" in note


@pytest.mark.parametrize(
    "counted",
    [lambda length: length, lambda length: length // 2, lambda _: None, lambda _: 0],
    ids=["as estimated", "another tokenizer", "not counted", "counted at nothing"],
)
def test_prompts_that_are_not_cut_are_not_told(counted: Any) -> None:
    assert _told(range(3000, 3100), counted) == []


def test_short_prompts_of_equal_length_are_not_told() -> None:
    assert _told(range(100, 200), lambda _: 2048) == []


# what helps


@pytest.mark.parametrize(
    ("sentence", "helps"),
    [
        ("http 400: System role not supported", "score.judge.system=merge"),
        ("Developer instruction is not enabled for this model", "score.judge.system=merge"),
        ("Unsupported, use 'max_completion_tokens'.", "score.judge.max_tokens_field=max_completion_tokens"),
        ("Unsupported value: 'temperature' does not support 0", "score.judge.temperature=null"),
        ("logprobs are not available", "score.judge.expected=false"),
    ],
)  # fmt: skip
def test_a_sentence_that_is_known_is_told_with_what_helps(sentence: str, helps: str) -> None:
    assert advice(sentence, "score.judge") == helps


def test_what_helps_stands_behind_the_reason_for_which_a_stage_stops() -> None:
    told = r"(?s)stopped: http 400: System role not supported.*help: score.judge.system=merge"
    with pytest.raises(StageFailed, match=told), advising(Judge()):
        raise StageFailed("stopped: http 400: System role not supported")


def test_a_sentence_that_is_not_known_is_told_without() -> None:
    assert advice("the moon is full", "score.judge") is None


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: " ".join(entry.marks))
@pytest.mark.parametrize("section", ["score", "compare"])
def test_every_advice_is_a_setting_that_a_recipe_takes(entry: Any, section: str) -> None:
    from alpagasus_ray import recipe

    if entry.knob in ("expected", "constrained") and section == "compare":
        pytest.skip("a judge of pairs has no such knob and sends no such field")
    found = advice(" ".join(entry.marks), f"{section}.judge")
    assert found is not None
    recipe.load(None, [found])


def test_defaults_leave_recipes_as_they_were() -> None:
    assert Recipe().score == Score()
    assert (Generate().max_unusable, Compare().max_unusable) == (0.5, 0.5)


# through the real client and the real work of score, on a worker in this process


class Prose(BaseHTTPRequestHandler):
    """A judge that writes an essay."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        said = {"message": {"role": "assistant", "content": "Let us weigh this with care."}, "finish_reason": "stop"}
        content = json.dumps({"choices": [said], "usage": {"prompt_tokens": 300, "completion_tokens": 7}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


class Listening(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class Link:
    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    async def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._coordinator, method)(*arguments)


def test_a_server_that_answers_prose_is_asked_a_hundred_times_at_most_and_one_reply_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    server = Listening(("127.0.0.1", 0), Prose)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    config = Score(judge=api_judge(f"http://127.0.0.1:{server.server_port}/v1"))
    run, coordinator = toy_run(tmp_path, 500, rows_per_shard=500), Coordinator((Rate(),))
    stage, _, target = prepare(config, run)
    worker = Worker([stage.job(target)], Link(coordinator))
    done = worker({"tasks": [json.dumps([["part-00000.parquet", None, 0]])]})
    worker._loop.call_soon_threadsafe(worker._loop.stop)
    server.shutdown()
    server.server_close()
    assert 50 <= len(Prose.asked) <= 100
    (reason,) = done["stopped"]
    assert "50 of the first 50 rows have no usable result (50 x unparsed)" in reason
    assert "---\nLet us weigh this with care.\n---" in reason
    assert coordinator.snapshot().stop == reason
    assert StageFailed("stopped").exit_code == 1
