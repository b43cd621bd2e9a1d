"""What a race trains on and what it measures on: rows held out, arms without what is near them, random arms drawn anew.

Knows files, manifests and tokens; nothing of torch or Ray.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from alpagasus_ray.config import Finetune, digest
from alpagasus_ray.config.race import Race
from alpagasus_ray.data import prompt_sets
from alpagasus_ray.data.schema import EXAMPLES, conformed
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.evaluation.race_table import HeldSet
from alpagasus_ray.selection.apart import Text, too_near
from alpagasus_ray.selection.draws import drawn
from alpagasus_ray.store.run import Manifest, Run
from alpagasus_ray.training import heldout
from alpagasus_ray.training.encode import Encoded
from alpagasus_ray.training.token_files import as_batch, encoded

COLUMNS = ["example_id", "instruction", "input", "output", "system", "history", "learn", "category", "duplicate_of"]
HELDOUT = "heldout"
"""Name of the set that `race.heldout` gives."""

Row = Mapping[str, Any]


class Held(NamedTuple):
    """All rows that arms are measured on, set after set."""

    sets: list[HeldSet]
    tokens: pa.RecordBatch
    rows: Sequence[Row]
    """With `set`, `example_id` and `category`; those of `tokens`, in its order."""

    @property
    def hash(self) -> str:
        """Of what is measured."""
        return digest([[row["set"], row["instruction"], row["input"], row["output"]] for row in self.rows])


class Arms(NamedTuple):
    """What every arm is trained on under every seed."""

    policies: dict[str, str]
    ids: dict[str, list[list[str]]]
    """By arm and seed, in the order of the source."""
    removed: dict[str, int]
    """Rows of an arm that were taken out."""
    examples: dict[str, Encoded]
    """All of them that can be trained on, by id."""

    def batch(self, arm: str, seed: int) -> pa.RecordBatch:
        """The tokens of an arm under a seed; a `UsageError` where nothing of it can be trained on."""
        kept = [(name, self.examples[name]) for name in self.ids[arm][seed] if name in self.examples]
        if not kept:
            raise UsageError(f"subsets/{arm}: nothing of it is left to train on; see finetune.max_length and race.near")
        return as_batch(kept)


def examples(run: Run) -> dict[str, Row]:
    """All examples of the run by id, in source order."""
    stage = run.examples()
    tables = stage.tables(stage.finished())
    return {row["example_id"]: row for table in tables for row in conformed(table, EXAMPLES).select(COLUMNS).to_pylist()}


def held_rows(config: Race, training: Finetune, pool: Mapping[str, Row]) -> Held:
    """What the arms are measured on. A `UsageError` tells where that is nothing, or cannot be read."""
    given = list(_given(config, pool))
    if not given:
        raise UsageError(
            "a race measures arms on rows that none of them is trained on: give race.heldout (a file, or how many rows to take "
            "out of the examples, e.g. race.heldout=300), or race.test_sets with references"
        )
    sets, rows, kept = [], [], []
    for name, there, without in given:
        taken, left = encoded(training, [{**row, "score": None} for row in there])
        if not taken:
            raise UsageError(f"race: none of the {len(there) + without:,} rows of {name!r} has a response that can be measured")
        by_id = {row["example_id"]: row for row in there}
        mine = [{**by_id[example_id], "set": name} for example_id, _ in taken]
        sets.append(HeldSet(name, len(taken), without + len(left), [row["category"] or "" for row in mine]))
        rows += mine
        kept += taken
    return Held(sets, as_batch(kept), rows)


def _given(config: Race, pool: Mapping[str, Row]) -> Iterator[tuple[str, list[Row], int]]:
    """Name, rows, and how many have no reference, of each set."""
    if isinstance(config.heldout, int):
        yield HELDOUT, [pool[name] for name in _taken_out(config.heldout, pool)], 0
    elif config.heldout is not None:
        try:
            drafts = list(heldout.drafts(config.heldout, "race.heldout"))
        except InputError as error:
            raise UsageError(f"race.heldout: {error}") from None
        yield HELDOUT, [heldout.row_of(number, draft) for number, draft in enumerate(drafts)], 0
    for one in config.test_sets:
        prompts = prompt_sets.load(one.name, one.path, one.format, {str(field): key for field, key in one.columns.items()})
        rows = [_of_prompt(prompt) for prompt in prompts if prompt.reference]
        yield one.name, rows, len(prompts) - len(rows)


def _taken_out(count: int, pool: Mapping[str, Row]) -> list[str]:
    once = [name for name, row in pool.items() if row["duplicate_of"] is None]
    if count >= len(once):
        raise UsageError(f"race.heldout = {count:,} would take all {len(once):,} examples; give fewer, or a file")
    return [once[place] for place in sorted(drawn(once, count, "race heldout", 0).tolist())]


def _of_prompt(prompt: prompt_sets.Prompt) -> Row:
    named = {"example_id": f"{prompt.prompt_id}", "instruction": prompt.instruction, "input": prompt.input}
    plain = {"output": prompt.reference, "system": None, "history": None, "learn": None}
    return named | plain | {"category": prompt.category or prompt.skill}


def arms(
    config: Race, training: Finetune, run: Run, subsets: Mapping[str, Manifest], seen: tuple[Mapping[str, Row], Held]
) -> Arms:
    """What every arm is trained on: as it was chosen, or for a random one drawn anew for every seed but the first, without what
    is held out or near it. `seen` are the examples of the run and the rows that are measured on."""
    pool, held = seen
    policies = {arm: str(subset.settings["arm"]["policy"]) for arm, subset in subsets.items()}
    chosen = {arm: _chosen(run, arm, subset) for arm, subset in subsets.items()}
    is_drawn = any(policy == "random" for policy in policies.values())
    near = _near(config, pool, held, pool if is_drawn else dict.fromkeys(name for ids in chosen.values() for name in ids))
    free = [name for name, row in pool.items() if name not in near and row["duplicate_of"] is None]
    ids = {}
    for arm, names in chosen.items():
        first = [name for name in names if name not in near]
        ids[arm] = [first] * config.seeds
        if policies[arm] == "random":
            ids[arm] = [first, *(_again(free, len(first), arm, seed) for seed in range(1, config.seeds))]
    used = dict.fromkeys(name for seeds in ids.values() for names in seeds for name in names)
    kept, _ = encoded(training, [{**pool[name], "score": None} for name in used])
    removed = {arm: sum(name in near for name in names) for arm, names in chosen.items()}
    return Arms(policies, ids, removed, dict(kept))


def _chosen(run: Run, arm: str, subset: Manifest) -> list[str]:
    return [name for table in run.subset(arm).tables(subset, ["example_id"]) for name in table["example_id"].to_pylist()]


def _again(free: Sequence[str], count: int, arm: str, seed: int) -> list[str]:
    return [free[place] for place in sorted(drawn(free, count, f"race {arm}", seed).tolist())]


def _near(config: Race, pool: Mapping[str, Row], held: Held, names: Iterable[str]) -> set[str]:
    listed = list(names)
    found = too_near([_text(row) for row in held.rows], [_text(pool[name]) for name in listed], config.near)
    return {listed[number] for number in found} | {row["example_id"] for row in held.rows if row["example_id"] in pool}


def _text(row: Row) -> Text:
    prompt = f"{row['instruction']}\n{row['input']}"
    return Text(prompt, f"{prompt}\n{row['output']}")
