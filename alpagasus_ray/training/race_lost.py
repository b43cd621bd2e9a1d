"""Where a raced arm loses to random: the rows of the dataset that are like the prompts of that category, and their scores.

Plain retrieval over words; knows nothing of torch or Ray.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.reporting.judge_material import scores_of
from alpagasus_ray.reporting.like_rows import Shard, like_any, text_of
from alpagasus_ray.store.run import Run
from alpagasus_ray.training import race_rows
from alpagasus_ray.training.race_setup import Prepared

AGAINST = "random"


def explained(table: Mapping[str, Any], ready: Prepared, run: Run) -> dict[str, dict[str, dict[str, Any]]]:
    """By arm and category, as `like_rows.LikeRows`: only where the interval of the difference to random lies above 0."""
    lost = {
        entry["arm"]: names
        for entry in table["arms"]
        if (names := [one["category"] for one in _categories(entry) if one["low"] is not None and one["low"] > 0])
    }
    if not lost:
        return {}
    pool = race_rows.examples(run)
    ids, texts = list(pool), [text_of(row) for row in pool.values()]
    first = ready.held.rows[: ready.held.sets[0].rows]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for arm, names in lost.items():
        chosen = set(ready.arms.ids[arm][0])
        shard = Shard(ids, texts, np.array([name in chosen for name in ids]), _scores(run, arm, ids))
        prompts = {name: [text_of(row) for row in first if row["category"] == name] for name in names}
        found[arm] = {name: asdict(like_any(own, shard)) for name, own in prompts.items()}
    return found


def _categories(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    categories: list[dict[str, Any]] = entry["against"].get(AGAINST, {}).get("categories", [])
    return categories


def _scores(run: Run, arm: str, ids: list[str]) -> NDArray[np.float64]:
    """The scores that an arm goes by; NaN for one that goes by none."""
    subset = run.subset(arm).finished()
    ratings = next((name.removeprefix("ratings/") for name in subset.inputs if name.startswith("ratings/")), None)
    if ratings is None:
        return np.full(len(ids), np.nan)
    stage = run.ratings(ratings)
    return scores_of(stage, stage.finished(), ids)
