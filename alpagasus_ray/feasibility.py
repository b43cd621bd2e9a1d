"""What of a recipe cannot be done, found before anything is paid for: all of it at once, one line a problem.

Two looks. `before` needs the recipe alone: files, names, keys, models, and one request to each server, for its list of models,
which costs nothing. `on_examples` needs the examples: sizes, floors and cuts. Starts no Ray, writes nothing.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alpagasus_ray import extras
from alpagasus_ray.config import Arm, EngineConfig, Recipe
from alpagasus_ray.data import prompt_sets, readers
from alpagasus_ray.errors import AlpagasusError, UsageError
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.tasks.rating import check_model, scale_of
from alpagasus_ray.judging import pair_rubric, rubric
from alpagasus_ray.selection.cuts import cut_problems
from alpagasus_ray.store.run import Manifest, Run, versus

GPU_DEVICES = "/proc/driver/nvidia/gpus", "/dev/kfd"
"""What a Linux machine with NVIDIA's or AMD's driver has."""


def has_gpu() -> bool:
    """Whether this machine has a GPU and its driver; told without loading PyTorch."""
    return any(os.path.exists(path) for path in GPU_DEVICES)


def refuse(problems: Iterable[str]) -> None:
    """Raise one `UsageError` with all of them, if there are any."""
    listed = list(dict.fromkeys(problems))
    if listed:
        raise UsageError("the recipe cannot be done as it stands; nothing was asked or paid for:\n  " + "\n  ".join(listed))


def of_score(recipe: Recipe, run: Run, *, sends: bool = True) -> Iterator[str]:
    """What stands in the way of `score`, and of what the recipe does with its ratings. Without `sends` no server is asked."""
    yield from _told(lambda: rubric.load(recipe.score.judge.rubric))
    if sends:
        yield from servers(recipe.score.judge)
    examples = run.examples().manifest()
    # defaults that nobody wrote stand in nobody's way
    is_picked = "pick" in recipe.model_fields_set and recipe.pick.ratings == recipe.score.name
    if examples is not None and is_picked:
        yield from on_examples(recipe, run, examples)
    yield from _test_sets(recipe, run)


def before(recipe: Recipe, run: Run, *, sends: bool = True) -> Iterator[str]:
    """What stands in the way of a whole experiment, as far as it is known without the examples. Of what is finished in the run
    nothing is asked: it needs neither its server nor its files any more."""
    yield from _told(lambda: check_model(recipe.score.judge))
    yield from _told(lambda: rubric.load(recipe.score.judge.rubric))
    yield from _told(lambda: pair_rubric.load(recipe.compare.judge.rubric))
    if recipe.pick.ratings != recipe.score.name:
        yield (
            f"pick.ratings is {recipe.pick.ratings!r}, and score.name is {recipe.score.name!r}: the arms would be chosen by "
            "ratings that this recipe does not make; give both the same name"
        )
    yield from _later_names(recipe)
    yield from _cuts(recipe)
    yield from _test_sets(recipe, run)
    if recipe.finetune.heldout is not None and not _trained(recipe, run):
        yield from _told(lambda: readers.expand(str(recipe.finetune.heldout), "finetune.heldout"))
    if sends:
        left = _left(recipe, run)
        for engine in left:
            yield from servers(engine)
        yield from _models(recipe, left, trains=not _trained(recipe, run))
        yield from _gpus(recipe, left, trains=not _trained(recipe, run))


def on_examples(recipe: Recipe, run: Run, examples: Manifest) -> Iterator[str]:
    """What the examples cannot give: more rows than there are, categories that none has."""
    yield from _cuts(recipe)
    for arm in recipe.pick.arms:
        if arm.k is not None and arm.k > examples.rows and run.subset(arm.name).manifest() is None:
            yield f"pick.arms: arm {arm.name!r} asks for k = {arm.k:,}, and there are {examples.rows:,} examples"
    if any(arm.floors or arm.thresholds or (arm.shares and arm.shares_of == "category") for arm in recipe.pick.arms):
        known = set(_categories(run, examples))
        for arm in recipe.pick.arms:
            yield from _floors(arm, known)


def _floors(arm: Arm, known: set[str]) -> Iterator[str]:
    there = ", ".join(sorted(known)) or "none: the examples have no categories"
    shares = arm.shares if arm.shares_of == "category" else {}
    for what, named in (("floor", arm.floors), ("threshold", arm.thresholds), ("share", shares)):
        for name in sorted(set(named) - known):
            yield f"pick.arms: arm {arm.name!r} has a {what} for category {name!r}, which no example has; there are: {there}"


def _categories(run: Run, examples: Manifest) -> Iterator[str]:
    for table in run.examples().tables(examples, ["category"]):
        yield from (name for name in table["category"].unique().to_pylist() if name)


def _cuts(recipe: Recipe) -> Iterator[str]:
    """Thresholds off the scale that the judge will rate on, and controls that have no size."""
    judge = recipe.score.judge
    try:
        scale = scale_of(judge, rubric.load(judge.rubric))
    except UsageError:
        return  # told where the rubric is looked at
    steps = not judge.traits.is_recorded and recipe.score.combine is None
    yield from cut_problems(recipe.pick.arms, scale, steps=steps)
    if not any(arm.traits.leads for arm in recipe.pick.arms):
        for arm in recipe.pick.arms:
            if not arm.has_size and arm.traits.copies_size:
                yield f"pick.arms: arm {arm.name!r} has no `k`, and there is no `threshold` or `top` arm to take the size of"


def _later_names(recipe: Recipe) -> Iterator[str]:
    answered = {one.name for one in recipe.generate.test_sets}
    for name in recipe.compare.test_sets or ():
        if name not in answered:
            yield f"compare.test_sets has {name!r}, and generate.test_sets has not"
    where, there = ("pick.arms", recipe.pick.arms) if recipe.ends_with_report else ("generate.models", recipe.generate.models)
    names = {one.name for one in there}
    for knob in ("arm", "baseline"):
        named = getattr(recipe.report, knob, None)
        if named is not None and named not in names and knob in recipe.report.model_fields_set:
            yield f"report.{knob} is {named!r}, and {where} has not"


def _trained(recipe: Recipe, run: Run) -> bool:
    """Whether there is nothing left to train here."""
    here = [arm for arm in recipe.finetune.arms if arm not in recipe.finetune.checkpoints]
    return recipe.finetune.trainer is not None or all(run.model(arm).manifest() for arm in here)


def _left(recipe: Recipe, run: Run) -> list[EngineConfig]:
    """The engines that have something left to do."""
    tests = [one.name for one in recipe.generate.test_sets]
    left: list[EngineConfig] = []
    if run.ratings(recipe.score.name).manifest() is None:
        left.append(recipe.score.judge)
    left += [one for one in recipe.generate.models if not all(run.answers(one.name, test).manifest() for test in tests)]
    compared = recipe.compare.test_sets or tests
    bouts = [(versus(a, b), test) for a, b in recipe.compare.pairs for test in compared]
    if recipe.compare.imported is None and not all(run.verdicts(recipe.compare.name, *bout).manifest() for bout in bouts):
        left.append(recipe.compare.judge)
    return left


def _test_sets(recipe: Recipe, run: Run) -> Iterator[str]:
    for one in recipe.generate.test_sets:
        if run.prompts(one.name).manifest() is not None:
            continue
        columns = {str(field): key for field, key in one.columns.items()}
        try:
            prompt_sets.load(one.name, one.path, one.format, columns)
        except (AlpagasusError, OSError) as error:
            yield f"generate.test_sets: {one.name!r} cannot be read: {error}"


def servers(engine: EngineConfig) -> Iterator[str]:
    """What one request to each of the engine's addresses shows of it, which asks for its list of models and costs nothing."""
    if not engine.is_remote or engine.model is None:
        return
    from alpagasus_ray.engines.model_list import ask_models

    for place in engine.at_each_endpoint():
        try:
            listing = ask_models(place)
        except UsageError as error:
            yield f"{engine.where}: {error}"
            continue
        if listing.status is None:
            yield (
                f"{engine.where}: {listing.address} cannot be reached: {listing.detail}; see that the server runs and that "
                "`base_url` is its address"
            )
        elif listing.status in (401, 403):
            yield f"{engine.where}: {listing.address} refuses the key in {place.api_key_env} (http {listing.status})"


