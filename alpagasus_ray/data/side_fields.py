"""The fields beside an example's text that are known, by layout: used, kept, or a reason to reject the record.

The tables are closed: what stands in none of them is told with its count, never passed over in silence. All of a record is kept
in the example's `record` in any case, so that what was chosen can be written back as it came. Knows no files.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from alpagasus_ray.data.fields import NoExample, empty, missing

MARKS = ("weight", "loss_weight", "train", "training", "loss")
"""Fields of a turn that say whether its text may be learned: false or 0 is no, true or another number is yes."""
RECORD_MARKS = ("weight", "train")
"""The same of a whole record, where only false and 0 say something: a weight may be a share, a loss a measurement."""
SYSTEM = ("system", "system_prompt")
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
CALLS = ("tool_calls", "tool_call", "function_call")
REASONS = {field: f"`{field}`: not all of it is text" for field in MEDIA} | {
    field: f"`{field}`: the answer is a call of a tool" for field in CALLS
}
"""Fields whose content makes an example of text impossible."""
KEPT = frozenset(
    "id _id uid uuid idx index row example_id prompt_id question_id message_id conversation_id conversation_hash".split()
    + "source dataset tools functions name tool_call_id".split()
)
"""Fields that name a record or belong to it; they come out where the chosen records are written back."""


class Table(NamedTuple):
    """What is known of a layout's fields."""

    text: frozenset[str]
    """Those that hold the example itself."""
    used: frozenset[str] = frozenset((*SYSTEM, *RECORD_MARKS, "category"))


TABLES: Mapping[str, Table] = {
    "alpaca": Table(frozenset(("instruction", "input", "output", "history"))),
    "dolly": Table(frozenset(("instruction", "context", "input", "response", "history"))),
    "sharegpt": Table(frozenset(("conversations", "conversation", "messages", "chosen", "rejected"))),
    "messages": Table(frozenset(("conversations", "conversation", "messages", "chosen", "rejected"))),
    "preference": Table(frozenset(("prompt", "instruction", "input", "chosen", "rejected"))),
    "prompt_completion": Table(frozenset(("prompt", "completion")), frozenset((*SYSTEM, *RECORD_MARKS, "category", "label"))),
    "oasst": Table(frozenset(("prompt", "message_tree_id"))),
    "turn": Table(frozenset(("role", "from", "content", "value")), frozenset(MARKS)),
    "oasst message": Table(
        frozenset(("text", "role", "replies", "parent_id", "message_tree_id")), frozenset(("rank", "deleted", "category"))
    ),
}


class Tally:
    """What was read otherwise than as an example, over all records of a source."""

    def __init__(self) -> None:
        self.not_used: Counter[str] = Counter()
        """Records (of a turn's field: turns) that hold something under a field that no table has."""
        self.nan: Counter[str] = Counter()
        """Fields that held NaN, which counts as null."""
        self.told: Counter[str] = Counter()
        """Anything else, in words."""
        self.exchanges = 0
        """Exchanges of the conversations that examples were made of."""
        self.left_out = 0
        """Of these, the ones that `ingest.turns=first` leaves out."""

    def fields(self, table: str, fields: Mapping[str, Any], more: frozenset[str] = frozenset()) -> None:
        """Count what is not known, and refuse what cannot be an example; `more` are known besides."""
        known = TABLES[table] if table in TABLES else Table(frozenset())
        for field, value in fields.items():
            if missing(value):
                self.nan[field] += value is not None
            elif field in known.text or field in known.used or field in KEPT or field in more:
                continue
            elif field not in REASONS:
                self.not_used[field] += 1
            elif not empty(value):
                raise NoExample(REASONS[field])

    def to_learn(self, fields: Mapping[str, Any]) -> bool:
        """Whether a turn may be learned."""
        for mark in MARKS:
            value = fields.get(mark)
            if missing(value):
                continue
            if not isinstance(value, bool | int | float):
                raise NoExample(f"`{mark}` of a turn is {value!r}, neither true, false nor a weight")
            if not value:
                return False
            if value not in (True, 1):
                self.told["turns with a weight other than 0 and 1, which counts as 1"] += 1
        return True

    def notes(self) -> list[str]:
        """All of it in words, a line each."""
        lines = []
        if self.not_used:
            fields = ", ".join(f"{field} ({count:,})" for field, count in self.not_used.most_common())
            lines.append(f"kept with the records, not shown to the judge: {fields}")
        if self.left_out:
            lines.append(f"{self.left_out:,} of {self.exchanges:,} exchanges left out by ingest.turns=first")
        nan = {field: count for field, count in self.nan.items() if count}
        if nan:
            lines.append("NaN read as null: " + ", ".join(f"{field} ({count:,})" for field, count in nan.items()))
        return lines + [f"{count:,} {what}" for what, count in self.told.most_common()]


def check_mark(record: Mapping[str, Any]) -> None:
    """Refuse a record that is marked as a whole as not to be learned."""
    for mark in RECORD_MARKS:
        value = record.get(mark)
        if isinstance(value, bool | int | float) and not value:
            raise NoExample(f"`{mark}` marks it as not to be learned")
