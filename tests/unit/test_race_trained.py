"""A race of the tiny model on the sample dataset, in this process: real updates, real losses, no Ray."""

import csv
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_process import group_of_one

from alpagasus_ray.config import Arm, Finetune, Ingest, PairJudge, Pick, Report
from alpagasus_ray.config.race import Race
from alpagasus_ray.errors import BudgetReached, UsageError
from alpagasus_ray.reporting import terminal
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.race import plan, race, summary
from alpagasus_ray.stages.report import report
from alpagasus_ray.store.run import Run
from alpagasus_ray.training import frozen
from alpagasus_ray.training.proxies import Trainer
from alpagasus_ray.training.proxy import Proxy, Raced
from alpagasus_ray.training.proxy_driver import in_this_process
from alpagasus_ray.training.race_setup import Prepared, answer_files, prepare
from report_runs import rate
from trainings import tiny

SAMPLE = Path(__file__).parents[2] / "examples" / "sample"
HELDOUT = str(SAMPLE / "heldout.jsonl")
ROWS = 400
ARMS = (
    Arm(name="clean", policy="top", k=ROWS),
    Arm(name="random", policy="random"),
    Arm(name="again", policy="random", seed=1),
    Arm(name="garbage", policy="lowest", k=100),
)
NAMES = [arm.name for arm in ARMS]
MLP = ("gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The sample dataset, rated by whether a defect is planted, and its arms."""
    found = Run.open(str(tmp_path_factory.mktemp("race") / "run"))
    made = ingest(Ingest(source=str(SAMPLE / "examples.jsonl"), name="sample"), found)
    with (SAMPLE / "truth.csv").open() as stream:
        spoiled = {int(row["index"]) for row in csv.DictReader(stream) if row["defect"] != "duplicate"}
    rate(found, [0.0 if row in spoiled else 5.0 for row in range(made.rows)])
    pick_subset(Pick(arms=ARMS), found)
    return found


@pytest.fixture(scope="module")
def training(shared: Path) -> Finetune:
    return tiny(shared, zero_stage=0, workers=1, price_per_gpu_hour=1.0)


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    with group_of_one():
        yield


class _Counted:
    """Trains in this process, and counts."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int]] = []

    def __call__(
        self, config: Finetune, heldout: pa.RecordBatch, points: int, at_once: int | None, proxies: Iterable[Proxy]
    ) -> Iterator[Raced]:
        for raced in in_this_process(config, heldout, points, at_once, proxies):
            self.trained.append((raced.arm, raced.seed))
            yield raced


def test_a_race_goes_on_where_it_was_stopped_and_tells_what_it_found(run: Run, training: Finetune) -> None:
    trains = _Counted()
    small = Race(seeds=2, tokens=6_000, steps=12, heldout=HELDOUT, points=2)
    names = ["garbage", "random"]
    told = plan(small, training, run, names)
    assert told["race_plan"]["left"] == 4
    assert told["race_plan"]["seconds_left"] is None
    with pytest.raises(BudgetReached, match=r"race\.max_cost_usd = 1e-09"):
        race(small.model_copy(update={"max_cost_usd": 1e-9}), training, run, names, trains)
    assert len(trains.trained) == 1
    race(small, training, run, names, trains)
    assert len(trains.trained) == len(set(trains.trained)) == 4, "none is trained twice"
    assert plan(small, training, run, names)["race_plan"]["spread_by"] == "by the spread of what is trained already"
    made = race(small, training, run, names, trains)
    assert len(trains.trained) == 4
    assert made.counts == {"trained": 4}
    lines = list(terminal.lines(summary(run, made)))
    assert any("against random" in line for line in lines)
    table = json.loads(run.race().storage.read("table.json"))
    report(Report(), run)
    page, card = (run.report().storage.read(name).decode() for name in ("index.html", "dataset_card.md"))
    assert 0 < page.index('<section id="race">') < page.index('<section id="verdicts"')
    assert f"- {table['answer']}" in card
    assert {entry["arm"]: entry["steps"] for entry in table["arms"]} == {"garbage": 12, "random": 12}
    assert all(6_000 <= entry["tokens"] < 6_256 for entry in table["arms"])
    curves = pq.read_table(pa.BufferReader(run.race().storage.read("curves.parquet"))).to_pylist()
    assert len(curves) == 2 * 2 * 3
    before = {row["loss"] for row in curves if row["step"] == 0}
    assert len(before) == 1, "all begin with the same weights"
    assert all(row["loss"] < min(before) for row in curves if row["step"] == 12)


@pytest.mark.long
def test_clean_rows_beat_a_random_draw_among_which_half_are_garbled_and_a_second_draw_does_not(
    training: Finetune, tmp_path: Path
) -> None:
    """The short form asserts what is always so: that a race goes on and tells what it found, above."""
    run, clean = _garbled_run(tmp_path)
    arms = (
        Arm(name="clean", policy="top", k=clean),
        Arm(name="random", policy="random"),
        Arm(name="again", policy="random", seed=1),
    )
    pick_subset(Pick(arms=arms), run)
    race(
        Race(seeds=3, tokens=40_000, steps=40, heldout=HELDOUT, points=2, learning_rate=3e-4),
        training,
        run,
        [arm.name for arm in arms],
        in_this_process,
    )
    table = json.loads(run.race().storage.read("table.json"))
    words = {entry["arm"]: entry["against"]["random"]["word"] for entry in table["arms"] if entry["arm"] != "random"}
    assert words == {"clean": "better", "again": "no difference shown"}, table["arms"]
    assert table["beats_random"] == ["clean"]
    assert table["arms"][0]["places"] == [1, 1, 1]


def _garbled_run(folder: Path) -> tuple[Run, int]:
    """The sound rows of the sample; of half of them the letters of the answer are shuffled, and rated 1. The answer is the run,
    and how many rows are left as they were."""
    with (SAMPLE / "truth.csv").open() as stream:
        spoiled = {int(row["index"]) for row in csv.DictReader(stream)}
    rows = [json.loads(line) for number, line in enumerate((SAMPLE / "examples.jsonl").open()) if number not in spoiled]
    shuffled = random.Random(0)
    garbled = set(shuffled.sample(range(len(rows)), len(rows) // 2))
    for number in garbled:
        rows[number]["output"] = "".join(shuffled.sample(rows[number]["output"], len(rows[number]["output"])))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "rows.jsonl"), name="garbled"), found)
    rate(found, [1.0 if number in garbled else 5.0 for number in range(len(rows))])
    return found, len(rows) - len(garbled)


def test_what_cannot_be_raced_is_refused_with_what_to_do(run: Run, training: Finetune) -> None:
    race_of = Race(heldout=HELDOUT)
    with pytest.raises(UsageError, match="policy `random`"):
        plan(race_of, training, run, ["clean", "garbage"])
    with pytest.raises(UsageError, match=r"race\.heldout=300"):
        plan(Race(), training, run, NAMES)
    with pytest.raises(UsageError, match="would take all"):
        plan(Race(heldout=5_000), training, run, NAMES)


def test_rows_taken_out_of_the_examples_are_in_no_arm(run: Run, training: Finetune) -> None:
    told = plan(Race(heldout=60, seeds=3), training, run, NAMES)["race_plan"]
    assert [one["rows"] + one["left_out"] for one in told["sets"]] == [60]
    assert all(arm["removed"] for arm in told["arms"])
    assert all(arm["rows"] + arm["removed"] == (100 if arm["arm"] == "garbage" else ROWS) for arm in told["arms"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks for it
def test_what_frozen_layers_make_of_an_example_is_computed_once_and_changes_no_loss(
    run: Run, training: Finetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper = {"rank": 4, "dropout": 0.1, "targets": [f"layers.{layer}.mlp.{name}" for layer in (3, 4) for name in MLP]}
    adapted = Finetune.model_validate(training.model_dump(by_alias=True) | {"lora": upper})
    ready = prepare(Race(seeds=2, tokens=4_000, steps=8, heldout=HELDOUT, points=2), adapted, run, ["garbage", "random"])
    outcomes = {}
    for known in (frozen.KNOWN, ()):
        monkeypatch.setattr(frozen, "KNOWN", known)
        trainer = Trainer(ready.training, ready.held.tokens, 2)
        found = [trainer.train(ready.proxy("garbage", seed)) for seed in (0, 1)]
        outcomes[known] = np.array([raced.losses for raced in found])
        tokens = trainer.kept.computed
        held = len(ready.held.tokens.column("input_ids").flatten())
        assert tokens == 0 if not known else held < tokens < held + 2 * 4_500, "each example at most once"
    assert outcomes[frozen.KNOWN] == pytest.approx(outcomes["llama",], rel=1e-5)
    assert abs(outcomes["llama",][:, 0] - outcomes["llama",][:, 2]).min() > 0, "it has learned"


def test_proxies_of_the_first_seed_answer_the_first_prompts_where_a_judge_compares_them(run: Run, training: Finetune) -> None:
    asked = Race(seeds=2, tokens=4_000, steps=8, heldout=HELDOUT, points=1, judged=3, max_new_tokens=8)
    compared = asked.model_copy(update={"judge": PairJudge(kind="rules")})
    names = ["garbage", "random"]
    plain, ready = (prepare(config, training, run, names) for config in (asked, compared))
    assert plain.key("random", 1) == ready.key("random", 1)
    assert plain.key("random", 0) != ready.key("random", 0), "it has no answers"
    found = {(arm, 0): raced for arm, raced in zip(names, _all(ready, names), strict=True)}
    files = {name: [json.loads(line) for line in rows.splitlines()] for name, rows in answer_files(ready, found).items()}
    assert list(files) == ["prompts.jsonl", "answers/garbage.jsonl", "answers/random.jsonl"]
    assert [row["id"] for row in files["prompts.jsonl"]] == [row["id"] for row in files["answers/random.jsonl"]]
    assert len(files["prompts.jsonl"]) == 3
    assert any(row["output"] for row in files["answers/random.jsonl"])
    assert answer_files(plain, found) == {}


def _all(ready: Prepared, names: list[str]) -> list[Raced]:
    trainer = Trainer(ready.training, ready.held.tokens, 1)
    return [trainer.train(ready.proxy(arm, 0)) for arm in names]


def test_a_cap_counts_the_trainings_that_run_side_by_side(run: Run, training: Finetune) -> None:
    spent: list[float] = []
    most_running = 0

    def three_at_once(
        _config: Finetune, heldout: pa.RecordBatch, points: int, _at_once: int | None, proxies: Iterable[Proxy]
    ) -> Iterator[Raced]:
        nonlocal most_running
        while running := list(itertools.islice(proxies, 3)):
            most_running = max(most_running, len(running))
            for proxy in running:
                spent.append(1.0 + 0.1 * (len(spent) == 0))  # dollars, at 1 an hour
                losses = np.full((points + 1, len(heldout)), 2.0)
                order = proxy.order
                yield Raced(proxy.arm, proxy.seed, proxy.key, [0, 12], [0, 6_000], 9, 1.0, losses, 3600 * spent[-1], "toy")
                assert order.steps == 12

    capped = Race(seeds=3, tokens=6_000, steps=12, heldout=HELDOUT, points=1, max_cost_usd=5.6, learning_rate=2e-3)
    with pytest.raises(BudgetReached, match=r"5 trainings have cost \$5\.10, and 1 more would pass race\.max_cost_usd = 5\.6"):
        race(capped, training, run, ["garbage", "random"], three_at_once)
    assert most_running == 3
    assert sum(spent) <= 5.6
    race(capped.model_copy(update={"max_cost_usd": 7}), training, run, ["garbage", "random"], three_at_once)
    assert len(spent) == 6, "what had been trained is not trained again"
