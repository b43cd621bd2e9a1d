"""The `api` judge against a real vLLM server, rows longer than its context among them."""

import json
from pathlib import Path

import pytest

from alpagasus_ray.config import Ingest, Score
from alpagasus_ray.judging import rubric
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from toy_runs import api_judge, ids, ratings

pytestmark = pytest.mark.timeout(600)  # engines start
ROWS, LONGEST = 128, 40
MAX_TOKENS = 32
CONTEXT = 2048


@pytest.fixture(scope="module")
def mixed_run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Real Alpaca rows: the first of them, and the longest there are."""
    rows = [row for file in sorted((shared / "alpaca52k").glob("*.json")) for row in json.loads(file.read_text())]
    by_length = sorted(rows, key=lambda row: len(row["input"]) + len(row["output"]))
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "rows.json").write_text(json.dumps(rows[: ROWS - LONGEST] + by_length[-LONGEST:]))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.json"), rows_per_shard=64), run)
    return run


def _prompt_tokens(run: Run, model: str) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    asked = rubric.load("accuracy")
    stage = run.examples()
    rows = [row for table in stage.tables(stage.finished()) for row in table.to_pylist()]
    prompts = [tokenizer.apply_chat_template(asked.messages(row), add_generation_prompt=True, tokenize=False) for row in rows]
    return [len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]


def test_rows_over_the_context_get_a_reason_and_all_others_a_reply(mixed_run: Run, vllm_server: str, shared: Path) -> None:
    judge = api_judge(vllm_server, model="tiny", max_tokens=MAX_TOKENS)
    manifest = score(Score(judge=judge, concurrency=32, max_failed=1, max_unusable=1), mixed_run)
    assert manifest.rows == ROWS
    rows = ratings(mixed_run).to_pylist()
    assert [row["example_id"] for row in rows] == ids(mixed_run)
    for row, tokens in zip(rows, _prompt_tokens(mixed_run, str(shared / "tiny_llama")), strict=True):
        if tokens + MAX_TOKENS > CONTEXT:
            assert (row["status"], row["reply"], row["attempts"]) == ("failed", None, 1)
            assert row["error"].startswith("too long: ")
        else:
            assert row["status"] != "failed", row["error"]
            assert row["tokens_in"] == tokens
            assert 0 < row["tokens_out"] <= MAX_TOKENS
    failed = manifest.counts["failed"]
    assert 0 < failed < LONGEST
    assert manifest.details["reasons"]["too long"] == failed
