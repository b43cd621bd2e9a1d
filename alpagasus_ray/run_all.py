"""The whole experiment: what a recipe leaves open is filled in, checked, and carried out job after job.

Every step is the job of its own name and does what that does; what is finished is left as it is, so that the same command
goes on wherever an earlier one was stopped.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alpagasus_ray import commands, feasibility, interrupts
from alpagasus_ray.cli import FLAG_VALUES, Call, JobSpec
from alpagasus_ray.config import AFTER_PICK, Answerer, Arm, Recipe
from alpagasus_ray.errors import AlpagasusError, StageFailed, UsageError
from alpagasus_ray.progress import clock, stage
from alpagasus_ray.reporting import terminal
from alpagasus_ray.reporting.terminal_plan import left_out_line
from alpagasus_ray.store.run import Run
from alpagasus_ray.terminal import say, spelled


def steps(recipe: Recipe) -> tuple[JobSpec, ...]:
    """The jobs of a recipe, in order. Arms are raced and benchmarks asked only where the recipe has a section for it, and a
    judge is distilled only there too: before all rows are rated if that asks for labels of its own, and after that if it
    learns from these ratings."""
    left_out = {step.section for step in IF_ASKED} - recipe.model_fields_set
    left_out |= set(AFTER_PICK) if recipe.ends_with_report else set()
    jobs = tuple(step for step in STEPS if step.section not in left_out)
    if "distill" not in recipe.model_fields_set:
        return jobs
    place = jobs.index(commands.SCORE) + (recipe.distill.labels is None)
    return (*jobs[:place], commands.DISTILL, *jobs[place:])


STEPS: tuple[JobSpec, ...] = (
    commands.INGEST,
    commands.SCORE,
    commands.PICK,
    commands.RACE,
    commands.FINETUNE,
    commands.GENERATE,
    commands.COMPARE,
    commands.BENCH,
    commands.CARD,
    commands.REPORT,
)


IF_ASKED = (commands.RACE, commands.BENCH)
"""Jobs for which a recipe has to have a section."""


def run_all(call: Call) -> dict[str, Any]:
    """Carry out every step of the recipe; the summary holds those of all of them."""
    recipe = completed(call.recipe)
    found = [
        *problems(recipe),
        *feasibility.before(recipe, call.run, sends=not call.flags.plan),
        *feasibility.check_cap(recipe),
        *([] if call.flags.plan else _benchmarks(recipe)),
    ]
    if call.flags.plan:
        from alpagasus_ray.plan_all import plan

        return plan(recipe, call.run, gpu=call.flags.gpu, found=found)
    if call.flags.gpu:
        raise UsageError("--gpu is for --plan: it says what the hours are estimated for")
    feasibility.refuse([*found, *_on_examples(recipe, call.run, found)])
    started, console = time.monotonic(), Console(stderr=True)
    if recipe.ends_with_report:
        say(left_out_line())
    reports: dict[str, dict[str, Any]] = {}
    lines: dict[str, tuple[str, float]] = {}
    jobs = steps(recipe)
    for number, step in enumerate(jobs, 1):
        console.print(f"\n[{number}/{len(jobs)}] {step.name}", markup=False, highlight=False)
        before = time.monotonic()
        with stage(number, len(jobs)):
            reports[step.name] = step.work(Call(recipe, call.run, _no_flags(step), servers_answer=True))
        if step is commands.INGEST:  # before anything is paid for
            feasibility.refuse(feasibility.on_examples(recipe, call.run, call.run.examples().finished()))
        terminal.show(reports[step.name], sys.stderr)
        if waiting := [one["arm"] for one in reports[step.name].get("trainers", ())]:
            raise StageFailed(
                f"{', '.join(waiting)} wait for {recipe.finetune.trainer}: train them as told above, name the directories of "
                "their models in finetune.checkpoints, and the same command goes on"
            )
        if interrupts.seen():  # a library has swallowed it
            raise KeyboardInterrupt
        lines[step.name] = (terminal.in_a_line(reports[step.name]), time.monotonic() - before)
    console.print("\n", _overview(lines), sep="")
    return {
        "stage": "experiment",
        "location": call.run.storage.root,
        "rows": reports["ingest"]["rows"],
        **({"left_out": dict(AFTER_PICK)} if recipe.ends_with_report else {}),
        "steps": reports,
        "seconds": round(time.monotonic() - started, 2),
        "answer": reports["report"]["answer"],
        "page": reports["report"]["page"],
    }


def _on_examples(recipe: Recipe, run: Run, found: Sequence[str]) -> list[str]:
    """What the examples cannot give. Where the recipe is refused anyway they are read for this alone, so that all is said at
    once; else ingest reads them next, which costs nothing."""
    examples = run.examples().manifest()
    if examples is not None:
        return list(feasibility.on_examples(recipe, run, examples))
    if not found or not recipe.ingest.source or "hf:" in str(recipe.ingest.source):
        return []
    from alpagasus_ray.stages.ingest import ingest

    with tempfile.TemporaryDirectory(prefix="alpagasus-check-") as folder:
        scratch = Run.open(folder)
        try:
            return list(feasibility.on_examples(recipe, scratch, ingest(recipe.ingest, scratch)))
        except (AlpagasusError, OSError) as error:
            return [str(error)]


def _no_flags(step: JobSpec) -> argparse.Namespace:
    return argparse.Namespace(**{flag.replace("-", "_"): None if flag in FLAG_VALUES else False for flag in step.flags})


def _overview(lines: dict[str, tuple[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("job")
    table.add_column("time", justify="right")
    table.add_column("what there is now", overflow="fold")
    for name, (line, seconds) in lines.items():
        table.add_row(name, clock(seconds), Text(spelled(line)))
    return table


def completed(recipe: Recipe) -> Recipe:
    """The recipe with what follows from its arms: every arm is trained on, answers under its own name, and the report's arm is
    compared with each of the others. One that ends with the report is left as it is."""
    if recipe.ends_with_report:
        return recipe
    arms = recipe.finetune.arms or tuple(arm.name for arm in recipe.pick.arms)
    models = recipe.generate.models or tuple(_answerer(recipe, arm) for arm in arms)
    names = [model.name for model in models]
    first = recipe.report.arm if recipe.report.arm in names else next(iter(names), None)
    pairs = recipe.compare.pairs or tuple((first, name) for name in names if first and name != first)
    return recipe.model_copy(
        update={
            "finetune": recipe.finetune.model_copy(update={"arms": arms}),
            "generate": recipe.generate.model_copy(update={"models": models}),
            "compare": recipe.compare.model_copy(update={"pairs": pairs}),
        }
    )


def _answerer(recipe: Recipe, arm: str) -> Answerer:
    """The model of an arm, asked as it was trained."""
    return Answerer.model_validate({"name": arm, "arm": arm, "prompt": recipe.finetune.template})


def check(recipe: Recipe) -> None:
    """Tell, before anything is done, what a later step would miss. Raises `UsageError`."""
    if wrong := problems(recipe):
        raise UsageError("the recipe does not hold together:\n  " + "\n  ".join(wrong))


def problems(recipe: Recipe) -> list[str]:
    """What a later step would miss, a line for each."""
    return [*_unknown_arms(recipe.pick.arms, recipe), *_unknown_models(recipe), *_not_given(recipe)]


def _benchmarks(recipe: Recipe) -> list[str]:
    """What of the benchmarks cannot be done on this machine."""
    if "bench" not in recipe.model_fields_set:
        return []
    from alpagasus_ray.stages.bench import problems as of_bench

    return of_bench(recipe.bench, recipe.generate)


def _unknown_arms(picked: Sequence[Arm], recipe: Recipe) -> list[str]:
    known = {arm.name for arm in picked}
    wrong = [f"finetune.arms has {arm!r}, and pick.arms has not" for arm in recipe.finetune.arms if arm not in known]
    trained = set(recipe.finetune.arms)
    return wrong + [
        f"generate.models: {model.name!r} is the arm {model.arm!r}, which finetune.arms does not train"
        for model in recipe.generate.models
        if model.arm is not None and model.arm not in trained
    ]


def _unknown_models(recipe: Recipe) -> list[str]:
    known = {model.name for model in recipe.generate.models}
    missing = dict.fromkeys(name for pair in recipe.compare.pairs for name in pair if name not in known)
    return [f"compare.pairs has {name!r}, and generate.models has not" for name in missing]


def _not_given(recipe: Recipe) -> list[str]:
    given = {
        "ingest.source: what to read": recipe.ingest.source,
        "score.judge.model: who rates": recipe.score.judge.model or not recipe.score.judge.is_model,
    }
    later = {
        "finetune.model: what is trained": recipe.finetune.model,
        "generate.test_sets: what is answered": recipe.generate.test_sets,
        "compare.pairs: what is compared (there is one model alone)": recipe.compare.pairs,
        "compare.judge.model: who compares": recipe.compare.judge.model or not recipe.compare.judge.is_model,
    }
    missing = [f"nothing is given for {what}" for what, value in given.items() if not value]
    if recipe.ends_with_report:
        return missing
    half = [f"nothing is given for {what}" for what, value in later.items() if not value]
    without = " and ".join((", ".join(list(AFTER_PICK)[:-1]), list(AFTER_PICK)[-1]))
    return missing + half + ([f"a recipe without {without} ends with the report"] if half else [])


RUN_ALL = JobSpec(
    "run_all",
    "",
    "All that a recipe asks for, from ingest to report. What is done is skipped; a call that was stopped goes on where it was.",
    run_all,
    {
        "plan": "print what the experiment would ask, train and cost, in dollars from least to most; sends and writes nothing, "
        "needs no key, no hub and no GPU",
        "gpu": "with --plan: the GPU that hours and dollars of training are estimated for, e.g. a100 or h100",
    },
    reading=("plan",),
)
