"""What a whole experiment would ask, train and cost, before any of it is done.

What is not there yet is made up in a scratch directory that is deleted again: the examples are read as ingest reads them, and
an arm whose size is known is drawn at random. Nothing is sent, and nothing of the run is written.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from alpagasus_ray import extras
from alpagasus_ray.config import AFTER_PICK, Arm, Compare, Finetune, Generate, Pick, Recipe
from alpagasus_ray.data import prompt_sets
from alpagasus_ray.engines.prices import BYTES_PER_TOKEN, OVERHEAD_TOKENS, tariff
from alpagasus_ray.errors import UsageError
from alpagasus_ray.feasibility import on_examples, refuse
from alpagasus_ray.judging import pair_rubric as rubrics
from alpagasus_ray.judging.pairs import both_orders
from alpagasus_ray.selection.budgets import rows_of_share
from alpagasus_ray.stages.bench import plan as bench_plan
from alpagasus_ray.stages.card import plan as card_plan
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.plan_score import plan as score_plan
from alpagasus_ray.stages.preview import preview
from alpagasus_ray.store.run import Run
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.training import gpu_estimates
from alpagasus_ray.training.schedule import Order

NO_ANSWERS: Mapping[str, Any] = {
    "prompts": 0,
    "models": [],
    "games": 0,
    "judge": None,
    "tokens_a_game": {"low": 0, "high": 0},
    "evaluation_dollars": {"low": 0.0, "high": 0.0},
}
"""What the plan of a recipe that ends with the report says of answers and games."""
SHORTEST_REVIEW = 4
"""Tokens of a reply that is two scores and nothing else."""


def plan(recipe: Recipe, run: Run, *, gpu: str | None = None, found: Sequence[str] = ()) -> dict[str, Any]:
    """The plan of a completed recipe, plain JSON values; a None is what nobody can know yet. `gpu` is one of
    `gpu_estimates.GPUS`, for the hours. A `UsageError` tells what stands in the way: what was `found` already, and what the
    examples cannot give."""
    if gpu is not None and gpu not in gpu_estimates.GPUS:
        raise UsageError(f"--gpu {gpu}: not known; one of {', '.join(gpu_estimates.GPUS)}")
    folder = tempfile.mkdtemp(prefix="alpagasus-plan-")
    try:
        scratch = Run(Storage.open(folder))
        held = run if run.examples().manifest() else scratch
        refuse([*found, *_on_examples(recipe, held, scratch, _is_picked(recipe, run))])
        judged = score_plan(recipe.score, held)
        labels = _labels(recipe, run, judged)
        trusted = card_plan(recipe, held)
        plans = {"score": judged, "card": trusted, **({"distill": labels} if labels else {})}
        arms = list(_arms(recipe, run, scratch, gpu))
        answers = NO_ANSWERS if recipe.ends_with_report else _answers(recipe.generate, recipe.compare)
        raced = _race(recipe, run, scratch, gpu)
        plans |= {"race": raced} if raced else {}
        benchmarks = bench_plan(recipe.bench, recipe.generate, run) if "bench" in recipe.model_fields_set else None
        plans |= {"bench": benchmarks} if benchmarks else {}
        return {
            "plan_of_all": True,
            "stage": "experiment",
            "location": run.storage.root,
            "rows": judged["rows"],
            **({"left_out": dict(AFTER_PICK)} if recipe.ends_with_report else {}),
            "score": judged,
            **({"distill": labels} if labels else {}),
            "card": trusted,
            "race": raced,
            "arms": arms,
            **answers,
            "bench": benchmarks,
            "total_dollars": _total(recipe, plans, arms, answers["evaluation_dollars"]),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_picked(recipe: Recipe, run: Run) -> bool:
    """Whether all is there that the plan reads of the run."""
    return all(run.subset(arm).manifest() for arm in recipe.finetune.arms) and run.examples().manifest() is not None


def _on_examples(recipe: Recipe, held: Run, scratch: Run, picked: bool) -> list[str]:
    """Read the examples if the plan needs them; the answer is what they cannot give."""
    try:
        if not picked:
            ingest(recipe.ingest, scratch)
        return list(on_examples(recipe, held, held.examples().finished()))
    except UsageError as error:
        return [str(error)]


def _total(
    recipe: Recipe,
    plans: Mapping[str, Mapping[str, Any]],
    arms: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, float | None],
) -> dict[str, Any]:
    """All dollars together, least to most; `not_counted` names what nobody can tell, `high` is None where nothing bounds it."""
    free = {"low": 0.0, "high": 0.0}
    parts: dict[str, Mapping[str, float | None]] = {name: made.get("dollars", free) for name, made in plans.items()}
    parts["compare"] = evaluation
    for arm in arms:
        given = dict.fromkeys(free, arm["dollars"])
        parts[f"finetune {arm['arm']}"] = arm["dollars_range"] or given
    unknown = [name for name, part in parts.items() if part["low"] is None]
    asked = [f"generate {model.name} (its answers)" for model in recipe.generate.models if model.is_model]
    if plans.get("race") and recipe.race.judge is not None and recipe.race.judge.is_remote:
        asked.append("race (its judge)")
    highs = [part["high"] for name, part in parts.items() if name not in unknown]
    return {
        "low": round(sum(part["low"] or 0.0 for part in parts.values()), 6),
        "high": None if None in highs else round(sum(high or 0.0 for high in highs), 6),
        "not_counted": unknown + asked,
    }


def _arms(recipe: Recipe, run: Run, scratch: Run, gpu: str | None) -> Iterator[dict[str, Any]]:
    """What each training takes: by the arm itself where it is picked, else by one of its size, at most by all examples."""
    leader = next((arm for arm in recipe.pick.arms if arm.traits.leads), None)
    for arm in (arm for arm in recipe.pick.arms if arm.name in recipe.finetune.arms):
        if run.subset(arm.name).manifest() is not None:
            source, size = run, "picked"
        else:
            source, size = scratch, _stand_in(arm, leader, scratch)
        if gpu is not None or extras.missing("train") or not _at_hand(recipe.finetune):
            yield _estimated(recipe.finetune, source, arm.name, size, gpu)
            continue
        told = preview(recipe.finetune, source, [arm.name])
        (found,) = told["arms"]
        hours = None if found["minutes"] is None else found["minutes"] * told["workers"] / 60
        kept = {key: found.get(key) for key in ("rows", "steps", "tokens_seen", "minutes", "dollars", "predicted_by")}
        yield {"arm": arm.name, "size": size, "workers": told["workers"], "worker_hours": hours, "dollars_range": None, **kept}


def _race(recipe: Recipe, run: Run, scratch: Run, gpu: str | None) -> dict[str, Any] | None:
    """What a race trains, and its dollars by the size in its model's name; None where there is none to do. Arms that are left
    behind are no longer trained, so it may be less."""
    if "race" not in recipe.model_fields_set or run.race().manifest() is not None:
        return None
    names = recipe.race.arms or tuple(arm.name for arm in recipe.pick.arms)
    leader = next((arm for arm in recipe.pick.arms if arm.traits.leads), None)
    config, held, size = recipe.race.training(recipe.finetune), [], []
    for arm in (arm for arm in recipe.pick.arms if arm.name in names):
        if run.subset(arm.name).manifest() is None and scratch.subset(arm.name).manifest() is None:
            _stand_in(arm, leader, scratch)
        source = run if run.subset(arm.name).manifest() is not None else scratch
        rows, tokens = gpu_estimates.tokens(_texts(source, arm.name), config.max_length)
        held.append(tokens)
        size.append(tokens / rows)
    usual = config.global_batch * sum(size) / len(size)
    each = recipe.race.tokens or round((recipe.race.steps or 0) * usual) or min(held)
    once = [each] * len(held) if recipe.race.epochs is None else [round(recipe.race.epochs * tokens) for tokens in held]
    found = gpu_estimates.estimate(config, recipe.race.seeds * sum(once), 1, gpu)
    dollars = (
        dict.fromkeys(("low", "high")) if found.dollars is None else dict(zip(("low", "high"), found.dollars, strict=True))
    )
    return {
        "model": config.model,
        "trainings": recipe.race.seeds * len(held),
        "tokens": recipe.race.seeds * sum(once),
        "minutes": found.minutes,
        "dollars": dollars,
        "predicted_by": found.by,
    }


def _texts(source: Run, arm: str) -> Iterator[dict[str, Any]]:
    stage = source.subset(arm)
    for table in stage.tables(stage.finished(), ["instruction", "input", "output"]):
        yield from table.to_pylist()


def _at_hand(config: Finetune) -> bool:
    """Whether configuration and tokenizer of the model lie on this machine, so that no hub is needed."""
    if config.model is None or os.path.isdir(config.model):
        return True
    from huggingface_hub import try_to_load_from_cache

    cached = [try_to_load_from_cache(config.model, name) for name in ("config.json", "tokenizer_config.json")]
    return all(isinstance(path, str) for path in cached)


def _estimated(config: Finetune, source: Run, arm: str, size: str, gpu: str | None) -> dict[str, Any]:
    """The training of an arm without its model: tokens by bytes, time by the GPU."""
    rows, held = gpu_estimates.tokens(_texts(source, arm), config.max_length)
    order = Order.of(rows, config.global_batch, config.seed, epochs=config.epochs, steps=config.steps)
    seen = round(held * order.seen / rows)
    workers = config.workers if isinstance(config.workers, int) else (config.workers or (1, 1))[1]
    found = gpu_estimates.estimate(config, seen, workers, gpu)
    middle = None if found.minutes is None else sum(found.minutes) / 2
    return {
        "arm": arm,
        "size": size,
        "workers": workers,
        "worker_hours": None if middle is None else middle * workers / 60,
        "dollars_range": None if found.dollars is None else dict(zip(("low", "high"), found.dollars, strict=True)),
        "rows": rows,
        "steps": order.steps,
        "tokens_seen": seen,
        "minutes": middle,
        "dollars": None if found.dollars is None else sum(found.dollars) / 2,
        "predicted_by": found.by,
    }


def _stand_in(arm: Arm, leader: Arm | None, scratch: Run) -> str:
    """Pick as many examples at random as the arm will have, as far as that is known."""
    known = _rows_of(arm, scratch) or (_rows_of(leader, scratch) if leader and arm.traits.copies_size else None)
    policy: Literal["full", "random"] = "full" if known is None else "random"
    pick_subset(Pick(arms=(Arm(name=arm.name, policy=policy, k=known),)), scratch)
    if known is not None:
        return "known"
    return "known" if arm.policy == "full" else "at most"


def _rows_of(arm: Arm, scratch: Run) -> int | None:
    """How many rows an arm of a stated size takes; of tokens, as many as their number holds of usual rows."""
    examples = scratch.examples().finished()
    if arm.share is not None:
        return rows_of_share(arm.share, examples.rows)
    if arm.tokens is None:
        return arm.k
    entry = examples.parts()[0]
    table = scratch.examples().table(entry.name, entry.sha256, ["instruction", "input", "output"])
    size = sum(len(text.encode()) for row in table.to_pylist() for text in row.values())
    rows = round(arm.tokens * BYTES_PER_TOKEN * len(table) / max(1, size))
    return max(1, min(rows, arm.k or examples.rows, examples.rows))


def _labels(recipe: Recipe, run: Run, judged: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `distill.labels` would ask, where the recipe has it and it is not done."""
    config = recipe.distill
    if config.labels is None or "distill" not in recipe.model_fields_set or run.judge(config.name).manifest() is not None:
        return None
    labels, requests = min(config.labels, judged["rows"]), judged["requests"]
    dollars = judged.get("dollars")
    if not dollars or not requests:
        return {"labels": labels}
    each = {end: None if dollars[end] is None else round(dollars[end] / requests * labels, 6) for end in ("low", "high")}
    return {"labels": labels, "dollars": each}


def _answers(config: Generate, compared: Compare) -> dict[str, Any]:
    """Prompts, games, and what the games cost: from answers of no length to the longest."""
    prompts = [
        prompt._asdict()
        for one in config.test_sets
        for prompt in prompt_sets.load(one.name, one.path, one.format, {str(key): name for key, name in one.columns.items()})
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
