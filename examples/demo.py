"""A whole experiment on the sample dataset, what it dropped beside the defects planted in it, and what it shows.

make demo
"""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa

from alpagasus_ray.store.run import Run

ROOT = Path(__file__).parents[1]
RUN = ROOT / "runs/demo"
RECIPE = "recipes/quickstart.yaml"
TRUTH = ROOT / "examples/sample/truth.csv"


def main() -> None:
    shutil.rmtree(RUN, ignore_errors=True)
    command = ["python", "jobs/run_all.py", "--recipe", RECIPE, "--run", "runs/demo"]
    print(f"$ {' '.join(command)}", flush=True)
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    run = Run.open(str(RUN))
    compare(run)
    conclude(run)


def conclude(run: Run) -> None:
    """Print what the experiment shows: what no judge has a say in first, then the judge."""
    report = json.loads(run.report().storage.read("report.json"))
    trainings = sorted(report["trainings"], key=lambda training: training["heldout"]["loss"])
    held = trainings[0]["heldout"]["examples"]
    print(f"\nLoss over {held} held-out examples of the same tasks, after as many updates on each arm (lower is better):")
    for training in trainings:
        print(f"  {training['arm']:10} {training['heldout']['loss']:.3f}")
    print("The offline judge on the answers to them:")
    for found in report["verdicts"]:
        (pooled,) = found["groups"]["pooled"]
        counts = f"{pooled['win']} win, {pooled['tie']} tie, {pooled['lose']} lose"
        score = pooled["winning_score"]
        shown = "no interval" if score["low"] is None else f"95%: {score['low']:.2f} to {score['high']:.2f}"
        print(f"  {found['a']} against {found['b']}: {counts}, winning score {score['value']:.2f} ({shown})")
    print("A million parameters show the machinery. One seed each: differences of some hundredths may be chance.")
    print(f"The page: {run.report().storage.path('index.html')}")


def compare(run: Run) -> None:
    """Print what was dropped and why, and what of the planted truth that is."""
    arm, ratings, examples = run.subset("selected"), run.ratings("judge"), run.examples()
    names = [entry.name for entry in arm.finished("pick_subset").files if entry.name.startswith("dropped-")]
    dropped = set(pa.concat_tables(arm.storage.read_table(name) for name in names)["example_id"].to_pylist())
    rated = pa.concat_tables(ratings.tables(ratings.finished("score"))).to_pylist()
    rows = pa.concat_tables(examples.tables(examples.finished("ingest"))).to_pylist()
    with TRUTH.open(newline="") as stream:
        defects = {int(line["index"]): line["defect"] for line in csv.DictReader(stream)}

    print("\nWhy examples were dropped (the offline judge's reasons, most frequent first):")
    reasons = Counter(reason for row in rated if row["example_id"] in dropped for reason in _reasons(row["reply"]))
    for reason, count in reasons.most_common(8):
        print(f"  {count:4} {reason}")

    print("\nAgainst the planted truth (examples/sample/truth.csv):")
    planted, found = Counter(defects.values()), Counter[str]()
    for row in rows:
        defect = defects.get(row["row"])
        flagged = row["duplicate_of"] is not None if defect == "duplicate" else row["example_id"] in dropped
        found[defect or ""] += bool(flagged and defect)
    for defect, count in sorted(planted.items(), key=lambda item: -found[item[0]] / item[1]):
        how = "flagged by ingest, kept" if defect == "duplicate" else "dropped"
        print(f"  {defect:15} {found[defect]:3} of {count:3} {how}")
    sound = [row for row in rows if row["row"] not in defects]
    lost = sum(row["example_id"] in dropped for row in sound)
    print(f"  {'no defect':15} {len(sound) - lost:3} of {len(sound):3} kept")
    print("What the rules cannot see, false statements above all, is what an LLM judge is for.")


def _reasons(reply: str) -> list[str]:
    """The reasons in a reply of the offline judge, numbers left out so that equal ones can be counted."""
    listed = reply.split("\n", 1)[1].rsplit(". (", 1)[0]
    return ["".join("N" if c.isdigit() else c for c in reason) for reason in listed.split("; ")]


if __name__ == "__main__":
    main()
