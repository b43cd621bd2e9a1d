"""From a raw reply to what of it is the reply: the first step of every reader (ratings, verdicts, answers). Pure.

`visible` takes off what models and servers put around a reply and leaves its words as they are; `plain` makes one spelling of
what is written in many (full-width letters, digits of other scripts, typographic signs); `clean` does both, for readers of
numbers.

What is taken off, in this order:

1. a byte order mark, and control tokens at either end (`<s>`, `<|im_start|>assistant`, `</s>`, `<|im_end|>`, …); a further turn
   that the model made up behind its own end;
2. of channels (gpt-oss) all but what stands in the last `final` one, also where the server left the special tokens out;
3. thoughts: blocks between an opening and a closing mark (`<think>`, `<thinking>`, `<thought>`, `[THINK]`, …), and all that
   stands before a closing mark without an opening one, as templates leave it that open the block themselves.

A mark in backquotes is quoted, and is none. A block that is opened and never closed is no reply: `Visible.is_open` tells it.
"""

import re
import unicodedata
from typing import NamedTuple

from alpagasus_ray.data.thoughts import MARKS
from alpagasus_ray.engines.base import CONTENT_FILTER, FINISH_REASONS, LENGTH, REFUSAL

CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|(?!message\|)[^<|]*\|>[^<]*){0,3}<\|message\|>")
CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
FRAMES = (
    (re.compile(r"\s*analysis(?=[A-Z])"), re.compile(r".*assistantfinal", re.DOTALL)),
    (
        re.compile(r"\s*here(?: is|'s|’s) my thought process:", re.IGNORECASE),
        re.compile(r".*?\bhere(?: is|'s|’s) my response:", re.IGNORECASE | re.DOTALL),
    ),
)
"""How thoughts begin that no mark is around, and what ends them: gpt-oss without its special tokens, Granite."""

_TOKEN = r"(?:<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>)"  # noqa: S105 - a token of a tokenizer
_NO_MARK = r"(?!<\|(?:channel|start|begin_of_thought|start_thinking|end_of_thought|end_thinking)\|>)"
LEADING = re.compile(
    r"(?:\s*(?:<s>|<bos>|<start_of_turn>(?:model)?|\[/INST\]|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>"
    rf"|<\|im_start\|>\s*(?:assistant)?|{_NO_MARK}{_TOKEN}))+\s*",
    re.IGNORECASE,
)
ENDING = re.compile(rf"\s*(?:</s>|<eos>|<pad>|<end_of_turn>|\[EOS\]|{_NO_MARK}{_TOKEN})\s*\Z", re.IGNORECASE)
STRUCK = re.compile(r"\S\s*<s>|</s>\s*[^\s<]", re.IGNORECASE)
"""Where these stand inside of a text they are HTML's."""
NEXT_TURN = re.compile(
    r"(?:<\|im_end\|>|<\|eot_id\|>|<\|end\|>|<end_of_turn>|</s>)\s*"
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|user\|>|<start_of_turn>|(?:<s>\s*)?\[INST\])",
    re.IGNORECASE,
)
LONGEST_TOKEN = 100
ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.IGNORECASE | re.DOTALL)

UNSEEN = "".join(
    map(chr, (0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A)))
)
"""Characters without width, and those that turn the direction of writing."""
SIGNS = {
    **dict.fromkeys(map(ord, UNSEEN)),
    **dict.fromkeys(map(ord, "\x85\u2028\u2029\x0b\x0c"), "\n"),
    **dict.fromkeys(map(ord, "，、،"), ", "),
    **dict.fromkeys(map(ord, "’‘"), "'"),
    **dict.fromkeys(map(ord, "“”"), '"'),
    ord("٫"): ".",
    ord("。"): ". ",
    ord("−"): "-",
}
KEPT = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>")
"""What Unicode would make digits of though it is no number on the line: ², ½, ④."""

NOT_OVER = "open thoughts: the reply begins to think and never says what it came to"
CUT_THINKING = "length: the reply was cut while it was still thinking"
NO_TEXT = "empty reply: there is no text"
IN_REASONING = "empty reply: the text is in reasoning, which is never read as the reply"


