"""The jobs that let models answer and compare their answers, as the command line runs them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.commands.summaries import again, mode_of, numbers
from alpagasus_ray.config import Compare, Recipe


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
