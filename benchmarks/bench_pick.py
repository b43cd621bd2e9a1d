"""What `pick` holds of many rows: made-up examples and ratings, one arm by score and one drawn at random, without Ray.

    python benchmarks/bench_pick.py --rows 1000000,3000000,10000000

Texts are short, as no text is held; scores are made of a seed and have four decimals, as those of a distilled judge have. Each
number of rows is picked from in a process of its own, and measured by that process's own seconds and peak memory.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bench_large import Measured, in_own_process

from alpagasus_ray.config import Arm, Pick
from alpagasus_ray.data.schema import EXAMPLES, RATINGS
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Begun, FileEntry, Run, shard_name
from measure import Table, machine

SHARD = 20_000
SCALE = {"min": 0.0, "max": 5.0, "step": None}


def make(folder: str, rows: int) -> None:
    """A run of so many examples with their ratings."""
    run, dice = Run.open(folder), np.random.default_rng(0)
    homes = {"examples": run.examples(), "ratings": run.ratings("judge")}
    files: dict[str, list[FileEntry]] = {name: [] for name in homes}
    for number, start in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - start)
        for name, table in (("examples", _examples(start, count, dice)), ("ratings", _ratings(start, count, dice))):
            written = homes[name].storage.write_table(shard_name(number), table)
            files[name].append(FileEntry(name=shard_name(number), rows=count, **written._asdict()))
    home = homes["examples"]
    home.finish(home.build(Begun(settings={"rows": rows}, inputs={}), files["examples"]))
    settings = {"judge": {"kind": "recorded"}, "rubric": {"dimension": "accuracy", "scale": SCALE}}
    begun = Begun(settings=settings, inputs={"examples": home.finished().content_hash()})
    homes["ratings"].finish(homes["ratings"].build(begun, files["ratings"]))


def _ids(start: int, count: int) -> pa.Array:
    return pc.binary_join_element_wise(
        "made", pc.utf8_lpad(pa.array(range(start, start + count)).cast(pa.string()), 9, "0"), ":"
    )


def _filled(given: dict[str, object], schema: pa.Schema, count: int) -> pa.Table:
    columns = [given.get(field.name, pa.nulls(count)) for field in schema]
    arrays = [one if isinstance(one, pa.Array) else pa.array([one] * count) for one in columns]
    return pa.table([array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)


def _examples(start: int, count: int, dice: np.random.Generator) -> pa.Table:
    ids = _ids(start, count)
    lengths = dice.integers(1, 60, count)
    outputs = pc.binary_repeat(pa.array(["word "] * count), pa.array(lengths))
    given = {"example_id": ids, "content_hash": ids, "instruction": ids, "input": "", "output": outputs, "source": "made#1"}
    return _filled({**given, "row": pa.array(range(start, start + count))}, EXAMPLES, count)


def _ratings(start: int, count: int, dice: np.random.Generator) -> pa.Table:
    ids, score = _ids(start, count), pa.array(dice.beta(2, 2, count).round(5) * 5)
    given = {"example_id": ids, "request_hash": "", "status": "scored", "score": score, "attempts": 0, "maybe_billed_twice": 0}
    return _filled(given, RATINGS, count)


def pick(folder: str) -> None:
    arms = (Arm(name="selected", policy="top", tokens=10_000_000), Arm(name="random", policy="random"))
    pick_subset(Pick(arms=arms, vectors="none"), Run.open(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000000,3000000", help="comma-separated numbers of rows")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(machine())
    table = Table("pick, two arms of 10 million tokens, one process and no Ray", "rows", "wall", "CPU", "peak memory")
    for rows in map(int, options.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="alpagasus-pick-") as work:
            folder = str(Path(work) / "run")
            make(folder, rows)
            told: Measured = in_own_process(pick, folder)
            table.row(f"{rows:,}", f"{told.wall:,.0f} s", f"{told.cpu:,.0f} s", f"{told.gib:.2f} GiB")
    if options.json:
        print(json.dumps(table.as_json()))


if __name__ == "__main__":
    main()
