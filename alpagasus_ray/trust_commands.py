"""Jobs that tell how far judges can be trusted, and ask people: `commands.py` has them beside all others."""

from collections.abc import Iterator
from typing import Any

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.config import Recipe
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import Manifest


def combined(call: Call) -> dict[str, Any]:
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
    stage = call.run.ratings(config.name)
    report = {
        "stage": manifest.stage,
        "location": stage.storage.root,
        "rows": manifest.rows,
        "counts": manifest.counts,
        "reasons": manifest.details["reasons"],
        "usage": manifest.usage,
        "seconds": round(manifest.seconds, 2),
        "settings_hash": manifest.settings_hash,
        "histogram": manifest.details["histogram"],
    }
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


def _card(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages import card

    make = card.plan if call.flags.plan else card.card
    return make(call.recipe, call.run, again=bool(call.flags.again))


def _people(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages import people

    action, files = call.flags.action, call.flags.files
    if files and action != "import":
        raise UsageError(f"people {action} takes no files ({files[0]}); people import does")
    if action == "make":
        return people.make(call.recipe, call.run)
    return people.take_in(call.run, files) if action == "import" else people.status(call.run)


def _always(_: Recipe) -> bool:
    return True


CARD = JobSpec(
    "card",
    "card",
    "Tell how far each judge of the run can be trusted. Reads what is there, and asks nothing unless card.repeat or "
    "card.probes is set.",
    _card,
    {
        "plan": "print what the judge would be asked for its card, and what that costs; sends and writes nothing",
        "again": "ask the stored probes once more, though the judge has rated nothing since they were asked last",
    },
    reading=("plan",),
    needs_run=_always,
)
PEOPLE = JobSpec(
    "people",
    "people",
    "Ask people: make a ballot that they vote with in a browser, import what they export, and say how far it is.",
    _people,
    actions={
        "make": "write people/<study>/ballot.html and its key",
        "import": "read the files that voters have exported",
        "status": "how far each study is, and what its votes come to",
    },
    reading=("status",),
    needs_run=_always,
)
