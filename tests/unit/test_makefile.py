"""The Makefile's targets, one after the other: an environment for each extra, never two in one. Nothing is installed: the
interpreter is a stand-in that writes down what it is asked for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from toy_runs import ROOT

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  for name in python pip uv ruff mypy; do cp "$0" "$3/bin/$name"; done
fi
"""


class Checkout:
    """A folder with the Makefile and a stand-in for Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-gpu.lock", "requirements-dev.lock"):
            shutil.copy(ROOT / name, folder)
        self.python, self.calls = folder / "python3", folder / "calls"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("EXTRA", "VENV", "MAKEFLAGS")}
        return subprocess.run(
            ["make", f"PYTHON={self.python}", *arguments],
            cwd=self.folder,
            env=environment | {"CALLS": str(self.calls)},
            capture_output=True,
            text=True,
            check=False,
        )

    def asked(self) -> list[str]:
        """What was run since the last look."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_each_extra_is_installed_once_into_an_environment_of_its_own(checkout: Checkout) -> None:
    assert checkout.make("install").returncode == 0
    asked = checkout.asked()
    assert any("--requirement requirements.lock" in line for line in asked)
    assert any("torch==2.13.0+cpu" in line for line in asked)
    assert checkout.make("install").returncode == 0
    assert checkout.asked() == [], "what is there is not installed again"
    assert checkout.make("install", "EXTRA=gpu").returncode == 0
    asked = checkout.asked()
    assert any("--requirement requirements-gpu.lock" in line for line in asked)
    assert not any("+cpu" in line for line in asked), "the other extra's torch"
    assert {path.name for path in checkout.folder.glob(".venv*")} == {".venv", ".venv-gpu"}
    assert checkout.make("install").returncode == checkout.make("install", "EXTRA=gpu").returncode == 0
    assert checkout.asked() == []


def test_two_extras_are_never_mixed_in_one_environment(checkout: Checkout) -> None:
    assert checkout.make("install").returncode == 0
    checkout.asked()
    mixed = checkout.make("install", "EXTRA=gpu", "VENV=.venv")
    assert mixed.returncode != 0
    assert "holds the packages of EXTRA=cpu" in mixed.stderr
    advised = mixed.stderr.partition("another folder: make ")[2].splitlines()[0].split()
    assert checkout.asked() == []
    assert checkout.make(*advised).returncode == 0
    assert (checkout.folder / ".venv-gpu" / "installed-gpu").exists()
    assert checkout.make("install", "EXTRA=tpu").returncode != 0


def test_a_change_of_the_lock_is_installed_and_clean_removes_what_was_made(checkout: Checkout) -> None:
    checkout.make("install")
    checkout.make("install", "EXTRA=gpu")
    checkout.asked()
    later = (checkout.folder / ".venv" / "installed-cpu").stat().st_mtime + 10
    os.utime(checkout.folder / "requirements.lock", (later, later))
    assert checkout.make("install").returncode == 0
    assert any("requirements.lock" in line for line in checkout.asked())
    (checkout.folder / "build").mkdir()
    assert checkout.make("build").returncode == 0
    assert [line for line in checkout.asked() if "wheel" in line] == [
        "pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist ."
    ]
    assert not (checkout.folder / "build").exists(), "what an earlier build has left would be packed"
    assert checkout.make("clean").returncode == 0
    assert list(checkout.folder.glob(".venv*")) == []


@pytest.mark.parametrize(
    "target", ["demo", "test", "test-long", "check", "faults", "bench", "audit", "lock", "build", "study", "docs"]
)
@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_every_target_installs_first_and_uses_the_environment_of_its_extra(checkout: Checkout, target: str, extra: str) -> None:
    shown = checkout.make("--dry-run", target, f"EXTRA={extra}").stdout
    folder = {"cpu": ".venv", "gpu": ".venv-gpu"}[extra]
    assert shown.index(f"-m venv {folder}\n") < shown.rindex(f"{folder}/bin/")
    assert all(word.startswith(f"{folder}/") for word in shown.split() if word.startswith(".venv") and "/" in word)
