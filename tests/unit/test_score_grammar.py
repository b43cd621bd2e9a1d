"""Scores as texts, and what token probabilities say of them."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import ReplyForm
from alpagasus_ray.engines.openai_api import request_body
from alpagasus_ray.engines.openai_reply import read_reply
from alpagasus_ray.engines.score_grammar import added_up, begin_alike, can_become, distribution, pattern
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging import parse_rating, rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.judging.rubric import Scale

HALVES = tuple(f"{n / 2:g}" for n in range(11))
WHOLE = tuple("012345")


@pytest.mark.parametrize("text", ["4", "4\n", "4.5\nbecause\n\nof this", " 0\n", "5\n4.7"])
def test_a_reply_whose_first_line_is_a_score_passes_the_pattern(text: str) -> None:
    assert re.fullmatch(pattern(HALVES), text)


@pytest.mark.parametrize("text", ["4.7\n", "45\n", "  4\n", "\n4\n", "Score: 4\n", "4 \n", "4.5.\n", "4x5\n", ""])
def test_no_other_reply_passes_it(text: str) -> None:
    assert not re.fullmatch(pattern(HALVES), text)


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("", HALVES),
        (" ", HALVES),
        ("4", ("4", "4.5")),
        ("4.", ("4.5",)),
        ("5", ("5",)),
        (" 4\n", ("4",)),
        ("4\nas", ("4",)),
        ("4 ", ()),
        ("6", ()),
        ("\n", ()),
        ("  ", ()),
    ],
)
def test_a_beginning_leaves_the_scores_that_continue_it(text: str, possible: tuple[str, ...]) -> None:
    assert tuple(can_become(text, HALVES)) == possible


def test_half_points_begin_alike_and_whole_points_do_not() -> None:
    assert begin_alike(HALVES) == ("0", "0.5")
    assert begin_alike(WHOLE) is None
    assert begin_alike(("1", "2", "10")) == ("1", "10")
    assert begin_alike(("-2", "-1", "0")) == ("-2", "-1")


def test_whole_points_are_read_off_the_first_token() -> None:
    found = distribution({"": {"4": math.log(0.6), "5": math.log(0.2), "Score": math.log(0.2)}}, WHOLE)
    assert found is not None
    assert found.probabilities == pytest.approx({"0": 0, "1": 0, "2": 0, "3": 0, "4": 0.75, "5": 0.25})
    assert found.mean == pytest.approx(4.25)
    assert found.outside == pytest.approx(0.2)


def test_half_points_are_read_across_tokens_by_the_chain_rule() -> None:
    tree = {
        "": {"4": math.log(0.5), " ": math.log(0.5)},
        "4": {"\n": math.log(0.1), ".": math.log(0.3), " of": math.log(0.6)},
        " ": {"4": math.log(1.0)},
        " 4": {"\n": math.log(1.0)},
    }
    found = distribution(tree, HALVES)
    assert found is not None
    assert found.probabilities["4"] == pytest.approx(0.5 * 0.25 + 0.5)
    assert found.probabilities["4.5"] == pytest.approx(0.5 * 0.75)
    assert found.outside == pytest.approx(1 - (0.5 * 0.4 + 0.5))


@given(st.dictionaries(st.sampled_from([*WHOLE, " 3", "six", "10"]), st.floats(1e-6, 1), min_size=1))
def test_probabilities_sum_to_one_and_their_mean_is_on_the_scale(masses: dict[str, float]) -> None:
    total = sum(masses.values())
    found = distribution({"": {text: math.log(mass / total) for text, mass in masses.items()}}, WHOLE)
    if not set(masses) & {*WHOLE, " 3"}:
        assert found is None
        return
    assert found is not None
    assert math.isclose(sum(found.probabilities.values()), 1.0, abs_tol=1e-9)
    assert 0 <= found.mean <= 5
    assert 0 <= found.outside <= 1


def test_a_tree_that_leaves_the_score_open_gives_no_number() -> None:
    assert distribution({"": {"4": math.log(0.9), "5": math.log(0.1)}}, HALVES) is None, "4 or 4.5, nobody has looked"
    assert distribution({"": {" ": math.log(0.9), "5": math.log(0.1)}}, WHOLE) is None
    rare = {"": {"5": math.log(0.99), "4": math.log(0.01)}}
    assert (found := distribution(rare, HALVES)) is not None
    assert found.mean == 5


def test_tokens_that_are_written_alike_are_added_up() -> None:
    assert added_up([("4", math.log(0.2)), ("4", math.log(0.3))])["4"] == pytest.approx(math.log(0.5))
    assert added_up([("4", -math.inf), ("5", -9999.0)]) == {}, "what is written as no probability has none"


def _rubric(step: float | None, most: float = 5) -> rubric.Rubric:
    return rubric.load("accuracy").model_copy(update={"scale": Scale(max=most, step=step)})


def test_a_model_in_the_job_is_kept_to_the_scale_and_an_api_is_not() -> None:
    assert reply_form(Judge(kind="vllm"), _rubric(0.5)) == ReplyForm(HALVES, "regex")
    assert reply_form(Judge(), _rubric(0.5)) == ReplyForm()
    assert reply_form(Judge(explain=False), _rubric(0.5)) == ReplyForm(score_only=True)
    assert reply_form(Judge(kind="vllm"), _rubric(None)) == ReplyForm(), "any number is no list of scores"
    assert reply_form(Judge(kind="rules", explain=False), _rubric(0.5)) == ReplyForm()


@pytest.mark.parametrize(
    ("judge", "step", "words"),
    [
        (Judge(expected=True), 0.5, "begin with the same; take a rubric in whole points"),
        (Judge(kind="vllm", expected=True), None, "needs scores that can be named"),
        (Judge(constrained="regex"), None, "score.judge.constrained to off"),
        (Judge(kind="vllm", constrained="regex"), 0.001, "at most 101"),
    ],
)
def test_a_scale_that_does_not_allow_it_is_refused_with_the_reason(judge: Judge, step: float | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        reply_form(judge, _rubric(step))


def test_shipped_rubrics_in_whole_points_have_one_token_for_each_score() -> None:
    for name in ("accuracy-integer", "helpfulness-integer"):
        loaded = rubric.load(name)
        assert reply_form(Judge(expected=True), loaded).scores == WHOLE
        halves = rubric.load(name.removesuffix("-integer"))
        assert (loaded.system, loaded.user) == (halves.system, halves.user)


def test_a_server_of_vllm_is_asked_for_the_pattern_and_an_api_for_a_schema() -> None:
    judge = Judge(model="toy", temperature=None, max_tokens=None)
    regex = request_body(judge, ReplyForm(WHOLE, "regex", score_only=True))
    assert regex == {"model": "toy", "stop": ["\n"], "structured_outputs": {"regex": pattern(WHOLE)}}
    schema = request_body(judge, ReplyForm(HALVES, "json"))["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"]["enum"] == [float(score) for score in HALVES]
    assert schema["required"] == ["score", "explanation"]
    short = request_body(judge, ReplyForm(HALVES, "json", score_only=True))["response_format"]["json_schema"]["schema"]
    assert short["required"] == ["score"]
    told = request_body(judge, ReplyForm(WHOLE, probabilities=True))
    assert (told["logprobs"], told["top_logprobs"]) == (True, 20)


@pytest.mark.parametrize(
    ("reply", "reading"),
    [
        ('{"score": 4.5, "explanation": "right"}', ("scored", 4.5)),
        ('{"score":3}', ("scored", 3.0)),
        ('{"score": 7, "explanation": ""}', ("unparsed", None)),
        ('{"explanation": "none"}', ("unparsed", None)),
        ('{"score": "4"}', ("scored", 4.0)),
    ],
)
def test_a_json_reply_is_read_by_its_score(reply: str, reading: tuple[str, float | None]) -> None:
    assert parse_rating.read(reply, "stop", Scale())[:2] == reading
    if reading[0] == "scored" and "explanation" in reply:
        assert parse_rating.read(reply[:-4], "length", Scale())[:2] == reading, "the score was complete before the cut"


def test_the_first_tokens_of_a_reply_are_kept_raw() -> None:
    top = [{"token": "4", "logprob": -0.5}, {"token": " 4", "logprob": -1.5}, {"token": "4", "logprob": -3.0}]
    content = [{"token": "4", "logprob": -0.5, "top_logprobs": top}]
    choice = {"message": {"content": "4"}, "finish_reason": "stop", "logprobs": {"content": content}}
    reply = read_reply(json.dumps({"choices": [choice]}).encode())
    assert reply.logprobs is not None
    assert reply.logprobs[""]["4"] == pytest.approx(math.log(math.exp(-0.5) + math.exp(-3.0)))
    for odd in (None, {}, {"content": []}, {"content": [{"token": "4"}]}, {"content": [{"top_logprobs": None}]}):
        reply = read_reply(json.dumps({"choices": [{**choice, "logprobs": odd}]}).encode())
        assert (reply.text, reply.logprobs) == ("4", None), "a reply is good without"


def _choice(tokens: list[tuple[str, dict[str, float]]]) -> bytes:
    content = [
        {"token": token, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
        for token, top in tokens
    ]
    text = "".join(token for token, _ in tokens)
    return json.dumps(
        {"choices": [{"message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": content}}]}
    ).encode()


def test_probabilities_are_kept_wherever_a_score_may_stand() -> None:
    reply = read_reply(
        _choice([("Score", {"Score": -0.1}), (":", {":": 0.0}), (" 4", {" 4": -0.5, " 5": -1.0}), (".", {".": 0.0})])
    )
    assert reply.logprobs is not None
    assert {place: sorted(told) for place, told in reply.logprobs.items()} == {"": ["Score"], "Score:": [" 4", " 5"]}
    long = read_reply(_choice([(f"{n % 10}", {"4": -1.0}) for n in range(400)]))
    assert long.logprobs is not None
    assert len(long.logprobs) == 32


@pytest.mark.parametrize("nonsense", [1e308, 0.5])
def test_logarithms_of_no_probability_are_none(nonsense: float) -> None:
    reply = read_reply(_choice([("4", {"4": nonsense})]))
    assert (reply.text, reply.logprobs) == ("4", None), "the reply counts without"


def test_a_judge_may_write_what_its_score_is_out_of() -> None:
    assert re.fullmatch(pattern(HALVES), "4/5\nGood.")
    assert re.fullmatch(pattern(HALVES), "4.5/5")
    assert not re.fullmatch(pattern(HALVES), "4/10")
    for text, possible in (("4/", ("4",)), ("4/5\n", ("4",)), ("4/1", ()), ("4/\n", ()), ("/5", ())):
        assert tuple(can_become(text, HALVES)) == possible
    tree = {"": {"4": math.log(1.0)}, "4": {"/": math.log(0.9), ".": math.log(0.05), "\n": math.log(0.05)}}
    found = distribution(tree, HALVES)
    assert found is not None
    assert found.probabilities["4"] == pytest.approx(0.95)
