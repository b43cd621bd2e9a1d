"""The jobs that read, rate, choose, train and report, as the command line runs them."""

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from alpagasus_ray import recipe as recipes
from alpagasus_ray.cli import Call, JobSpec, no_flag_with
from alpagasus_ray.commands.summaries import again, always, mode_of, stage_summary
from alpagasus_ray.config import Recipe
from alpagasus_ray.config.pick import CHOSEN, CONTROL
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import Manifest


def _ingest(call: Call) -> dict[str, Any]:
    from alpagasus_ray.progress import Progress
    from alpagasus_ray.stages.ingest import ingest

    with Progress("ingest", 0) as progress:
        manifest = ingest(call.recipe.ingest, call.run, progress.show)
    told = {key: manifest.details[key] for key in ("not_used", "notes") if key in manifest.details}
    return stage_summary(call.run.examples(), manifest) | told


def _score(call: Call) -> dict[str, Any]:
    from alpagasus_ray.feasibility import of_score, refuse
    from alpagasus_ray.judging import parse_rating
    from alpagasus_ray.reporting.judge_material import mark_notes
    from alpagasus_ray.reporting.selection_data import judge_doubts
    from alpagasus_ray.reporting.stage_notes import score_notes
    from alpagasus_ray.stages.score import score

    no_flag_with(call.flags, "rescore", "retry-failed", "limit")
    no_flag_with(call.flags, "rescore", "retry-failed", "plan")
    config = call.recipe.score
    if config.combine is not None:
        return _combined(call)
    if call.flags.limit is not None:
        if call.flags.limit < 1:
            raise UsageError(f"--limit {call.flags.limit}: give the number of examples to try, at least 1")
        config = config.model_copy(update={"limit": call.flags.limit})
    if call.flags.plan:
        from alpagasus_ray.stages.plan_score import plan

        planned = plan(config, call.run)
        refuse(of_score(call.recipe, call.run, sends=False))
        return planned
    if not call.flags.rescore and call.run.ratings(config.name).manifest() is None:
        refuse(of_score(call.recipe, call.run, sends=not call.servers_answer))
    done = call.run.ratings(config.name).manifest()
    started = time.monotonic()
    manifest = score(config, call.run, mode_of(call), again(call.flags.retry_failed, parse_rating.UNSCORED))
    report = stage_summary(call.run.ratings(config.name), manifest) | {"histogram": manifest.details["histogram"]}
    report["rows_per_s"] = round(manifest.rows / manifest.seconds, 1) if manifest.seconds else None
    report["call_seconds"] = round(time.monotonic() - started, 2)
    judge = config.judge
    told = judge_doubts(manifest.details, judge.max_outside, judge.warn_outside) if judge.is_model else ()
    unasked = ["these ratings were finished before: nothing was asked"] if manifest == done else []
    marked = mark_notes(call.recipe.card.gold, call.run.ratings(config.name), manifest) if config.limit is None else ()
    report["notes"] = [*unasked, *score_notes(manifest, judge), *told, *marked]
    if "cascade" in manifest.details:
        report["cascade"] = manifest.details["cascade"]
    report |= {key: manifest.details[key] for key in ("outside", "one_score") if key in manifest.details}
    report["scale"] = manifest.settings.get("rubric", {}).get("scale")
    return report


def _combined(call: Call) -> dict[str, Any]:
    """`score.combine`: a rating of others. There is nothing to try, to read again or to ask again."""
    from alpagasus_ray.stages.combine import combine_ratings

    config = call.recipe.score
    assert config.combine is not None, "the caller has looked"
    for flag in ("limit", "rescore", "retry_failed"):
        if getattr(call.flags, flag):
            raise UsageError(f"--{flag.replace('_', '-')}: score.combine asks nobody; ask the judges of its parts")
    if call.flags.plan:
        from alpagasus_ray.stages.plan_score import plan

        return plan(config, call.run)
    manifest = combine_ratings(config, call.run)
    report = stage_summary(call.run.ratings(config.name), manifest) | {"histogram": manifest.details["histogram"]}
    made_of = f"the {config.combine.by} of {', '.join(config.combine.ratings)}; nothing was asked"
    return report | {"notes": [made_of, *_smoothing(manifest)]}


