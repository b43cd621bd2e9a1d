"""The lock files: what is installed has a version and hashes there, and they are those of pyproject.toml."""

import re
import tomllib

import pytest

from toy_runs import ROOT

LOCKS = {"cpu": "requirements.lock", "gpu": "requirements-gpu.lock", "dev": "requirements-dev.lock"}
NAME, HASH = r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z,]+\])?==([^ ;]+)[^\n]*\\\n", r"    --hash=sha256:[0-9a-f]{64}(?: \\)?\n"
ENTRY = re.compile(rf"{NAME}((?:{HASH})+)", re.MULTILINE)
WANTED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[\w,]+\])?==(\S+)$")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, str]:
    return {entry[1]: entry[2] for entry in ENTRY.finditer((ROOT / LOCKS[name]).read_text())}


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_file_is_a_version_with_hashes(name: str) -> None:
    text = (ROOT / LOCKS[name]).read_text()
    assert ENTRY.sub("", text) == ""
    assert "://" not in text


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_files_have_the_versions_of_the_project(name: str) -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = (
        extras["dev"] if name == "dev" else [*PROJECT["dependencies"], *extras[name], *extras["training"], *extras["clouds"]]
    )
    found = locked("cpu") | locked("dev") if name == "dev" else locked(name)
    for requirement in wanted:
        match = WANTED.match(requirement)
        if match is None:
            assert requirement == "alpagasus-ray[training]"
        elif (name, match[1]) != ("cpu", "torch"):
            assert found[match[1].lower()] == match[2], requirement


def test_what_tests_need_besides_is_locked_once() -> None:
    assert not locked("dev").keys() & locked("cpu").keys()
