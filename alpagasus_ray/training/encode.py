"""What an example is to a model: token ids, of which the prompt's carry no loss.

The text around an example is Alpaca's (tatsu-lab/stanford_alpaca, `train.py`: prompt, response and end token, the prompt
masked), or the model's own chat template. In both the prompt's ids are those that the model is asked with later. Knows nothing
of files, runs, Ray or torch.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from alpagasus_ray.config import Finetune
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.engines.tokens import control_marks, disarmed, load_tokenizer
from alpagasus_ray.errors import UsageError

TOO_LONG, NOTHING_TO_LEARN, TEMPLATE = "too long", "no trainable token", "chat template"
ANCHOR = "\n"
"""A text that hardly a vocabulary merges with what follows it."""


class Encoded(NamedTuple):
    """An example to train on."""

    ids: list[int]
    prompt_tokens: int
    """The first so many carry no loss: at least 1, and fewer than there are."""
    cut: bool
    """It was longer than `max_length` and lost its end."""
    masked: tuple[tuple[int, int], ...] = ()
    """Places behind the prompt that carry no loss either, from and up to: in a conversation of which several answers are
    learned, what stands between them."""

    @property
    def label_tokens(self) -> int:
        """How many carry loss."""
        return len(self.ids) - self.prompt_tokens - sum(stop - start for start, stop in self.masked)


class Left(NamedTuple):
    """An example that cannot be trained on."""

    reason: str
    """`too long`, `no trainable token` or `chat template`, then a colon and the detail."""
    tokens: int
    """How many it has; 0 where it could not be written as text."""


class _Turn(NamedTuple):
    """A prompt and the response to it, as text."""

    prompt: str
    response: str
    ended: bool
    """The response already has an end token."""


class _Ids(NamedTuple):
    """The same as token ids, the response with its end token."""

    prompt: list[int]
    response: list[int]


class Encoder:
    """Turns examples into tokens of one model."""

    def __init__(self, config: Finetune) -> None:
        self._config = config
        self.tokenizer: Any = _tokenizer(config)
        self._marks = control_marks(self.tokenizer)
        self._end = re.compile(rf"({self._marks.pattern})\s*\Z") if self._marks else None
        self._is_chat = config.template == "chat"
        self._merges_system = False
        if self._is_chat:
            self._check_template()
        # a chat template writes the token of the beginning itself
        self._head = [] if self._is_chat else _head(self.tokenizer)
        self._breaks_marks = self._is_chat or self._makes_marks_of_text()

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[Encoded | Left]:
        """One result for each row of schema SUBSET (or EXAMPLES), in order."""
        written = [self._chat(row) if self._is_chat else self._alpaca(row) for row in rows]
        ids = self._ids([turn for turns in written if not isinstance(turns, Left) for turn in turns])
        return [
            turns
            if isinstance(turns, Left)
            else self._example(list(itertools.islice(ids, len(turns))), row.get("learn"), row.get("history"))
            for turns, row in zip(written, rows, strict=True)
        ]

    def _example(self, turns: Sequence[_Ids], learn: Sequence[bool] | None, history: Sequence[Any] | None) -> Encoded | Left:
        """The last turn's response is what is learned, and of those before it what `learn` says; the rest is prompt."""
        if learn and any(learn):
            assert len(turns) == len(learn) + 1 == len(history or ()) + 1, "a turn for each exchange"
            return self._conversation(turns, [*learn, True])
        *before, (prompt, response) = turns
        told = self._head + [token for turn in before for part in turn for token in part] + prompt
        total, most = len(told) + len(response), self._config.max_length
        if total <= most:
            return Encoded(told + response, len(told), cut=False)
        if self._config.too_long == "drop":
            return Left(f"{TOO_LONG}: {total:,} tokens", total)
        if len(told) >= most:
            return Left(f"{NOTHING_TO_LEARN}: {len(told):,} tokens before the response", total)
        return Encoded((told + response)[:most], len(told), cut=True)

    def _conversation(self, turns: Sequence[_Ids], learn: Sequence[bool]) -> Encoded | Left:
        """Several responses are learned: what stands between them is masked."""
        ids, most = list(self._head), self._config.max_length
        learned: list[tuple[int, int]] = []
        for turn, is_learned in zip(turns, learn, strict=True):
            start = len(ids) + len(turn.prompt)
            # answers that are not learned stay in: later ones refer to them
            ids += [*turn.prompt, *turn.response]
            learned += [(start, len(ids))] * is_learned
        if len(ids) > most and self._config.too_long == "drop":
            return Left(f"{TOO_LONG}: {len(ids):,} tokens", len(ids))
        kept = [(start, min(stop, most)) for start, stop in learned if start < most]
        if not kept:
            return Left(f"{NOTHING_TO_LEARN}: {learned[0][0]:,} tokens before the response", len(ids))
        # what is behind the last of them teaches nothing
        masked = tuple((stop, start) for (_, stop), (start, _) in itertools.pairwise(kept) if start > stop)
        return Encoded(ids[: kept[-1][1]], kept[0][0], len(ids) > most, masked)

    def _alpaca(self, row: Mapping[str, Any]) -> list[_Turn]:
        turns = [(alpaca_prompt(turn["instruction"], ""), turn["output"]) for turn in row["history"] or ()]
        turns.append((alpaca_prompt(row["instruction"], row["input"]), row["output"]))
        system = f"{row['system']}\n\n" if row["system"] else ""
        texts = [(system + prompt if place == 0 else prompt, response) for place, (prompt, response) in enumerate(turns)]
        return [_Turn(self._harmless(prompt), self._harmless(response), ended=False) for prompt, response in texts]

    def _chat(self, row: Mapping[str, Any]) -> list[_Turn] | Left:
        messages = self._messages(row)
        if row.get("learn"):
            return self._chat_turns(messages)
        try:
            prompt, whole = self._rendered(messages[:-1], asks=True), self._rendered(messages, asks=False)
        except jinja2.TemplateError as error:
            return Left(f"{TEMPLATE}: it refuses the example: {error}", 0)
        # what is learned must be what follows what is asked; templates that write an answered question otherwise would teach
        # another text than is generated
        if not prompt or not whole.startswith(prompt):
            return Left(f"{TEMPLATE}: a conversation with its answer does not begin as the one that asks for it", 0)
        response = whole[len(prompt) :]
        ended = self._end.search(response) if self._end else None
        return [_Turn(prompt, response[: ended.end(1)] if ended else response, ended is not None)]

    def _chat_turns(self, messages: Sequence[Mapping[str, str]]) -> list[_Turn] | Left:
        """Each answer with what is written between it and the one before."""
        turns, through = [], ""
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        try:
            for place in places:
                prompt = self._rendered(messages[:place], asks=True)
                whole = self._rendered(messages[: place + 1], asks=False)
                if not prompt.startswith(through) or not whole.startswith(prompt):
                    return Left(f"{TEMPLATE}: it writes an answer otherwise when the conversation goes on", 0)
                response = whole[len(prompt) :]
                ended = self._end.search(response) if self._end else None
                response = response[: ended.end(1)] if ended else response
                turns.append(_Turn(prompt[len(through) :], response, ended is not None))
                through = prompt + response
        except jinja2.TemplateError as error:
            return Left(f"{TEMPLATE}: it refuses the example: {error}", 0)
        return turns

    def _messages(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        """The conversation, its last message the response."""
        asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        turns = [*((turn["instruction"], turn["output"]) for turn in row["history"] or ()), (asked, row["output"])]
        said = [("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(itertools.chain(*turns))]
        if row["system"] and self._merges_system:
            said[0] = ("user", f"{row['system']}\n\n{said[0][1]}")
        elif row["system"]:
            said.insert(0, ("system", row["system"]))
        return [{"role": role, "content": self._harmless(text)} for role, text in said]

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, asks: bool) -> str:
        told = self._config.chat_template_kwargs
        text: str = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=asks, tokenize=False, **told)
        return text

    def _check_template(self) -> None:
        if self.tokenizer.chat_template is None:
            raise UsageError(
                f"finetune.template = chat, and finetune.model {self._config.model!r} has no chat template; set "
                "finetune.template=alpaca, or name a model that has one"
            )
        asked, answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
        try:
            self._rendered([{"role": "system", "content": "."}, asked, answer], asks=False)
        except jinja2.TemplateError:
            self._merges_system = True
        try:
            self._rendered([asked, answer], asks=False)
        except jinja2.TemplateError as error:
            raise UsageError(
                f"finetune.template = chat, and the chat template of finetune.model {self._config.model!r} refuses a question "
                f"with its answer: {error}. Set finetune.template=alpaca, or see finetune.chat_template_kwargs"
            ) from None

    def _makes_marks_of_text(self) -> bool:
        """Whether the tokenizer takes what a text spells for control tokens, also where it is told not to."""
        # tried, as slow tokenizers do not all keep to `split_special_tokens`
        made = self._tokenized([self.tokenizer.eos_token])
        return self.tokenizer.eos_token_id in made[0]

    def _harmless(self, text: str) -> str:
        return disarmed(text, self._marks) if self._breaks_marks else text

    def _ids(self, turns: Sequence[_Turn]) -> Iterator[_Ids]:
        """The ids of each turn: the prompt's as the model is asked with them, the response's as they go on from there."""
        prompts = self._tokenized([turn.prompt for turn in turns])
        for turn, prompt, response in zip(turns, prompts, self._responses(turns), strict=True):
            yield _Ids(prompt, response if turn.ended else [*response, self.tokenizer.eos_token_id])

    def _responses(self, turns: Sequence[_Turn]) -> Iterator[list[int]]:
        """Responses after the last line of their prompts, which decides them, at half the work of the whole prompt. Where a
        vocabulary would merge the two they are read after `ANCHOR`, as before a text alone some tokenizers put a space."""
        texts = [turn.response for turn in turns]
        for text, ids in zip(texts, self._going_on([_last_line(turn.prompt) for turn in turns], texts), strict=True):
            after = ids if ids is not None else self._going_on([ANCHOR], [text])[0]
            yield after if after is not None else self._tokenized([text])[0]

    def _going_on(self, befores: Sequence[str], texts: Sequence[str]) -> list[list[int] | None]:
        """The ids of texts that stand after others; None where the two share a token."""
        different = sorted(set(befores))
        starts = dict(zip(different, self._tokenized(different), strict=True))
        joined = self._tokenized([before + text for before, text in zip(befores, texts, strict=True)])
        return [
            ids[len(starts[before]) :] if ids[: len(starts[before])] == starts[before] else None
            for before, ids in zip(befores, joined, strict=True)
        ]

    def _tokenized(self, texts: list[str]) -> list[list[int]]:
        """The ids of texts, with nothing added. What they spell is a control token only where a chat template wrote it."""
        if not self.tokenizer.is_fast:
            options = {"add_special_tokens": False, "split_special_tokens": not self._is_chat, "verbose": False}
            return list(self.tokenizer(texts, **options)["input_ids"]) if texts else []
        backend = self.tokenizer.backend_tokenizer  # without the places of tokens in the text it takes two thirds of the time
        backend.encode_special_tokens = not self._is_chat
        # a tokenizer file may ask for both, and a text that was cut silently would teach half an answer
        backend.no_truncation()
        backend.no_padding()
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _tokenizer(config: Finetune) -> Any:
    if config.model is None:
        raise UsageError("finetune.model is not set: give a Hugging Face id, or a directory with config.json and a tokenizer")
    options = {"revision": config.revision or "main", "trust_remote_code": config.trust_remote_code}
    try:
        tokenizer = load_tokenizer(config.model, "the tokenizer of finetune.model", **options)
    except UsageError as error:
        raise UsageError(f"{error}. Give a Hugging Face id, or a directory with config.json and a tokenizer") from None
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"the tokenizer of finetune.model {config.model!r} has no end token (eos_token), so that its model would never "
            "stop; name one in its tokenizer_config.json, or take another model"
        )
    return tokenizer


def _last_line(text: str) -> str:
    """The last line that says something, with all that follows it."""
    return text[text.rstrip().rfind("\n") + 1 :]


def _head(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before a text by itself: the token of the beginning, or nothing."""
    bare, whole = tokenizer("x", add_special_tokens=False)["input_ids"], tokenizer("x")["input_ids"]
    starts = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return list(whole[: next(starts, 0)])
