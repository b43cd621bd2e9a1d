"""A whole experiment with a real small language model: what was dropped beside the defects planted in the data, what a model
learned from the rest, from as many examples at random and from all, and what that shows. `--study` trains on one more arm, and
races all four under several seeds: what the one training of the demo cannot tell from chance.

make demo
make study
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from alpagasus_ray.reporting.terminal_race import race_lines
from alpagasus_ray.store.run import Run

ROOT = Path(__file__).parents[1]
RUN, RECIPE, STUDY = "runs/demo", "examples/demo.yaml", "runs/study.yaml"
MODEL = ".venv/models/SmolLM2-135M-Instruct"
TRUTH = ROOT / "examples/sample/truth.csv"
FURTHER = ("longest",)
"""Arms that `--study` trains on besides."""
RACE = {"heldout": "examples/sample/heldout.jsonl", "seeds": 3, "tokens": 6_000, "points": 3}
"""The race of `--study`: short trainings, so that three seeds of four arms take minutes."""
SHOWN = ("heldout-037", "heldout-061", "heldout-085")
"""Prompts whose answers are shown."""
ABOUT = {
    "dropped": "Why examples were dropped (the rules' reasons, most frequent first):",
    "truth": "Against the defects planted in the sample (examples/sample/truth.csv):",
    "loss": "Loss over the held-out responses, before and after as many updates on each arm (lower is better):",
    "exact": "Answers to the held-out prompts, beside the reference answers:",
    "answers": "Some of the answers:",
    "judge": "The rules on the answers, in both orders:",
    "shows": "What it shows:",
}


def commands(*, study: bool, slow_bfloat16: bool) -> list[list[str]]:
    """What the demo carries out, one command after the other; what was dropped is shown after the third."""
    recipe = STUDY if study else RECIPE
    precision = ["-s", "finetune.precision=float32"] if slow_bfloat16 else []
    return [
        *(["alpagasus", verb, RUN, "-r", recipe] for verb in ("ingest", "score", "pick")),
        ["python", "examples/small_model/fetch.py", MODEL],
        ["alpagasus", "run", RUN, "-r", recipe, *precision],
    ]


def study_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The demo's recipe with every arm raced and trained on, and `selected` compared with each."""
    pick, train, answer, compare = (recipe[section] for section in ("pick", "finetune", "generate", "compare"))
    like = answer["models"][0]
    return {
        **recipe,
        "pick": {**pick, "arms": [*pick["arms"], *({"name": arm, "policy": arm} for arm in FURTHER)]},
        "finetune": {**train, "arms": [*train["arms"], *FURTHER]},
        "generate": {**answer, "models": [*answer["models"], *({**like, "name": arm, "arm": arm} for arm in FURTHER)]},
        "compare": {**compare, "pairs": [*compare["pairs"], *(["selected", arm] for arm in FURTHER)]},
        "report": {**recipe["report"], "baseline": "full"},
        "race": RACE,
    }


