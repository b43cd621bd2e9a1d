"""What is stored of a reply: in the ledger as it comes, and in the columns of its row in ratings, answers and verdicts.

A field of `Reply` or `Outcome` with a `Column` is a column of all three, is kept in ledgers, is summed in manifests where it is
summed, and comes back when rows are read again: a new one is one line here, and whoever fills or reads it. Files of earlier
versions lack columns that came later, and are read all the same.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

import orjson
import pyarrow as pa

STOP = "stop"
Tree = Mapping[str, Mapping[str, float]]
"""Text of a reply so far -> text that may come next -> its log probability; the end of a reply is written as a line's end."""


class Column(NamedTuple):
    """How a field is kept in a row."""

    type: pa.DataType
    is_summed: bool = False
    """Whether it is an amount, whose sums over rows manifests hold."""
    is_required: bool = False
    """Whether every row has it."""


class Reply(NamedTuple):
    """What an engine answered, raw."""

    text: str
    finish_reason: Annotated[str, Column(pa.string())] = STOP
    """One of `FINISH_REASONS`, or a provider's own word, which counts as no good end."""
    tokens_in: Annotated[int | None, Column(pa.int32(), is_summed=True)] = None
    tokens_out: Annotated[int | None, Column(pa.int32(), is_summed=True)] = None
    tokens_cached: Annotated[int | None, Column(pa.int32(), is_summed=True)] = None
    """A part of `tokens_in`."""
    cost_usd: Annotated[float | None, Column(pa.float64(), is_summed=True)] = None
    """Where the server does not say what it used, the most that it can have cost."""
    logprobs: Tree | None = None
    """Where probabilities were asked for."""
    reasoning: Annotated[str | None, Column(pa.string())] = None
    """What the model thought, where the server tells it apart from the text; never read as the reply. A row keeps it where the
    text is blank: it says where the text is."""
    model: Annotated[str | None, Column(pa.string())] = None
    """The model that answered, as the server names it."""
    fingerprint: Annotated[str | None, Column(pa.string())] = None
    """The server's `system_fingerprint`: what it was running."""
    max_tokens: Annotated[int | None, Column(pa.int32())] = None
    """The longest reply that was allowed, where that was more than the stage's own limit (`retry_max_tokens`)."""


class Outcome(NamedTuple):
    """What became of one request: a reply, or the reason why there is none."""

    reply: Reply | None
    error: str | None
    attempts: Annotated[int, Column(pa.int32(), is_summed=True, is_required=True)]
    """Requests sent, those of earlier calls that came to nothing included; 0 where an equal row's reply was taken."""
    latency_s: Annotated[float | None, Column(pa.float32())]
    """Seconds that the attempt which was answered took."""
    maybe_billed_twice: Annotated[int, Column(pa.int32(), is_summed=True, is_required=True)] = 0
    """Attempts that have no answer and may have been billed all the same."""

    def shared(self) -> "Outcome":
        """The same outcome for another row with the same request: it was asked and paid once."""
        reply = self.reply
        if reply is not None:
            # an amount that is not zero here would be counted once for each equal row
            nothing: dict[str, Any] = dict.fromkeys(BOUGHT, 0)
            reply = reply._replace(**nothing | {"cost_usd": None if reply.cost_usd is None else 0.0})
        return Outcome(reply, self.error, 0, None)

    def after(self, earlier: "Outcome") -> "Outcome":
        """The same outcome with the attempts that earlier calls have made in vain."""
        attempts, maybe = self.attempts + earlier.attempts, self.maybe_billed_twice + earlier.maybe_billed_twice
        return self._replace(attempts=attempts, maybe_billed_twice=maybe)


def _columns(record: type[Reply] | type[Outcome]) -> dict[str, Column]:
    """The fields of a record that are columns."""
    # an annotation is `Annotated[type, Column(...)]`: the column is among what follows the type
    marks = {name: get_args(hint)[1:] for name, hint in get_type_hints(record, include_extras=True).items()}
    return {name: column for name, found in marks.items() for column in found if isinstance(column, Column)}


OF_REPLY, OF_OUTCOME = _columns(Reply), _columns(Outcome)
COLUMNS = {**OF_REPLY, **OF_OUTCOME}
BOUGHT = tuple(name for name, column in OF_REPLY.items() if column.is_summed)
"""The fields of a row that say what its reply took."""
USAGE = tuple(name for name, column in COLUMNS.items() if column.is_summed)
"""The fields of a row whose sums manifests hold."""


def schema_fields(*names: str) -> list[pa.Field]:
    """The columns of these names, for a schema of rows."""
    return [pa.field(name, COLUMNS[name].type, nullable=not COLUMNS[name].is_required) for name in names]


def row_columns(outcome: Outcome) -> dict[str, Any]:
    """The columns of a row that are the same whatever was asked; those of a reply are null where there is none."""
    reply = outcome.reply
    kept = {name: getattr(reply, name, None) for name in OF_REPLY} | {name: getattr(outcome, name) for name in OF_OUTCOME}
    return kept | ({"reasoning": None} if reply and reply.text.strip() else {})


def stored_reply(row: Mapping[str, Any]) -> Reply | None:
    """The reply that a row kept, as it came; None where there was none."""
    text = row["reply"] if row.get("raw") is None else row["raw"]
    if text is None:
        return None
    # files of earlier versions lack columns, and then fields have their defaults
    kept = {name: row[name] for name in OF_REPLY if name in row}
    logprobs = orjson.loads(row["logprobs"]) if row.get("logprobs") else None
    return Reply(text, **{**kept, "finish_reason": kept["finish_reason"] or STOP, "logprobs": logprobs})
