"""What is told of arms besides their numbers: whose score, how clean, how broad."""

from typing import Any

import pytest

from alpagasus_ray.config import Judge
from alpagasus_ray.reporting.selection_data import rule
from alpagasus_ray.reporting.stage_notes import picked_notes, score_notes
from alpagasus_ray.store.manifest import Manifest

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


def test_rows_that_a_cascade_left_unasked_are_no_failure_and_a_retry_is_not_advised_where_it_is_refused() -> None:
    asked = Manifest.model_construct(stage="ratings/judge", rows=10, counts={"scored": 9, "failed": 1}, details={})
    assert score_notes(asked, Judge()) == ["1 rows have no score (1 failed); --retry-failed asks for them again"]
    told = {"cascade": {"in_words": "asked about 4 of 10 rows", "saved_usd": None}}
    cascade = asked.model_copy(update={"counts": {"scored": 3, "failed": 1, "not_asked": 6}, "details": told})
    assert score_notes(cascade, Judge()) == ["asked about 4 of 10 rows", "1 rows have no score (1 failed)"]


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"policy": "top", "k": 9000}, "the 9,000 with the highest score"),
        ({"policy": "top", "share": 0.1}, "the 10% of the rows with the highest score"),
        ({"policy": "top", "tokens": 150000}, "the 150,000 tokens with the highest score"),
        (
            {"policy": "top", "k": 90, "tokens": 150000, "spread": "clusters"},
            "the 90 (at most 150,000 tokens) with the highest score; spread over clusters of similar examples",
        ),
        (
            {"policy": "top", "k": 90, "spread": "apart"},
            "the 90 with the highest score; none at a cosine of 0.9 or more to a better one",
        ),
        ({"policy": "longest", "k": 90, "shares": {"math": 0.3}}, "the longest outputs, 90; 30% of it from math"),
        ({"policy": "threshold", "thresholds": {"math": 4}}, "score of at least 4.5; at least 4 for math"),
        ({"policy": "random"}, "drawn at random, as many as the selected arm has (seed 0)"),
        ({"policy": "top", "k": 9, "floors": {"math": 3}}, "the 9 with the highest score; at least 3 of math"),
    ],
)
def test_the_rule_of_an_arm_says_its_size_and_how_it_is_divided(arm: dict[str, Any], words: str) -> None:
    assert rule(arm) == words
