"""The scores that the first line of a reply may hold, as texts: what a grammar lets through, what a beginning can become, and
how probable each score was.

Probabilities come as a tree (`base.Tree`): for some texts that a reply can begin with, the log probabilities of the texts
that may come next. Where the score does not stand first, they are read at its place: behind the beginning that the reply has
(`place_of`, `after`). A text that only one score can still follow is that score. Pure functions; they know no engine and no
tokenizer.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from alpagasus_ray.engines.base import Tree

END = "\n"
"""Ends the line, as the end of the reply does."""
UNKNOWN = 0.05
"""More than so much of the probability may not lie in beginnings that nobody has looked into."""


class Distribution(NamedTuple):
    """How probable each score was."""

    probabilities: dict[str, float]
    """Score -> probability; they sum to 1."""
    mean: float
    """The expected score."""
    outside: float
    """Probability that a reply that is not kept to the scale does not begin with a score of it, as far as was looked."""


def pattern(scores: Sequence[str]) -> str:
    """A regular expression for replies whose first line is a score alone, and that may end there; `4/5` as well, so that a
    model that wants to write this is not pushed into `4.5`. Many tokenizers begin a text with a space."""
    end = re.escape(out_of(scores))
    return f" ?(?:{'|'.join(re.escape(score) for score in scores)})(?:{end})?(?:\\n[\\s\\S]*)?"


def out_of(scores: Sequence[str]) -> str:
    """What may stand behind a score on its line: `/5`."""
    return f"/{max(scores, key=float)}"


def can_become(text: str, scores: Sequence[str]) -> list[str]:
    """The scores that a first line with this beginning can still hold."""
    line, ended, _ = text.removeprefix(" ").partition(END)
    score_said, slash, _ = line.partition("/")
    if slash:  # the score is complete, and what it is out of is being written
        whole, end = f"{score_said}{out_of(scores)}", line[len(score_said) :]
        fits = line == whole if ended else out_of(scores).startswith(end)
        return [score for score in scores if fits and score == score_said]
    return [score for score in scores if (score == line if ended else score.startswith(line))]


NUMBER = re.compile(r"\s?(?P<number>[0-9]+(?:[.,][0-9]+)?|\.[0-9]+)")
IN_A_NUMBER = re.compile(r"[0-9][.,]?\Z")


def place_of(text: str, tree: Tree, score: float, scores: Sequence[str], read: Callable[[str], float | None]) -> str | None:
    """The beginning of the reply behind which the score stands that was read, of those that the tree has looked behind: with
    another number in its place the reply would be read as that other one, or as a contradiction. None where there is none."""
    # any other score will do: what is asked is whether the reading goes by this place
    other = next((one for one in scores if float(one) != score), None)
    contradicted = None
    for place in sorted(tree, key=len):
        said = NUMBER.match(text, len(place))
        if other is None or said is None or not text.startswith(place) or IN_A_NUMBER.search(place):
            continue
        found = read(f"{text[: said.start('number')]}{other}{text[said.end('number') :]}")
        if found == float(other):
            return place
        if found is None and float(said["number"].replace(",", ".")) == score and contradicted is None:
            contradicted = place
    return contradicted


def after(tree: Tree, place: str) -> Tree:
    """The tree behind a beginning of the reply."""
    return {text.removeprefix(place): found for text, found in tree.items() if text.startswith(place)}


def begin_alike(scores: Sequence[str]) -> tuple[str, str] | None:
    """Two scores with the same first character, such as 4 and 4.5 or 1 and 10, if there are such: one token may leave open
    which of them it is."""
    return next(((a, b) for a in scores for b in scores if a != b and a[0] == b[0]), None)


def added_up(found: Iterable[tuple[str, float]]) -> dict[str, float]:
    """One log probability for each text, where several tokens may stand for the same; texts without any are left out."""
    sums: defaultdict[str, float] = defaultdict(float)
    for text, logprob in found:
        sums[text] += math.exp(logprob)
    return {text: math.log(mass) for text, mass in sums.items() if mass}


def shares(tree: Tree, text: str, scores: Sequence[str]) -> dict[str, float]:
    """What may come after a beginning, and how probable it is if only that may come which leaves a score possible."""
    found = {token: math.exp(p) for token, p in tree.get(text, {}).items() if token and can_become(text + token, scores)}
    total = math.fsum(found.values())
    return {token: mass / total for token, mass in found.items()} if total else {}


def distribution(tree: Tree, scores: Sequence[str]) -> Distribution | None:
    """How probable each score is in a reply that is kept to the scale token by token, as a grammar keeps it. None where no
    score has any probability, or where too much of it is `UNKNOWN`: the tree was made for another scale, say. What was too
    rare to be looked into is left out."""
    masses, inside = dict.fromkeys(scores, 0.0), 0.0

    def walk(text: str, kept: float, free: float) -> None:
        nonlocal inside
        for token, share in shares(tree, text, scores).items():
            possible, unbound = can_become(text + token, scores), free * math.exp(tree[text][token])
            # whatever is written after this, it is that score: the rest of its digits has probability 1
            if len(possible) == 1:
                masses[possible[0]] += kept * share
                inside += unbound
            else:
                walk(text + token, kept * share, unbound)

    walk("", 1.0, 1.0)
    total = math.fsum(masses.values())
    # what was not looked into could be any score, and a mean over the rest would be made up
    if total < 1 - UNKNOWN:
        return None
    probabilities = {score: mass / total for score, mass in masses.items()}
    mean = math.fsum(float(score) * share for score, share in probabilities.items())
    return Distribution(probabilities, mean, max(0.0, 1.0 - inside))
