"""Numbers in a text, read as numbers: what `exact match` compares them by. Pure.

A number keeps its sign, its decimals and its fraction, and how it is written does not count:

| written | is |
|---|---|
| `4`, `4.0`, `+4`, `04`, a 4 in the digits of any script | 4 |
| `-5` with any sign for minus, `-$5` | -5 |
| `1,000`, `1000` | 1000 |
| `3.5`, `3,5`, `7/2`, `3 1/2`, `3½`, 7 over 2 in TeX | 7/2 |
| `1e3` | 1000 |

A group of three digits behind a comma is one of thousands, other digits behind it are decimals. What looks like a number and is
none (`1.2.3`, `3:30`, `1/2/2020`, `3-5`, `x-3`, `covid-19`) stays a word, signs and points included.
"""

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

MOST_DIGITS = 200
"""Characters of a number beyond which it is compared as a word."""
DASHES = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
SIGNS = str.maketrans(dict.fromkeys(DASHES, "-") | {"\uff0b": "+", "\uff0e": ".", "\uff0c": ",", "\uff0f": "/", "\u2044": "/"})
UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The characters of Chinese and Japanese, which are written without spaces."""
LETTER = rf"[^\W_{UNSPACED}]"
CURRENCY = "[$€£¥]?"
WHOLE = r"\d{1,3}(?:,\d{3})+|\d+"
DECIMAL = rf"(?:{WHOLE})(?:\.\d+)?|\d+,\d+|\.\d+"
NUMBER = re.compile(
    rf"(?<!{LETTER})(?<!{LETTER}[-+])(?<![0-9][.,:/])"  # nothing before it that it could belong to
    rf"(?P<sign>[-+]?){CURRENCY}"
    rf"(?:(?:(?P<ones>\d+)[ ])?(?P<top>\d+)/(?P<bottom>\d+)|(?P<decimal>{DECIMAL})(?:e(?P<power>[-+]?\d{{1,2}}))?)"
    r"(?!\d)(?![.,:/+-]\d)"
)
FRACTION_IN_TEX = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
FRACTION_SIGN = re.compile(r"(\d?)([\u00bc-\u00be\u2150-\u215e\u2189])")
SPACED = (
    re.compile(r"(?<![^\W\d_])([^\W_])\s+([-+])\s+(?=\d)"),  # x - 3, where x is one letter or a number
    re.compile(r"(\d)\s*(/)\s*(?=\d)"),
)
"""What is one expression however wide it is written."""


def plain(text: str) -> str:
    """The text with digits, signs and fractions of all scripts as ASCII writes them."""
    told = FRACTION_SIGN.sub(_fraction, text.translate(SIGNS))
    told = "".join(str(unicodedata.digit(c)) if not c.isascii() and c.isdecimal() else c for c in told)
    told = FRACTION_IN_TEX.sub(r"\1/\2", told)
    for pattern in SPACED:
        told = pattern.sub(r"\1\2", told)
    return told


def _fraction(found: re.Match[str]) -> str:
    """`3½` as `3 1/2`."""
    ones, sign = found.groups()
    return f"{ones} "[: 2 * len(ones)] + unicodedata.normalize("NFKC", sign).replace("\u2044", "/")


def parts(text: str) -> Iterator[str | Fraction]:
    """A text from `plain`, in lower case, as numbers and what stands between them."""
    end = 0
    for found in NUMBER.finditer(text):
        value = _value(found)
        if value is not None:
            yield text[end : found.start()]
            yield value
            end = found.end()
    yield text[end:]


def _value(found: re.Match[str]) -> Fraction | None:
    """None for what divides by zero, and for what is too long for a number of this world."""
    if len(found[0]) > MOST_DIGITS:
        return None
    if found["bottom"] is None:
        value = _decimal(found["decimal"]) * Fraction(10) ** int(found["power"] or 0)
    elif int(found["bottom"]):
        value = int(found["ones"] or 0) + Fraction(int(found["top"]), int(found["bottom"]))
    else:
        return None
    return -value if found["sign"] == "-" else value


def _decimal(written: str) -> Fraction:
    thousands = re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", written)
    return Fraction(written.replace(",", "" if thousands else "."))