def _smoothing(manifest: Manifest) -> Iterator[str]:
    """What smoothing did, always raw, smoothed and with length taken out together."""
    smoothed = manifest.details.get("smoothed")
    if smoothed is None:
        return
    yield f"smoothing changed {smoothed['changed']:,} of {manifest.rows:,} rows"
    if smoothed["held"] is None:
        yield f"whether that brought them nearer to anything is not known: {smoothed['why_not']}"
        return
    figures = {
        name: smoothed[name]["value"] for name in ("raw", "smoothed", "raw_given_length", "smoothed_given_length", "length")
    }
    told = ", ".join(
        f"{name.replace('_', ' ')} {'none' if value is None else f'{value:.3f}'}" for name, value in figures.items()
    )
    yield f"rank correlation with {smoothed['held']}, which had no part: {told}"


def _distill(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages.distill import distill, summary

    config = call.recipe.distill
    manifest = distill(config, call.recipe.score, call.run)
    return summary(call.run.judge(config.name), manifest)


def _short_arms(loaded: recipes.Loaded, flags: Namespace) -> recipes.Loaded:
    """`--top`, `--threshold` and `--share`: the arm `selected`, and as many drawn at random."""
    sizes = {
        "top": {"policy": "top", "k": flags.top},
        "threshold": {"policy": "threshold", "threshold": flags.threshold},
        "share": {"policy": "top", "share": flags.share},
    }
    given = [name for name in sizes if getattr(flags, name) is not None]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} exclude each other")
    if flags.per and given not in (["top"], ["share"]):
        raise UsageError(f"--per {flags.per} is for --top and --share: so many of each {flags.per}")
    if not given:
        return loaded
    switch, pick = f"--{given[0]} {getattr(flags, given[0]):g}", loaded.written.get("pick") or {}
    if "arms" in pick:
        raise UsageError(f"{switch} and pick.arms both say what is chosen: leave out the switch, or pick.arms and its recipe")
    arm = {"name": CHOSEN, **sizes[given[0]], **({"per": flags.per} if flags.per else {})}
    try:
        return recipes.checked({**loaded.written, "pick": {**pick, "arms": [arm, CONTROL]}})
    except UsageError as error:
        raise UsageError(f"{switch}: {error}") from None


def _pick(call: Call) -> dict[str, Any]:
    from alpagasus_ray.reporting.stage_notes import picked_notes
    from alpagasus_ray.selection.existing_arms import notes, of_run, stale_controls
    from alpagasus_ray.stages.pick_subset import SUBSET_JSON, pick_subset, write_lines

    manifests = pick_subset(call.recipe.pick, call.run, call.recipe.generate.test_sets)
    arms = [
        {
            "name": arm.name,
            "rows": manifest.rows,
            "dropped": manifest.counts["dropped"],
            "file": call.run.subset(arm.name).storage.path(SUBSET_JSON),
            **manifest.details,
            "notes": [*notes(manifest), *picked_notes(manifest.details)],
        }
        for arm, manifest in zip(call.recipe.pick.arms, manifests, strict=True)
    ]
    if call.flags.jsonl:
        records = write_lines(call.run, arms[0]["name"], call.flags.jsonl)
        arms[0]["notes"].append(f"{records:,} records as they came, with their scores, as JSON Lines: {call.flags.jsonl}")
    return {
        "stage": "subsets",
        "location": call.run.storage.path("subsets"),
        "rows": sum(arm["rows"] for arm in arms),
        "arms": arms,
        "notes": [
            f"{name} {told}; it is left as it is. Name it in pick.arms beside the others to make it anew"
            for name, told in stale_controls(of_run(call.run)).items()
        ],
    }


