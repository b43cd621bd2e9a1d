"""Words and numbers that several reports share."""

from alpagasus_ray.terminal import spelled


def harmless(text: str) -> str:
    """A text of the dataset without characters that would command the terminal or hide in it; they are spelled out."""
    return spelled(text)


def money(dollars: float | None) -> str:
    """Two places, or four of what is less than a dollar."""
    return "unknown" if dollars is None else f"{dollars:,.{2 if dollars >= 1 or not dollars else 4}f}"
