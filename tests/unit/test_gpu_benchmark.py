"""`benchmarks/gpu.sh` runs to its end on a CPU, and what fails in it is told beside what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toy_runs import ROOT


def report(*options: str, folder: Path) -> dict[str, Any]:
    """What the script prints, with no wheels carried."""
    done = subprocess.run(
        ["sh", str(ROOT / "benchmarks/gpu.sh"), "--tiny", *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"WHEELS": str(folder), "PYTHON": sys.executable},
    )
    assert done.stdout, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if all(section["finished"] for section in found["sections"].values()) else 1)
    return found


def right(rows: list[dict[str, Any]]) -> None:
    assert not [row for row in rows if "failed" in row]
    gaps = [value for row in rows for name, value in row.items() if name.startswith("gap")]
    assert not gaps or max(gaps) < 2e-2


def test_each_lever_is_tried_and_the_loss_does_not_depend_on_it(tmp_path: Path) -> None:
    loop = report("--only", "loop", folder=tmp_path)["sections"]["loop"]
    assert loop["finished"], loop["why"]
    right(loop["rows"])
    assert loop["rows"][0]["updated by"] == "DeepSpeed"
    ways = {row["way"] for row in loop["rows"][1:]}
    assert {"all on", "whole logits", "padded to the longest of 16", "all layers computed again", "AdamW, fused"} <= ways
    assert all(row["tokens_per_s"] > 0 for row in loop["rows"][1:] if "pack" in row)


@pytest.mark.long
def test_a_section_that_fails_is_told_with_its_reason_and_ends_nothing_else(tmp_path: Path) -> None:
    found = report("--only", "losses,model", "--model", str(tmp_path / "nowhere"), folder=tmp_path)["sections"]
    assert (found["losses"]["finished"], found["model"]["finished"]) == (True, False)
    right(found["losses"]["rows"])
    assert "nowhere" in found["model"]["why"]


@pytest.mark.long
def test_all_of_it_runs_and_a_carried_model_is_finetuned(shared: Path, tmp_path: Path) -> None:
    found = report("--model", str(shared / "tiny_llama"), folder=tmp_path)["sections"]
    assert list(found) == ["losses", "attention", "loop", "model"]
    for name, section in found.items():
        assert section["finished"], (name, section["why"])
        right(section["rows"])
    (model,) = found["model"]["rows"]
    assert model["loss last"] < model["loss first"] + 1
