"""From one record to the examples in it: what the fields of each known dataset layout mean.

Conversations go by the policy in `conversations.py`, trees by that in `message_trees.py`; which other fields are known is in
`side_fields.py`. Of answers that somebody preferred to others the one under `chosen` is the output. A number is text as it was
written; NaN is null; anything else that is not text is refused. Pure functions; knows nothing of files or shards.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from alpagasus_ray.data import conversations, message_trees, side_fields, thoughts
from alpagasus_ray.data.conversations import Draft, Turn
from alpagasus_ray.data.fields import NoExample, empty, list_of, missing, optional, text
from alpagasus_ray.data.message_trees import grown
from alpagasus_ray.data.side_fields import SYSTEM, Tally

__all__ = ["Draft", "Layout", "NoExample", "detect", "grown", "reader", "text"]

Layout = Callable[[Mapping[str, Any]], list[Draft]]
CONVERSATION = ("conversations", "messages", "conversation")
"""Keys that a list of turns stands under."""
PREFERRED = "records whose output is the answer under `chosen`; `rejected` is left out"
SIGNS = [
    ("dolly", {"instruction", "response"}),
    ("alpaca", {"instruction", "output"}),
    ("preference", {"prompt", "chosen"}),
    ("preference", {"instruction", "chosen"}),
    ("prompt_completion", {"prompt", "completion"}),
]
"""The fields that tell a layout of plain fields; the first that are all there count."""
MAPPED = ("instruction", "input", "output", "category", "system", "history")


def detect(record: Mapping[str, Any]) -> str | None:
    """Name of the layout that a record has, or None."""
    # conversations first: such records often have a field `instruction` or `output` beside
    if _is_list(record.get("conversations")):
        return "sharegpt"
    if _is_list(record.get("messages")) or _is_list(record.get("conversation")):
        return "messages"
    if {"message_id", "text", "role"} <= record.keys() or isinstance(record.get("prompt"), Mapping):
        return "oasst"
    flat = next((name for name, fields in SIGNS if fields <= record.keys()), None)
    return "preference" if flat is None and _is_list(record.get("chosen")) else flat


def fits(named: str, found: str | None) -> bool:
    """Whether a record of the layout `found` can be read as the one that `ingest.format` names."""
    alike = {"dolly": {"alpaca"}, "sharegpt": {"messages"}, "messages": {"sharegpt"}}
    return found == named or found in alike.get(named, ())


def reader(layout: str, columns: Mapping[Any, str], turns: str, tally: Tally | None = None, reasoning: str = "keep") -> Layout:
    """The function that reads records of a layout; `columns` (field -> column) takes the place of a layout. What is read
    otherwise than as text of an example goes to the `tally`; `turns` and `reasoning` are those of `ingest`."""
    tally = Tally() if tally is None else tally
    read = _reader("columns" if columns else layout, columns, turns, tally)

    def examples(record: Mapping[str, Any]) -> list[Draft]:
        side_fields.check_mark(record)
        return [thoughts.handled(draft, reasoning, tally) for draft in read(record)]

    return examples


def _reader(layout: str, columns: Mapping[Any, str], turns: str, tally: Tally) -> Layout:
    def from_turns(of: Callable[[Mapping[str, Any], Tally], Iterable[Turn]]) -> Layout:
        def read(record: Mapping[str, Any]) -> list[Draft]:
            if layout != "oasst" or "message_id" not in record:
                tally.fields(layout, record)
            found = of(record, tally)
            return conversations.drafts(found, turns, tally, optional(record, "category"), optional(record, *SYSTEM))

        return read

    if layout == "columns":
        return lambda record: [_mapped(record, columns, layout, tally)]
    if layout in COLUMNS:
        return lambda record: [_mapped(record, COLUMNS[layout](record), layout, tally)]
    if layout == "oasst":
        return from_turns(lambda record, _: message_trees.turns(record))
    if layout == "prompt_completion":
        return from_turns(lambda record, _: _completion(record))
    return from_turns(_preference if layout == "preference" else _conversation)


def _dolly_columns(record: Mapping[str, Any]) -> dict[str, str]:
    return {"input": "context", "output": "response"} if "context" in record else {"output": "response"}


COLUMNS: dict[str, Callable[[Mapping[str, Any]], Mapping[str, str]]] = {
    "alpaca": lambda record: {},
    "dolly": _dolly_columns,
}
"""Of each layout of plain fields: under which of a record's fields instruction, input, output and category stand, where that is
not their own name."""


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _mapped(record: Mapping[str, Any], columns: Mapping[Any, str], layout: str, tally: Tally) -> Draft:
    def column(field: str) -> str:
        return columns.get(field, field)

    tally.fields(layout, record, frozenset((*map(column, MAPPED), *SYSTEM, *side_fields.RECORD_MARKS)))
    instruction = text(record, column("instruction"))
    extra = optional(record, column("input")) or ""
    if not (instruction.strip() or extra.strip()):
        raise NoExample(f"`{column('instruction')}` is empty")
    return Draft(
        instruction=instruction,
        input=extra,
        output=text(record, column("output")),
        category=optional(record, column("category")),
        system=optional(record, *((columns["system"],) if "system" in columns else SYSTEM)),
        history=tuple(_pair(turn) for turn in list_of(record, "history")),
    )


def _pair(turn: Any) -> tuple[str, str]:
    if isinstance(turn, Sequence) and len(turn) == 2 and all(isinstance(part, str) for part in turn):
        return turn[0], turn[1]
    raise NoExample("`history` is not a list of [instruction, output] pairs")


def _conversation(record: Mapping[str, Any], tally: Tally) -> list[Turn]:
    """The turns of a record; where a preferred answer stands beside them, it alone is to be learned."""
    key = next((key for key in CONVERSATION if key in record), CONVERSATION[0])
    turns = list_of(record, key)
    if missing(record.get("chosen")):
        return [Turn(turn) for turn in turns]
    if turns and isinstance(turns[-1], Mapping) and Turn(turns[-1]).speaker() == "assistant":
        # which of the two is the output nobody can tell
        raise NoExample(f"`chosen` stands beside `{key}` that has an answer already")
    tally.told[PREFERRED] += 1
    return _answered(turns, record["chosen"], "chosen")


def _preference(record: Mapping[str, Any], tally: Tally) -> list[Turn]:
    tally.told[PREFERRED] += 1
    chosen = record.get("chosen")
    key = "prompt" if "prompt" in record else "instruction"
    asked = [] if missing(record.get(key)) else _asked(record, key)
    starts = _is_list(chosen) and chosen and isinstance(chosen[0], Mapping) and Turn(chosen[0]).speaker() != "assistant"
    if starts or not asked:  # the whole conversation stands there
        turns = list_of(record, "chosen")
        answers = _last_answers(turns)
        return [Turn(turn, is_context=place < len(turns) - answers) for place, turn in enumerate(turns)]
    return _answered(asked, chosen, "chosen")


def _completion(record: Mapping[str, Any]) -> list[Turn]:
    label = record.get("label")
    if not missing(label) and label not in (True, 1):
        raise NoExample(f"its `label` is {label!r}: the completion is not one that is wanted")
    return _answered(_asked(record, "prompt"), record.get("completion"), "completion")


def _asked(record: Mapping[str, Any], key: str) -> Sequence[Any]:
    """The prompt as turns: a list of them, or a text, behind which an input may stand."""
    if _is_list(record[key]):
        return list_of(record, key)
    extra = optional(record, "input")
    asked = text(record, key)
    return [{"role": "user", "content": f"{asked}\n\n{extra}" if extra else asked}]


def _answered(asked: Sequence[Any], answer: Any, key: str) -> list[Turn]:
    """Turns, and the answer to them: a text, a turn, or a list of turns. Only the answer is to be learned."""
    if _is_list(answer):
        said = list(answer)
    elif isinstance(answer, Mapping):
        said = [answer]
    else:
        said = [{"role": "assistant", "content": text({key: answer}, key)}]
    if empty(said):
        raise NoExample(f"`{key}` is empty")
    return [*(Turn(turn, is_context=True) for turn in asked), *map(Turn, said)]


def _last_answers(turns: Sequence[Any]) -> int:
    """How many turns at the end are the assistant's."""
    count = 0
    while count < len(turns) and isinstance(turns[-1 - count], Mapping) and Turn(turns[-1 - count]).speaker() == "assistant":
        count += 1
    return count
