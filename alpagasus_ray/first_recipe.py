"""`alpagasus init`: look at a dataset and at this machine, and write a commented recipe to start from.

What the user gives by `-r` and `-s` stands in the recipe as it is; the rest is what fits most, with a comment where to go on.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.config import AFTER_PICK, Recipe
from alpagasus_ray.errors import UsageError
from alpagasus_ray.feasibility import check_cap, has_gpu
from alpagasus_ray.stages.ingest import Sample, sample

RECORDS = 500
"""So many records tell what a dataset is like."""
KEY = "OPENAI_API_KEY"
API = "api"
JUDGE = {"kind": API, "model": "gpt-4o-mini", "rubric": "accuracy"}
CAP = {"max_cost_usd": 5}
"""What stands in `score`, and in its judge, unless the user gives something else."""
COMMENTS = {
    "kind": "any OpenAI-compatible server; `vllm` runs a model in the job, `rules` needs no model",
    "rubric": "also helpfulness, or the path of your own rubric",
    "max_cost_usd": "stops before the replies have cost more; `alpagasus plan` says what all would cost",
}
"""What is said beside a knob."""
OWN_SERVER = {
    "base_url": "    # base_url: http://localhost:8000/v1     # a server of your own; the cap below needs its price then",
    "price": "    # price: {input: 0, output: 0}           # dollars a million tokens; 0 where nobody sends a bill",
}
PICK = """\
pick:
  arms:
    # Every judge has a histogram of its own: look at yours (`alpagasus report`), then set the threshold.
    - {name: selected, policy: threshold, threshold: 4.5}
    # What choosing has to beat: as many examples drawn at random, and the longest ones.
    - {name: random, policy: random}
    - {name: longest, policy: longest}"""
TRAINING = {
    "finetune": """\
# finetune:
#   model: Qwen/Qwen3-0.6B-Base    # a path, or a name on the Hugging Face hub
#   epochs: 3
#   learning_rate: 2.0e-5
#   global_batch: 128
#   lora: {rank: 16}               # trains adapters only; leave it out to train all weights""",
    "generate": """\
# generate:
#   test_sets:
#     - {name: mine, path: prompts.jsonl}    # prompts that are not in the training data""",
    "compare": """\
# compare:
#   judge: {kind: api, model: gpt-4o-mini}""",
}
"""Sections to fill in, by their names."""


NO_GPU = "# There is no GPU here: docs/cluster.md tells how to use machines with one. A small model also trains on CPUs."


def init(call: Call) -> dict[str, Any]:
    """Write `RUN.yaml` beside the run's directory; for a run on an object store, in the working directory."""
    source = call.flags.data or call.recipe.ingest.source
    if not source:
        raise UsageError("--data is missing: give the file, directory, glob, s3:// or hf: source that examples are read from")
    root = call.run.storage.root
    target = Path(f"{root}.yaml" if call.run.storage.is_local else f"{root.rpartition('/')[2]}.yaml")
    if target.exists():
        raise UsageError(f"{target} is there already; delete it, or name another run")
    seen = sample(call.recipe.ingest.model_copy(update={"source": source}), RECORDS)
    given = call.recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
    given["ingest"] = {"source": source} | given.get("ingest", {}) | {"source": source}
    gpu = has_gpu()
    text = "\n".join([*_head(str(source), seen), *_sections(given, gpu=gpu)]) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return {"stage": "recipe", "location": str(target), "rows": seen.records, "notes": list(_next(str(target), root, gpu=gpu))}


def _head(source: str, seen: Sample) -> Iterator[str]:
    yield f"# A first recipe for {source!r}, written by `alpagasus init`. All keys there are: alpagasus run RUN --help-all"
    lost = seen.records - len(seen.examples)
    yield f"# The first {seen.records:,} records were read in the layout {seen.layout!r}: {len(seen.examples):,} examples."
    if lost > 0:
        yield f"# {lost:,} records are no example, most of all because: {seen.reasons.most_common(1)[0][0]}"
    if seen.examples:
        mean = sum(len(example.output) for example in seen.examples) / len(seen.examples)
        yield f"# Their answers are {mean:,.0f} characters long on average."


def _sections(given: Mapping[str, Any], *, gpu: bool) -> Iterator[str]:
    """All sections, in the order of the experiment; those of the training that are not given as comments."""
    yield from _section("ingest", given)
    yield from _score(given.get("score", {}))
    yield from _section("pick", given) if "pick" in given else [PICK]
    left = [name for name in AFTER_PICK if name not in given]
    for name in Recipe.model_fields:
        if name in given and name not in ("ingest", "score", "pick"):
            yield from _section(name, given)
    if left:
        yield "# To train on the arms and to compare the models, fill this in and take the # away."
        if not gpu:
            yield NO_GPU
    yield from (TRAINING[name] for name in left)


def _section(name: str, given: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}:"
    yield from _knobs(given[name], "  ")


def _score(given: Mapping[str, Any]) -> Iterator[str]:
    judge = {**(JUDGE if given.get("judge", {}).get("kind", API) == API else {}), **given.get("judge", {})}
    yield "score:"
    yield "  judge:"
    for line in _knobs(judge, "    "):
        yield line
        if line.startswith("    model:") and judge["kind"] == API:
            yield from _access(judge)
    rest = {**CAP, **{key: value for key, value in given.items() if key != "judge"}}
    priced = not list(check_cap(Recipe.model_validate({"score": {**rest, "judge": judge}})))
    if priced or "max_cost_usd" in given:
        yield from _knobs(rest, "  ")
        return
    yield "  # max_cost_usd: 5          # for a cap, give the price above"
    yield from _knobs({key: value for key, value in rest.items() if key not in CAP}, "  ")


def _access(judge: Mapping[str, Any]) -> Iterator[str]:
    """Where the key comes from, and how another server is named."""
    key = judge.get("api_key_env", KEY)
    yield f"    # The key is read from the environment variable {key}, which is {'' if key in os.environ else 'not '}set here."
    yield from (line for knob, line in OWN_SERVER.items() if knob not in judge)


def _knobs(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    """A knob a line, lists of sections an entry a line."""
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {_flow(entry)}" for entry in value)
        else:
            line = f"{indent}{key}: {_flow(value)}"
            yield f"{line:<28} # {COMMENTS[key]}" if key in COMMENTS else line


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _next(recipe: str, root: str, *, gpu: bool) -> Iterator[str]:
    yield f"read {recipe}, then see what rating will cost, before anything is sent: alpagasus plan {root} -r {recipe}"
    yield f"then all of it: alpagasus run {root} -r {recipe}"
    yield "or step by step: " + "; ".join(
        f"alpagasus {verb} {root} -r {recipe}" for verb in ("ingest", "score", "pick", "report")
    )
    if gpu:
        yield f"with the training filled in, that too: alpagasus run {root} -r {recipe}"


INIT = JobSpec(
    "init",
    "",
    "Look at a dataset and at this machine, and write a commented recipe beside the run's directory; what -r and -s give "
    "stands in it.",
    init,
    {"data": "the dataset: a file, directory, glob, s3://… or hf:…"},
    only_reads=True,
)
