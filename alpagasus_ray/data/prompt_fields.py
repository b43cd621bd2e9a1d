"""Under which key the prompt of a record stands: one list for test sets and for reviews of the answers to them. Pure.

| key | of |
|---|---|
| `instruction` | Alpaca, Self-Instruct; WizardLM writes `Instruction` |
| `prompt` | Koala, and most others |
| `text` | Vicuna |
| `question` | reviews by FastChat |
| `conversations` | LIMA: a text, or a list that holds one |
| `turns` | MT-Bench: a list, of which the first is asked |

Keys are known in any case. Where a record has several, the first of the list that holds a text counts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

PROMPT_KEYS = ("instruction", "prompt", "text", "question", "conversations", "turns")
LISTS = {"conversations", "turns"}
"""Keys that may hold a list."""
ANSWER_KEYS = {"answer", "answers", "response", "completion", "output", "outputs", "chosen", "messages", "role"}
"""Keys, in lower case, of records that hold an answer to learn: such a file is a dataset for training."""
ID_KEYS = ("question_id", "prompt_id", "id", "idx")
ABOUT_KEYS = ("input", "instances", "category", "skill", "difficulty", "reference", "source", "dataset", "motivation_app")
"""What else test sets say of a prompt."""


def key_of(wanted: str, keys: Iterable[str]) -> str | None:
    """The key that is this name, or this name in another case."""
    known = list(keys)
    return wanted if wanted in known else next((key for key in known if key.lower() == wanted.lower()), None)


def value_of(wanted: str, record: Mapping[str, Any]) -> Any:
    """What a record has under a name in any case; None where there is nothing."""
    key = key_of(wanted, record)
    return None if key is None else record[key]


def prompt_of(record: Mapping[str, Any]) -> str | None:
    """The text of the prompt, None where no known key holds one."""
    return next((text for key in PROMPT_KEYS if (text := _text(key, value_of(key, record))) is not None), None)


def is_prompt(record: Mapping[str, Any]) -> bool:
    """Whether a record holds a prompt, and no answer to learn."""
    return prompt_of(record) is not None and not ANSWER_KEYS & {key.lower() for key in record}


def is_text(value: Any) -> bool:
    """Whether this is the text of one prompt: a text, or a list with one in it."""
    return isinstance(value, str) or (isinstance(value, list) and len(value) == 1 and isinstance(value[0], str))


def spelled(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a record that a prompt may stand under, as the record writes them; of a list that of its first entry."""
    wanted = [name for key in PROMPT_KEYS for name in ([f"{key}[0]", key] if key in LISTS else [key])]
    return tuple(found for name in wanted if (found := key_of(name, fields)) is not None)


def _text(key: str, value: Any) -> str | None:
    """A text, or the first of a list where this key holds lists. A conversation, with its answers, is no prompt."""
    if key in LISTS and isinstance(value, list) and value and (key == "turns" or is_text(value)):
        value = value[0]
    return value if isinstance(value, str) else None


def id_of(record: Mapping[str, Any]) -> str | None:
    """The record's own id."""
    found = (value_of(key, record) for key in ID_KEYS)
    return next((str(value) for value in found if isinstance(value, str | int) and str(value).strip()), None)


def input_of(record: Mapping[str, Any]) -> Any:
    """What a record has as the input of its prompt; Self-Instruct keeps it in the first of its instances."""
    instances = value_of("instances", record)
    if value_of("input", record) is None and isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
        return value_of("input", instances[0])
    return value_of("input", record)
