"""DeepSpeed's compiled operations: a build that was killed keeps no later training waiting."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alpagasus_ray.training import native_ops

BUILD = [sys.executable, "-m", "alpagasus_ray.training.native_ops"]


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder of this environment's own in which all is built already."""
    subprocess.run(BUILD, check=True)
    home = native_ops._home()
    shutil.copytree(home, tmp_path / home.name)
    return tmp_path / home.name


def test_a_lock_that_a_killed_build_has_left_is_waited_for_by_nobody(built: Path, tmp_path: Path) -> None:
    operation = built / "deepspeed_shm_comm"
    (operation / "lock").touch()
    told = subprocess.run(
        BUILD, env={**os.environ, native_ops.FOLDER: str(tmp_path)}, check=True, timeout=120, capture_output=True, text=True
    )
    assert not (operation / "lock").exists()
    assert "compiling" not in told.stderr, "what is built is built no second time"


def test_each_environment_has_a_folder_of_its_own_below_the_one_that_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(native_ops.FOLDER, str(tmp_path))
    mine = native_ops._home()
    assert mine == tmp_path / f"alpagasus-{hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]}"
    monkeypatch.setenv(native_ops.FOLDER, str(mine))
    assert native_ops._home() == mine, "a process that is started by one that has set it"
    monkeypatch.setattr(sys, "prefix", "/another")
    assert native_ops._home() != mine


def test_a_machine_without_a_compiler_is_told_what_is_missing(tmp_path: Path) -> None:
    # in a process of its own: PyTorch compiles anew, under another name, what one process builds in two folders
    told = subprocess.run(
        BUILD,
        env={**os.environ, native_ops.FOLDER: str(tmp_path), "CXX": str(tmp_path / "no-compiler")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 1
    assert "compiling DeepSpeed's deepspeed_shm_comm, once" in told.stderr
    assert "deepspeed_shm_comm, without which no training runs here, could not be compiled" in told.stderr
    assert "a C++ compiler" in told.stderr
    assert "Traceback" not in told.stderr
