"""`extra`: what has a knob of its own or changes price or shape is refused there, with what to write instead."""

from typing import Any

import pytest
from pydantic import ValidationError

from alpagasus_ray.config import Answerer, EngineConfig, Judge, PairJudge
from alpagasus_ray.config.extra_fields import FIXED, KNOBS
from alpagasus_ray.engines.base import ReplyForm
from alpagasus_ray.engines.identity import identity_of
from alpagasus_ray.engines.openai_api import request_body
from alpagasus_ray.errors import UsageError
from alpagasus_ray.recipe import load

LIMITS = ("max_tokens", "max_new_tokens", "max_output_tokens", "maxOutputTokens", "max_length", "num_predict")
KINDS: list[tuple[type[EngineConfig], dict[str, Any]]] = [
    (Judge, {"model": "toy"}),
    (Judge, {"kind": "vllm", "model": "toy"}),
    (PairJudge, {"model": "toy"}),
    (Answerer, {"name": "a", "api": "toy"}),
]


@pytest.mark.parametrize(("kind", "given"), KINDS)
@pytest.mark.parametrize(
    ("field", "told"),
    [
        *((field, f"set `{knob}`") for field, knob in KNOBS.items()),
        *((field, reason) for field, reason in FIXED.items()),
        *((field, "set `max_tokens`") for field in LIMITS),
        ("max_completion_tokens", "`max_tokens_field: max_completion_tokens`"),
        ("N", "one reply is asked for"),
    ],
)
def test_a_field_with_a_knob_or_another_price_or_shape_is_refused_with_what_to_do(
    kind: type[EngineConfig], given: dict[str, Any], field: str, told: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        kind(**given, extra={"top_k": 5, field: 1})
    assert told in str(raised.value)


@pytest.mark.parametrize("knob", sorted({*KNOBS.values(), "max_tokens", "max_tokens_field"}))
def test_every_knob_that_a_refusal_names_is_one(knob: str) -> None:
    if knob.startswith("score.judge."):
        assert knob.removeprefix("score.judge.") in Judge.model_fields
    else:
        assert all(knob in kind.model_fields for kind in (Judge, PairJudge, Answerer))


@pytest.mark.parametrize(
    "field", ["top_k", "min_tokens", "reasoning_effort", "service_tier", "user", "stop", "chat_template_kwargs"]
)
def test_other_fields_go_out_as_they_are(field: str) -> None:
    assert request_body(Judge(model="toy", extra={field: 1}))[field] == 1


def test_a_field_that_a_knob_has_set_is_not_overwritten() -> None:
    with pytest.raises(UsageError, match=r"score\.judge\.extra holds 'stop'"):
        request_body(Judge(model="toy", extra={"stop": ["."]}), ReplyForm(score_only=True))


def test_the_recipe_that_a_refusal_advises_is_taken_and_goes_on_with_the_replies_of_the_older_one() -> None:
    with pytest.raises(UsageError, match=r"score\.judge\.extra.*max_tokens_field: max_completion_tokens"):
        load(None, ["score.judge.max_tokens=null", "score.judge.extra={max_completion_tokens: 2048, reasoning_effort: low}"])
    advised = ["score.judge.max_tokens=2048", "score.judge.max_tokens_field=max_completion_tokens"]
    judge = load(None, ["score.judge.model=o", *advised, "score.judge.extra={reasoning_effort: low}"]).recipe.score.judge
    older = {"max_completion_tokens": 2048, "reasoning_effort": "low"}
    assert request_body(judge) == {"model": "o", "temperature": 0.0, **older}
    assert identity_of(judge) == {
        "kind": "api",
        "model": "o",
        "temperature": 0.0,
        "top_p": None,
        "max_tokens": None,
        "extra": older,
    }


def test_the_name_of_the_limit_is_no_part_of_what_older_runs_were_made_with() -> None:
    assert set(identity_of(Judge(model="o"))) == {"kind", "model", "temperature", "top_p", "max_tokens", "extra"}


def test_an_answer_that_counts_reasoning_may_be_longer_than_the_papers() -> None:
    with pytest.raises(ValidationError, match="max_tokens_field: max_completion_tokens"):
        Answerer(name="a", api="x", max_tokens=4096)
    assert Answerer(name="a", api="x", max_tokens=4096, max_tokens_field="max_completion_tokens").max_tokens == 4096
