"""What every engine is: something that gives one reply to one request. It knows nothing of shards, retries or ratings."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from alpagasus_ray.store.reply import STOP as STOP  # noqa: PLC0414 - part of the protocol, though it is stored as well
from alpagasus_ray.store.reply import Reply as Reply  # noqa: PLC0414 - the same
from alpagasus_ray.store.reply import Tree as Tree  # noqa: PLC0414 - the same

Message = dict[str, str]
"""`role` and `content`, as chat APIs take them."""


EMPTY = "empty prompt"
"""The failure of a request that has no messages."""


class Wanted(NamedTuple):
    """What one request asks for, where the requests of a stage differ in it: a benchmark says it for each question."""

    plain: bool = False
    """The messages' texts as they are, without a chat template, with what the tokenizer adds by itself. Nothing in them is
    broken up: they are a benchmark's own words."""
    max_tokens: int | None = None
    """Longest reply; None: that of the stage."""
    stop: tuple[str, ...] = ()
    """Texts at which a reply ends; it does not hold them."""
    temperature: float | None = None
    top_p: float | None = None
    continuations: tuple[str, ...] = ()
    """Nothing is made: the reply tells, as JSON, a pair for each of these texts: its log probability behind the prompt, and
    whether each of its tokens is the likeliest."""
    rolling: bool = False
    """Nothing is made: the reply is the log probability of the prompt itself, in windows of the model's context."""
    cut: bool = False
    """A prompt that is too long loses its beginning; otherwise it is refused."""


class Request(NamedTuple):
    """One question to an engine."""

    key: str
    """Hash of all that decides the reply: messages, model, sampling; stored replies are found again by it. Where there is no
    prompt, of the row's content."""
    messages: list[Message]
    row: Mapping[str, Any]
    """The row the question is about, for engines that need no prompt."""
    wanted: Wanted | None = None
    """What it asks for, where that is not the same for the whole stage."""


class ReplyForm(NamedTuple):
    """What form all replies to a job's requests have; by default any."""

    scores: tuple[str, ...] = ()
    """What the first line may hold; empty where it is no score."""
    constrained: Literal["off", "regex", "json"] = "off"
    """How the engine is kept to that."""
    score_only: bool = False
    """The reply ends after the score."""
    probabilities: bool = False
    """The reply tells how probable each score was."""


ANY_FORM = ReplyForm()

LENGTH, REFUSAL, CONTENT_FILTER = "length", "refusal", "content_filter"
FINISH_REASONS = (STOP, LENGTH, REFUSAL, CONTENT_FILTER)
"""How a reply may have ended: by itself, cut by the token limit, or declined as the provider says. Any other word of a provider
is no reason to trust the text: whoever reads a reply treats a word outside of this list as a failure and tells it."""


class Rate(NamedTuple):
    """Limits of one endpoint, a minute; None is none."""

    requests: float | None = None
    tokens: float | None = None

    def lower(self, other: "Rate") -> "Rate":
        """The stricter of both, limit by limit."""
        pairs = zip(self, other, strict=True)
        return Rate(*(min((limit for limit in pair if limit is not None), default=None) for pair in pairs))


NO_RATE = Rate()


@runtime_checkable
class Closing(Protocol):
    """An engine that has something to give back when its worker ends before the process does, as connections."""

    async def close(self) -> None:
        """Give it back."""


@runtime_checkable
class AtOnce(Protocol):
    """An engine that costs nothing and takes the rows of a whole shard at once."""

    def complete_all(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """The replies, in order."""


class Engine(Protocol):
    """An engine; it may be asked many things at once."""

    address: str
    """What messages call it."""
    stated: Rate
    """The limits that its server states in its replies, as of the last one."""

    async def complete(self, request: Request) -> Reply:
        """Answer one request, once. Raises `RowRefused`, `TryAgain`, `EngineUnusable` or `EngineDied`."""
