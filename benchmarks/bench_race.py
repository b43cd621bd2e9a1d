"""The study of the race: Alpaca's rows, the scores of three recorded judges, and which way of choosing beats random.

    SMOLLM2=folder RACE_ROWS=300 RACE_SEEDS=3 python benchmarks/run.py --only race

`SMOLLM2` is a directory with SmolLM2-135M; without it the tiny model of the tests is raced, which shows that this works and
no more. `RACE_ROWS` are the rows of each arm (9,229 is the paper's), `RACE_TOKENS` the tokens of each training.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from alpagasus_ray.config import Arm, Finetune, Pick
from alpagasus_ray.config.race import Race
from alpagasus_ray.reporting.terminal_race import difference
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.race import plan, race
from alpagasus_ray.store.run import Run
from measure import RATINGS, ROOT, Table, copy_examples
from report_runs import rate

TINY = ROOT.parent / "shared/data/tiny_llama"
SELF_INSTRUCT = ROOT.parent / "shared/data/test_sets/sinstruct_test_set.jsonl"
STRONG, COMBINED = "gpt-4o-mini", "mean-of-three"
HELD = 300


def bench_race(run: Run, work: Path) -> Table:
    """Arms of equal size at equal tokens, by their loss on rows that no arm holds."""
    rows, seeds = int(os.environ.get("RACE_ROWS", "300")), int(os.environ.get("RACE_SEEDS", "3"))
    model = os.environ.get("SMOLLM2", str(TINY))
    mine = copy_examples(run, work / "race")
    names = _arms(mine, rows)
    training = Finetune(model=model, global_batch=16, learning_rate=1e-3 if model == str(TINY) else 2e-5, tensorboard=False)
    config = Race.model_validate(
        {
            "seeds": seeds,
            "tokens": int(os.environ["RACE_TOKENS"]) if "RACE_TOKENS" in os.environ else None,
            "heldout": HELD,
            "test_sets": [
                {"name": "self-instruct", "path": str(SELF_INSTRUCT)},
                {"name": "rated-high", "path": _rated_high(mine, work)},
            ],
        }
    )
    told = plan(config, training, mine, names)["race_plan"]["smallest_gains"][0]
    race(config, training, mine, names)
    found = json.loads(mine.race().storage.read("table.json"))
    title = (
        f"Race of {Path(model).name}, {rows:,} rows an arm, {seeds} seeds, loss on {HELD} random rows; a race of this size was "
        f"planned to show differences of {told['gain']:.3f}. {found['answer']}"
    )
    sets = [one["name"] for one in found["sets"]]
    table = Table(title, "arm", *(f"loss, {name}" for name in sets), "place by seed", "against random", "against longest")
    for entry in found["arms"]:
        against = [difference(entry["against"][one]) if one in entry["against"] else "" for one in ("random", "longest")]
        losses = [f"{entry['sets'][name]:.4f}" for name in sets]
        table.row(entry["arm"], *losses, " ".join(map(str, entry["places"])), *against)
    return table


def _scores() -> dict[str, list[float]]:
    """The recorded scores of each judge, in the order of the rows."""
    with RATINGS.open() as stream:
        rows = list(csv.DictReader(stream))
    judges = [name for name in rows[0] if name != "alpaca_index"]
    return {name: [float(row[name]) for row in rows] for name in judges}


def _arms(run: Run, rows: int) -> list[str]:
    scores = _scores()
    rate(run, scores[STRONG], name=STRONG)
    rate(run, np.mean(list(scores.values()), axis=0).tolist(), name=COMBINED)
    controls = [Arm(name="longest", policy="longest", k=rows), Arm(name="lowest", policy="lowest", k=rows)]
    draws = [Arm(name=f"random-{seed}", policy="random", k=rows, seed=seed) for seed in range(3)]
    arms = (Arm(name="strong-judge", policy="top", k=rows), *draws, *controls, Arm(name="full", policy="full"))
    pick_subset(Pick(ratings=STRONG, arms=arms), run)
    combined = Arm(name="three-judges", policy="top", k=rows)
    pick_subset(Pick(ratings=COMBINED, arms=(combined,)), run)
    return [*(arm.name for arm in arms), combined.name]


def _rated_high(run: Run, work: Path) -> str:
    """A file of rows that all three judges rate highest, which the race takes out of every arm."""
    least = np.min(list(_scores().values()), axis=0)
    best = set(np.argsort(-least, kind="stable")[:HELD].tolist())
    examples = run.examples()
    rows = (row for table in examples.tables(examples.finished()) for row in table.to_pylist())
    file = work / "rated-high.jsonl"
    with file.open("w") as stream:
        for number, row in enumerate(rows):
            if number in best:
                kept: dict[str, Any] = {key: row[key] for key in ("instruction", "input")}
                stream.write(json.dumps({"id": f"high-{number}", **kept, "reference": row["output"]}) + "\n")
    return str(file)
