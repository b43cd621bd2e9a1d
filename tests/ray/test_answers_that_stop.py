"""What a whole stage makes of answers that were collected in the field: it stops at once with the server's own sentence."""

import json
from pathlib import Path

import pytest

from alpagasus_ray.config import Score
from alpagasus_ray.errors import StageFailed
from alpagasus_ray.stages.score import score
from loopback import JudgeStarter
from toy_runs import api_judge, ratings, toy_run

STOPS = {
    "error 402 inside a 200": "Insufficient credits",
    "wrong key as a 400 (Gemini form)": "API key not valid. Please pass a valid API key.",
    "daily quota as a 429 (Gemini form)": "the quota of the day is used up: You exceeded your current quota",
}
CONCURRENCY = 8


@pytest.mark.usefixtures("local_ray")
def test_answers_that_every_row_would_get_stop_a_stage_and_a_filtered_row_does_not(
    tmp_path: Path, judge: JudgeStarter, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    cases = {case["about"]: case for case in map(json.loads, (shared / "cases" / "http_replies.jsonl").open())}
    run, server = toy_run(tmp_path, 40), judge("--latency", "0.02")
    config = Score(judge=api_judge(server.base_url), concurrency=CONCURRENCY)
    for about, sentence in STOPS.items():
        before = len(server.taken())
        case = cases[about]
        server.control(faults=[{"kind": str(case["status"]), "body": case["body"], "fate": "refused"}])
        with pytest.raises(StageFailed) as stopped:
            score(config, run)
        assert sentence in str(stopped.value), about
        assert len(server.taken()) - before <= CONCURRENCY, f"{about}: nothing more is sent"
        assert run.ratings("judge").storage.all_names() <= {"stage.json"}, f"{about}: a call that came to nothing binds nobody"
    case = cases["content filter as a 400"]
    server.control(faults=[{"kind": "400", "body": case["body"], "match": "number 7.", "fate": "billed"}])
    manifest = score(config, run)
    assert manifest.counts == {"scored": 39, "refused": 1}
    assert [row["status"] for row in ratings(run).to_pylist()].index("refused") == 7
    assert set(ratings(run)["maybe_billed_twice"].to_pylist()) == {0}
