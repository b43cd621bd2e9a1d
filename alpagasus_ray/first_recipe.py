"""`alpagasus init`: look at a dataset and at this machine, and write a commented recipe to start from."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.config import Ingest
from alpagasus_ray.errors import UsageError
from alpagasus_ray.feasibility import has_gpu
from alpagasus_ray.stages.ingest import Sample, sample

RECORDS = 500
"""So many records tell what a dataset is like."""
KEY = "OPENAI_API_KEY"


def init(call: Call) -> dict[str, Any]:
    """Write `RUN.yaml` beside the run's directory; for a run on an object store, in the working directory."""
    source = call.flags.data
    if not source:
        raise UsageError("--data is missing: give the file, directory, glob, s3:// or hf: source that examples are read from")
    root = call.run.storage.root
    target = Path(f"{root}.yaml" if call.run.storage.is_local else f"{root.rpartition('/')[2]}.yaml")
    if target.exists():
        raise UsageError(f"{target} is there already; delete it, or name another run")
    seen = sample(Ingest(source=source), RECORDS)
    gpu = has_gpu()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join([*_head(source, seen), *_rating(source), *_training(gpu=gpu)]) + "\n", encoding="utf-8")
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


def _rating(source: str) -> Iterator[str]:
    yield "ingest:"
    yield f"  source: {yaml.safe_dump(source, width=10_000).removesuffix(chr(10)).removesuffix(chr(10) + '...')}"
    yield "score:"
    yield "  judge:"
    yield "    kind: api                # any OpenAI-compatible server; `vllm` runs a model in the job, `rules` needs no model"
    yield "    model: gpt-4o-mini"
    yield f"    # The key is read from the environment variable {KEY}" + (
        ", which is set." if KEY in os.environ else ", which is not set here."
    )
    yield "    # base_url: http://localhost:8000/v1     # a server of your own"
    yield "    rubric: accuracy         # also helpfulness, or the path of your own rubric"
    yield "  max_cost_usd: 5            # stops before the replies have cost more; `alpagasus plan` says what all would cost"
    yield "pick:"
    yield "  arms:"
    yield "    # Every judge has a histogram of its own: look at yours (`alpagasus report`), then set the threshold."
    yield "    - {name: selected, policy: threshold, threshold: 4.5}"
    yield "    # What choosing has to beat: as many examples drawn at random, and the longest ones."
    yield "    - {name: random, policy: random}"
    yield "    - {name: longest, policy: longest}"


def _training(*, gpu: bool) -> Iterator[str]:
    yield "# To train on the arms and to compare the models, fill this in and take the # away."
    if not gpu:
        yield "# There is no GPU here: docs/cluster.md tells how to use machines with one. A small model also trains on CPUs."
    yield "# finetune:"
    yield "#   model: Qwen/Qwen3-0.6B-Base    # a path, or a name on the Hugging Face hub"
    yield "#   epochs: 3"
    yield "#   learning_rate: 2.0e-5"
    yield "#   global_batch: 128"
    yield "#   lora: {rank: 16}               # trains adapters only; leave it out to train all weights"
    yield "# generate:"
    yield "#   test_sets:"
    yield "#     - {name: mine, path: prompts.jsonl}    # prompts that are not in the training data"
    yield "# compare:"
    yield "#   judge: {kind: api, model: gpt-4o-mini}"


def _next(recipe: str, root: str, *, gpu: bool) -> Iterator[str]:
    yield f"read {recipe}, then see what rating will cost: alpagasus score {root} -r {recipe} --plan (after alpagasus ingest)"
    yield "then: " + "; ".join(f"alpagasus {verb} {root} -r {recipe}" for verb in ("ingest", "score", "pick", "report"))
    if gpu:
        yield f"with the training filled in, all of it: alpagasus run {root} -r {recipe}"


INIT = JobSpec(
    "init",
    "",
    "Look at a dataset and at this machine, and write a commented recipe beside the run's directory.",
    init,
    {"data": "the dataset: a file, directory, glob, s3://… or hf:…"},
    only_reads=True,
)