def _models(recipe: Recipe, left: Sequence[EngineConfig], *, trains: bool) -> Iterator[str]:
    """Models and tokenizers that can be loaded neither from this disk nor from the hub."""
    if recipe.pick.tokenizer is not None:
        yield from _told(lambda: _tokenizer(str(recipe.pick.tokenizer), "pick.tokenizer"))
    named: list[tuple[str, str | None, str | None]] = []
    if trains:
        named.append(("finetune.model", recipe.finetune.model, recipe.finetune.revision))
    # an arm's model is made by this very recipe
    there = [one for one in left if one.in_job and getattr(one, "arm", None) is None]
    named += [(f"{one.where}: model", one.model, one.vllm.revision) for one in there]
    for key, name, revision in named:
        if name is not None:
            yield from _told(partial(_config_of, key, name, revision))


def _tokenizer(name: str, key: str) -> None:
    from alpagasus_ray.engines.tokens import load_tokenizer

    load_tokenizer(name, key)


def _config_of(key: str, name: str, revision: str | None) -> None:
    """Fetch the smallest file of a model: whoever gets that may have the others."""
    if os.path.isdir(name):
        if not (Path(name) / "config.json").exists():
            raise UsageError(f"{key} = {name!r} is a directory without config.json")
        return
    extras.require("train" if key.startswith("finetune") else "vllm", f"{key} = {name!r}")
    from transformers import PretrainedConfig

    try:
        PretrainedConfig.get_config_dict(name, revision=revision or "main")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{key} = {name!r} is no directory here, and the hub does not give it: {reason}") from None


def _gpus(recipe: Recipe, left: Sequence[EngineConfig], *, trains: bool) -> Iterator[str]:
    """GPUs that are asked for where this machine alone does the work; of a cluster its own check tells."""
    if os.environ.get("RAY_ADDRESS") or has_gpu():
        return
    if recipe.finetune.gpu and trains:
        yield "finetune.gpu is true, and this machine has no GPU; name a cluster by RAY_ADDRESS, or set finetune.gpu: false"
    for where in dict.fromkeys(engine.where for engine in left if engine.in_job and engine.vllm.gpu):
        yield f"{where}.vllm.gpu is true, and this machine has no GPU; name a cluster by RAY_ADDRESS, or set it to false"


def _told(look: Callable[[], Any]) -> Iterator[str]:
    try:
        look()
    except AlpagasusError as error:
        yield str(error)


def check_cap(recipe: Recipe) -> Iterator[str]:
    """Caps that cannot be kept because no price is known."""
    for config, engine in ((recipe.score, recipe.score.judge), (recipe.compare, recipe.compare.judge)):
        yield from _told(AskSpec.of(config, engine).check_cap)
