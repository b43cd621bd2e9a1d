"""Where a recipe holds a credential that it must not hold: recipes are shown, stored with a run, and sent to clusters.

A credential is told by the name it has (`api_key`, `Authorization`, a parameter `sig` of an address), by standing before the
host of an address, or by the form that well-known services give theirs. What a recipe may hold is the *name* of an environment
variable. Knows nothing of which knobs there are; never repeats what it finds.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

HIDDEN = "(not shown)"
_WORDS = (
    r"api[_-]?keys?|access[_-]?keys?|secret|secrets|password|passwd|passphrase|credentials?|authorization|bearer|cookie|sig"
)
_WORDS += r"|signature|private[_-]?key|account[_-]?key|subscription[_-]?key|client[_-]?secret|jwt|key|token|auth"
NAME = re.compile(rf"(?:^|[_.-])(?:{_WORDS})$", re.IGNORECASE)
"""The last word of a name says what it is: `hf_token` is one, `max_tokens`, `tokenizer` and `api_key_env` are not."""
_OF_TEXT = re.compile(r"(?:^|[_-])(?:bos|eos|pad|unk|sep|cls|mask|stop|start|end|image|video|audio|think|special)[_-]token$")
_ENVIRONMENT = re.compile(r"\$?[A-Z_][A-Z0-9_]*")
_VARIABLES = frozenset({"headers", "query"})
"""Maps whose values may name environment variables."""
FORMS = re.compile(
    r"\bsk-[\w-]{16,}|\bhf_[A-Za-z0-9]{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\bgsk_[A-Za-z0-9]{20,}|\br8_[A-Za-z0-9]{30,}|\bnvapi-[\w-]{20,}|\bya29\.[\w-]{20,}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b[Bb]earer\s+[\w.~+/-]{8,}=*"
)
"""OpenAI and Anthropic, Hugging Face, AWS, Google, GitHub, GitLab, Slack, Groq, Replicate, NVIDIA, JSON web tokens, PEM."""
LOGIN = re.compile(r"://(?:[^/?#\s@]*|[^/?#\s:@]+:(?!\d{1,5}(?:/|$))[^\s@]+)@")
"""What stands before the host of an address. The second form: a password that has a `/` in it, as those of AWS do."""
_SETTING = re.compile(rf"((?:^|[\s\"'{{,_.-])(?:{_WORDS})[\"']?\s*[:=]\s*[\"']?)([^\s\"',}}]+)", re.IGNORECASE)


def found_in(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Where there are credentials in nested plain values: the key, joined by dots, and what tells it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named(str(key), inner, (*path, str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for place, inner in enumerate(value):
            yield from found_in(inner, (*path, str(place)))
    elif isinstance(value, str) and (why := _why(value)):
        yield ".".join(path), why


def _named(key: str, value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and value and is_name(key) and not _is_variable(path, value):
        yield ".".join(path), "its name says that it is a credential"
    else:
        yield from found_in(value, path)


def is_name(key: str) -> bool:
    """Whether what has this name is a credential."""
    return NAME.search(key) is not None and _OF_TEXT.search(key) is None


def _is_variable(path: tuple[str, ...], value: str) -> bool:
    return len(path) > 1 and path[-2] in _VARIABLES and _ENVIRONMENT.fullmatch(value) is not None


def _why(text: str) -> str | None:
    """What tells that a text holds a credential."""
    if LOGIN.search(text):
        return "an address with a user name or a password before its host"
    if "?" in text and any(is_name(name) and value for name, value in parse_qsl(text.partition("?")[2])):
        return "an address with a credential among its parameters"
    if FORMS.search(text):
        return "it has the form of a key"
    return None


def without(text: str) -> str:
    """A message without the credentials that can be told in it."""
    text = LOGIN.sub(f"://{HIDDEN}@", FORMS.sub(HIDDEN, text))
    return _SETTING.sub(rf"\1{HIDDEN}", text)


def advice(key: str, why: str) -> str:
    """What to tell of a credential at this key."""
    way = "put it into an environment variable of the machines that need it"
    if key.endswith("base_url") or ".judge." in f".{key}" or key.startswith("generate.models"):
        return (
            f"`{key}` {HIDDEN}: {why}, and recipes are shown and stored; {way} and name that variable by `api_key_env`, as in "
            "`export OPENAI_API_KEY=…` and `api_key_env: OPENAI_API_KEY`"
        )
    return (
        f"`{key}` {HIDDEN}: {why}, and recipes are shown and stored; {way} under the name that its library reads "
        "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN), and leave it out here"
    )
