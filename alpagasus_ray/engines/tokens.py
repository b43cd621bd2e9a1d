"""How many tokens a prompt is: by the judge's own tokenizer, by tiktoken, else an estimate that is called one.

Counts are for planning; what a request did use, its reply tells. Tokenizers are loaded when they are asked for, here for
whoever needs one, and what in a text they would take for a control token is found here. Knows nothing of prices, rows or runs.
"""

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import jinja2
import tiktoken

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.engines.base import Message
from alpagasus_ray.engines.prices import BYTES_PER_TOKEN
from alpagasus_ray.errors import UsageError

AROUND = 3
"""Tokens that a chat model's format puts around each message, and once before the reply (OpenAI's cookbook, "How to count
tokens with tiktoken")."""
LATEST = "o200k_base"
"""The vocabulary of OpenAI's present models; what a model that tiktoken does not know is counted with."""
FETCH_S = 10.0
"""Seconds to wait for tiktoken to fetch a vocabulary, which it does once and without a limit of its own."""
T = TypeVar("T")

Prompt = Sequence[Message]


class TokenCounter(NamedTuple):
    """Something that counts tokens."""

    lengths: Callable[[Sequence[Prompt]], list[int]]
    """Tokens of each prompt, with what a chat format adds."""
    by: str
    """Who counts, for people to read."""
    estimate: bool
    """Whether the tokens are not really this model's."""


def counter(judge: EngineConfig) -> TokenCounter:
    """What counts the tokens of this judge's prompts. A `UsageError` tells of a `judge.tokenizer` that cannot be loaded."""
    tokenizer = judge.tokenizer or (judge.model if judge.in_job else None)
    if tokenizer is not None:
        return _hugging_face(tokenizer, f"{judge.where}.tokenizer")
    model = judge.model or ""
    encoding = _in_time(lambda: _encoding(model))
    if encoding is None:
        by = f"an estimate, {BYTES_PER_TOKEN} bytes of UTF-8 a token, as tiktoken cannot fetch its vocabulary"
        return TokenCounter(_bytes, by, estimate=True)
    if _is_known(model):
        return TokenCounter(lambda prompts: _tiktoken(encoding, prompts), f"tiktoken {encoding.name}", estimate=False)
    by = f"tiktoken {encoding.name}, an estimate: it does not know {model!r}; name its own by {judge.where}.tokenizer"
    return TokenCounter(lambda prompts: _tiktoken(encoding, prompts), by, estimate=True)


def load_tokenizer(name: str, key: str, **options: Any) -> Any:
    """A Hugging Face tokenizer by id or directory; `key` is the knob that names it, for the `UsageError`. The options are those
    of `AutoTokenizer.from_pretrained`."""
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name, **options)
    except ModuleNotFoundError:
        raise UsageError(f"{key} needs the package transformers: pip install transformers") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{key} {name!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from None


def context_of(name: str, asked: int | None) -> int | None:
    """Tokens of the context of a Hugging Face model, by id or directory: those that were asked for, or its own; None where it
    does not say."""
    if asked is not None:
        return asked
    from transformers import AutoConfig

    try:
        found = getattr(AutoConfig.from_pretrained(name), "max_position_embeddings", None)
    except (OSError, ValueError):
        return None  # whoever starts the model tells better what is wrong with it
    return int(found) if found else None


def control_marks(tokenizer: Any) -> re.Pattern[str] | None:
    """Whatever in a text a Hugging Face tokenizer would make a control token of."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    marks = {mark for mark in (*tokenizer.all_special_tokens, *added) if len(mark) > 1}
    return re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))) if marks else None


def disarmed(text: str, marks: re.Pattern[str] | None) -> str:
    """A text that cannot end its own turn: what a tokenizer would take for one of its control tokens is broken up."""
    # a blank after the first sign: no longer the token, and still readable for the model
    return marks.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text) if marks else text


def _encoding(model: str) -> tiktoken.Encoding:
    try:
        return tiktoken.encoding_for_model(model)
    except KeyError:
        return tiktoken.get_encoding(LATEST)


def _is_known(model: str) -> bool:
    try:
        return bool(tiktoken.encoding_name_for_model(model))
    except KeyError:
        return False


def _in_time(load: Callable[[], T]) -> T | None:
    """What `load` gives, or None where it fails or takes longer than `FETCH_S`; a thread that still waits is left behind."""
    found: Future[T] = Future()

    def fetch() -> None:
        try:
            found.set_result(load())
        except (OSError, ValueError) as error:
            found.set_exception(error)

    # the libraries that fetch have no timeout of their own that holds for the whole; a plan is not to wait for a network
    threading.Thread(target=fetch, daemon=True).start()
    try:
        return found.result(FETCH_S)
    except (OSError, ValueError):
        return None


def _around(prompt: Prompt) -> int:
    return AROUND * (len(prompt) + 1)


def _bytes(prompts: Sequence[Prompt]) -> list[int]:
    sizes = [sum(len(message["content"].encode()) for message in prompt) for prompt in prompts]
    return [-(-size // BYTES_PER_TOKEN) + _around(prompt) for size, prompt in zip(sizes, prompts, strict=True)]


def _tiktoken(encoding: tiktoken.Encoding, prompts: Sequence[Prompt]) -> list[int]:
    # marks of a vocabulary that stand in a text are text there
    return [sum(len(encoding.encode_ordinary(m["content"])) for m in prompt) + _around(prompt) for prompt in prompts]


def _hugging_face(name: str, key: str) -> TokenCounter:
    tokenizer = load_tokenizer(name, key)

    def templated(prompts: Sequence[Prompt]) -> list[int]:
        try:
            texts = [tokenizer.apply_chat_template(list(p), add_generation_prompt=True, tokenize=False) for p in prompts]
        except jinja2.TemplateError as error:
            raise UsageError(
                f"{key} {name!r}: its chat template refuses the rubric's messages ({error}), and a server that "
                "uses it will; name another tokenizer, or a rubric whose messages it takes"
            ) from None
        return _lengths(tokenizer, texts)

    def joined(prompts: Sequence[Prompt]) -> list[int]:
        lengths = _lengths(tokenizer, ["\n".join(message["content"] for message in prompt) for prompt in prompts])
        return [length + _around(prompt) for length, prompt in zip(lengths, prompts, strict=True)]

    return TokenCounter(templated if tokenizer.chat_template else joined, f"the tokenizer {name}", estimate=False)


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]
