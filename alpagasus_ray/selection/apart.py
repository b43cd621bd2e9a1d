"""Rows that models are measured on, kept apart from those they learn from. Pure functions over texts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alpagasus_ray.selection.near_duplicates import BLOCK, band_keys, candidates, signatures, similar


class Text(NamedTuple):
    """What of a row is compared."""

    prompt: str
    """Instruction and input."""
    whole: str
    """The same with the output."""


def too_near(held: Sequence[Text], rows: Sequence[Text], near: float) -> list[int]:
    """Which rows ask the same as one that is held out, word for word, or are as a whole as alike to one as `near`
    (`near_duplicates.py`)."""
    if not held or not rows:
        return []
    prompts = {" ".join(text.prompt.split()) for text in held}
    found = {number for number, text in enumerate(rows) if " ".join(text.prompt.split()) in prompts}
    texts = [text.whole for text in (*held, *rows)]
    signed = np.concatenate([signatures(texts[start : start + BLOCK]) for start in range(0, len(texts), BLOCK)])
    # those held out come first, so that every row that shares a key with one is compared with it
    pairs = candidates(band_keys(signed, near), np.arange(len(texts)))
    across = pairs[(pairs[:, 0] < len(held)) & (pairs[:, 1] >= len(held))]
    return sorted(found | set((similar(signed, across, near)[:, 1] - len(held)).tolist()))
