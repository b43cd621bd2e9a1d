"""The wheel in an environment of its own: what `pip install alpagasus-ray` brings rates, picks, compares and reports, and needs
neither a compiler nor any library that runs models."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from loopback import LoopbackJudge
from toy_runs import ROOT

HEAVY = {"torch", "vllm", "deepspeed", "transformers", "peft", "accelerate", "triton"}
PARTS = ("alpagasus_ray", "pyproject.toml", "README.md", "LICENSE")


class Installed:
    """An environment that holds the wheel and what it asks for. Nothing else is on the path of what runs there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.environment = {"PATH": str(self.bin), "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "TOY_KEY": "toy"}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / words[0]), *words[1:]]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=1500, check=False
        )

    def alpagasus(self, *words: str) -> str:
        """A verb that has to succeed; what it tells."""
        done = self.run("alpagasus", *words)
        assert done.returncode == 0, f"alpagasus {' '.join(words)}\n{done.stderr}"
        return done.stderr + done.stdout


def built(folder: Path) -> Path:
    """The wheel, as `make build` makes it, of a copy: a build leaves its traces in the sources."""
    source = folder / "source"
    source.mkdir()
    for part in PARTS:
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, source / part)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(source)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options], check=True, timeout=300)
    [wheel] = (folder / "dist").iterdir()
    return wheel


def megabytes(folder: Path) -> float:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("package")
    wheel = built(folder)
    home = Installed(folder / "environment")
    subprocess.run([sys.executable, "-m", "venv", str(home.folder)], check=True, timeout=120)
    # as a user's pip is told where packages are
    home.environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    started = time.monotonic()
    # a package that has no wheel would need a compiler
    done = home.run("python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", str(wheel))
    if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
        pytest.skip(f"the package index does not give what the wheel asks for: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    packages = json.loads(home.run("python", "-m", "pip", "list", "--format", "json").stdout)
    took = f"{time.monotonic() - started:.0f} s, {megabytes(home.folder):,.0f} MB, {len(packages)} packages"
    print(f"pip install of the core: {took}")
    return home


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_core_is_installed_without_a_library_that_runs_models(installed: Installed) -> None:
    names = {package["name"] for package in json.loads(installed.run("python", "-m", "pip", "list", "--format", "json").stdout)}
    assert not names & HEAVY
    assert "ray" in names
    assert installed.run("python", "-m", "pip", "check").returncode == 0
    assert installed.run("alpagasus", "--version").stdout.startswith("alpagasus-ray ")
    assert "alpagasus-7b" in installed.alpagasus("completion", "bash"), "recipes ship inside"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_core_rates_picks_compares_and_reports(installed: Installed, tmp_path: Path) -> None:
    run, rows = str(tmp_path / "runs" / "mine"), 40
    examples = [
        {"instruction": f"Count to {n}.", "output": " ".join(str(k) for k in range(1, n + 1))} for n in range(1, rows + 1)
    ]
    (tmp_path / "mine.json").write_text(json.dumps(examples))
    prompts = [{"id": str(n), "instruction": f"Count to {n}."} for n in range(1, 6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    for model, answer in (("first", "one two three"), ("second", "one")):
        answers = [{"id": prompt["id"], "output": answer} for prompt in prompts]
        (tmp_path / f"{model}-counting.json").write_text(json.dumps(answers))
    rating, comparing = LoopbackJudge(tmp_path / "rating.log"), LoopbackJudge(tmp_path / "comparing.log", "--pairs")
    try:
        installed.alpagasus("init", run, "--data", str(tmp_path / "mine.json"))
        asked = {"kind": "api", "model": "toy", "api_key_env": "TOY_KEY", "price": {"input": 1, "output": 1}}
        written = yaml.safe_load(Path(f"{run}.yaml").read_text())
        written["score"]["judge"] = asked | {"base_url": rating.base_url}
        written["pick"]["arms"] = [{"name": "selected", "policy": "top", "k": 10}, {"name": "random", "policy": "random"}]
        written["generate"] = {
            "models": [{"name": name, "answers": f"{tmp_path}/{name}-{{test_set}}.json"} for name in ("first", "second")],
            "test_sets": [{"name": "counting", "path": f"{tmp_path}/prompts.jsonl"}],
        }
        written["compare"] = {"pairs": [["first", "second"]], "judge": asked | {"base_url": comparing.base_url}}
        Path(f"{run}.yaml").write_text(yaml.safe_dump(written))
        recipe = ("-r", f"{run}.yaml")
        installed.alpagasus("ingest", run, *recipe)
        installed.alpagasus("score", run, *recipe, "-s", "score.judge={kind: rules}", "-s", "score.name=mechanical")
        for verb in ("score", "pick", "answer"):
            installed.alpagasus(verb, run, *recipe)
        assert len(rating.billed()) == rows
        assert "5 win" in installed.alpagasus("compare", run, *recipe)
        assert len(comparing.billed()) == 2 * len(prompts), "both orders"
        told = json.loads(installed.alpagasus("report", run, *recipe, "--json").splitlines()[-1])
        assert Path(told["page"]).stat().st_size > 10_000
        missing = installed.run("alpagasus", "train", run, *recipe, "-s", "finetune.model=x")
        assert (missing.returncode, "alpagasus-ray[train]" in missing.stderr) == (2, True)
    finally:
        rating.close()
        comparing.close()