class Transcript:
    """What the demo says, on the terminal and kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._began = time.monotonic()

    def say(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
        self.lines += lines

    def carry_out(self, command: Sequence[str]) -> None:
        """Carry out a command with this interpreter; if it fails, the demo ends with its exit code."""
        self.say(f"$ {' '.join(command)}")
        program = ["-m", "alpagasus_ray"] if command[0] == "alpagasus" else []
        done = subprocess.run([sys.executable, *program, *command[1:]], cwd=ROOT, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            sys.exit(done.returncode)
        self.say(f"  [{time.monotonic() - self._began:.0f} s after the start]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", action="store_true", help="train on all arms; what the demo has done is not done again")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the transcript to FOLDER/demo.md, and a picture")
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.study:
        Path(STUDY).parent.mkdir(exist_ok=True)
        Path(STUDY).write_text(yaml.safe_dump(study_recipe(yaml.safe_load(Path(RECIPE).read_text())), sort_keys=False))
    else:
        shutil.rmtree(RUN, ignore_errors=True)
    said = Transcript()
    todo = commands(study=options.study, slow_bfloat16=not computes_bfloat16())
    for command in todo[:3]:
        said.carry_out(command)
    run = Run.open(str(ROOT / RUN))
    said.say(*dropped(run))
    for command in todo[3:]:
        said.carry_out(command)
    said.say(*conclusion(run))
    if options.write:
        from transcript import write

        write(options.write, said.lines, run.report().storage.path("index.html"))


def computes_bfloat16() -> bool:
    """Whether the processor multiplies numbers of 16 bits; without that they are slower than those of 32."""
    information = Path("/proc/cpuinfo")
    return information.exists() and any(flag in information.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def dropped(run: Run) -> Iterator[str]:
    """What was dropped and why, and what of the planted truth that is."""
    arm, ratings, examples = run.subset("selected"), run.ratings("judge"), run.examples()
    names = [entry.name for entry in arm.finished().files if entry.name.startswith("dropped-")]
    left_out = set(pa.concat_tables(arm.storage.read_table(name) for name in names)["example_id"].to_pylist())
    rated = pa.concat_tables(ratings.tables(ratings.finished())).to_pylist()
    rows = pa.concat_tables(examples.tables(examples.finished())).to_pylist()
    with TRUTH.open(newline="") as stream:
        defects = {int(line["index"]): line["defect"] for line in csv.DictReader(stream)}

    yield from ("", ABOUT["dropped"])
    copies = {row["example_id"] for row in rows if row["duplicate_of"] is not None}
    judged = [row for row in rated if row["example_id"] in left_out - copies]
    reasons = Counter(reason for row in judged for reason in _reasons(row["reply"]))
    reasons["it is an exact copy of an earlier example"] = len(copies & left_out)
    yield from (f"  {count:4} {reason}" for reason, count in reasons.most_common(9))

    yield from ("", ABOUT["truth"])
    planted, found = Counter(defects.values()), Counter[str]()
    for row in rows:
        found[defects.get(row["row"], "")] += row["example_id"] in left_out
    for defect, count in sorted(planted.items(), key=lambda item: -found[item[0]] / item[1]):
        yield f"  {defect:15} {found[defect]:3} of {count:3} dropped"
    sound = len(rows) - len(defects)
    yield f"  {'no defect':15} {sound - found['']:3} of {sound:3} kept"
    yield "What the rules cannot see, false statements above all, is what an LLM judge is for."
    yield ""


def _reasons(reply: str) -> list[str]:
    """The reasons in a reply of the offline judge, numbers left out so that equal ones can be counted."""
    listed = reply.split("\n", 1)[1].rsplit(". (", 1)[0]
    return ["".join("N" if c.isdigit() else c for c in reason) for reason in listed.split("; ")]


def conclusion(run: Run) -> Iterator[str]:
    """What the experiment shows: what no judge has a say in first, then the judge."""
    report = json.loads(run.report().storage.read("report.json"))
    yield from ("", ABOUT["loss"])
    for arm in (training["arm"] for training in report["trainings"]):
        details = run.model(arm).finished().details
        before, after = details["heldout_curve"][0]["loss"], details["heldout"]["loss"]
        yield f"  {arm:10} {before:.3f} -> {after:.3f}"
    yield from ("", ABOUT["exact"])
    for found in report["objective"]:
        right = f"{found['contains']:3} of {found['prompts']} hold the reference, {found['exact']} are exactly it"
        yield f"  {found['model']:10} {right}"
    yield from ("", ABOUT["answers"])
    yield from _answers(run, [training["arm"] for training in report["trainings"]])
    yield from ("", ABOUT["judge"])
    for found in report["verdicts"]:
        (pooled,) = found["groups"]["pooled"]
        yield f"  {found['a']} against {found['b']}: {pooled['win']} win, {pooled['tie']} tie, {pooled['lose']} lose"
    if run.race().manifest() is not None:
        yield from ("", "The race, several seeds of each arm:")
        table = json.loads(run.race().storage.read("table.json"))
        yield from race_lines({"race": table, "location": run.race().storage.path("table.json")})
    yield from ("", ABOUT["shows"])
    yield from (f"  {line}" for line in shows(report["first"]))
    yield f"The page: {run.report().storage.path('index.html')}"


def _answers(run: Run, arms: Sequence[str]) -> Iterator[str]:
    stages = {arm: run.answers(arm, "heldout") for arm in arms}
    said = {
        arm: {row["prompt_id"]: row["reply"] for table in stage.tables(stage.finished()) for row in table.to_pylist()}
        for arm, stage in stages.items()
    }
    prompts = run.prompts("heldout")
    rows = {row["prompt_id"]: row for table in prompts.tables(prompts.finished()) for row in table.to_pylist()}
    for prompt in SHOWN:
        yield f"  {' '.join((rows[prompt]['instruction'] + ' ' + rows[prompt]['input']).split())}"
        yield from (f"    {arm:10} {' '.join((said[arm][prompt] or '(none)').split())}" for arm in arms)


def shows(first: Mapping[str, Any]) -> Iterator[str]:
    """What speaks for the arm and what against it, whichever way that is, and how much it is worth."""
    arm, baseline = first["arm"]["name"], first["baseline"]["name"]
    signs: dict[str, float] = {}
    if first["heldout"]:
        signs["the held-out loss"] = -first["heldout"]["difference"]
    if first["exact"]:
        signs["answers that hold the reference"] = first["exact"]["arm"]["contains"] - first["exact"]["baseline"]["contains"]
    if first["pooled"]:
        signs["the rules' verdicts"] = first["pooled"]["win"] - first["pooled"]["lose"]
    sides = {f"for {arm}": 1, f"for {baseline}": -1, "for neither": 0}
    for side, sign in sides.items():
        names = [name for name, value in signs.items() if (value > 0) - (value < 0) == sign]
        if names:
            speak = "speaks" if len(names) == 1 and names[0] == "the held-out loss" else "speak"
            yield f"{_listed(names)} {speak} {side}.".capitalize()
    yield f"The page's answer: {first['word']}. {first['sentence']}"
    yield "One training of each arm: what another seed would change is not in these numbers. make study adds seeds."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


if __name__ == "__main__":
    main()