class Visible(NamedTuple):
    """What of a reply is the reply."""

    text: str
    is_open: bool = False
    """A block of thoughts was opened and never closed: there is no reply, and `text` is empty."""


def clean(text: str) -> Visible:
    """What readers of ratings and verdicts read: the visible words in one spelling; of `<answer>…</answer>` what is in it."""
    seen = visible(plain(text))
    whole = ANSWER.fullmatch(seen.text)
    return seen._replace(text=whole[1]) if whole else seen


def visible(text: str) -> Visible:
    """The words that are the reply, as they came."""
    text = _bare(text)
    channels = list(CHANNEL.finditer(text))
    if channels or text.startswith("<|channel|>"):
        finals = [channel.end() for channel in channels if channel[1] == "final"]
        if not finals:
            return Visible("", is_open=True)
        text = text[finals[-1] :]
        end = CHANNEL_END.search(text)
        text = _bare(text[: end.start()] if end else text)
    return _without_thoughts(text)


def plain(text: str) -> str:
    """One spelling for what is written in many: compatibility forms, digits of all scripts, signs, line ends; nothing
    unseen."""
    text = text.translate(SIGNS).replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isascii() else "".join(map(_plain_sign, unicodedata.normalize("NFC", text)))


def _plain_sign(sign: str) -> str:
    if sign.isascii():
        return sign
    digit = unicodedata.decimal(sign, None)
    if digit is not None:
        return str(digit)
    return sign if unicodedata.decomposition(sign).startswith(KEPT) else unicodedata.normalize("NFKC", sign)


def _bare(text: str) -> str:
    """Without marks of the encoding, and without control tokens at either end."""
    text = text.strip(UNSEEN)
    if turn := NEXT_TURN.search(text):
        text = text[: turn.start()]
    is_html = STRUCK.search(text) is not None
    leading = LEADING.match(text)
    if leading and not (is_html and "<s>" in leading[0].lower()):
        text = text[leading.end() :]
    text = text.rstrip()
    while ending := ENDING.search(text, max(0, len(text) - LONGEST_TOKEN)):
        if is_html and "</s>" in ending[0].lower():
            break
        text = text[: ending.start()]
    return text


def _without_thoughts(text: str) -> Visible:
    for beginning, end in FRAMES:
        if (begun := beginning.match(text)) and (over := end.match(text, begun.end())):
            text = text[over.end() :]
        elif begun and beginning is FRAMES[0][0]:
            return Visible("", is_open=True)
    kept, start, opened = "", 0, False
    for mark in MARKS.finditer(text):
        if mark["closing"]:
            kept, opened = kept if opened else "", False
        elif mark["opening"] and not opened:
            kept, opened = kept + text[start : mark.start()], True
        else:
            continue
        start = mark.end()
    return Visible("", is_open=True) if opened else Visible(kept + text[start:])


class NoReply(NamedTuple):
    """Why there is nothing to read in a reply."""

    status: str
    """`refused`, `truncated`, `failed` or `empty`."""
    error: str


def nothing_to_read(seen: Visible, finish_reason: str, reasoning: str | None = None) -> NoReply | None:
    """Whether the way a reply ended, or its having no words, already tells that there is nothing to read in it."""
    if finish_reason in (REFUSAL, CONTENT_FILTER):
        return NoReply("refused", f"{finish_reason.replace('_', ' ')}: the provider marked the reply so")
    if finish_reason not in FINISH_REASONS:
        return NoReply(
            "failed", f"finish reason {finish_reason!r}: the reply ended in a way that is not known to be a good one"
        )
    cut = finish_reason == LENGTH
    if seen.is_open:
        return NoReply("truncated", CUT_THINKING) if cut else NoReply("empty", NOT_OVER)
    if seen.text.strip() and not _is_unseen(seen.text):
        return None
    where = IN_REASONING if (reasoning or "").strip() else NO_TEXT
    return NoReply("truncated", f"length: cut before there was a text ({where})") if cut else NoReply("empty", where)


def _is_unseen(text: str) -> bool:
    return not text.translate(SIGNS).strip()
