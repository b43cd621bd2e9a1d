"""A look at a stage's first results: where hardly any is of use, tens of replies are paid for and not tens of thousands.

It knows statuses and texts; nothing of requests or of what a status means.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from alpagasus_ray.terminal import spelled

FIRST = 50
"""Rows after which is looked, and from then on after every one."""
ROOM = 64
"""Requests that may be in flight or dealt with until then."""
SHOWN = 2000
"""Characters of a reply that are shown."""


class Usable(NamedTuple):
    """What a stage takes for a result of use."""

    statuses: frozenset[str]
    share: float
    """Stop where a larger share of the first rows has none."""
    knob: str
    """The name of that share in a recipe."""
    advice: str = ""
    """What else may help, as a sentence."""


class FirstLook:
    """Counts the results of one worker until it is certain that they are of use."""

    def __init__(self, usable: Usable) -> None:
        self._usable = usable
        self._seen: Counter[str] = Counter()
        self._rows = self._useless_rows = 0
        self._sample: str | None = None

    def saw(self, result: Mapping[str, Any]) -> str | None:
        """Take a row's result; the answer is why to stop, or None."""
        status = str(result["status"])
        self._seen[status] += 1
        self._rows += 1
        if status not in self._usable.statuses:
            self._useless_rows += 1
            # one reply as it came says more of what is wrong than any count: prose, a refusal, another language
            self._sample = result.get("reply") if self._sample is None else self._sample
        rows, useless = self._rows, self._useless_rows
        # of fewer rows a share says little: the first ten of a file may all be blank
        if rows < FIRST or useless <= self._usable.share * rows:
            return None
        listed = ", ".join(f"{count} x {name}" for name, count in self._useless().most_common(3))
        shown = "none of them has a reply" if self._sample is None else f"one such reply, as it came:\n{_shown(self._sample)}\n"
        return (
            f"{useless} of the first {rows} rows have no usable result ({listed}), more than `{self._usable.knob}` = "
            f"{self._usable.share:g} allows (1 lets it go on all the same); {shown}{self._usable.advice}"
        )

    def _useless(self) -> Counter[str]:
        return Counter({name: count for name, count in self._seen.items() if name not in self._usable.statuses})

    @property
    def is_over(self) -> bool:
        """Whether enough was seen to send as much as goes."""
        return self._rows >= FIRST


def _shown(reply: str) -> str:
    """A reply between two lines, without codes that would command the terminal."""
    text = spelled(reply[:SHOWN]) + ("…" if len(reply) > SHOWN else "")
    return f"---\n{text or '(nothing)'}\n---"
