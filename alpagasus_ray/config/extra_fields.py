"""What `extra` may not hold: fields of a request that have a knob of their own, or that change what a request costs or what its
reply looks like. The money and the reading of replies rely on these, so each is said in one place only."""

import re
from collections.abc import Mapping
from typing import Any

KNOBS = {
    "model": "model",
    "models": "model",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "response_format": "score.judge.constrained",
    "structured_outputs": "score.judge.constrained",
    "guided_json": "score.judge.constrained",
    "guided_regex": "score.judge.constrained",
    "guided_choice": "score.judge.constrained",
    "guided_grammar": "score.judge.constrained",
    "logprobs": "score.judge.expected",
    "top_logprobs": "score.judge.expected",
}
"""Field -> the knob that says it."""
LIMIT = re.compile(r"max_?\w*tokens|max_?length|num_?predict", re.IGNORECASE)
"""Fields that bound a reply; `max_tokens` says all of them."""
FIXED = {
    "messages": "prompts come from a rubric or a test set",
    "prompt": "prompts come from a rubric or a test set",
    "n": "one reply is asked for, and one is read",
    "best_of": "one reply is asked for, and one is paid for",
    "use_beam_search": "one reply is asked for, and one is paid for",
    "stream": "replies are read whole",
    "stream_options": "replies are read whole",
    "tools": "a reply is a text; a call of a tool is none",
    "tool_choice": "a reply is a text; a call of a tool is none",
    "parallel_tool_calls": "a reply is a text; a call of a tool is none",
    "functions": "a reply is a text; a call of a function is none",
    "function_call": "a reply is a text; a call of a function is none",
    "web_search_options": "searches are billed besides tokens, and no cap could hold them",
    "plugins": "what plugins do is billed besides tokens, and no cap could hold it",
    "modalities": "a reply is a text",
    "audio": "a reply is a text",
    "prediction": "what a prediction gets wrong is billed besides the reply, and no cap could hold it",
    "echo": "a reply holds nothing of its prompt",
    "truncate_prompt_tokens": "a prompt reaches the model whole, or its row is `failed`",
    "prompt_logprobs": "a reply tells nothing of its prompt",
    "output_kind": "replies are read whole",
    "detokenize": "a reply is a text",
}
"""Field -> what is fixed instead."""


def allowed(extra: dict[str, Any]) -> dict[str, Any]:
    """The same; a `ValueError` names the first field that may not stand there, and the knob or the reason."""
    for field in extra:
        reason = refusal(field)
        if reason is not None:
            raise ValueError(reason)
    return extra


def refusal(field: str) -> str | None:
    """Why a field may not stand in `extra`; None where it may."""
    name = field.strip().lower()
    if name == "max_completion_tokens":
        return "`max_completion_tokens` has a knob: set `max_tokens`, and `max_tokens_field: max_completion_tokens`"
    if LIMIT.fullmatch(name):
        return f"{field!r} has a knob: set `max_tokens`, which is what a reply is reserved with under a cap"
    if name in KNOBS:
        return f"{field!r} has a knob: set `{KNOBS[name]}`"
    if name in FIXED:
        return f"{field!r} cannot be set: {FIXED[name]}"
    return None


def collision(body: Mapping[str, Any], extra: Mapping[str, Any]) -> str | None:
    """The first field of `extra` that the request holds already, because a knob says so."""
    return next((field for field in extra if field in body), None)
