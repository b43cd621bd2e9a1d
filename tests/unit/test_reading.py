"""Both readers on whatever judges write around a score: what is not the reply is taken off first, and a number comes out
only where a score stands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.engines.base import FINISH_REASONS
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging import cleaning, pair_rubric, parse_rating, parse_verdict, rubric
from alpagasus_ray.judging.rubric import Scale

SCALE = Scale(min=0, max=5, step=0.5)
TEN = pair_rubric.load("pairwise").scale


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_handed_rating_is_read_as_its_text_supports_or_set_aside(shared: Path) -> None:
    cases = _lines(shared / "cases/rating_replies.jsonl")
    assert len(cases) == 95
    for case in cases:
        asked = rubric.load(case["rubric"])
        found = parse_rating.read(case["reply"], case["finish_reason"], asked.scale, asked.dimension)
        assert (found.score if found.status == parse_rating.SCORED else found.status) in case["accept"], case
        assert (found.score is None) == (found.error is not None)


def test_every_handed_verdict_is_read_as_its_text_supports_or_set_aside(shared: Path) -> None:
    cases = _lines(shared / "cases/verdict_replies.jsonl")
    assert len(cases) == 50
    for case in cases:
        asked = pair_rubric.load(case["form"])
        found = parse_verdict.read(case["reply"], case["finish_reason"], asked.form, asked.scale)
        assert (found.winner or found.status) in case["accept"], case


THINKERS: dict[str, Callable[[str, str], str]] = {
    "think": lambda thought, said: f"<think>\n{thought}\n</think>\n\n{said}",
    "thinking": lambda thought, said: f"<thinking>{thought}</thinking>{said}",
    "named": lambda thought, said: f"<seed:think>{thought}</seed:think>{said}",
    "brackets": lambda thought, said: f"[THINK]{thought}[/THINK]\n{said}",
    "closing mark alone": lambda thought, said: f"{thought}\n</think>\n\n{said}",
    "answer in a tag": lambda thought, said: f"<think>{thought}</think>\n<answer>\n{said}\n</answer>",
    "two blocks": lambda thought, said: f"<think>{thought}</think><think>{thought}</think>{said}",
    "mark quoted in it": lambda thought, said: f"<think>It says `</think>`.\n{thought}\n</think>\n{said}",
    "channels": lambda thought, said: (
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{said}<|return|>"
    ),
    "channels without tokens": lambda thought, said: f"analysisWell. {thought}assistantfinal{said}",
    "in the middle": lambda thought, said: f"{said}\n<think>{thought}</think>",
}


@pytest.mark.parametrize("around", THINKERS.values(), ids=THINKERS)
def test_what_a_model_thinks_is_never_read_as_what_it_says(around: Callable[[str, str], str]) -> None:
    for thought in ("Score: 5", "5", '{"score": 5}', "Final score: 5", "[[A]]", "9 5"):
        assert parse_rating.read(around(thought, "2\nWrong dates."), "stop", SCALE)[:2] == ("scored", 2.0)
        assert parse_verdict.read(around(thought, "4 7\nWhy."), "stop", "scores", TEN).winner == "second"
        assert parse_verdict.read(around(thought, "Why.\n[[B]]"), "stop", "verdict", TEN).winner == "second"
        assert cleaning.clean(around(thought, "An answer.")).text.strip() == "An answer."


@pytest.mark.parametrize(
    "text", ["<think>\nScore: 5\n", "[THINK]5\n", "<|channel|>analysis<|message|>Score: 5\n", "analysisWe see\n5\n"]
)
def test_thoughts_without_an_end_are_no_reply(text: str) -> None:
    assert parse_rating.read(text, "length", SCALE).status == parse_rating.TRUNCATED
    assert parse_rating.read(text, "stop", SCALE).status == parse_rating.UNPARSED
    assert parse_verdict.read(text, "length", "verdict", TEN).status == parse_verdict.TRUNCATED
    assert cleaning.visible(text) == ("", True)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff4",
        "4</s>",
        "4<|im_end|>",
        "4<｜end▁of▁sentence｜>",
        "<s>4</s>",
        "<|im_start|>assistant\n4<|im_end|>",
        "4\u200b",
        "４",
        "4<|im_end|>\n<|im_start|>user\nScore: 2",
        "\u2066٤\u2069",
        "4,0",
    ],
)
def test_control_tokens_marks_of_the_encoding_and_other_scripts_do_not_hide_a_score(text: str) -> None:
    assert parse_rating.read(text, "stop", SCALE)[:2] == ("scored", 4.0)


@pytest.mark.parametrize("text", ["²", "½", "4½", "④", "1,000", "4²"])
def test_signs_that_are_no_plain_digits_are_no_score(text: str) -> None:
    assert parse_rating.read(text, "stop", SCALE).status == parse_rating.UNPARSED


def test_an_answer_keeps_its_own_words_letters_and_marks_of_html() -> None:
    for text in ("x² + ½ ＝ ４", "<s>old</s> and <s>older</s>", "Use `<think>` and `</think>` there.", "a\u200db"):
        assert cleaning.visible(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "评分：4",
        "总分：4分",
        "最终评分是4",
        "评分：4分（满分5分）",
        "准确性：4",
        "Puntuación: 4",
        "Puntuación final: 4 de 5",
        "Bewertung: 4,0",
        "Gesamtbewertung: 4 von 5",
        "Genauigkeit: 4",
        "Note : 4/5",
        "Note finale : 4 sur 5",
        "评分: 4。回答正确",
    ],
)
def test_labels_of_other_languages_are_labels(text: str) -> None:
    assert parse_rating.read(text, "stop", SCALE)[:2] == ("scored", 4.0)


@pytest.mark.parametrize(
    "text",
    [
        "Maximum score: 5",
        "IMDb rating: 4.5",
        "User rating: 5",
        "IMDb overall score: 4",
        "Helpfulness score: 3",
        "Confidence: 4",
        "Final answer: 4",
        "General: 4",
        "Grade: 4",
        "评分: 4分（满分10分）",
        "4 of the 5 facts are right",
        "Score: 4-5",
        "Score: 80%",
        "The text holds <score>5</score> as a trick",
        "The response says \\boxed{4} here.",
        "The correct answer is:\n5",
        "> Score: 5\nbad",
        'It quotes {"score": 5} there.\nBad.',
        "The instruction says:\nScore: 5\nThe response ignores it.",
        '{"rating": {"score": 4}}',
        '{"score": true}',
        '{"score": 4, "score": 2}',
        '{"score": NaN}',
        "4)",
        "4 5",
        "4, 5",
    ],
)
def test_no_other_word_is_a_label_and_no_other_place_holds_a_score(text: str) -> None:
    assert parse_rating.read(text, "stop", SCALE)[:2] == ("unparsed", None)


@pytest.mark.parametrize(
    "text",
    [
        "4\nSo the final score is 2.",
        "4\nI give it a 2.",
        "4\n\nScore: 2",
        "Score: 4\nWhy.\nFinal score: 2\nWhy not.",
        '{"score": 4}\n{"score": 2}',
        "4 - the final score is 2",
    ],
)
def test_scores_that_differ_are_a_contradiction(text: str) -> None:
    found = parse_rating.read(text, "stop", SCALE)
    assert (found.score, str(found.error).partition(":")[0]) == (None, "contradiction")


def test_what_a_judge_quotes_or_supposes_does_not_take_its_score_away() -> None:
    for text in ("1\nThe response says\nScore: 5\nto trick me.", "1\nI would give it a 5 if it had sources."):
        assert parse_rating.read(text, "stop", SCALE).score == 1


def test_the_dimension_of_the_rubric_decides_which_label_is_its_own() -> None:
    text = "Helpfulness score: 3\nAccuracy score: 4"
    assert parse_rating.read(text, "stop", SCALE, "accuracy").score == 4
    assert parse_rating.read(text, "stop", SCALE, "helpfulness").score == 3


def test_a_rubric_may_read_replies_by_a_pattern_of_its_own(tmp_path: Path) -> None:
    shipped = rubric.load("accuracy")
    own = shipped.model_copy(update={"reply": r"Note du jury ?: ([0-9,.]+)"})
    assert parse_rating.read("Bon.\nNote du jury : 3,5\nFin.", "stop", SCALE, pattern=own.reply).score == 3.5
    assert parse_rating.read("4\nScore: 4", "stop", SCALE, pattern=own.reply).status == parse_rating.UNPARSED
    file = tmp_path / "rubric.yaml"
    for pattern, words in (("Grade: [0-9]", "has no group"), ("(", "is no regular expression")):
        file.write_text(json.dumps({**shipped.model_dump(mode="json"), "reply": pattern}))
        with pytest.raises(UsageError, match=words):
            rubric.load(str(file))


@pytest.mark.parametrize("word", ["tool_calls", "error", "MAX_TOKENS", ""])
def test_an_end_that_is_not_known_never_counts_and_is_told_by_its_word(word: str) -> None:
    assert word not in FINISH_REASONS
    found = parse_rating.read("4", word, SCALE)
    assert (found.status, found.score) == (parse_rating.FAILED, None)
    assert repr(word) in str(found.error)
    assert parse_verdict.read("8 7", word, "scores", TEN).status == parse_verdict.FAILED


def test_a_text_that_stands_only_in_the_reasoning_is_said_and_never_read() -> None:
    for found in (
        parse_rating.read("", "stop", SCALE, reasoning="Score: 3"),
        parse_verdict.read(" ", "stop", "scores", TEN, reasoning="8 7"),
    ):
        assert found.status == "unparsed"
        assert "the text is in reasoning" in str(found.error)


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("[[A]]", "first"),
        ("Fine.\n[[Tie]]", "tie"),
        ("Why.\n[[A>>B]]", "first"),
        ("Why.\n[[B>A]]", "second"),
        ("Why.\n[[A=B]]", "tie"),
        ("Why.\nFinal verdict: B", "second"),
        ("Winner: Assistant A\nWhy.", "first"),
        ('```json\n{"winner": "B"}\n```', "second"),
        ("So it is clear: [[B]].", "second"),
        ("I considered [[A]] but choose [[B]]", "second"),
        ("[[A]] or rather [[B]]", None),
        ("[[A]]\n[[B]]", None),
        ("It tries [[A]] there.\nI cannot say.", None),
        ("8 7", None),
        ("Answer: B", None),
        ("I do not choose [[A]]", None),
    ],
)
def test_a_mark_counts_where_the_judge_gives_it_and_no_score_does(text: str, winner: str | None) -> None:
    assert parse_verdict.read(text, "stop", "verdict", TEN).winner == winner


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("8,5 7,5\nWhy.", (8.5, 7.5)),
        ("8,5\nWhy.", None),
        ("8\n7\nWhy.", (8, 7)),
        ("Good and bad.\n\n8 6", (8, 6)),
        ("[[A]]", None),
        ("Score of Assistant 1: 8\nScore of Assistant 2: 7", (8, 7)),
        ('{"assistant_1": 8, "assistant_2": 7}', (8, 7)),
        ("8 7\nThe dates are wrong.\nFinal scores: 6 9", None),
        ("The point is:\n3 4", None),
    ],
)
def test_scores_count_where_both_are_given_and_no_mark_does(text: str, pair: tuple[float, float] | None) -> None:
    found = parse_verdict.read(text, "stop", "scores", TEN)
    assert (found.first, found.second) == (pair or (None, None))
    assert (found.winner is None) == (pair is None)


# made replies


class Piece(NamedTuple):
    """A line of a made reply, and the score that it may give."""

    text: str
    value: float | None = None
    anywhere: bool = False
    """Whether it counts on every line, or only on the first and the last."""


NUMBERS = st.integers(0, 10).map(lambda halves: halves / 2)
THOUGHTS = st.sampled_from(["<think>\n{}\n</think>\n", "<thinking>{}</thinking>", "[THINK]{}[/THINK]\n", "{}\n</think>\n"])
FENCES = st.sampled_from(["{}", "```\n{}\n```", "{}</s>", "\ufeff{}", "{}<|im_end|>"])


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    number = draw(NUMBERS)
    shown = draw(st.sampled_from([f"{number:g}", f"{number:.1f}", f"{number:g}/5", f"{number:.1f}".replace(".", ",")]))
    shape, anywhere = draw(
        st.sampled_from(
            [
                ("{}", False),
                ("Score: {}", False),
                ("**Rating:** {}", False),
                ("Accuracy score: {}", False),
                ("{} - good", False),
                ("Final score: {}", True),
                ("Overall: {}", True),
                ("<score>{}</score>", True),
                ("- Score: {}", False),
                ('{{"score": "{}"}}', False),
                ("评分：{}", False),
                ("{} (mostly right)", False),
            ]
        )
    )
    return Piece(shape.format(shown), number, anywhere)


PROSE = st.sampled_from(
    [
        "The response is right.",
        "It names 3 of the 5 facts.",
        "Maximum score: 5",
        "IMDb rating: 4.5",
        "Helpfulness score: 3",
        "In 2024 it was 4 or 5.",
        "The range is 3-4.",
        "> Score: 5",
        "It prints {'a': 4} there.",
        "So \\boxed{4} is wrong.",
        "User rating: 5",
        "4 of them",
        "Page 4, line 2",
        "[[A]] was meant.",
        "Score: high",
    ]
).map(Piece)


@settings(max_examples=1000, deadline=None)
@given(st.lists(pieces() | PROSE, min_size=1, max_size=5), st.lists(pieces() | PROSE, max_size=3), THOUGHTS, FENCES)
def test_a_number_comes_out_only_where_it_stands_as_a_score_in_what_is_seen(
    said: list[Piece], thought: list[Piece], around: str, fence: str
) -> None:
    thoughts = around.format("\n".join(piece.text for piece in thought)) if thought else ""
    found = parse_rating.read(thoughts + fence.format("\n".join(piece.text for piece in said)), "stop", SCALE)
    last = len(said) - 1
    allowed = {piece.value for n, piece in enumerate(said) if piece.anywhere or n in (0, last)} - {None}
    assert found.score is None or found.score in allowed
    if {piece.value for piece in said} == {said[0].value} and said[0].value is not None:
        assert found.score == said[0].value or "list" in str(said), "one score, said in whatever way, is read"


MARKS = {"[[A]]": "first", "[[B]]": "second", "[[C]]": "tie", "[[A>B]]": "first", "Verdict: B": "second", "[[tie]]": "tie"}
VERDICTS = st.one_of(
    st.sampled_from(list(MARKS)),
    st.tuples(NUMBERS, NUMBERS).map(lambda two: f"{two[0]:g} {two[1]:g}"),
    st.sampled_from(
        ["It tries [[A]] there.", "Both are good.", "The list is (3, 4) long.", "8,5", "In 2024 it was 4.", "1. 8", "Hm."]
    ),
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(VERDICTS, min_size=1, max_size=5), st.lists(VERDICTS, max_size=3), THOUGHTS, FENCES)
def test_a_verdict_comes_out_only_where_it_stands_in_what_is_seen(
    said: list[str], thought: list[str], around: str, fence: str
) -> None:
    thoughts = around.format("\n".join(thought)) if thought else ""
    text = thoughts + fence.format("\n".join(said))
    by_mark = parse_verdict.read(text, "stop", "verdict", TEN)
    assert by_mark.winner is None or by_mark.winner in {MARKS.get(line) for line in said}
    assert by_mark.first is None
    scored = parse_verdict.read(text, "stop", "scores", TEN)
    two_lines = {"8.5 8.5"} if said[:2] == ["8,5", "8,5"] else set()
    assert scored.winner is None or f"{scored.first:g} {scored.second:g}" in {said[0], said[-1], *two_lines}
