"""Exact match: what is the same to SQuAD is the same, in any script, and nothing measured is never a zero."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.evaluation.exact_match import exact_match

NOTHING = {"prompts": 0, "exact": 0, "share": None, "contains": 0, "f1": None, "unanswered": 0}


def is_exact(answer: str | None, reference: str) -> bool:
    found = exact_match([(answer, reference)])
    assert found["prompts"] == 1
    assert found["share"] == found["exact"]
    return bool(found["exact"])


def f1(answer: str, reference: str) -> float:
    found = exact_match([(answer, reference)])["f1"]
    assert isinstance(found, float)
    return found


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("positive", "Positive"),
        ("  Positive.\n", "Positive"),
        ("The Nile", "nile"),
        ("a cat, and an  owl", "cat and owl"),
        ("«Été»", "été"),
        ("cafe\u0301", "café"),
        ("ÜBER-ALL", "überall"),
        ("“Straße”", "straße"),
        ("¿Qué? ¡Sí!", "qué sí"),
        ("北京。", "北京"),
        ("答案 是 「四十二」", "答案是四十二"),
        ("ΑΘΗΝΑ", "αθηνα"),
    ],
)
def test_case_punctuation_articles_and_white_space_do_not_count(answer: str, reference: str) -> None:
    assert is_exact(answer, reference)
    assert f1(answer, reference) == 1


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("positive", "negative"),
        ("five", "5"),
        ("resume", "résumé"),
        ("北京", "南京"),
        ("owl cat", "cat owl"),
        ("another", "other"),
    ],
)
def test_other_words_in_another_order_or_with_other_letters_are_not_exact(answer: str, reference: str) -> None:
    assert not is_exact(answer, reference)


@pytest.mark.parametrize(("one", "other"), [("A", "B"), ("the", "an"), ("+", "-"), ("…", "?")])
def test_a_text_of_articles_or_punctuation_alone_is_still_compared(one: str, other: str) -> None:
    assert is_exact(one, one)
    assert not is_exact(one, other)
    assert not is_exact("", one)


@pytest.mark.parametrize(
    ("answer", "reference", "does"),
    [
        ("It is the Nile, in Africa.", "The Nile", True),
        ("a concatenation", "cat", False),
        ("one and two", "one two", False),
        ("答案是四。", "四", True),
        ("La réponse est : l'été.", "l’été", True),
        ("yes", "yes indeed", False),
    ],
)
def test_an_answer_contains_a_reference_where_its_words_stand_in_it_together(answer: str, reference: str, does: bool) -> None:
    assert exact_match([(answer, reference)])["contains"] == does


def test_f1_is_the_overlap_in_words_each_as_often_as_in_both() -> None:
    assert f1("red green", "green blue") == pytest.approx(0.5)
    assert f1("red red red", "red") == pytest.approx(0.5)
    assert f1("我在北京", "北京") == pytest.approx(2 * 2 / 6)
    assert f1("red", "blue") == 0


def test_prompts_without_a_reference_count_nowhere() -> None:
    with_one = [("Paris", "paris"), ("Rome", "Bern")]
    assert exact_match([*with_one, ("Paris", None), ("Paris", " \n"), (None, None), ("", "")]) == exact_match(with_one)


@pytest.mark.parametrize("answers", [[], [("Paris", None)]])
def test_without_a_reference_there_is_no_share_rather_than_a_share_of_0(answers: list[tuple[str | None, str | None]]) -> None:
    assert exact_match(answers) == NOTHING


def test_what_was_not_answered_is_wrong_and_told() -> None:
    found = exact_match([("Paris", "Paris"), (None, "Bern"), (" ", "Rome"), ("It is Rome", "Rome")])
    assert [found[name] for name in ("prompts", "exact", "share", "contains", "unanswered")] == [4, 1, 0.25, 2, 2]
    assert found["f1"] == pytest.approx((1 + 0.5) / 4)


SAME_NUMBER = [
    ("4.0", "4"),
    ("+4", "4"),
    ("It is ４", "it is 4"),
    ("1,000", "1000"),
    ("1,000,000.50", "1000000.5"),
    ("3,5", "3.5"),
    ("7/2", "3.5"),
    ("3 1/2", "3½"),
    ("½", ".5"),
    ("-½", "−0.5"),
    (r"$\frac{1}{2}$", "1 / 2"),
    ("1e3", "1000"),
    ("-$5.00", "−5"),
    ("5 kg.", "5kg"),
    ("答案是-42。", "答案是 -42"),
    ("2x - 3", "2x-3"),
]
OTHER_NUMBER = [
    ("-5", "5"),
    ("−5", "5"),
    ("3.5", "35"),
    ("1/2", "12"),
    ("1/2", "1"),
    ("3-5", "35"),
    ("3:30", "330"),
    ("1.2.3", "123"),
    ("2x - 3", "2x + 3"),
    ("x-3", "x3"),
    ("10^-3", "10^3"),
    ("1.000", "1,000"),
    ("1/0", "10"),
    ("9" * 5000, "9" * 4999),
    ("five", "5"),
]


@pytest.mark.parametrize(("answer", "reference"), SAME_NUMBER)
def test_a_number_is_the_same_however_it_is_written(answer: str, reference: str) -> None:
    assert is_exact(answer, reference)
    assert is_exact(reference, answer)


@pytest.mark.parametrize(("answer", "reference"), OTHER_NUMBER)
def test_signs_points_and_fractions_are_kept(answer: str, reference: str) -> None:
    assert not is_exact(answer, reference)
    assert not is_exact(reference, answer)


def test_a_number_among_words_is_found_as_a_number() -> None:
    assert exact_match([("So x is 3.50, as said.", "3.5")])["contains"] == 1
    assert exact_match([("So x is -3.5.", "3.5")])["contains"] == 0
    assert exact_match([("about 1,000 people", "1000")])["contains"] == 1


@given(st.text(alphabet=st.sampled_from("0123456789.,/-+ex ½３a:$")))
def test_any_text_equals_itself_and_is_never_an_error(text: str) -> None:
    assert exact_match([(text, text)])["exact"] == exact_match([(text, text)])["prompts"]
