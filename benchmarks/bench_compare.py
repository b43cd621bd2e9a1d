"""Comparisons: games asked of an API beside what its latency allows, and the bootstrap."""

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alpagasus_ray.config import Answerer, Compare, Generate, PairJudge, TestSet
from alpagasus_ray.evaluation.match_rules import Game, Match
from alpagasus_ray.evaluation.statistics import summarize
from alpagasus_ray.stages.compare import compare
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.store.run import Run
from measure import ROOT, Table, server

LATENCY_S, IN_FLIGHT, PROMPTS = 0.2, 64, 730
SETS = {"vicuna": "vicuna", "koala": "koala", "wizardlm": "wizardlm", "self_instruct": "sinstruct"}
TEST_SETS = ROOT.parent / "shared/data/test_sets"


def bench_compare(run: Run, work: Path) -> Table:
    """The four published test sets, both orders, one judge on loopback."""
    ideal = IN_FLIGHT / LATENCY_S
    table = Table(
        f"Two models compared on the {PROMPTS} prompts of the published test sets, {LATENCY_S * 1000:.0f} ms latency, "
        f"{IN_FLIGHT} in flight",
        *("turn", "games", "games/s from first to last", "games/s sustained", "of ideal"),
    )
    compared = answered(run, work / "compared")
    for turn in (1, 2, 3):
        with server("--latency", str(LATENCY_S), "--pairs") as judge:
            asked = PairJudge(model="toy", base_url=judge.base_url)
            config = Compare(name=f"turn-{turn}", pairs=(("one", "other"),), judge=asked, concurrency=IN_FLIGHT, actors=1)
            compare(config, compared)
            stats = judge.stats()
        whole, sustained = stats["taken"] / stats["seconds"], stats["sustained"]
        table.row(turn, f"{stats['taken']:,}", f"{whole:.1f}", f"{sustained:.1f}", f"{sustained / ideal:.1%}")
    table.row("all statistics of 730 prompts, 10,000 draws", "", "", "", f"{_bootstrap_s():.3f} s")
    return table


def answered(run: Run, folder: Path) -> Run:
    """A run in which two models have answered all prompts, with outputs of Alpaca."""
    folder.mkdir()
    compared = Run.open(str(folder / "run"))
    outputs = itertools.cycle(_outputs(run))
    sets = tuple(TestSet(name=name, path=str(TEST_SETS / f"{file}_test_set.jsonl")) for name, file in SETS.items())
    models = []
    for name in ("one", "other"):
        for test_set in sets:
            lines = Path(test_set.path).read_text().splitlines()
            rows = [{**_id(json.loads(line), number), "output": next(outputs)} for number, line in enumerate(lines)]
            (folder / f"{name}-{test_set.name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        models.append(Answerer.model_validate({"name": name, "answers": str(folder / (name + "-{test_set}.jsonl"))}))
    generate(Generate(models=tuple(models), test_sets=sets), compared)
    return compared


def _id(record: dict[str, Any], number: int) -> dict[str, Any]:
    """What a record of a test set is known by."""
    return {"id": next((record[key] for key in ("question_id", "id", "idx") if key in record), number)}


def _outputs(run: Run) -> list[str]:
    stage = run.examples()
    table = next(stage.tables(stage.finished(), ["output"]))
    return [text for text in table["output"].to_pylist() if text]


def _bootstrap_s() -> float:
    """Seconds of all statistics of 730 prompts, the bootstrap among them; scipy is loaded before."""
    matches = list(_matches())
    summarize(matches[:10], "alpagasus")
    started = time.monotonic()
    summarize(matches, "alpagasus", resamples=10_000)
    return time.monotonic() - started


def _matches() -> Iterator[Match]:
    scores = itertools.cycle([(8.0, 7.0), (7.0, 8.0), (6.5, 6.5), (9.0, 4.0), (3.0, 8.0)])
    for number in range(PROMPTS):
        games = [Game("a" if a > b else "b" if b > a else "tie", a, b) for a, b in (next(scores), next(scores))]
        yield Match(f"p-{number}", "toy", None, None, None, games[0], games[1], 50 + number % 40, 60)
