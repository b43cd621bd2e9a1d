"""What `ray job submit --working-dir .` sends from a checkout, packed by Ray itself: the code, and neither keys nor outputs."""

import os
import subprocess
import zipfile
from pathlib import Path

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from alpagasus_ray.doctor import upload
from toy_runs import ROOT

KEY = "sk-canary-0123456789abcdef"


def _packed(folder: Path, target: Path) -> set[str]:
    """What Ray really packs, as `ray job submit --working-dir` does."""
    create_package(str(folder), target, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(target) as package:
        return {name for name in package.namelist() if not name.endswith("/")}


def _tracked() -> list[str]:
    """What jobs need of this project."""
    listing = ["git", "ls-files", "alpagasus_ray", "jobs", "examples"]
    return subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def _checkout(folder: Path) -> Path:
    """A folder with this project's ignore files, its code, and things that must not leave it."""
    for file in _tracked():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes((ROOT / file).read_bytes())
    (folder / "recipes").symlink_to(os.readlink(ROOT / "recipes"))
    for name in (".rayignore", ".gitignore"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(KEY)
    return folder


PRIVATE = (
    ".env", ".env.local", "openai.key", "jobs/.env", "keys/openai", "secrets/openai.txt", "server.pem", "id_ed25519",
    ".ray/auth_token", "runs/mine/recipe.yaml", ".git/config", ".venv/bin/python", "alpagasus_ray.egg-info/PKG-INFO",
    "alpagasus_ray/__pycache__/cli.pyc", ".mypy_cache/x", "models/judge/config.json", "model.safetensors",
    "data/rows.json", "rows.parquet", "train.arrow", "mine/rows.jsonl", "rows.jsonl.gz",
)  # fmt: skip


def test_an_upload_holds_the_code_and_neither_keys_nor_outputs(tmp_path: Path) -> None:
    packed = _packed(_checkout(tmp_path / "work"), tmp_path / "package.zip")
    assert not packed & set(PRIVATE)
    assert {*_tracked(), "recipes/quickstart.yaml"} <= packed, "what a job is told by either path"


def test_small_data_in_json_or_csv_outside_the_data_folder_is_sent(tmp_path: Path) -> None:
    folder = _checkout(tmp_path / "work")
    for name in ("rows.json", "mine/rows.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("[]")
    assert {"rows.json", "mine/rows.csv"} <= _packed(folder, tmp_path / "package.zip")


def test_without_the_ignore_file_a_key_would_be_sent(tmp_path: Path) -> None:
    folder = _checkout(tmp_path / "work")
    (folder / ".rayignore").unlink()
    assert {".env", "openai.key", "keys/openai"} <= _packed(folder, tmp_path / "package.zip")


def test_the_doctor_counts_what_ray_packs(tmp_path: Path) -> None:
    folder = _checkout(tmp_path / "work")
    sent = {str(file.path.relative_to(folder)) for file in upload.sent_files(folder)}
    assert sent == _packed(folder, tmp_path / "package.zip")
