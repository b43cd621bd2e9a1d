"""The core of the package needs none of its extras, neither to be imported nor to rate, pick and report; others name theirs."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_architecture import HEAVY_AT_THE_TOP, imports, modules

from alpagasus_ray import extras
from toy_runs import ROOT

BLOCKED = sorted({*(name for names in extras.EXTRAS.values() for name in names), "torchvision", "accelerate", "wandb", "boto3"})
WITHOUT = f"""
import importlib.machinery, sys
class NotInstalled(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {BLOCKED} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = NotInstalled
"""


def python(code: str, *arguments: str, blocked: bool = True) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, in which no extra is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", (WITHOUT if blocked else "") + code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment | {"PYTHONPATH": str(ROOT)},
    )


def test_importing_the_package_loads_neither_ray_nor_torch() -> None:
    loaded = (
        "import alpagasus_ray, sys; print([name for name in ('ray', 'torch', 'pydantic', 'pyarrow') if name in sys.modules])"
    )
    done = python(loaded, blocked=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_module_but_those_of_training_workers_is_imported_without_an_extra() -> None:
    names = modules().keys() - _with_torch()
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    done = python(code, *("alpagasus_ray" if name == "__init__" else f"alpagasus_ray.{name}" for name in names))
    assert done.returncode == 0, done.stderr[-2000:]


def _with_torch() -> set[str]:
    """The modules of training's workers, which import torch or one another at once."""
    found = {f"training.{name}" for name in HEAVY_AT_THE_TOP}
    while more := {name for name in modules() if _at_once(name) & found} - found:
        found |= more
    assert {name.partition(".")[0] for name in found} == {"training"}
    return found


def _at_once(module: str) -> set[str]:
    return {each.target.removeprefix("alpagasus_ray.") for each in imports(module) if not each.inside_a_function}


VERBS = """
import contextlib, io, json, sys
import alpagasus_ray as ag
from alpagasus_ray.__main__ import main

run, data = sys.argv[1:]
rows = [{"instruction": f"Name {n} fruits.", "output": ", ".join(["apple"] * n)} for n in range(1, 9)]
open(data, "w").write(json.dumps(rows))
ag.rate(rows, run=run, kind="rules")
told = {}
prompts = data + ".jsonl"
open(prompts, "w").write('{"id": "1", "instruction": "Name a fruit."}')
sets = "generate.test_sets=[{name: demo, path: " + prompts + "}]"
train = ["-s", "finetune.model=nobody/nothing"]
for name, line in {
    "pick": ["pick", run, "-s", "pick.arms=[{name: all, policy: full}]"],
    "report": ["report", run],
    "status": ["status", run],
    "plan": ["plan", run, "-s", "finetune.model=" + run, "-s", "ingest.source=" + data, "-s", "score.judge.kind=rules", "-s",
             sets, "-s", "compare.judge.kind=rules", "-s", "pick.arms=[{name: all, policy: full}]",
             "-s", "compare.pairs=[[all, all]]"],
    "doctor": ["doctor", run, "-s", "score.judge.kind=rules"],
    "score": ["score", run, "-s", "score.judge={kind: vllm, model: nobody/nothing}", "-s", "score.name=other"],
    "train": ["train", run, *train, "-s", "finetune.arms=[all]"],
    "preview": ["train", run, *train, "-s", "finetune.arms=[all]", "--preview"],
    "answer": ["answer", run, "-s", "generate.models=[{name: base, path: nobody/nothing}]", "-s", sets],
    "run": ["run", run, *train, "-s", "ingest.source=" + data, "-s", "score.judge.kind=rules", "-s", sets, "-s",
            "compare.judge.kind=rules", "-s", "pick.arms=[{name: all, policy: full}, {name: half, policy: random, k: 4}]"],
}.items():
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(line)
    told[name] = [code, errors.getvalue()]
assert "ray" not in sys.modules or not __import__("ray").is_initialized()
print(json.dumps(told))
"""


def test_verbs_of_the_core_work_without_an_extra_and_the_others_name_theirs(tmp_path: Path) -> None:
    done = python(VERBS, str(tmp_path / "run"), str(tmp_path / "mine.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    for verb in ("pick", "plan", "report", "status", "doctor"):
        assert told[verb][0] == 0, told[verb]
    for verb, extra in {"score": "vllm", "answer": "vllm", "train": "train", "run": "train"}.items():
        code, errors = told[verb]
        assert (code, f"pip install 'alpagasus-ray[{extra}]'" in errors) == (2, True), (verb, errors)
    assert (told["preview"][0], "pip install transformers" in told["preview"][1]) == (2, True), told["preview"]


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_what_an_extra_is_said_to_bring_it_brings(extra: str) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    names = {line.partition("[")[0].partition("~")[0].partition(">")[0].replace("-", "_") for line in wanted}
    assert set(extras.EXTRAS[extra]) <= names
