"""The lock files: what is installed has a version and hashes there, and they are within the ranges of pyproject.toml."""

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from toy_runs import ROOT

LOCKS = {"cpu": "requirements.lock", "gpu": "requirements-gpu.lock", "dev": "requirements-dev.lock"}
NAME, HASH = r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z,]+\])?==([^ ;]+)[^\n]*\\\n", r"    --hash=sha256:[0-9a-f]{64}(?: \\)?\n"
ENTRY = re.compile(rf"{NAME}((?:{HASH})+)", re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, str]:
    return {entry[1]: entry[2] for entry in ENTRY.finditer((ROOT / LOCKS[name]).read_text())}


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_file_is_a_version_with_hashes(name: str) -> None:
    text = (ROOT / LOCKS[name]).read_text()
    assert ENTRY.sub("", text) == ""
    assert "://" not in text


def wanted(*extras: str) -> Iterator[Requirement]:
    """What the extras ask for, and the extras that they name."""
    for line in (line for extra in extras for line in PROJECT["optional-dependencies"][extra]):
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            yield from wanted(*requirement.extras)
        else:
            yield requirement


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_files_have_versions_that_the_project_allows(name: str) -> None:
    core = [Requirement(line) for line in PROJECT["dependencies"]]
    asked = wanted("dev") if name == "dev" else [*core, *wanted(name, "clouds")]
    found = locked("cpu") | locked("dev") if name == "dev" else locked(name)
    for requirement in asked:
        if (name, requirement.name) != ("cpu", "torch"):
            assert found[requirement.name.lower()] in requirement.specifier, str(requirement)


def test_the_core_asks_for_ranges_that_a_later_version_ends() -> None:
    for line in PROJECT["dependencies"]:
        operators = {part.operator for part in Requirement(line).specifier}
        assert operators in ({">=", "<"}, {"~="}), line


def test_what_tests_need_besides_is_locked_once() -> None:
    assert not locked("dev").keys() & locked("cpu").keys()
