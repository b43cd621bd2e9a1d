"""A race before and between its trainings: what is trained for how long, and the outcomes that are there already.

Each training leaves `losses/<arm>-<seed>-<key>.parquet`, whose key is a hash of all that it depends on: none is done twice.
Knows files, manifests and tokens; nothing of torch or Ray.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alpagasus_ray.config import Finetune, digest
from alpagasus_ray.config.race import Race
from alpagasus_ray.engines.identity import checkpoint_print
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import Run
from alpagasus_ray.training import race_rows
from alpagasus_ray.training.arms import settings_of, subsets_of
from alpagasus_ray.training.proxy import Proxy, Raced
from alpagasus_ray.training.race_rows import Arms, Held
from alpagasus_ray.training.schedule import Integers
from alpagasus_ray.training.token_order import TokenOrder

LOSSES, ANSWERS = "losses", "answers"
PROMPTS = "prompts.jsonl"
ROWS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),  # updates that were through
        pa.field("tokens", pa.int64(), nullable=False),  # seen by then
        pa.field("set", pa.string(), nullable=False),
        pa.field("row", pa.string(), nullable=False),  # example_id or prompt_id
        pa.field("loss", pa.float64(), nullable=False),  # mean over the label tokens of the row
    ]
)
FACTS = b"race"
"""Key of a file's metadata under which the rest of `Raced` lies, as JSON."""


class Budget(NamedTuple):
    """How long each arm is trained."""

    tokens: dict[str, int]
    steps: dict[str, int]


class Prepared(NamedTuple):
    """All that is known before a training."""

    config: Race
    training: Finetune
    held: Held
    arms: Arms
    budget: Budget
    inputs: dict[str, str]

    def key(self, arm: str, seed: int) -> str:
        """Hash of all that the outcome of one training depends on."""
        settings = settings_of(self.training.model_copy(update={"seed": seed}))
        budget = [self.budget.tokens[arm], self.budget.steps[arm], self.config.points]
        model = checkpoint_print("model", self.training.model)
        asked = self.answering(seed)
        parts = [settings, model, self.inputs["examples"], digest(self.arms.ids[arm][seed]), budget, self.held.hash]
        return digest(parts if asked is None else [*parts, list(asked)])

    def answering(self, seed: int) -> tuple[int, int] | None:
        """How many prompts a proxy of this seed answers, and in how many tokens at most; None where nobody compares them."""
        if self.config.judge is None or seed != 0:
            return None
        return min(self.config.judged, self.held.sets[0].rows), self.config.max_new_tokens

    def proxy(self, arm: str, seed: int) -> Proxy:
        """One training, as it is sent away."""
        batch = self.arms.batch(arm, seed)
        lengths = np.diff(batch.column("input_ids").offsets.to_numpy()).astype(np.int64)
        order = TokenOrder(lengths, self.budget.tokens[arm], self.budget.steps[arm], seed)
        return Proxy(arm, seed, self.key(arm, seed), batch, order, self.answering(seed))


def prepare(config: Race, finetune: Finetune, run: Run, names: Sequence[str]) -> Prepared:
    """Everything up to the first training. A `UsageError` tells what stands in the way."""
    training = config.training(finetune)
    if training.model is None:
        raise UsageError(
            "race.model is not given: name a small Hugging Face model or a directory, e.g. -s race.model=Qwen/Qwen3-0.6B"
        )
    subsets = subsets_of(training, run, names)
    policies = [subset.settings["arm"]["policy"] for subset in subsets.values()]
    if "random" not in policies or len(policies) < 2:
        raise UsageError(
            "a race needs an arm of policy `random`, which the others have to beat, and one other; add it to pick.arms"
        )
    pool = race_rows.examples(run)
    held = race_rows.held_rows(config, training, pool)
    arms = race_rows.arms(config, training, run, subsets, (pool, held))
    inputs = {"examples": run.examples().finished().content_hash()}
    inputs |= {f"subsets/{arm}": subset.content_hash() for arm, subset in subsets.items()}
    return Prepared(config, training, held, arms, _budget(config, training, arms), inputs | {"held out": held.hash})


