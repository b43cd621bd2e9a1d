"""Finds out that a server cuts prompts: many of them are counted at one and the same number of tokens, far below their length.

Ollama and others cut what does not fit their context, and say nothing of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

BYTES_A_TOKEN = 4
"""Of English under the usual tokenizers; other texts have fewer, and so more tokens."""
FAR_BELOW = 0.6
"""Share of the estimate below which a count is no matter of the tokenizer any more."""
MANY = 20
SHARE = 0.5
"""Of the prompts counted far below their length, how many must have the commonest count."""


class CutPrompts:
    """Looks at prompts and at what a server counted them at."""

    def __init__(self) -> None:
        self._counted: Counter[int] = Counter()
        self._longest = 0
        self._told = False

    def saw(self, messages: Sequence[Mapping[str, str]], tokens_in: int | None) -> str | None:
        """Take a prompt and its count; the answer is what to tell, once."""
        if self._told or not tokens_in:
            return None
        estimate = sum(_bytes(message["content"]) for message in messages) // BYTES_A_TOKEN
        if tokens_in >= FAR_BELOW * estimate:
            return None
        self._counted[tokens_in] += 1
        self._longest = max(self._longest, estimate)
        tokens, times = self._counted.most_common(1)[0]
        if times < MANY or times < SHARE * self._counted.total():
            return None
        self._told = True
        return (
            f"the server cuts prompts: it counts {times} of them at exactly {tokens:,} tokens, and the longest has about "
            f"{self._longest:,}. What the model did not see it cannot judge: give the server a longer context "
            "(Ollama: num_ctx), and ask again under another name"
        )


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
