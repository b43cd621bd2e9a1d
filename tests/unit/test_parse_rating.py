"""Reading a judge's reply: what is read, what is refused, and that no number is invented."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.judging.parse_rating import REFUSED, SCORED, TRUNCATED, UNPARSED, read
from alpagasus_ray.judging.rubric import Scale

SCALE = Scale(min=0, max=5, step=0.5)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("4.5", 4.5),
        ("4.5\nThe response is right.", 4.5),
        ("0", 0.0),
        ("  3 \n", 3.0),
        ("\n\n4\nfine", 4.0),
        ("Score: 4.5", 4.5),
        ("Score:4.5", 4.5),
        ("score = 2", 2.0),
        ("Rating - 4", 4.0),
        ("4.5/5", 4.5),
        ("4.5 / 5\nbecause", 4.5),
        ("4 out of 5", 4.0),
        ("**4**", 4.0),
        ("**Score:** 4.5", 4.5),
        ("**Score: 4.5/5**", 4.5),
        ("[[3.5]]", 3.5),
        ('"4"', 4.0),
        ("4.", 4.0),
        ("# Score: 3", 3.0),
        ("Score (0-5): 4", 4.0),
        ("Accuracy score: 4", 4.0),
        ("The overall rating is 3", 3.0),
        ("The response is good.\n\nRating: [[4]]", 4.0),
        ("Some thoughts.\nScore: 3\nAs I said:\nScore: 3", 3.0),
    ],
)
def test_a_score_is_read_from_the_strict_and_the_lenient_forms(reply: str, score: float) -> None:
    assert read(reply, "stop", SCALE)[:2] == (SCORED, score)


@pytest.mark.parametrize(
    "reply",
    [
        "45",
        "-1",
        "5.5",
        "4.2",
        "nan",
        "inf",
        "4/10",
        "9 out of 10",
        "8 7.5\nBoth are good.",
        "3-4",
        "4 or 5",
        "Rating -1",
        "I would give it 4.5 points, because it is right.",
        "The answer 42 is right.",
        "Score: 3\nOn reflection:\nNot yet.".replace("Score: 3\n", "Hm.\nScore: 3\nScore: 4\n"),
        "2024 was a good year",
        "good",
        "",
        " \n ",
        "1. The response is right.\n2. It is short.",
        "Score: high",
        "four",
    ],
)
def test_a_reply_without_one_clear_legal_score_is_unparsed(reply: str) -> None:
    reading = read(reply, "stop", SCALE)
    assert (reading.status, reading.score) == (UNPARSED, None)
    assert reading.error


@pytest.mark.parametrize(
    "reply", ["I'm sorry, but I can't rate this.", "I cannot evaluate this content.", "I am unable to provide a score."]
)
def test_a_refusal_is_its_own_status(reply: str) -> None:
    assert read(reply, "stop", SCALE).status == REFUSED


def test_a_score_wins_over_the_words_of_a_refusal_in_its_explanation() -> None:
    assert read("1\nI'm sorry to say that the response is wrong. I cannot give more.", "stop", SCALE)[:2] == (SCORED, 1.0)


@pytest.mark.parametrize("finish_reason", ["refusal", "content_filter"])
def test_what_the_provider_marks_as_refused_is_refused_whatever_it_says(finish_reason: str) -> None:
    assert read("4.5", finish_reason, SCALE).status == REFUSED


def test_a_cut_reply_counts_only_when_its_score_line_was_ended() -> None:
    assert read("4.5\nThe response is mos", "length", SCALE)[:2] == (SCORED, 4.5)
    assert read("4", "length", SCALE).status == TRUNCATED
    assert read("The response", "length", SCALE).status == TRUNCATED
    assert read("", "length", SCALE).status == TRUNCATED


def test_the_scale_of_the_rubric_decides_what_is_legal() -> None:
    assert read("7.5/10", "stop", Scale(min=1, max=10, step=0.5))[:2] == (SCORED, 7.5)
    assert read("4.25", "stop", Scale(min=0, max=5, step=None))[:2] == (SCORED, 4.25)
    assert read("3.5", "stop", Scale(min=0, max=5, step=1)).status == UNPARSED


@given(st.text(max_size=60))
def test_no_number_is_invented(reply: str) -> None:
    reading = read(reply, "stop", Scale(min=0, max=5, step=None))
    if reading.status == SCORED:
        assert reading.score in [float(number) for number in re.findall(r"-?\d*\.?\d+", reply)]


@pytest.mark.parametrize("scale", [SCALE, Scale(min=1, max=10, step=0.5)])
def test_every_odd_reply_gives_a_number_of_its_own_text_or_none(shared: Path, scale: Scale) -> None:
    replies = [json.loads(line) for line in (shared / "odd_replies/odd_judge_replies.jsonl").read_text().splitlines()]
    assert len(replies) == 182
    for reply in replies:
        reading = read(reply["text"], "stop", scale)
        if reading.status == SCORED:
            # only the replies that rate one answer hold a score; pairs and verdicts are for another reader
            assert reply["category"] in ("half_point_rating", "rating_without_brackets")
            assert re.search(rf"Rating: (\[\[)?{reading.score:g}(\]\])?\s*$", reply["text"])
        else:
            assert reading.score is None


def test_odd_single_ratings_are_all_read_on_their_own_scale(shared: Path) -> None:
    replies = [json.loads(line) for line in (shared / "odd_replies/odd_judge_replies.jsonl").read_text().splitlines()]
    ratings = [reply for reply in replies if reply["category"] in ("half_point_rating", "rating_without_brackets")]
    assert [read(reply["text"], "stop", Scale(min=1, max=10, step=0.5)).status for reply in ratings] == [SCORED] * 12
