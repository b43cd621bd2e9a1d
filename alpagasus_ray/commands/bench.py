"""The job that asks models benchmarks."""

from collections import Counter
from typing import Any

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.commands.summaries import again, numbers
from alpagasus_ray.config import Recipe


def _bench(call: Call) -> dict[str, Any]:
    from alpagasus_ray.inference.tasks.benchmark import AGAIN
    from alpagasus_ray.reporting import benchmarks_data
    from alpagasus_ray.stages.bench import bench

    if call.flags.fetch:
        return _fetch(call)
    wanted = again(call.flags.retry_failed, AGAIN) if call.flags.retry_failed else ()
    made = bench(call.recipe.bench, call.recipe.generate, call.run, again=wanted, unsafe_code=bool(call.flags.unsafe_code))
    results = [benchmarks_data.result(model, task, manifest) for model, task, manifest in made]
    stages = {(model, task): (call.run.benchmark(model, task), manifest) for model, task, manifest in made}
    return {
        "stage": "benchmarks",
        "location": call.run.storage.path("benchmarks"),
        "rows": sum(manifest.rows for _, _, manifest in made),
        "benchmarks": [result | numbers(manifest) for result, (_, _, manifest) in zip(results, made, strict=True)],
        "differences": benchmarks_data.differences(stages),
        "usage": dict(sum((Counter(manifest.usage) for _, _, manifest in made), Counter())),
        "notes": list(dict.fromkeys(note for result in results for note in benchmarks_data.notes(result))),
    }


def _fetch(call: Call) -> dict[str, Any]:
    from alpagasus_ray.benchmarking import documents
    from alpagasus_ray.stages.bench import benchmarks_of

    config = call.recipe.bench.model_copy(update={"data": None})
    written = documents.fetch(benchmarks_of(config), call.flags.fetch)
    return {
        "stage": "fetched",
        "location": call.flags.fetch,
        "rows": sum(sum(one["documents"].values()) for one in written),
        "fetched": written,
        "notes": [f"to ask them without the hub: --set bench.data={call.flags.fetch}"],
    }


def _asks_an_arm(recipe: Recipe) -> bool:
    models = recipe.bench.models or recipe.generate.models
    return any(model.arm is not None for model in models)


BENCH = JobSpec(
    "bench",
    "bench",
    "Ask models benchmarks (MMLU, BBH, DROP, HumanEval, GSM8K, IFEval, lm-eval's others, your own), and tell which differences "
    "between them can be shown. A call that was stopped goes on.",
    _bench,
    {
        "fetch": "write the documents of the benchmarks to a folder, on a machine that reaches the hub; asks nothing",
        "retry-failed": "ask again the questions without a reply, or those of some statuses: refused, failed",
        "unsafe-code": "run programs that models have written without a sandbox",
    },
    reading=("fetch",),
    needs_run=_asks_an_arm,
    instead_of_a_run="fetch",
)