def _budget(config: Race, training: Finetune, arms: Arms) -> Budget:
    """Equal tokens and updates for all; or, by `race.epochs`, as many of the same size as an arm needs."""
    sizes = {arm: _lengths(arms, arm) for arm in arms.ids}
    every = np.concatenate(list(sizes.values()))
    usual = training.global_batch * float(every.mean())
    longest = int(max(len(example.ids) for example in arms.examples.values()))
    if config.epochs is not None:
        tokens = {arm: round(config.epochs * int(own.sum())) for arm, own in sizes.items()}
    else:
        given = config.tokens or (config.steps and round(config.steps * usual)) or min(int(own.sum()) for own in sizes.values())
        tokens = dict.fromkeys(sizes, given)
    steps = {arm: config.steps or max(1, min(round(own / usual), own // longest)) for arm, own in tokens.items()}
    return Budget(tokens, steps)


def _lengths(arms: Arms, arm: str) -> Integers:
    found = [len(arms.examples[name].ids) for name in arms.ids[arm][0] if name in arms.examples]
    if not found:
        arms.batch(arm, 0)  # says so
    return np.array(found, dtype=np.int64)


def stored(ready: Prepared, run: Run) -> dict[tuple[str, int], Raced]:
    """The trainings that are there already, by arm and seed."""
    names = run.race().storage.at(LOSSES).all_names()
    found = {}
    for arm in ready.arms.ids:
        for seed in range(ready.config.seeds):
            key = ready.key(arm, seed)
            if file_of(arm, seed, key).removeprefix(f"{LOSSES}/") in names:
                found[arm, seed] = _read(run, arm, seed, key)
    return found


def file_of(arm: str, seed: int, key: str) -> str:
    """Where a training's losses lie in `race/`."""
    return f"{LOSSES}/{arm}-{seed}-{key}.parquet"


def answer_files(ready: Prepared, found: Mapping[tuple[str, int], Raced]) -> dict[str, bytes]:
    """The prompts that proxies have answered, as a test set, and each arm's answers; nothing where nobody compares them."""
    asked = ready.answering(0)
    if asked is None:
        return {}
    prompts = [
        {"id": f"held-{number}", **{key: row[key] for key in ("instruction", "input")}, "reference": row["output"]}
        for number, row in enumerate(ready.held.rows[: asked[0]])
    ]
    answers = {
        arm: [{"id": prompt["id"], "output": text} for prompt, text in zip(prompts, found[arm, 0].answers, strict=True)]
        for arm in ready.arms.ids
    }
    files = {PROMPTS: prompts} | {f"{ANSWERS}/{arm}.jsonl": rows for arm, rows in answers.items()}
    return {name: "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in files.items()}


def keep(ready: Prepared, run: Run, raced: Raced) -> None:
    """Write what came of a training."""
    points, rows = raced.losses.shape
    table = pa.table(
        {
            "step": np.repeat(raced.steps, rows),
            "tokens": np.repeat(raced.tokens, rows),
            "set": [row["set"] for row in ready.held.rows] * points,
            "row": [row["example_id"] for row in ready.held.rows] * points,
            "loss": raced.losses.ravel(),
        },
        schema=ROWS,
    )
    facts = {key: getattr(raced, key) for key in ("label_tokens", "epochs", "seconds", "device")}
    facts |= {"points": points} | ({"answers": list(raced.answers)} if raced.answers else {})
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts).encode()}), sink, compression="zstd")
    run.race().storage.write(file_of(raced.arm, raced.seed, raced.key), sink.getvalue())


def _read(run: Run, arm: str, seed: int, key: str) -> Raced:
    table = pq.read_table(io.BytesIO(run.race().storage.read(file_of(arm, seed, key))))
    facts = json.loads(table.schema.metadata[FACTS])
    points = facts.pop("points")
    each = table.num_rows // points
    steps, tokens = (table[name].to_pylist()[::each] for name in ("step", "tokens"))
    losses = table["loss"].to_numpy().reshape(points, each)
    return Raced(arm=arm, seed=seed, key=key, steps=steps, tokens=tokens, losses=losses, **facts)
