"""The one way of text to the terminal: characters that command a terminal, or hide from its reader, are spelled out.

Texts of datasets, replies, messages of servers and names of files are written by others. Control characters move the
cursor, change the title or type for the user; bidirectional ones show a line in another order than it has; zero-width ones
hide in a word. What is allowed is a list: line feed, tab, and what Unicode calls letters, marks, numbers, punctuation, symbols
and spaces. Knows nothing of what is told.
"""

import json
import logging
import sys
import unicodedata
from typing import TextIO

LINES = "\n\t"
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of control, format (bidirectional and zero-width ones among them), surrogate, private and unassigned characters,
and of separators of lines and paragraphs."""
_BLANK = [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)]
_BLANK += [*range(0xE0100, 0xE01F0)]
"""Letters and marks that nothing is drawn for (Default_Ignorable_Code_Point in Unicode's DerivedCoreProperties.txt)."""
_BLANKS = frozenset(map(chr, _BLANK))


def is_plain(character: str) -> bool:
    """Whether a character is shown as what it is."""
    return character not in _BLANKS and unicodedata.category(character) not in _HIDDEN


def spelled(text: str) -> str:
    r"""The text with what is not shown as it is spelled out: `\x1b`, `\u202e`, `\U000e0041`. Lines and tabs stay."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(c if c in LINES or is_plain(c) else _code(c) for c in text)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line, or several, to stderr or another stream."""
    out = stream or sys.stderr
    out.write(spelled(text) + "\n")
    out.flush()


def say_json(value: object) -> None:
    """Write a value as one line of JSON to stdout. What would be spelled out elsewhere is escaped as JSON does it, so that a
    reader of the JSON gets the text that it was."""
    line = json.dumps(value, ensure_ascii=False)
    sys.stdout.write("".join(c if is_plain(c) else json.dumps(c)[1:-1] for c in line) + "\n")
    sys.stdout.flush()


class Spelling(logging.Formatter):
    """What libraries and this package log without a handler of their own, as it is written."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, spelled out."""
        return spelled(super().format(record))
