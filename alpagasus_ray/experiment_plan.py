"""What a whole experiment would ask, train and cost, before any of it is done.

What is not there yet is made up in a scratch directory that is deleted again: the examples are read as ingest reads them, and
an arm whose size is known is drawn at random. Nothing is sent, and nothing of the run is written.
"""

import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, Literal

from alpagasus_ray.config import Arm, Compare, Generate, Pick, Recipe
from alpagasus_ray.datasets.run import Run
from alpagasus_ray.datasets.storage import Storage
from alpagasus_ray.engines.prices import BYTES_PER_TOKEN, OVERHEAD_TOKENS, tariff
from alpagasus_ray.evaluation import test_sets
from alpagasus_ray.judging import pairs as rubrics
from alpagasus_ray.stages.games import both_orders
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.plan import plan as score_plan
from alpagasus_ray.stages.preview import preview

SHORTEST_REVIEW = 4
"""Tokens of a reply that is two scores and nothing else."""


def plan(recipe: Recipe, run: Run) -> dict[str, Any]:
    """The plan of a completed recipe, plain JSON values; a None is what nobody can know yet."""
    folder = tempfile.mkdtemp(prefix="alpagasus-plan-")
    try:
        scratch = Run(Storage.open(folder))
        if not _is_picked(recipe, run):
            ingest(recipe.ingest, scratch)
        judged = score_plan(recipe.score, run if run.examples().manifest() else scratch)
        return {
            "plan_of_all": True,
            "stage": "experiment",
            "location": run.storage.root,
            "rows": judged["rows"],
            "score": judged,
            "arms": list(_arms(recipe, run, scratch)),
            **_answers(recipe.generate, recipe.compare),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_picked(recipe: Recipe, run: Run) -> bool:
    """Whether all is there that the plan reads of the run."""
    return all(run.subset(arm).manifest() for arm in recipe.finetune.arms) and run.examples().manifest() is not None


def _arms(recipe: Recipe, run: Run, scratch: Run) -> Iterator[dict[str, Any]]:
    """What each training takes: by the arm itself where it is picked, else by one of its size, at most by all examples."""
    leader = next((arm for arm in recipe.pick.arms if arm.policy in ("threshold", "top")), None)
    for arm in (arm for arm in recipe.pick.arms if arm.name in recipe.finetune.arms):
        if run.subset(arm.name).manifest() is not None:
            source, size = run, "picked"
        else:
            source, size = scratch, _stand_in(arm, leader, scratch)
        told = preview(recipe.finetune, source, [arm.name])
        (found,) = told["arms"]
        hours = None if found["minutes"] is None else found["minutes"] * told["workers"] / 60
        kept = {key: found.get(key) for key in ("rows", "steps", "tokens_seen", "minutes", "dollars", "predicted_by")}
        yield {"arm": arm.name, "size": size, "workers": told["workers"], "worker_hours": hours, **kept}


def _stand_in(arm: Arm, leader: Arm | None, scratch: Run) -> str:
    """Pick as many examples at random as the arm will have, as far as that is known."""
    known = arm.k or (leader.k if leader and arm.policy in ("random", "longest", "lowest") else None)
    policy: Literal["full", "random"] = "full" if known is None else "random"
    pick_subset(Pick(arms=(Arm(name=arm.name, policy=policy, k=known),)), scratch)
    if known is not None:
        return "known"
    return "known" if arm.policy == "full" else "at most"


def _answers(config: Generate, compared: Compare) -> dict[str, Any]:
    """Prompts, games, and what the games cost: from answers of no length to the longest."""
    prompts = [
        prompt._asdict()
        for one in config.test_sets
        for prompt in test_sets.load(one.name, one.path, one.format, {str(key): name for key, name in one.columns.items()})
    ]
    judge, rubric = compared.judge, rubrics.load(compared.judge.rubric)
    games = 2 * len(prompts) * len(compared.pairs)
    asked = (rubric.messages(both_orders(prompt, "?", "?")[0]) for prompt in prompts)
    size = sum(len(message["content"].encode()) for messages in asked for message in messages)
    least = size / BYTES_PER_TOKEN / max(1, len(prompts)) + OVERHEAD_TOKENS
    costs, most = tariff(judge), least + 2 * config.max_new_tokens
    is_free = not judge.is_remote
    return {
        "prompts": len(prompts),
        "models": [model.name for model in config.models],
        "games": games,
        "judge": judge.model or judge.kind,
        "tokens_a_game": {"low": round(least), "high": round(most)},
        "evaluation_dollars": {
            "low": 0.0 if is_free else costs.dollars(games * least, games * SHORTEST_REVIEW),
            "high": 0.0 if is_free else _most(games, most, judge.max_tokens, costs),
        },
    }


def _most(games: int, tokens_in: float, tokens_out: int | None, costs: Any) -> float | None:
    return None if tokens_out is None else costs.dollars(games * tokens_in, games * tokens_out)
