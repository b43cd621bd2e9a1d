"""The offline judge finds what it says it finds, and leaves good responses alone."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.engines.base import Request
from alpagasus_ray.engines.heuristic import PairRulesEngine, RulesEngine, rate, words_of
from alpagasus_ray.judging import parse_verdict
from alpagasus_ray.judging.parse_rating import SCORED, read
from alpagasus_ray.judging.rubric import Scale

GOOD = (
    "Regular exercise strengthens the heart, improves mood and helps people sleep. It also lowers the risk of several "
    "diseases. Even a short walk every day makes a difference that can be measured after a few weeks."
)


def _row(instruction: str, output: str, extra: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": extra, "output": output}


def test_a_good_response_scores_high() -> None:
    score, reasons = rate(_row("Explain why exercise is good for people.", GOOD))
    assert score >= 4
    assert "no mechanical failure" in reasons[0]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (_row("Describe a tree.", ""), "empty"),
        (_row("Draw a chart of the data.", "<nooutput>"), "placeholder"),
        (_row("Make a bar chart.", "[insert bar chart]"), "placeholder"),
        (_row("Summarize the text.", "The dog ran over the hill.", "The dog ran over the hill."), "repeats the input"),
        (_row("Describe the water cycle in detail.", "Describe the water cycle in detail."), "repeats the instruction"),
        (_row("Explain gravity.", GOOD + " It also helps because of the"), "breaks off"),
        (_row("Write about exercise.", "It is good for the heart and the mind. " * 12), "over and over"),
        (_row("Translate the sentence into French.", "The cat sleeps on the warm roof.", "The cat sleeps."), "French"),
        (_row("请解释一下什么是光合作用以及它的重要性", "Photosynthesis is how plants make sugar from light."), "script"),
        (_row("Name a good book.", "I'm sorry, but I cannot help with that."), "declines"),
        (_row("Write an essay about the sea.", "The sea is big."), "too short"),
        (_row("Write a 300 word story.", "Once there was a king."), "300 were asked"),
        (_row("List five animals.", "Dog, cat"), "fewer are given"),
        (_row("What is 17 + 25?", "17 + 25 is 43."), "the sum is wrong"),
        (_row("Name a colour.", "### Instruction:\nName a colour.\n### Response:\nBlue"), "markers"),
        (_row("Describe Rome.", "Rome is old \ufffd\ufffd and large, with many ruins."), "garbled"),
        (_row("Explain how to sort a list.", "Use this:\n```python\nsorted(values)"), "never closed"),
    ],
)
def test_each_failure_is_found_and_caps_the_score(row: dict[str, str], found: str) -> None:
    score, reasons = rate(row)
    assert any(found in reason for reason in reasons), reasons
    assert score <= 2.5


@pytest.mark.parametrize(
    "row",
    [
        _row("What is 17 + 25?", "17 + 25 = 42"),
        _row("List five animals.", "Dog, cat, horse, cow and sheep"),
        _row("Is the sky blue? Answer yes or no.", "Yes"),
        _row("Convert the text to uppercase.", "THE DOG RAN", "the dog ran"),
        _row("Translate 'hello' into French.", "Bonjour"),
        _row("Write a regular expression for digits.", r"\d+"),
        _row("What is left? Answer none if nothing is.", "None"),
        _row("Describe a hobby in 15 words or less.", "Gardening calms me and feeds my family."),
        _row("Translate into English.", "Where is the station, please?", "Où est la gare, s'il vous plaît ?"),
    ],
)
def test_honest_short_answers_are_not_failures(row: dict[str, str]) -> None:
    assert "no mechanical failure" in rate(row)[1][0]


def test_more_failures_score_lower_and_never_below_zero() -> None:
    one, _ = rate(_row("Explain gravity.", GOOD + " It also helps because of the"))
    two, _ = rate(_row("Explain gravity.", "\ufffd " + GOOD + " It also helps because of the"))
    assert 0 <= two < one


def test_the_reply_reads_like_a_judges_and_says_that_no_model_wrote_it() -> None:
    reply = asyncio.run(RulesEngine().complete(Request("key", [], _row("Explain gravity.", GOOD))))
    assert read(reply.text, reply.finish_reason, Scale()).status == SCORED
    assert "no language model" in reply.text


@pytest.mark.parametrize(
    ("first", "second", "winner"), [("It is four.", "", "first"), ("", "It is four.", "second"), ("", "", "tie")]
)
@pytest.mark.parametrize("form", ["scores", "verdict"])
def test_the_offline_judge_of_two_answers_prefers_the_one_without_failures(
    form: Any, first: str, second: str, winner: str
) -> None:
    row = {"instruction": "Add 2 and 2.", "input": "", "first": first, "second": second}
    reply = asyncio.run(PairRulesEngine(form).complete(Request("key", [], row)))
    assert parse_verdict.read(reply.text, reply.finish_reason, form, Scale(min=1, max=10, step=None)).winner == winner


PHOTOSYNTHESIS = (
    "光合作用是绿色植物利用阳光、二氧化碳和水制造有机物并释放氧气的过程。它发生在叶绿体中，分为光反应和暗反应两个阶段。"
    "光反应把光能变成化学能，暗反应用这些能量把二氧化碳变成糖。没有它，地球上的大多数生物都无法生存，"
    "因为它既提供食物，也提供我们呼吸的氧气。"
)


def test_a_text_without_blanks_is_as_long_as_what_it_says() -> None:
    row = _row("Explain photosynthesis in Chinese.", PHOTOSYNTHESIS)
    score, reasons = rate(row)
    assert not any("too short" in reason for reason in reasons)
    assert score >= 4
    assert any("too short" in reason for reason in rate(_row("Explain gravity.", "引力。"))[1])
    assert 40 <= words_of(PHOTOSYNTHESIS) <= 110
    assert words_of(GOOD) == len(GOOD.split()), "texts with blanks are measured as before"
    assert words_of(PHOTOSYNTHESIS * 2) == pytest.approx(2 * words_of(PHOTOSYNTHESIS), abs=1)


def test_real_chinese_outputs_are_not_all_called_short(shared: Path) -> None:
    rows = json.loads((shared / "sources/alpaca_zh.json").read_text())
    said = [words_of(row["output"]) for row in rows if len(row["output"]) >= 60]
    assert said
    assert min(said) >= 10
