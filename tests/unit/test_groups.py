"""Every test file is in exactly one group of `make test`, and a directory that takes too long is told."""

from pathlib import Path

import run

TESTS = Path(run.__file__).parent


def files_of(group: str) -> set[str]:
    """The test files that a group's arguments name."""
    given = run.paths_of(group)
    left_out = {argument.removeprefix("--ignore=") for argument in given if argument.startswith("--ignore=")}
    found = set()
    for path in given:
        if not path.startswith("--"):
            place = run.ROOT / path
            found |= {str(file.relative_to(run.ROOT)) for file in ([place] if place.is_file() else place.rglob("test_*.py"))}
    return found - left_out


def test_every_test_file_is_in_exactly_one_group() -> None:
    groups = [files_of(group) for group in run.GROUPS]
    every = {str(file.relative_to(run.ROOT)) for file in TESTS.rglob("test_*.py")}
    assert sorted(file for group in groups for file in group) == sorted(every)


def test_a_directory_that_takes_half_as_much_again_is_told_and_no_other() -> None:
    budgets = {"tests/unit": 100.0, "tests/ray": 200.0, "tests/faults": 50.0}
    [told] = run.over(budgets, {"tests/unit": 150.0, "tests/ray": 301.0})
    assert told.startswith("tests/ray: 301 s of CPU, and tests/times.json has 200 s")
