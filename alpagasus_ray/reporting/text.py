"""Words and numbers that several reports share."""


def money(dollars: float | None) -> str:
    """Two places, or four of what is less than a dollar."""
    return "unknown" if dollars is None else f"{dollars:,.{2 if dollars >= 1 or not dollars else 4}f}"
