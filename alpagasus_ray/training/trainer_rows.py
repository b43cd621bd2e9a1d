"""The rows of an arm as other trainers read them: JSON lines of prompt and completion, or of messages.

With `template: alpaca` the text is this package's own, to the letter, and the trainers put nothing around it; with `chat` the
trainer writes the model's chat template around messages. Knows nothing of tokens.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from alpagasus_ray.config import Finetune
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.errors import UsageError

Row = dict[str, Any]
TOKENIZER_CONFIG = "tokenizer_config.json"


def rows_of(config: Finetune, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Rows of schema SUBSET as `config.trainer` reads them, in order."""
    end = functools.cache(lambda: end_token(config))  # looked up where a row needs it, and once
    for row in rows:
        yield _chat(config, row) if config.template == "chat" else _alpaca(config, row, end)


def _alpaca(config: Finetune, row: Mapping[str, Any], end: Callable[[], str]) -> Row:
    """The prompt of a conversation has the turns before it, each answer with an end token."""
    before = [alpaca_prompt(turn["instruction"], "") + turn["output"] + end() for turn in row["history"] or ()]
    system = f"{row['system']}\n\n" if row["system"] else ""
    prompt = system + "".join(before) + alpaca_prompt(row["instruction"], row["input"])
    # LLaMA-Factory's `empty` template adds no end token, the other two do
    return {"prompt": prompt, "completion": row["output"] + (end() if config.trainer == "llama-factory" else "")}


def _chat(config: Finetune, row: Mapping[str, Any]) -> Row:
    asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
    learn = [*(row.get("learn") or [False] * len(row["history"] or ())), True]
    turns = [*((turn["instruction"], turn["output"]) for turn in row["history"] or ()), (asked, row["output"])]
    messages: list[Row] = [{"role": "system", "content": row["system"]}] if row["system"] else []
    for (question, answer), is_learned in zip(turns, learn, strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer, "train": is_learned}]
    if config.trainer == "axolotl":
        return {"messages": [{"train": False, **message} for message in messages]}
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    if config.trainer == "llama-factory":
        return {"messages": plain}
    told = {"chat_template_kwargs": config.chat_template_kwargs} if config.chat_template_kwargs else {}
    return {"prompt": plain[:-1], "completion": plain[-1:], **told}


def end_token(config: Finetune) -> str:
    """What ends a text of the model, as its tokenizer_config.json spells it. Raises `UsageError` where that is not known."""
    try:
        with open(_tokenizer_config(config), encoding="utf-8") as stream:
            told = json.load(stream).get("eos_token")
    except (OSError, ValueError) as error:
        raise UsageError(_no_end(config, " ".join(str(error).split())[:200])) from None
    token = told.get("content") if isinstance(told, dict) else told
    if not isinstance(token, str) or not token:
        raise UsageError(_no_end(config, "it names no eos_token"))
    return token


def _tokenizer_config(config: Finetune) -> str:
    if config.model is not None and os.path.isdir(config.model):
        return os.path.join(config.model, TOKENIZER_CONFIG)
    from huggingface_hub import hf_hub_download

    return str(hf_hub_download(config.model or "", TOKENIZER_CONFIG, revision=config.revision))


def _no_end(config: Finetune, reason: str) -> str:
    return (
        f"finetune.with = {config.trainer}, finetune.template = alpaca: the examples need the end token of finetune.model "
        f"{config.model!r}, and its {TOKENIZER_CONFIG} does not give it: {reason}. Set finetune.template=chat, or name a model "
        "that has one"
    )
