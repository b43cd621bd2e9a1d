"""Who is asked what, in which order, and which answer stands first: pure, from a secret that stays out of the page.

Texts of an item stand in the page in an order that only the key knows, and each voter's layout says which of them is shown
first. So neither the page nor two voters' layouts together tell which answers are of one model. Everything is drawn from
a secret: whoever has the page and this code, but not the key, can work nothing out.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.planted_defects import garbled

PER_TEST_SET = 40
REPEATS, CHECKS = 10, 4
NEAR_CUT, AT_RANDOM = 50, 50

Kind = Literal["main", "repeat", "check"]
AT_RANDOM_ROW, NEAR_ROW = "random", "near the cut"
"""How an example came to be rated by people."""


class Pair(NamedTuple):
    """A prompt with the answers of two models, from the side of the pair's a and b."""

    prompt_id: str
    test_set: str
    skill: str
    prompt: str
    answer_a: str
    answer_b: str


class Single(NamedTuple):
    """An example to be rated by itself: what was asked, and the answer."""

    example_id: str
    prompt: str
    answer: str
    drawn: str = AT_RANDOM_ROW
    """How it came to be asked about."""


class Drawn(NamedTuple):
    """Numbers of the rows that people rate, each in one of the two."""

    at_random: list[int]
    """A sample of all rows with a score: what is measured on these holds for all of them."""
    near: list[int]
    """The nearest to the cut of those that were not drawn at random."""


class Item(NamedTuple):
    """What is shown of one question: two texts, or one that is to be rated.

    `a_is` is the place of a's answer among the texts of a pair, and of the good text of a check; 0 for a single one.
    """

    item_id: str
    test_set: str
    skill: str
    prompt: str
    texts: tuple[str, ...]
    a_is: int
    is_check: bool = False
    drawn: str = ""
    """Of an example, how it came to be asked about."""


class Slot(NamedTuple):
    """One showing of an item to one voter; `first` is the place of the text that stands first."""

    slot: str
    item: int
    first: int
    kind: Kind


class Study(NamedTuple):
    """All items, and for each voter what she is shown, in her order."""

    items: tuple[Item, ...]
    layouts: dict[str, tuple[Slot, ...]]


def pairs_for_votes(pairs: Sequence[Pair], per_test_set: int, secret: str) -> list[Pair]:
    """So many prompts of each test set, each skill with its share of them (largest remainders); all, where there are fewer."""
    by_set: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_set[pair.test_set].append(pair)
    return [
        pair for name in sorted(by_set) for pair in _stratified(by_set[name], per_test_set, _random(secret, "choose", name))
    ]


def _stratified(pairs: Sequence[Pair], size: int, random: np.random.Generator) -> list[Pair]:
    if len(pairs) <= size:
        return list(pairs)
    by_skill: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs):
        by_skill[pair.skill].append(pair)
    wanted = {skill: size * len(members) / len(pairs) for skill, members in by_skill.items()}
    taken = {skill: int(share) for skill, share in wanted.items()}
    for skill in sorted(wanted, key=lambda name: taken[name] - wanted[name])[: size - sum(taken.values())]:
        taken[skill] += 1
    return [members[i] for skill, members in by_skill.items() for i in sorted(random.permutation(len(members))[: taken[skill]])]


def rows_for_ratings(scores: ArrayLike, cut: float, secret: str, near: int = NEAR_CUT, at_random: int = AT_RANDOM) -> Drawn:
    """Rows for people to rate: some of all at random, and of the others those whose score is nearest to the cut, or by chance.

    The random ones are drawn first: drawn from what is left beside those near the cut, they would lack the rows on which a
    judge is most often wrong.
    """
    known = np.asarray(scores, dtype=np.float64)
    shuffled = _random(secret, "rows").permutation(np.flatnonzero(~np.isnan(known)))
    drawn, rest = shuffled[:at_random], shuffled[at_random:]
    nearest = rest[np.argsort(np.abs(known[rest] - cut), kind="stable")][:near]
    return Drawn(drawn.tolist(), nearest.tolist())


