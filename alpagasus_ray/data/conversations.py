"""From turns to examples: which exchanges become one, which are their history, and which of them may be learned.

Policy: turns of one speaker in a row are joined by a blank line; what the assistant says before the first user turn, and a
last user turn without a reply, are left out. System turns are kept as `system`. What is marked as not to be learned is never an
output, and stays in the history of what follows. `first` makes one example of the first exchange that may be learned, `all` one
of every exchange, `conversation` one of the whole conversation. Where an exchange cannot be read, those behind it are left out.

Pure functions; knows nothing of layouts or files.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from alpagasus_ray.data.fields import NoExample, checked, text
from alpagasus_ray.data.side_fields import Tally

SPEAKERS = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
TOOLS = {"tool", "function", "observation", "function_call", "tool_call", "tool_calls", "tool_response", "ipython"}
"""Speakers of turns that no example of text can be made with."""
ROLE, CONTENT = ("role", "from"), ("content", "value", "text")


class Draft(NamedTuple):
    """An example before it has an id."""

    instruction: str
    input: str
    output: str
    category: str | None = None
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    learn: tuple[bool, ...] | None = None
    """For each answer of the history, whether training learns it too; None: the output alone."""


class Turn(NamedTuple):
    """A turn as the record has it."""

    fields: Any
    is_context: bool = False
    """Given beside the answer that is meant, and so not to be learned."""
    table: str = "turn"
    """What its fields are known by."""

    def speaker(self) -> str | None:
        """`user`, `assistant`, `system`, or None: somebody else."""
        return SPEAKERS.get(str(_under(self.fields, ROLE)).lower())


@dataclass
class Exchange:
    """What was asked, and the answer, with all that stands between and behind them."""

    before: list[Turn] = field(default_factory=list)
    """System turns, which hold from here on."""
    asked: list[Turn] = field(default_factory=list)
    said: list[Turn] = field(default_factory=list)
    others: list[Turn] = field(default_factory=list)
    """Turns by anybody else."""


class Spoken(NamedTuple):
    """An exchange as text."""

    asked: str
    said: str
    to_learn: bool


def drafts(turns: Iterable[Turn], mode: str, tally: Tally, category: str | None, system: str | None) -> list[Draft]:
    """The examples of a conversation; `mode` is `ingest.turns`. Raises `NoExample` where there is none."""
    found = exchanges(turns, tally)
    made: list[Draft] = []
    spoken: list[Spoken] = []
    systems = [system] if system else []
    for number, exchange in enumerate(found):
        try:
            spoken.append(_read(exchange, tally))
            systems += [said for turn in exchange.before if (said := _text(turn, tally)) != system]
        except NoExample as reason:
            # what came before it can be used by itself, unless the conversation was to be one example
            if not made or mode == "conversation":
                raise
            tally.told[f"exchanges left out with those behind them: {reason}"] += len(found) - number
            break
        if spoken[-1].to_learn and spoken[-1].asked.strip():
            history = tuple((earlier.asked, earlier.said) for earlier in spoken[:-1])
            made.append(Draft(spoken[-1].asked, "", spoken[-1].said, category, "\n\n".join(systems) or None, history))
        if made and mode == "first":
            tally.left_out += len(found) - number - 1
            break
    if not made:
        raise NoExample(
            "all its answers are marked as not to be learned" if _is_marked(spoken) else "no user turn with a reply"
        )
    tally.exchanges += len(found)
    return [_whole(made[-1], spoken, tally)] if mode == "conversation" else made


def _is_marked(spoken: Sequence[Spoken]) -> bool:
    return any(said.asked.strip() and not said.to_learn for said in spoken)


def _whole(last: Draft, spoken: Sequence[Spoken], tally: Tally) -> Draft:
    """A conversation as one example: its last exchange that may be learned, and which answers before it are learned too."""
    behind = len(spoken) - len(last.history) - 1
    if behind:
        tally.told["exchanges left out behind the last answer that may be learned"] += behind
    learn = tuple(said.to_learn for said in spoken[: len(last.history)])
    return last._replace(learn=learn if any(learn) else None)


def exchanges(turns: Iterable[Turn], tally: Tally) -> list[Exchange]:
    """The exchanges of a conversation, their texts not yet looked at."""
    found: list[Exchange] = []
    here = Exchange()
    for turn in turns:
        if not isinstance(turn.fields, Mapping):
            here.others.append(turn)
            continue
        speaker = turn.speaker()
        # somebody asks again once there was an answer: the next exchange begins
        if speaker in ("user", "system") and here.said:
            found, here = [*found, here], Exchange()
        if speaker == "assistant" and not here.asked:
            tally.told["turns of the assistant left out, as nobody had asked"] += 1
            continue
        {"user": here.asked, "assistant": here.said, "system": here.before}.get(speaker or "", here.others).append(turn)
    if here.said or here.others:
        return [*found, here]
    if here.asked:
        tally.told["questions at the end left out, as nobody answered"] += 1
    return found


def _read(exchange: Exchange, tally: Tally) -> Spoken:
    """The texts of an exchange. Raises `NoExample`."""
    for turn in exchange.others:
        raise NoExample(_stranger(turn.fields))
    if not exchange.asked or not exchange.said:
        raise NoExample("no user turn with a reply")
    asked, said = ("\n\n".join(_text(turn, tally) for turn in turns) for turns in (exchange.asked, exchange.said))
    marks = [tally.to_learn(turn.fields) for turn in exchange.said]
    if not all(marks):
        tally.told["answers marked as not to be learned, which are no outputs"] += 1
    return Spoken(asked, said, all(marks) and not any(turn.is_context for turn in exchange.said))


def _stranger(fields: Any) -> str:
    if not isinstance(fields, Mapping):
        return f"a turn is a {type(fields).__name__}, not an object"
    name = str(_under(fields, ROLE))
    if name.lower() in TOOLS:
        return f"a turn is by {name!r}: tools have no part in an example of text"
    return f"a turn is by {name!r}, which is neither user, assistant nor system"


def _under(fields: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((fields[key] for key in keys if fields.get(key) is not None), None)


def _text(turn: Turn, tally: Tally) -> str:
    """What is said in a turn."""
    tally.fields(turn.table, turn.fields)
    key = next((key for key in CONTENT if key in turn.fields), CONTENT[0])
    content = turn.fields.get(key)
    if isinstance(content, Sequence) and not isinstance(content, str):
        return "\n".join(_part(part) for part in content)
    return text(turn.fields, key)


def _part(part: Any) -> str:
    """Text of one part of a message: `{type: text, text: …}`, as some write it `{type: text, value: …}`."""
    if isinstance(part, str):
        return checked(part, "content")
    if not isinstance(part, Mapping) or part.get("type", "text") != "text":
        raise NoExample("a message has a part that is not text")
    return text(part, "value" if part.get("text") is None and "value" in part else "text")
