"""Ctrl-C in every stage of one `run_all`: a message and code 1, never 0, and the same command goes on from there."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpagasus_ray.store.run import Run
from loopback import JudgeStarter, LoopbackJudge
from toy_runs import ROOT, ratings

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (make install)")

ROWS, PROMPTS = 300, 40
STAGES = ["ingest", "score", "pick_subset", "finetune", "generate", "compare", "card", "report"]
PATIENCE_S = 240.0


def recipe(shared: Path, folder: Path, judge: str, referee: str) -> dict[str, Any]:
    """Every step is real; answers come from a server, so that no second engine has to start."""
    rows = [f'{{"instruction": "Say {n}.", "input": "", "output": "The number is {n}."}}' for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    prompts = [f'{{"instruction": "What is {n}?"}}' for n in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(prompts))
    asked = {"kind": "api", "model": "toy", "base_url": judge}
    return {
        "ingest": {"source": str(folder / "rows.jsonl"), "rows_per_shard": 50},
        "score": {"judge": asked, "concurrency": 8},
        "pick": {"arms": [{"name": "few", "policy": "random", "k": 64}]},
        "finetune": {"model": str(shared / "tiny_llama"), "steps": 12, "global_batch": 8, "precision": "float32", "gpu": False}
        | {"workers": 1, "tensorboard": False, "max_length": 256},
        "generate": {
            "test_sets": [{"name": "toy", "path": str(folder / "prompts.jsonl")}],
            "models": [{"name": name, "api": "toy", "base_url": judge, "seed": seed} for seed, name in enumerate(("a", "b"))],
            "concurrency": 4,
        },
        "compare": {"pairs": [["a", "b"]], "judge": {**asked, "base_url": referee}, "concurrency": 4},
        "report": {"arm": "a"},
    }


class Call:
    """One `run_all` process, in a session of its own, where Ctrl-C is not ignored."""

    def __init__(self, run: Path, file: Path, log: Path) -> None:
        command = [sys.executable, str(ROOT / "jobs/run_all.py"), "--recipe", str(file), "--run", str(run)]
        self._log = log
        with open(log, "w", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-c", NOT_IGNORED, *command], stdout=stream, stderr=stream, start_new_session=True
            )

    @property
    def told(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def has_told(self, text: str) -> bool:
        return text in self.told

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert self._process.poll() is None, f"it ended early: {self.told}"
            assert time.monotonic() < deadline, f"it does not come: {self.told}"
            time.sleep(0.01)

    def interrupt(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()


NOT_IGNORED = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_ctrl_c_in_every_stage_ends_with_a_message_and_code_1_and_the_same_command_goes_on(
    judge: JudgeStarter, shared: Path, tmp_path: Path
) -> None:
    server, referee = judge("--latency", "0.2"), judge("--pairs", "--latency", "0.2")
    file, folder = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(recipe(shared, tmp_path, server.base_url, referee.base_url)))
    middles = middles_of(Run.open(str(folder)), server, referee)
    for number, stage in enumerate(STAGES, 1):
        call = Call(folder, file, tmp_path / f"{stage}.log")
        call.until(partial(call.has_told, f"[{number}/{len(STAGES)}] {stage}"))
        if stage in middles:
            call.until(middles[stage])
        code, told = call.interrupt(), call.told
        assert (code, told.count("error:")) == (1, 1), f"{stage}: {code}, {told}"
        assert "interrupted" in told, told
        assert "Traceback" not in told, told
        assert f"[{number + 1}/" not in told, f"{stage} was over before the signal came"
    last = Call(folder, file, tmp_path / "last.log")
    assert last.wait() == 0, last.told
    assert ratings(Run.open(str(folder))).num_rows == ROWS
    assert re.search(r"experiment: done", last.told)
    assert (folder / "report" / "index.html").exists()
    assert os.path.isfile(folder / "models" / "few" / "model.safetensors")


def middles_of(run: Run, server: LoopbackJudge, referee: LoopbackJudge) -> dict[str, Callable[[], bool]]:
    """When a stage is in the middle of its work; the others are interrupted as soon as they have begun."""
    states = Path(run.storage.root) / "models" / "few" / "state"
    return {
        "score": lambda: len(server.taken()) > 20,
        "finetune": states.exists,
        "generate": lambda: len(server.taken()) > ROWS + 10,
        "compare": lambda: len(referee.taken()) > 10,
    }