def _finetune(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages.finetune import COMPARISON, finetune

    config = call.recipe.finetune
    arms = config.arms or tuple(arm.name for arm in call.recipe.pick.arms)
    if call.flags.preview:
        from alpagasus_ray.stages.preview import preview

        return preview(config, call.run, arms)
    if config.trainer or config.checkpoints:
        from alpagasus_ray.stages.other_trainers import trained_elsewhere

        report, left = trained_elsewhere(config, call.run, arms)
        here = _finetune(call._replace(recipe=_only(call.recipe, left))) if left else {"rows": 0}
        return report | here | {"rows": report["rows"] + here["rows"]}
    manifests = finetune(config, call.run, arms)
    models = [
        {"name": arm, "counts": manifest.counts, "location": call.run.model(arm).storage.root, **manifest.details}
        for arm, manifest in zip(arms, manifests, strict=True)
    ]
    return {
        "stage": "models",
        "location": call.run.storage.path("models"),
        "rows": sum(manifest.rows for manifest in manifests),
        "models": models,
        "comparison": call.run.storage.path(COMPARISON),
    }


def _only(recipe: Recipe, arms: Sequence[str]) -> Recipe:
    """The recipe for arms that are trained here."""
    here = recipe.finetune.model_copy(update={"arms": tuple(arms), "checkpoints": {}})
    return recipe.model_copy(update={"finetune": here})


def _report(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages.card import unasked
    from alpagasus_ray.stages.report import report

    unasked(call.recipe, call.run)
    return report(call.recipe.report, call.run, [arm.name for arm in call.recipe.pick.arms])


def _doctor(call: Call) -> dict[str, Any]:
    from alpagasus_ray.doctor.checks import examine

    checks = examine(call.recipe.score, call.run)
    return {"checks": [check._asdict() for check in checks], "ok": all(check.status != "problem" for check in checks)}


def _status(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages.status import status

    if call.flags.watch:
        from alpagasus_ray.reporting.watch import watch

        watch(lambda: status(call.run))
    return status(call.run, verify=call.flags.verify)


INGEST = JobSpec("ingest", "ingest", "Read a dataset, whatever its layout, and write it as shards of examples.", _ingest)
SCORE = JobSpec(
    "score",
    "score",
    "Rate every example with a judge. A call that was stopped goes on where it was; a finished one returns at once.",
    _score,
    {
        "limit": "a trial: rate only N examples, drawn from all of them; replies are kept for the full run",
        "rescore": "read the stored replies again with the present scale and parser; sends nothing",
        "retry-failed": "ask again for rows without a score, or those of some statuses: unparsed, refused, truncated, failed",
        "plan": "print what a call would ask, take and cost, with the first prompt; sends and writes nothing, needs no key",
    },
    reading=("plan",),
    needs_run=always,
)
DISTILL = JobSpec(
    "distill",
    "distill",
    "Fit a small model of a judge on some of its ratings; it scores every row for nothing, and says how far it can be trusted.",
    _distill,
    needs_run=always,
)
PICK = JobSpec(
    "pick_subset",
    "pick",
    "Choose the arms of the experiment by their ratings: those of pick.arms, or by --top, --threshold or --share the arm "
    "`selected` and as many drawn at random.",
    _pick,
    {
        "top": "choose the N best",
        "threshold": "choose all with a score of X or more",
        "share": "choose the best, this part of all, e.g. 0.1",
        "per": "with --top or --share: so many of each category, or of each file that the examples came from",
        "jsonl": "write the records of the first arm there too, as JSON Lines, with all their fields and their score",
    },
    needs_run=always,
    in_full=_short_arms,
)
FINETUNE = JobSpec(
    "finetune",
    "finetune",
    "Train a model on every arm with Ray Train and DeepSpeed. A call that was stopped goes on from its last state.",
    _finetune,
    {"preview": "print examples with what of them is trained, tokens, steps and the time to expect; trains and writes nothing"},
    reading=("preview",),
    needs_run=always,
)
REPORT = JobSpec(
    "report",
    "report",
    "Tell what a run came to: a page, its figures as JSON, and a card of the chosen examples.",
    _report,
    needs_run=always,
)
DOCTOR = JobSpec(
    "doctor",
    "score",
    "Look, before any money is spent, whether `score` can do its work here. Exit code 1 where there is a problem.",
    _doctor,
    only_reads=True,
)
STATUS = JobSpec(
    "status",
    "",
    "Tell from a run's directory alone how far each stage is, what it has cost and what failed; a driver may be at work on it.",
    _status,
    {
        "verify": "compare every file with its checksum and name those that were changed; exit code 1 where there is one",
        "watch": "show it again every two seconds, as long as a driver is at work on the run",
    },
    only_reads=True,
    needs_run=always,
)
