"""The table of the fault matrix: a line for each scenario, whatever a verdict says, and all of it as JSON."""

import json
from collections import Counter

from faults.findings import VERDICT_LIMIT, Finding, markdown


def test_a_verdict_of_many_lines_is_one_short_line_of_the_table() -> None:
    found = Finding("toy", 5, Counter(kill=2), broken=["a\n  traceback\n" * 100, "more"])
    lines = markdown([found]).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| toy | 5 | 2 x kill | 0 |")
    verdict = lines[2].split(" | ")[-1].removesuffix(" |")
    assert verdict.startswith("a traceback a traceback")
    assert len(verdict) <= VERDICT_LIMIT


def test_a_finding_is_plain_json_with_its_whole_verdict() -> None:
    found = json.loads(json.dumps(Finding("toy", faults=Counter(kill=2), broken=["x" * 1000]).as_json()))
    assert (found["scenario"], found["faults"], found["verdict"]) == ("toy", {"kill": 2}, "x" * 1000)