def vote_study(
    pairs: Sequence[Pair], voters: Sequence[str], secret: str, repeats: int = REPEATS, checks: int = CHECKS
) -> Study:
    """The study of pairs; a check is a prompt's longer answer against the same with its words in no order."""
    random = _random(secret, "items")
    items = []
    for pair in pairs:
        a_is = int(random.integers(2))
        texts = (pair.answer_a, pair.answer_b)
        items.append(Item(pair.prompt_id, pair.test_set, pair.skill, pair.prompt, texts[::-1] if a_is else texts, a_is))
    for pair in _long(pairs, checks):
        good, a_is = max(pair.answer_a, pair.answer_b, key=len), int(random.integers(2))
        both = (good, garbled(good, random))
        items.append(Item(f"check-{pair.prompt_id}", "", "", pair.prompt, both[::-1] if a_is else both, a_is, is_check=True))
    return Study(tuple(items), _layouts(items, voters, secret, repeats))


def rating_study(
    rows: Sequence[Single], voters: Sequence[str], secret: str, repeats: int = REPEATS, checks: int = CHECKS
) -> Study:
    """The study of single examples that are rated; a check is an answer with its words in no order."""
    random = _random(secret, "items")
    items = [Item(row.example_id, "", "", row.prompt, (row.answer,), 0, drawn=row.drawn) for row in rows]
    longest = sorted(rows, key=lambda one: (-len(one.answer), one.example_id))[:checks]
    items += [
        Item(f"check-{one.example_id}", "", "", one.prompt, (garbled(one.answer, random),), 0, is_check=True) for one in longest
    ]
    return Study(tuple(items), _layouts(items, voters, secret, repeats))


def _long(pairs: Sequence[Pair], checks: int) -> list[Pair]:
    """The pairs whose answers are easiest to tell from garbled ones."""
    return sorted(pairs, key=lambda pair: (-max(len(pair.answer_a), len(pair.answer_b)), pair.prompt_id))[:checks]


def _layouts(items: Sequence[Item], voters: Sequence[str], secret: str, repeats: int) -> dict[str, tuple[Slot, ...]]:
    if len(set(voters)) != len(voters) or not voters or not all(name.strip() for name in voters):
        raise UsageError(f"people.voters: {list(voters)}; give each voter a name of her own")
    main = [number for number, item in enumerate(items) if not item.is_check]
    if not main:
        raise UsageError("people: there is nothing to ask about; generate answers of both models first")
    sides = _sides([items[number] for number in main], _random(secret, "sides"))
    return {
        voter: _layout(
            items, [int(side) ^ turn % 2 for side in sides], _random(secret, "voter", voter), min(repeats, len(main))
        )
        for turn, voter in enumerate(voters)
    }


def _sides(asked: Sequence[Item], random: np.random.Generator) -> np.ndarray:
    """Whether a stands first, one for each item: once in each two, so that each test set and skill is balanced too.

    Which two belong together is drawn, within a test set and skill: the ballot lists its items, and if neighbours were known to
    have opposite sides, it would tell which of their answers are of one model. Every second voter sees the other side, so that
    each item is seen both ways.
    """
    drawn = random.permutation(len(asked)).tolist()
    order = sorted(drawn, key=lambda number: (asked[number].test_set, asked[number].skill))  # stable: within a skill as drawn
    starts = random.integers(0, 2, (len(asked) + 1) // 2)
    sides = np.empty(len(asked), dtype=np.int64)
    sides[order] = np.column_stack([starts, 1 - starts]).reshape(-1)[: len(asked)]
    return sides


def _layout(items: Sequence[Item], sides: Sequence[int], random: np.random.Generator, repeats: int) -> tuple[Slot, ...]:
    """One voter's slots: repeats, sides swapped, stand in the last third and repeat what stood in the first half."""
    main = [number for number, item in enumerate(items) if not item.is_check]
    first = {number: items[number].a_is if side else _other(items[number]) for number, side in zip(main, sides, strict=True)}
    order: list[tuple[int, int, Kind]] = [(number, first[number], "main") for number in random.permutation(main).tolist()]
    early = order[: max(len(order) // 2, repeats)]
    again = [early[i] for i in random.permutation(len(early))[:repeats]]
    for number, shown, _ in again:
        place = int(random.integers(2 * len(order) // 3, len(order) + 1))
        order.insert(place, (number, len(items[number].texts) - 1 - shown, "repeat"))
    for number in (i for i, item in enumerate(items) if item.is_check):
        order.insert(int(random.integers(len(order) + 1)), (number, int(random.integers(len(items[number].texts))), "check"))
    names = random.choice(1 << 24, size=len(order), replace=False)
    return tuple(Slot(f"{name:06x}", *shown) for name, shown in zip(names.tolist(), order, strict=True))


def _other(item: Item) -> int:
    return len(item.texts) - 1 - item.a_is


def _random(secret: str, *parts: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256("\0".join((secret, *parts)).encode()).digest()))
