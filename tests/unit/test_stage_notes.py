"""What is told of arms besides their numbers: whose score, how clean, how broad."""

from typing import Any

import pytest

from alpagasus_ray.reporting.stage_notes import picked_notes

TESTS = [{"test_set": "vicuna", "prompts": 80, "found": 0, "rows": 0}]
CLEAN = {"tests": TESTS, "contaminated": 0, "texts_too_short": 0, "near": None, "near_repeats": 0}

DROPPED = "3 examples hold one and are dropped (contamination.tsv); 2 texts are too short to be looked for"


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ({}, []),
        ({"clean": CLEAN}, ["compared with 80 prompts of vicuna, by word 8-grams: clean"]),
        (
            {"clean": {**CLEAN, "contaminated": 3, "texts_too_short": 2, "near": 0.8, "near_repeats": 5}},
            [
                f"compared with 80 prompts of vicuna, by word 8-grams: {DROPPED}",
                "near repeats (similarity of 0.8 or more): 5 left out",
            ],
        ),
        (
            {"chosen_by": {"judge": 1200, "first judge": 30, "first judge, above the band": 0}},
            ["of ratings by a cascade: 1,200 by the score of the judge, 30 by the score of the first judge"],
        ),
    ],
)
def test_only_what_was_looked_for_is_told(details: dict[str, Any], told: list[str]) -> None:
    assert list(picked_notes(details)) == told
