"""A whole experiment on real Alpaca: 52,002 rated rows to five trained models, their answers, two judges' verdicts, a page."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from transformers import AutoModelForCausalLM

from alpagasus_ray.reporting.verdicts import comparisons
from alpagasus_ray.store.run import Run
from browser import chromium, installed, opened, rows_found
from loopback import JudgeStarter
from toy_runs import ROOT, job, summary

pytest.importorskip("vllm", reason="vLLM is not installed (make install)")
pytestmark = pytest.mark.timeout(600)  # engines start
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (make install)")

SIZE, STEPS = 2_022, 8
SMALL, PROMPTS = 300, 16
ARMS = ["top", "random-1", "random-2", "random-3", "longest"]
SETS = {"vicuna": "vicuna", "koala": "koala", "wizardlm": "wizardlm", "self_instruct": "sinstruct"}
CLAIM = "260 thousand parameters show that every step of the experiment works; they cannot show the paper's claim."
ENGINE = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 2, "max_model_len": 16384}
LONG = {"extra": {"hf_overrides": {"max_position_embeddings": 16384}}}
"""The longest prompts take more than the tiny model's 2,048 tokens; its rotary positions go on."""


def recipe(shared: Path, judge: str) -> dict[str, Any]:
    """The paper's experiment in small: as few updates for each arm as move the model."""
    return {
        "ingest": {"source": str(shared / "alpaca52k/*.json"), "name": "alpaca"},
        "score": {
            "judge": {
                "kind": "recorded",
                "ratings": str(shared / "ratings/alpaca52k_three_llm_scores.csv"),
                "columns": {"index": "alpaca_index", "score": "gpt-4o-mini"},
            }
        },
        "pick": {
            "arms": [
                {"name": "top", "policy": "top", "k": SIZE},
                *({"name": f"random-{seed}", "policy": "random", "seed": seed} for seed in (1, 2, 3)),
                {"name": "longest", "policy": "longest"},
            ]
        },
        "finetune": {
            "model": str(shared / "tiny_llama"),
            "steps": STEPS,
            "global_batch": 16,
            "learning_rate": 1e-3,
            "precision": "float32",
            "zero_stage": 3,
            "workers": 2,
            "gpu": False,
            "tensorboard": False,
        },
        "generate": {
            "max_new_tokens": 24,
            "test_sets": [{"name": name, "path": str(shared / f"test_sets/{f}_test_set.jsonl")} for name, f in SETS.items()],
            "models": [{"name": arm, "arm": arm, "prompt": "alpaca", "vllm": {**ENGINE, **LONG}} for arm in ARMS],
        },
        "compare": {
            "pairs": [["top", "random-1"], ["top", "longest"]],
            "judge": {"kind": "api", "model": "toy", "base_url": judge, "price": {"input": 2.5, "output": 10}},
        },
        "report": {"arm": "top", "baseline": "random-1", "claim": CLAIM},
    }


@pytest.mark.skipif(not (installed() or os.environ.get("CI")), reason="no Chromium is installed to open the report in")
def test_an_experiment_in_small_ends_in_a_report_and_a_second_call_asks_nothing(
    judge: JudgeStarter, shared: Path, local_ray: None, tmp_path: Path
) -> None:
    server, run = judge("--pairs"), tmp_path / "run"
    rows = json.loads((shared / "published_subsets/random_9k.json").read_text())[:SMALL]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    prompts = (shared / "test_sets/vicuna_test_set.jsonl").read_text().splitlines(keepends=True)[:PROMPTS]
    (tmp_path / "vicuna.jsonl").write_text("".join(prompts))
    settings = recipe(shared, server.base_url)
    settings["ingest"] = {"source": str(tmp_path / "rows.json"), "rows_per_shard": 100}
    settings["score"] = {"judge": {"kind": "rules"}}
    settings["pick"] = {"arms": [{"name": "top", "policy": "top", "k": 100}, {"name": "random-1", "policy": "random"}]}
    settings["finetune"] |= {"steps": 3, "zero_stage": 2, "precision": "bf16"}
    settings["generate"] |= {
        "test_sets": [{"name": "vicuna", "path": str(tmp_path / "vicuna.jsonl")}],
        "models": [{"name": arm, "arm": arm, "prompt": "alpaca", "vllm": {**ENGINE, **LONG}} for arm in ("top", "random-1")],
    }
    settings["compare"]["pairs"] = [["top", "random-1"]]
    compares = {"judge": settings["compare"]["judge"], "judged": 4, "max_new_tokens": 8}
    settings["race"] = {"heldout": 20, "seeds": 2, "steps": 3, "points": 1, **compares}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(settings))
    steps = summary(job("run_all", run, "--recipe", str(file), "--json"))["steps"]
    assert [steps["ingest"]["rows"], steps["score"]["rows"], steps["generate"]["rows"]] == [SMALL, SMALL, 2 * PROMPTS]
    assert [(arm["name"], arm["rows"]) for arm in steps["pick_subset"]["arms"]] == [("top", 100), ("random-1", 100)]
    assert [model["steps"] for model in steps["finetune"]["models"]] == [3, 3]
    assert list(steps)[2:5] == ["pick_subset", "race", "finetune"]
    assert [len(entry["by_seed"]) for entry in steps["race"]["race"]["arms"]] == [2, 2]
    (judged,) = steps["race"]["judged"]
    assert (judged["arm"], judged["control"], judged["games"]) == ("top", "random-1", 8)
    games = run_games(Run.open(str(run)))
    assert len(games) == 2 * PROMPTS
    assert all(row["reply"] and row["tokens_out"] for row in games), "every game has its raw reply"
    assert all((row["winner"] is None) == (row["status"] != "judged") for row in games)
    models = [AutoModelForCausalLM.from_pretrained(run / "models" / arm) for arm in ("top", "random-1")]
    assert [str(model.dtype) for model in models] == ["torch.bfloat16"] * 2
    taken = len(server.billed())
    again = summary(job("run_all", run, "--recipe", str(file), "--json"))
    assert len(server.billed()) == taken > 0, "what is done is not asked again"
    with chromium() as running, running.new_context() as context:
        seen = opened(context, again["page"])
        assert CLAIM in seen.page.inner_text("body")
        rows_found(seen.page, "example-browser", SMALL)
        assert (seen.problems, len(seen.requests)) == ([], 1)


