"""Whether the questions of a benchmark fit a model's context, by its own tokenizer, before the model is started."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from alpagasus_ray import extras
from alpagasus_ray.benchmarking.harness import Harness, Question
from alpagasus_ray.config import PLAIN, BenchModel
from alpagasus_ray.engines.tokens import context_of, load_tokenizer
from alpagasus_ray.errors import UsageError
from alpagasus_ray.terminal import say

MADE = 1
"""vLLM makes a token at least, for which the context needs room."""


def fitting(
    ready: Harness, model: BenchModel, too_long: Literal["refuse", "fewer_shots", "cut"]
) -> tuple[Harness, list[Question]]:
    """The benchmark with its questions; with fewer shots where these are too long and that is asked for. A `UsageError` tells
    of questions that do not fit, and of a model without a chat template that is asked by one."""
    chat = model.by_messages
    questions = ready.questions(chat=chat)
    if not model.in_job or (extras.missing("vllm") and "transformers" in extras.missing("vllm")):
        return ready, questions  # an API knows its own context; a machine without models cannot look
    assert model.model is not None, "a model in the job has one"
    tokenizer = load_tokenizer(model.model, f"{model.where}: the tokenizer of", trust_remote_code=model.vllm.trust_remote_code)
    _check_template(model, tokenizer)
    context = context_of(model.model, model.vllm.max_model_len)
    if context is None or too_long == "cut":
        return ready, questions
    while (needed := _longest(tokenizer, model, questions)) > context:
        if too_long == "refuse" or ready.shots == 0:
            raise UsageError(_too_long(ready, model, needed, context))
        ready = Harness(ready.benchmark, ready.documents, ready.shots - 1)
        questions = ready.questions(chat=chat)
    if ready.shots < (ready.benchmark.shots or 0):
        say(
            f"{ready.benchmark.where}: {ready.shots} shots in place of {ready.benchmark.shots}, as the context of "
            f"{model.name} has "
            f"{context:,} tokens (bench.too_long = fewer_shots)"
        )
    return ready, questions


def _check_template(model: BenchModel, tokenizer: Any) -> None:
    if model.chat and model.vllm.chat_template is None and tokenizer.chat_template is None:
        raise UsageError(
            f"bench.models {model.name}: `chat: true` asks by a chat template, and {model.model!r} has none. Leave `chat` "
            "out, or give the path of a template by vllm.chat_template"
        )


def _too_long(ready: Harness, model: BenchModel, needed: int, context: int) -> str:
    where, shots = ready.benchmark.where, ready.shots
    fewer = (
        "Say `bench.too_long: fewer_shots` to ask with fewer shots, `cut` to drop"
        if shots
        else "Say `bench.too_long: cut` to drop"
    )
    return (
        f"{where}: with {shots} shots the longest question and its reply take {needed:,} tokens, and the context of "
        f"{model.name} "
        f"({model.model}) has {context:,}. {fewer} the beginning of long ones, give fewer `shots`, or take a model with a "
        "longer context"
    )


def _longest(tokenizer: Any, model: BenchModel, questions: Sequence[Question]) -> int:
    """Tokens of the longest question and what may come behind it. A text that is told of in windows fits always."""
    asked = [question for question in questions if question.kind != "rolling"]
    if not asked:
        return 0
    texts = [_text(tokenizer, model, question) for question in asked]
    sizes = [
        len(ids)
        for ids in tokenizer([text + _behind(one) for text, one in zip(texts, asked, strict=True)], verbose=False)["input_ids"]
    ]
    return max(size + _made(one) for size, one in zip(sizes, asked, strict=True))


def _behind(question: Question) -> str:
    return max(question.continuations, key=len, default="")


def _made(question: Question) -> int:
    return int(json.loads(question.options)["max_tokens"]) if question.options else MADE


def _text(tokenizer: Any, model: BenchModel, question: Question) -> str:
    if not model.by_messages:
        return question.context
    messages = json.loads(question.context)
    template = model.vllm.chat_template
    if template == PLAIN:
        return "\n\n".join(message["content"] for message in messages)
    told = model.vllm.chat_template_kwargs
    return str(
        tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False, **told)
    )
