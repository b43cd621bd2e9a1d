"""How much of a benchmark the examples of an arm hold."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from alpagasus_ray.pick_inputs.cleaning import hits_in
from alpagasus_ray.raycluster.by_shard import map_shards
from alpagasus_ray.selection import clean
from alpagasus_ray.selection.clean import PromptText
from alpagasus_ray.store.run import StageDir


def of_arm(benchmark: str, asked: Iterable[tuple[str, str, str]], arm: StageDir) -> dict[str, Any]:
    """Questions that an arm's examples hold, by the rule of `pick.clean`. `asked` are id, question and answer of each
    document. The answer has the number of documents, the ids of those that were found, and how many examples hold one."""
    texts = []
    for name, question, target in asked:
        texts += [PromptText(benchmark, name, "prompt", question), PromptText(benchmark, name, "reference", target)]
    index = clean.index_of(texts)
    manifest = arm.finished()
    parts = list(map_shards(partial(hits_in, index), arm, manifest))
    found = sorted({hit.prompt_id for hits in parts for hit in hits})
    return {
        "arm": arm.name,
        "documents": len(texts) // 2,
        "found": len(found),
        "ids": found[:MOST_IDS],
        "examples": sum(len({hit.row for hit in hits}) for hits in parts),
    }


MOST_IDS = 100