def run_games(run: Run) -> list[dict[str, Any]]:
    """All games of the comparisons of a run."""
    stages = [
        run.verdicts(None, one.pair, test_set) for one in comparisons(run) if one.judge is None for test_set in one.test_sets
    ]
    games: list[dict[str, Any]] = pa.concat_tables(table for s in stages for table in s.tables(s.finished())).to_pylist()
    return games


@pytest.mark.long
@pytest.mark.skipif(not (installed() or os.environ.get("CI")), reason="no Chromium is installed to open the report in")
@pytest.mark.timeout(2400)
def test_the_whole_experiment_on_all_of_alpaca_ends_in_a_report(judge: JudgeStarter, shared: Path, tmp_path: Path) -> None:
    server, run = judge("--pairs"), tmp_path / "run"
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(shared, server.base_url)))
    planned = summary(job("run_all", run, "--recipe", str(file), "--plan", "--json"))
    assert (planned["rows"], planned["prompts"], planned["games"]) == (52_002, 730, 2 * 2 * 730)
    assert [arm["rows"] for arm in planned["arms"]] == [SIZE] * 5
    assert planned["evaluation_dollars"]["high"] > planned["evaluation_dollars"]["low"] > 0
    assert not run.exists()
    done = _run_all(run, file)
    steps = done["steps"]
    assert steps["ingest"]["rows"] == steps["score"]["rows"] == 52_002
    assert [arm["rows"] for arm in steps["pick_subset"]["arms"]] == [SIZE] * 5
    assert [model["steps"] for model in steps["finetune"]["models"]] == [STEPS] * 5
    assert all(model["loss"]["last_tenth"] < model["loss"]["first"] for model in steps["finetune"]["models"])
    assert steps["generate"]["rows"] == 5 * 730
    compared = steps["compare"]["comparisons"]
    assert sum(found["prompts"] for found in compared) == 2 * 730
    assert all(found["win"] + found["tie"] + found["lose"] + found["no_verdict"] == found["prompts"] for found in compared)
    taken = len(server.billed())
    assert taken == _asked(Run.open(str(run)))
    _with_the_rules(run, file)
    again = _run_all(run, file)
    assert len(server.billed()) == taken, "what is done is not asked again"
    assert [one.label for one in comparisons(Run.open(str(run)))] == ["toy", "toy", "rules", "rules"]
    assert json.loads((run / "report/report.json").read_text())["first"]["claim"] == CLAIM
    with chromium() as running, running.new_context() as context:
        seen = opened(context, again["page"])
        assert CLAIM in seen.page.inner_text("body")
        rows_found(seen.page, "example-browser", 52_002)
        assert (seen.problems, len(seen.requests)) == ([], 1)


def _asked(run: Run) -> int:
    """Requests of all comparisons; where both answers are the same, one is enough for both orders."""
    stages = [
        run.verdicts(None, one.pair, test_set) for one in comparisons(run) if one.judge is None for test_set in one.test_sets
    ]
    asked = (pa.concat_tables(stage.tables(stage.finished(), ["request_hash"])) for stage in stages)
    return sum(len(hashes["request_hash"].unique()) for hashes in asked)


def _run_all(run: Path, recipe_file: Path) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "jobs/run_all.py"), "--recipe", str(recipe_file), "--run", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, timeout=2000, check=False)
    return summary(done)


def _with_the_rules(run: Path, recipe_file: Path) -> None:
    knobs = ("compare.name=rules", "compare.judge={kind: rules}")
    summary(job("compare", run, "--recipe", str(recipe_file), *(part for knob in knobs for part in ("--set", knob)), "--json"))
