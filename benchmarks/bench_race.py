"""The study of the race: Alpaca's rows, the scores of three recorded judges, and which way of choosing beats random.

    SMOLLM2=folder RACE_RUN=runs/study python benchmarks/run.py --only race

`SMOLLM2` is a directory with SmolLM2-135M-Instruct (`examples/small_model/fetch.py` fetches it); without it the tiny model of
the tests is raced, which shows that this works and no more. `RACE_RUN` is where the race is kept: the same command goes on
there when it was stopped. Further settings, with their defaults: `RACE_ROWS=100` rows of each arm (9,229 are the paper's),
`RACE_HELD=60` rows of each of two sets of Alpaca's rows that are held out, `RACE_CHARS=300` the longest example in characters,
`RACE_SEEDS=3`, `RACE_TOKENS=4500` and `RACE_STEPS=8` updates of each training, `RACE_POINTS=1` how often the loss is measured,
and `RACE_ARMS`, some of the arms by name. Without a GPU the trainings are done in this process, one after the other.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alpagasus_ray.config import Arm, Finetune, Ingest, Pick, Score
from alpagasus_ray.config.race import Race
from alpagasus_ray.data import prompt_sets
from alpagasus_ray.evaluation.race import smallest_gain
from alpagasus_ray.reporting.charts import Estimate
from alpagasus_ray.reporting.interval_file import estimates_file
from alpagasus_ray.reporting.race_data import intervals
from alpagasus_ray.reporting.terminal_race import difference
from alpagasus_ray.stages.combine import combine_ratings
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.race import ASSUMED, race
from alpagasus_ray.store.run import Run
from alpagasus_ray.training.proxy_driver import in_this_process, on_ray
from measure import RATINGS, ROOT, Table
from report_runs import rate

TINY = ROOT.parent / "shared/data/tiny_llama"
SELF_INSTRUCT = ROOT.parent / "shared/data/test_sets/sinstruct_test_set.jsonl"
STRONG, COMBINED = "gpt-4o-mini", "combined"
HIGH = 3
"""What all judges give at least to a row of the set of good rows."""
UPPER = ("gate_proj", "up_proj", "down_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")
"""What gets adapters in the uppermost layers."""

Rows = Sequence[Mapping[str, Any]]


def bench_race(run: Run, work: Path) -> Table:
    """Arms of equal size at equal tokens, by their loss on rows that no arm holds."""
    model, folder = os.environ.get("SMOLLM2", str(TINY)), Path(os.environ.get("RACE_RUN", work / "race"))
    mine, sets = _pool(run, folder, _given("CHARS", 300), _given("HELD", 60))
    names = _arms(mine, _given("ROWS", 100))
    wanted = os.environ.get("RACE_ARMS", ",".join(names)).split(",")
    settings = {
        "seeds": _given("SEEDS", 3),
        "points": _given("POINTS", 1),
        "tokens": _given("TOKENS", 4_500),
        "steps": _given("STEPS", 8),
        "drop": False,
    }
    config = Race.model_validate(settings | {"test_sets": sets})
    training = _training(model)
    rows = len(Path(sets[0]["path"]).read_text().splitlines())
    gain = smallest_gain(ASSUMED, config.seeds, rows, len(wanted) - 1)
    print(f"planned to show a difference of losses of {gain or 0:.4f} to random in 8 races of 10, by the assumed {ASSUMED}")
    race(config, training, mine, wanted, on_ray if torch.cuda.is_available() else in_this_process)
    found = json.loads(mine.race().storage.read("table.json"))
    (folder / "race.svg").write_text(_picture(found))
    return _table(found, gain)


def _given(name: str, usual: int) -> int:
    return int(os.environ.get(f"RACE_{name}", usual))


def _training(model: str) -> Finetune:
    """Adapters on the upper four of thirty layers: what lies below is the same for all trainings, and computed once."""
    shared: dict[str, Any] = {"model": model, "global_batch": 8, "learning_rate": 1e-3, "max_length": 192, "pack_tokens": 512}
    if model != str(TINY):
        targets = [
            f"layers.{layer}.{block}.{name}"
            for layer in range(26, 30)
            for block, names in zip(("mlp", "self_attn"), UPPER, strict=True)
            for name in names
        ]
        shared |= {"template": "chat", "lora": {"rank": 16, "alpha": 32, "dropout": 0, "targets": targets}}
    return Finetune.model_validate(shared)


def _picture(found: Mapping[str, Any]) -> str:
    values = [Estimate(**one) for one in intervals(found)]
    title = f"{Path(found['model']).name}, {found['seeds']} seeds, {found['sets'][0]['rows']} rows of {found['decides']}"
    return estimates_file(values, 0.0, title, "held-out loss minus that of random, with its 95% interval: left is better")


def _table(found: Mapping[str, Any], gain: float | None) -> Table:
    sets = [one["name"] for one in found["sets"]]
    planned = "none" if gain is None else f"{gain:.4f}"
    about = f"Race of {Path(found['model']).name}, {found['seeds']} seeds; planned to show differences of {planned}"
    table = Table(
        f"{about}. {found['answer']}",
        "arm",
        *(f"loss, {name}" for name in sets),
        "place by seed",
        "against random",
        "against longest",
    )
    for entry in found["arms"]:
        against = [difference(entry["against"][one]) if one in entry["against"] else "" for one in ("random", "longest")]
        losses = [f"{entry['sets'][name]:.4f}" for name in sets]
        table.row(entry["arm"], *losses, " ".join(map(str, entry["places"])), *against)
    return table


def _scores() -> dict[str, NDArray[np.float64]]:
    """The recorded scores of each judge, in the order of the rows."""
    with RATINGS.open() as stream:
        rows = list(csv.DictReader(stream))
    judges = [name for name in rows[0] if name != "alpaca_index"]
    return {name: np.array([float(row[name]) for row in rows]) for name in judges}


def _pool(run: Run, folder: Path, most: int, held_out: int) -> tuple[Run, list[dict[str, str]]]:
    """A run with the rows that arms choose from, rated, and the test sets: nothing of these is among the rows. The first test
    set decides: that which neither the judges nor the arms come from."""
    examples = run.examples()
    rows = [row for table in examples.tables(examples.finished()) for row in table.to_pylist()]
    short = np.array([_size(row) <= most for row in rows])
    scores = _scores()
    generator = np.random.default_rng(0)
    good = generator.permutation(np.flatnonzero(short & (np.min(list(scores.values()), axis=0) >= HIGH)))[:held_out]
    others = np.setdiff1d(np.flatnonzero(short & np.array([bool(row["output"].strip()) for row in rows])), good)
    drawn = np.sort(generator.permutation(others)[:held_out])
    left = np.setdiff1d(np.flatnonzero(short), [*good, *drawn])
    folder.mkdir(parents=True, exist_ok=True)
    held = {"random-rows": [rows[row] for row in drawn], "rated-high": [rows[row] for row in np.sort(good)]}
    held = {"self-instruct": [row for row in _self_instruct() if _size(row) <= most], **held}
    sets = [{"name": name, "path": _written(folder / f"{name}.jsonl", of)} for name, of in held.items()]
    made = Run.open(str(folder / "run"))
    ingest(Ingest(source=_written(folder / "pool.jsonl", [rows[row] for row in left]), name="alpaca"), made)
    for judge, of_all in scores.items():
        if made.ratings(judge).manifest() is None:
            rate(made, of_all[left].tolist(), name=judge)
    combine_ratings(Score.model_validate({"name": COMBINED, "combine": {"ratings": list(scores), "by": "mean"}}), made)
    return made, sets


def _size(row: Mapping[str, Any]) -> int:
    return sum(len(row[key]) for key in ("instruction", "input", "output"))


def _self_instruct() -> list[dict[str, str]]:
    prompts = prompt_sets.load("self-instruct", str(SELF_INSTRUCT))
    return [{"instruction": one.instruction, "input": one.input, "output": one.reference} for one in prompts if one.reference]


def _written(file: Path, rows: Rows) -> str:
    """A file of rows, as a pool and as a test set."""
    if not file.exists():
        plain = [{key: row[key] for key in ("instruction", "input", "output")} for row in rows]
        lines = [{"id": f"{file.stem}-{place}", **row, "reference": row["output"]} for place, row in enumerate(plain)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def _arms(run: Run, rows: int) -> list[str]:
    controls = [Arm(name="longest", policy="longest", k=rows), Arm(name="lowest", policy="lowest", k=rows)]
    draws = [Arm(name=f"random-{seed}", policy="random", k=rows, seed=seed) for seed in range(3)]
    strong = Arm(name="strong-judge", policy="top", k=rows)
    spread = Arm(name="within-clusters", policy="top", k=rows, spread="clusters")
    arms = (*draws[:1], strong, spread, *controls, *draws[1:], Arm(name="full", policy="full"))
    pick_subset(Pick(ratings=STRONG, arms=arms), run)
    combined = Arm(name="three-judges", policy="top", k=rows)
    pick_subset(Pick(ratings=COMBINED, arms=(combined,)), run)
    return [*(arm.name for arm in arms), combined.name]
