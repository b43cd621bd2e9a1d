"""What jobs have in common: whether they need a run that is there, their switches, and what of a manifest they tell."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alpagasus_ray.cli import ALL_STATUSES, Call, no_flag_with
from alpagasus_ray.config import Recipe
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import Manifest, StageDir

if TYPE_CHECKING:
    from alpagasus_ray.inference.stage import Mode


def always(_: Recipe) -> bool:
    """For `JobSpec.needs_run`: the run must be there, whatever the recipe says."""
    return True


def stage_summary(stage: StageDir, manifest: Manifest) -> dict[str, Any]:
    """What a job of one stage tells of it."""
    return {
        "stage": manifest.stage,
        "location": stage.storage.root,
        **numbers(manifest),
        "settings_hash": manifest.settings_hash,
    }


def numbers(manifest: Manifest) -> dict[str, Any]:
    """What every such job tells of a stage."""
    return {
        "rows": manifest.rows,
        "counts": manifest.counts,
        "reasons": manifest.details["reasons"],
        "usage": manifest.usage,
        "seconds": round(manifest.seconds, 2),
    }


def mode_of(call: Call) -> "Mode":
    """What the switches that all stages share that ask an engine want done."""
    no_flag_with(call.flags, "rescore", "retry-failed")
    return "rescore" if call.flags.rescore else "retry-failed" if call.flags.retry_failed else "fill"


def again(given: str | bool | None, known: Sequence[str]) -> tuple[str, ...]:
    """The statuses after `--retry-failed`, separated by commas; without any all that have no result. Raises `UsageError`."""
    if given in (None, False, ALL_STATUSES):
        return tuple(known)
    asked = tuple(dict.fromkeys(part.strip() for part in str(given).split(",")))
    wrong = [status for status in asked if status not in known]
    if wrong:
        raise UsageError(f"--retry-failed {given}: {wrong[0]!r} is no status to ask again for; there are {', '.join(known)}")
    return asked
