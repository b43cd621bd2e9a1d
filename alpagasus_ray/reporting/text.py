"""Words and numbers that several reports share."""

import re

CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")


def harmless(text: str) -> str:
    """A text of the dataset without codes that would command the terminal; they are spelled out."""
    return CONTROL.sub(lambda code: f"\\x{ord(code[0]):02x}", text)


def money(dollars: float | None) -> str:
    """Two places, or four of what is less than a dollar."""
    return "unknown" if dollars is None else f"{dollars:,.{2 if dollars >= 1 or not dollars else 4}f}"
