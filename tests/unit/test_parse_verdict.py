"""Replies about two answers: what is read, what is set aside, and that a tie is never made of words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.judging import pair_rubric, parse_verdict
from alpagasus_ray.judging.parse_verdict import Verdict, read
from alpagasus_ray.judging.rubric import Scale

SCALE = pair_rubric.load("pairwise").scale

SAID = """
8:7.5 8:8.5 9:8.5 8:7.5 8:7.5 8:7.5 9:8.5 9:8.5 9:8.5 9:8.5 8:9.5 9:8.5 9:8.5 9:8.5 9:8.5 10:2 10:1 10:1 10:8 1:9
1:10 1:10 2:10 10:1 1:10 10:1 10:1 10:10 1:10 10:2 10:1 4:10 1:10 1:9 4:10 4:4 10:1 4:10 10:10 3:10
10:10 4:10 10:1 3:10 10:2 10:2 1:10 2:10 10:1 10:1 1:10 9:10 1:10 3:10 3:10 1:10 10:1 - - -
1:1 1:3 3:3 8:2 2:1 1:10 7:10 10:3 7:3 10:1 1:3 10:4 1:7 10:4 8:8 9:9 7:6 4:9 9:3 9:8
9:7 10:10 10:7 7:9 3:8 4:8 3:10 5:9 6:8 6:8 6:8 3:9 - 7:8 7:9 8:6 8:10 1 - 1
1 1 1 1 2 2 - 1 1 1 1 1 1 7:8 7:8 8:6 8:9 7:8 7:8 8:6
7:8 7:8 7:8 8:6 7:8 7:8 7:8 2 1 2 2 - 2 2 1 1 1 2 - -
- - - - - - - - - - - 1 - - - - - - - 2
- - - - - - 1 - - 1 - - - - - - 1 - - -
- -
""".split()
"""What the text of each of the 182 odd replies supports, read by hand, twenty a line: both scores, the one it prefers (`1` or
`2`), or nothing (`-`)."""
RECORDED_WRONG = {73: [10, 4], 75: [9, 9]}
"""Where a recorded pair is not what the reply says: 73 ends in `10` and `4`, 75 begins with `9/10` twice."""


def said(found: Verdict) -> str:
    if found.first is not None:
        return f"{found.first:g}:{found.second:g}"
    return {"first": "1", "second": "2", "tie": "=", None: "-"}[found.winner]


@pytest.fixture(scope="module")
def odd(shared: Path) -> list[dict[str, Any]]:
    text = (shared / "odd_replies/odd_judge_replies.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_each_odd_reply_is_read_as_its_text_supports_or_set_aside(odd: list[dict[str, Any]]) -> None:
    assert len(odd) == len(SAID) == 182
    found = [said(read(row["text"], "stop", "scores", SCALE)) for row in odd]
    assert [(n, got, want) for n, (got, want) in enumerate(zip(found, SAID, strict=True)) if got != want] == []


def test_no_odd_reply_is_a_tie_but_by_two_equal_scores(odd: list[dict[str, Any]]) -> None:
    for form in ("scores", "verdict"):
        for row in odd:
            found = read(row["text"], "stop", form, SCALE)
            assert found.winner != "tie" or (found.first is not None and found.first == found.second)
            assert (found.status == parse_verdict.JUDGED) == (found.winner is not None)
            assert found.winner or found.error


def test_pairs_of_scores_that_other_projects_found_are_found_but_where_they_misread(odd: list[dict[str, Any]]) -> None:
    for number, row in enumerate(odd):
        recorded = row["recorded"]
        if isinstance(recorded, list) and recorded != [-1, -1]:
            found = read(row["text"], "stop", "scores", SCALE)
            assert [found.first, found.second] == RECORDED_WRONG.get(number, recorded), number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8 7.5\nBoth are good.", "8:7.5"),
        ("8, 7\nBoth.", "8:7"),
        ("**8 9**\nB.", "8:9"),
        ("8/10 9/10\n", "8:9"),
        ("(8, 7)", "8:7"),
        ("Assistant 1: 8, Assistant 2: 9\nWhy.", "8:9"),
        ("Assistant 1: 8/10\nAssistant 2: 9/10\nWhy.", "8:9"),
        ("Why.\n\nScores:\nAssistant 1: 3\nAssistant 2: 7", "3:7"),
        ("Why.\nOutput: (3, 7)", "3:7"),
        ("I give Assistant 1 a score of 3 and Assistant 2 a score of 7.", "3:7"),
        ("Both assistants receive a score of 8.", "8:8"),
        ("7 7\nEqual.", "7:7"),
        ("8 7\r\nWhy.", "8:7"),
        ("**8** **9**\nWhy.", "8:9"),
        ("[[8]] [[9]]\nWhy.", "8:9"),
        ("Assistant 2: 9\nAssistant 1: 8\nWhy.", "8:9"),
        ("Why.\n\n**Scores:** 8 7", "8:7"),
        ("Why.\nScores:\n8 7", "8:7"),
        ("Compared.\n### Assistant 1: 8/10\nGood.\n### Assistant 2: 9/10\nBetter.", "8:9"),
        ("Assistant 1:\nScore: 6/10\nGood.\nAssistant 2:\nScore: 8/10", "6:8"),
        ("Assistant 1's score is 7 out of 10, and Assistant 2's score is 9 out of 10.", "7:9"),
        ("0 0\nNeither answers.", "0:0"),
        ("I would choose Assistant 2.", "2"),
        ("Since Assistant 2 did not answer, I would choose Assistant 1.", "1"),
        ("They are close, but if I had to choose, I would go with Assistant 2.", "2"),
        ("Answer A is better than Answer B.", "1"),
        ("Output (b) is much better.", "2"),
    ],
)
def test_the_usual_ways_to_tell_a_verdict_are_read(text: str, expected: str) -> None:
    assert said(read(text, "stop", "scores", SCALE)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        ("11 7\nGood.", "off scale"),
        ("4/5 3/5\nGood.", "off scale"),
        ("8\nThe first is good.", "no verdict"),
        ("Assistant 1: 8\nIt is good.", "no verdict"),
        ("Both answers are equally good.", "no verdict"),
        ("It is a tie.", "no verdict"),
        ("Neither is better.", "no verdict"),
        ("Output: (3, 7)\nOutput: (7, 3)", "contradiction"),
        ("Output (a) is better. No, Output (b) is better.", "contradiction"),
        ("- Helpfulness: 4/5\n- Accuracy: 5/5", "no verdict"),
        ("I'm sorry, I cannot judge this.", "refusal"),
    ],
)
def test_what_is_no_clear_verdict_is_set_aside_with_its_reason(text: str, reason: str) -> None:
    found = read(text, "stop", "scores", SCALE)
    assert found.winner is None
    assert found.error is not None
    assert reason in found.error


@pytest.mark.parametrize("form", ["scores", "verdict"])
@pytest.mark.parametrize(
    "text",
    [
        # one score is not two
        "Both were right, and I give Assistant 1 a score of 8.",
        "Both assistants answered, but Assistant 2 deserves a score of 9.",
        "I give both assistants a score of 8, though Assistant 1 deserves a score of 9.",
        "Assistant 1: 8/10\nGood.",
        # numbers that are no scores
        "1. 8\n2. 9\nWhy.",
        "(1) 8\n(2) 9\nWhy.",
        "8-9\nWhy.",
        "8 -7\nWhy.",
        "8 7 9\nWhy.",
        "I give Assistant 1 a score of 7-8 and Assistant 2 a score of 6-7.",
        "I give Assistant 1 a score of 9% and Assistant 2 a score of 7%.",
        "Both assistants deserve a score of 8 or higher.",
        "I compare them.\nAssistant 1: 5 units\nAssistant 2: 6 units\nThe length is 5.",
        "Assistant 1: 5, which is wrong.\nAssistant 2: 6, which is right.",
        "Answer 1 is 5.\nAnswer 2 is 6.",
        "The point is\n(3, 4)\nand both miss it.",
        "The output of Assistant 1 is (3, 4).",
        "The program prints\nOutput: 1\nwhich both miss.",
        "My answer is 2. Assistant 1 computes 3.",
        # scores of one criterion
        "For accuracy, I give Assistant 1 a score of 8 and Assistant 2 a score of 6.",
        "Both assistants receive a score of 9 for their overall accuracy.",
        "Helpfulness scores:\nAssistant 1: 8\nAssistant 2: 7",
        "1. Helpfulness\nAssistant 1: 8/10\nAssistant 2: 7/10\n2. Accuracy\nAssistant 1: 8/10\nAssistant 2: 7/10",
        # contradictions
        "I give Assistant 1 a score of 3 and Assistant 2 a score of 8.\nScores:\nAssistant 1: 8\nAssistant 2: 3",
        # denied, supposed, of others
        "I would not give both assistants a score of 8.",
        "I'd give both assistants a score of 8 if they had sources.",
        "I would have given Assistant 1 a score of 8 and Assistant 2 a score of 9.",
        "I would not choose Assistant 1.",
        "I do not think that Assistant 1 is better.",
        "It is hard to say whether Assistant 1 is better.",
        "If it had cited sources, Assistant 2 is better.",
        "One could argue that Assistant 1 is better.",
        "Some users prefer Assistant 2 for its brevity.",
        # half a choice
        "I would choose a different structure.",
        "I would choose Assistant 1, or Assistant 2.",
        "I would choose Assistant 1 for detail and Assistant 2 for brevity.",
        "Assistant 1 is better structured, and Assistant 2 is more accurate.",
        "It is a tie. Assistant 1 is better.",
    ],
)
def test_no_verdict_is_invented(text: str, form: Any) -> None:
    found = read(text, "stop", form, SCALE)
    assert (found.status, found.winner, found.first) == (parse_verdict.UNPARSED, None, None)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "8" + " " * 20_000,
        "\n" * 20_000,
        "- \n" * 8_000,
        "Assistant 1: 8" + " " * 20_000,
        "both " * 5_000,
        "neither " * 5_000,
        "tuple " * 5_000,
        "I choose 1, " * 3_000,
        "Assistant 1 a score of 8, " * 3_000,
        "score of 8 to Assistant 1 " * 3_000,
    ],
    ids=lambda text: text[:14].strip() or "blank",
)
def test_a_reply_that_repeats_itself_takes_no_longer_than_another(text: str) -> None:
    for form in ("scores", "verdict"):
        assert read(text, "stop", form, SCALE).status in parse_verdict.STATUSES


def test_a_reply_that_was_cut_counts_only_where_its_verdict_was_whole() -> None:
    assert read("8 7", "length", "scores", SCALE).status == parse_verdict.TRUNCATED
    assert read("8 7\nThe first", "length", "scores", SCALE).winner == "first"
    assert read("Long.\nAssistant 1 is", "length", "verdict", SCALE).status == parse_verdict.TRUNCATED
    assert read("[[B]]\nThe", "length", "verdict", SCALE).winner == "second"
    assert read("8 7\nGood.", "content_filter", "scores", SCALE).status == parse_verdict.REFUSED


def test_the_form_that_was_asked_for_comes_first() -> None:
    text = "8 7\nOn reflection: [[B]]"
    assert read(text, "stop", "scores", SCALE).winner == "first"
    assert read(text, "stop", "verdict", SCALE).winner == "second"


SCORES = st.integers(0, 100).map(lambda tenths: tenths / 10)


@given(SCORES, SCORES, st.sampled_from([" ", ", ", " / ", " | ", " and "]).filter(lambda sign: sign != " / "))
def test_two_scores_on_the_first_line_are_read_back(first: float, second: float, between: str) -> None:
    found = read(f"{first:g}{between}{second:g}\nBecause.", "stop", "scores", SCALE)
    assert (found.first, found.second) == (first, second)
    assert found.winner == ("tie" if first == second else "first" if first > second else "second")


@given(st.text(), st.sampled_from(["stop", "length", "refusal"]), st.sampled_from(["scores", "verdict"]))
def test_reading_never_fails(text: str, finish: str, form: Any) -> None:
    assert read(text, finish, form, Scale(min=1, max=10, step=None)).status in parse_verdict.STATUSES


TOKENS = "Assistant|Output|1|2|(a)|8|7.5|/10|score of|score is|is better|I choose|both|:|,|(|)|[[A]]|[[C]]|\n|.|not".split("|")


@given(st.lists(st.sampled_from(TOKENS), max_size=14).map(" ".join), st.sampled_from(["scores", "verdict"]))
def test_scores_are_numbers_of_the_text_and_a_tie_is_two_of_them_or_its_mark(text: str, form: Any) -> None:
    found = read(text, "stop", form, SCALE)
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
    assert {found.first, found.second} <= {None, *numbers}
    if found.winner == "tie":
        assert "[[C]]" in text if found.first is None else found.first == found.second


def test_published_reviews_are_read_as_they_were_recorded(shared: Path) -> None:
    differ = []
    for name in ("vicuna", "koala"):
        for row in json.loads((shared / f"verdicts/cherry_gpt4/{name}_wrap_reviews_gpt4.json").read_text())["data"]:
            for review in ("review", "review_reverse"):
                scores = json.loads(row[review.replace("review", "scores")])
                found = read(row[review], "stop", "scores", SCALE)
                differ += [(row[review][:80], scores, found)] if [found.first, found.second] != scores != [-1, -1] else []
    for path in sorted((shared / "verdicts/alpagasus2").glob("alp*.json")):
        for row in json.loads(path.read_text()):
            found = read(row["review"], "stop", "scores", SCALE)
            wrong = [found.first, found.second] != row["score"] and row["score"] != [-1, -1]
            differ += [(row["review"][:80], row["score"], found)] if wrong else []
    assert differ == []
