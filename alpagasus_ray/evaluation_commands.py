"""The jobs that let models answer and compare their answers, as the command line runs them, and what all jobs that ask an
engine have in common: their switches, and what of a manifest they tell."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alpagasus_ray.cli import ALL_STATUSES, Call, JobSpec, no_flag_with
from alpagasus_ray.config import Compare, Recipe
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import Manifest

if TYPE_CHECKING:
    from alpagasus_ray.inference.stage import Mode


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


def _generate(call: Call) -> dict[str, Any]:
    from alpagasus_ray.inference.tasks.answer import ANSWERS_JSON, UNANSWERED
    from alpagasus_ray.reporting.answers_data import mean_answer_length
    from alpagasus_ray.stages.generate import generate

    config = call.recipe.generate
    manifests = generate(config, call.run, mode_of(call), again(call.flags.retry_failed, UNANSWERED))
    pairs = [(model.name, test_set.name) for model in config.models for test_set in config.test_sets]
    answers = [
        {
            "model": model,
            "test_set": test_set,
            **numbers(manifest),
            "mean_answer_length": mean_answer_length(manifest.details),
            "file": call.run.answers(model, test_set).storage.path(ANSWERS_JSON),
        }
        for (model, test_set), manifest in zip(pairs, manifests, strict=True)
    ]
    failed = sum(manifest.rows - manifest.counts.get("answered", 0) for manifest in manifests)
    asked = [call.run.prompts(test_set.name).manifest() for test_set in config.test_sets]
    left_out = [note for manifest in asked if manifest for note in manifest.details.get("notes", ())]
    return {
        "stage": "answers",
        "location": call.run.storage.path("answers"),
        "rows": sum(manifest.rows for manifest in manifests),
        "answers": answers,
        "notes": left_out
        + ([f"{failed:,} prompts have no whole answer; --retry-failed asks for them again"] if failed else []),
    }


def _compare(call: Call) -> dict[str, Any]:
    from alpagasus_ray.inference.tasks.pair import AGAIN
    from alpagasus_ray.stages.compare import compare, outcomes

    config = call.recipe.compare
    made = compare(config, call.run, mode_of(call), again(call.flags.retry_failed, AGAIN))
    comparisons = [
        {**outcomes(config, call.run, bout), "counts": manifest.counts, "reasons": manifest.details["reasons"]}
        for bout, manifest in made.items()
    ]
    return {
        "stage": "verdicts",
        "location": call.run.verdicts(config.name).storage.root,
        "rows": sum(manifest.rows for manifest in made.values()),
        "rule": config.rule,
        "comparisons": comparisons,
        "usage": dict(sum((Counter(manifest.usage) for manifest in made.values()), Counter())),
        "seconds": round(sum(manifest.seconds for manifest in made.values()), 2),
        "notes": list(_compare_notes(config, comparisons)),
    }


def _compare_notes(config: Compare, comparisons: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    without = sum(comparison["games"] - comparison["judged_games"] for comparison in comparisons)
    if without and config.imported is None:
        yield f"{without:,} games have no verdict, and count for nobody; --retry-failed asks for them again"
    if config.judge.traits.is_baseline and config.imported is None:
        yield "judged by mechanical rules, a baseline: no language model read the answers"
    for a, b in {(comparison["a"], comparison["b"]) for comparison in comparisons}:
        if a == b:
            yield f"{a} is compared with itself: what differs from a tie is the judge's doing"


def _asks_an_arm(recipe: Recipe) -> bool:
    return any(model.arm is not None for model in recipe.generate.models)


def _compares_answers(recipe: Recipe) -> bool:
    return recipe.compare.imported is None


GENERATE = JobSpec(
    "generate",
    "generate",
    "Let models answer test sets: checkpoints of this run, of a hub or of a disk by vLLM in the job, an API's, or a file.",
    _generate,
    {
        "rescore": "read the stored replies again, as `generate.thoughts` says now; sends nothing",
        "retry-failed": "ask again for prompts without an answer, or those of some statuses: empty, truncated, refused, failed",
    },
    needs_run=_asks_an_arm,
)
COMPARE = JobSpec(
    "compare",
    "compare",
    "Let a judge compare models' answers, every pair in both orders. A call that was stopped goes on where it was.",
    _compare,
    {
        "rescore": "read the stored reviews again with the present scale and parser; sends nothing",
        "retry-failed": "ask again for games without a verdict, or of some statuses: unparsed, refused, truncated, failed",
    },
    needs_run=_compares_answers,
)
