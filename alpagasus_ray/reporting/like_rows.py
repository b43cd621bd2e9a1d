"""Which rows of the dataset are like the prompts on which an arm loses, which of them were kept, and with what scores.

One shard's texts are in memory at a time. Words that are rare in one shard may be common in another, so that similarities of
two shards differ a little in what they weigh.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.config import Rule
from alpagasus_ray.evaluation.match_rules import decide
from alpagasus_ray.reporting.comparisons_data import PairGames
from alpagasus_ray.reporting.joined_rows import JoinedRows
from alpagasus_ray.reporting.run_reader import FinishedStages
from alpagasus_ray.selection.nearest import Near, in_words, nearest

COUNTED, SHOWN = 20, 3
"""How many like a prompt are counted at most, and how many are shown, of those kept and of those dropped."""
PROMPTS = 200
"""Lost prompts that are looked at; the first of them."""
LETTERS = 300
"""Of a row's text that is shown."""

Key = tuple[str, str]
"""Test set and prompt id."""


class Shard(NamedTuple):
    """Rows of the dataset, all fields of one length."""

    ids: Sequence[str]
    texts: Sequence[str]
    """Instruction and input."""
    kept: NDArray[np.bool_]
    """Whether the arm holds it."""
    scores: NDArray[np.float64]
    """NaN where there is none."""


@dataclass(frozen=True)
class LikeRows:
    """The rows that are like one prompt."""

    words: str
    """E.g. `rows like it: 2 kept, 3 dropped with scores of 3.5 to 4`."""
    rows: Sequence[Sequence[Any]]
    """Each `[example id, text, score or null, kept]`, the most alike first."""


def like_rows(prompts: Sequence[str], shards: Iterable[Shard]) -> list[LikeRows]:
    """For each prompt what is like it."""
    found: list[list[tuple[Near, str, str]]] = [[] for _ in prompts]
    for shard in shards:
        for own, more in zip(found, nearest(prompts, shard.texts, shard.kept, shard.scores, COUNTED), strict=True):
            own += [(near, shard.ids[near.row], shard.texts[near.row]) for near in more]
    return [_told(own) for own in found]


def like_any(prompts: Sequence[str], shard: Shard) -> LikeRows:
    """What is like at least one of several prompts, each row counted once."""
    best: dict[int, Near] = {}
    for near in (near for own in nearest(prompts, shard.texts, shard.kept, shard.scores, COUNTED) for near in own):
        if near.row not in best or best[near.row].cosine < near.cosine:
            best[near.row] = near
    return _told([(near, shard.ids[near.row], shard.texts[near.row]) for near in best.values()], len(shard.ids) + 1)


def _told(found: Sequence[tuple[Near, str, str]], most: int = COUNTED) -> LikeRows:
    ordered = sorted(found, key=lambda one: -one[0].cosine)
    sides = [[one for one in ordered if one[0].kept is kept][:most] for kept in (True, False)]
    shown = sorted((one for side in sides for one in side[:SHOWN]), key=lambda one: -one[0].cosine)
    rows = [[row, text.strip()[:LETTERS], None if np.isnan(near.score) else near.score, near.kept] for near, row, text in shown]
    return LikeRows(in_words([near for side in sides for near, _, _ in side], most), rows)


def of_lost(
    stages: FinishedStages, joined: JoinedRows | None, pairs: Sequence[PairGames], rule: Rule, mine: set[str]
) -> dict[Key, LikeRows]:
    """For each prompt on which a model of the report's arm (`mine`) loses, the rows that are like it."""
    lost = dict(list(_lost(pairs, rule, mine))[:PROMPTS])
    if joined is None or not lost:
        return {}
    return dict(zip(lost, like_rows(list(lost.values()), _shards(stages, joined)), strict=True))


def _lost(pairs: Sequence[PairGames], rule: Rule, mine: set[str]) -> Iterator[tuple[Key, str]]:
    for pair in pairs:
        if pair.a in mine:
            lost = {(match.test_set, match.prompt_id) for match in pair.matches if decide(rule, match) == "lose"}
            for game in pair.games:
                key = game["test_set"], game["prompt_id"]
                if key in lost:
                    yield key, text_of(game)


def _shards(stages: FinishedStages, joined: JoinedRows) -> Iterator[Shard]:
    start, score = 0, joined.expected if np.isnan(joined.score).all() else joined.score
    for table in stages.stage("examples").tables(stages.manifests["examples"], ["example_id", "instruction", "input"]):
        rows = slice(start, start + len(table))
        texts = [text_of(row) for row in table.to_pylist()]
        yield Shard(table["example_id"].to_pylist(), texts, joined.kept[rows], score[rows])
        start += len(table)


def text_of(row: Mapping[str, Any]) -> str:
    """What is compared of a row and of a prompt."""
    return f"{row['instruction']}\n{row['input'] or ''}"
