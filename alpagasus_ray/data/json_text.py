"""JSON read value by value, each with the text it was written as; one value at a time is in memory.

A number keeps its text. NaN and the infinities, which Python writes though JSON has none, are read as what they are. Knows
nothing of files or records.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import orjson

CHUNK = 1 << 20
CUT = 16
"""An error so near to the end of what was read may only say that the rest is missing."""
BLANK = re.compile(r"[ \t\n\r]*")
EXACT = re.compile(rb"[:\[,]\s*-?(?:\d+[.eE]|\d{17})|[:\[,]\s*-0|NaN|Infinity")
"""A text that may hold a number which a fast parser would write otherwise."""


class Number(float):
    """A number that keeps the text it was written as."""

    text: str

    @classmethod
    def of(cls, text: str) -> "Number":
        number = cls(text)
        number.text = text
        return number


def _whole(text: str) -> Any:
    return Number.of(text) if text == "-0" else int(text)


_DECODER = json.JSONDecoder(parse_float=Number.of, parse_int=_whole)


class BrokenJson(ValueError):
    """A text that is no JSON: `problem`, and the `line` and `column` where it was noticed, both from 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(problem)
        self.problem, self.line, self.column = problem, line, column


def loads(text: bytes) -> Any:
    """The value of a whole text. Raises `BrokenJson`, or `UnicodeDecodeError`."""
    # orjson is many times as fast, and keeps nothing of how `1.00` or `-0` was written: texts with such numbers go the slow way
    if not EXACT.search(text):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass  # the other parser says where
    try:
        return _DECODER.decode(text.decode())
    except json.JSONDecodeError as error:
        raise BrokenJson(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise BrokenJson("nested too deep", 1, 1) from None
    except ValueError as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise BrokenJson(str(error), 1, 1) from None  # a number of thousands of digits


def is_strict(text: str) -> bool:
    """Whether a text that was read has none of the constants that JSON does not know, and no half of a character."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


class Piece(NamedTuple):
    """A value and its text."""

    value: Any
    text: str


class JsonText:
    """A JSON text that is read from the beginning to the end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8")()
        self._buffer, self._at, self._ended = "", 0, False
        self._lines, self._before = 0, 0  # what was dropped: whole lines, and characters of the line it ended in

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            found = BLANK.match(self._buffer, self._at)
            assert found is not None  # it matches nothing too
            self._at = found.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str) -> bool:
        """Step over a character, if it is the next."""
        if self.peek() != wanted:
            return False
        self._at += 1
        return True

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise self.broken(f"Expecting {wanted!r}" if self.peek() else "it ends too early")

    def value(self) -> Piece:
        """The next value. Raises `BrokenJson`."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._buffer) - CUT
                if cut and self._more():
                    continue
                raise self.broken(error.msg, error.pos) from None
            except RecursionError:
                raise self.broken("nested too deep") from None
            if end == len(self._buffer) and self._more():  # a number may go on
                continue
            text, self._at = self._buffer[self._at : end], end
            return Piece(value, text)

    def elements(self) -> Iterator[Piece]:
        """The values of a list, which is next."""
        self.need("[")
        if self.take("]"):
            return
        while True:
            yield self.value()
            if self.take("]"):
                return
            self.need(",")

    def keys(self) -> Iterator[str]:
        """The keys of an object, which is next; the value behind a key has to be read before the next key is."""
        self.need("{")
        if self.take("}"):
            return
        while True:
            key = self.value().value
            if not isinstance(key, str):
                raise self.broken("a key is not text")
            self.need(":")
            yield key
            if self.take("}"):
                return
            self.need(",")

    def end(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise self.broken("Extra data")

    def broken(self, problem: str, at: int | None = None) -> BrokenJson:
        at = self._at if at is None else at
        line = self._buffer.count("\n", 0, at)
        column = at - self._buffer.rfind("\n", 0, at) if line else self._before + at + 1
        return BrokenJson(problem, self._lines + line + 1, column)

    def _more(self) -> bool:
        """Read on, and drop what is through; False at the end."""
        if self._ended:
            return False
        passed = self._buffer[: self._at]
        lines = passed.count("\n")
        self._lines += lines
        self._before = len(passed) - passed.rfind("\n") - 1 if lines else self._before + len(passed)
        # what was read is dropped, so that a file of gigabytes is never in memory as a whole
        rest = self._buffer[self._at :]
        raw = self._stream.read(max(CHUNK, len(rest)))  # twice as much each time that a value is not through
        self._ended = not raw
        self._buffer, self._at = rest + self._decoder.decode(raw, final=self._ended), 0
        return True
