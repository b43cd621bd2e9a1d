"""Race the arms: train a small model on each under several seeds, and tell by held-out loss which of them beat random.

The same command goes on where it was stopped, and an arm or a seed that is added costs its own trainings alone
(`training/race_setup.py`).
"""

import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alpagasus_ray.config import Finetune, digest, identity
from alpagasus_ray.config.race import Race
from alpagasus_ray.errors import BudgetReached, UsageError
from alpagasus_ray.evaluation import race as statistics
from alpagasus_ray.evaluation import race_table
from alpagasus_ray.evaluation.race import Components
from alpagasus_ray.evaluation.race_table import ArmResult
from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run
from alpagasus_ray.training import proxy_driver, race_lost
from alpagasus_ray.training.arms import settings_of
from alpagasus_ray.training.proxy import Proxy, Raced, Trains
from alpagasus_ray.training.race_setup import Prepared, answer_files, file_of, keep, prepare, stored

ASSUMED = Components(seeds=0.01, rows=0.1, rest=0.05)
"""Spread of differences that a plan assumes until two seeds of two arms are trained."""
TABLE, CURVES = "table.json", "curves.parquet"
TABLES = "tables"
"""Where the table of each raced model stays, so that those of two sizes can be held against each other."""
TRAINING = ("torch", "deepspeed", "transformers", "peft")


def race(config: Race, finetune: Finetune, run: Run, names: Sequence[str], trains: Trains = proxy_driver.on_ray) -> Manifest:
    """Make `race/` for these arms; trainings that are there already are not done again. Raises `UsageError` for what cannot be
    raced, `BudgetReached` at `race.max_cost_usd`."""
    started = time.monotonic()
    ready = prepare(config, finetune, run, names)
    home = run.race()
    settings = {
        "race": identity(config),
        "arms": list(names),
        "training": settings_of(ready.training),
        "tokens": ready.budget.tokens,
    }
    done = home.manifest()
    if done is not None and (done.settings, done.inputs) == (settings, ready.inputs):
        return done
    home.reopen()
    begun = Begun(settings=settings, inputs=ready.inputs)
    home.begin(begun)
    found = stored(ready, run)
    seconds = _rounds(ready, run, found, trains)
    results = {arm: _result(ready, arm, found, run) for arm in names}
    told = race_table.table(results, ready.held.sets, matched=config.epochs is None) | _told(ready, found)
    told["lost"] = race_lost.explained(told, ready, run)
    others = _others(run, told)
    told["other_models"] = [race_table.agreement(told, other) for other in others.values()]
    content = json.dumps(told, indent=2, ensure_ascii=False).encode()
    files = [
        *(_entry(run, file_of(raced.arm, raced.seed, raced.key)) for raced in found.values()),
        *(_entry(run, name) for name in others),
        *(_written(run, name, content) for name, content in answer_files(ready, found).items()),
        _written(run, TABLE, content),
        _written(run, f"{TABLES}/{digest([told['model']])}.json", content),
        _written(run, CURVES, _curves(ready, found)),
    ]
    begun = begun.after(max(seconds, time.monotonic() - started))
    manifest = home.build(
        begun, files, libraries=TRAINING, details={key: told[key] for key in ("answer", "best", "beats_random")}
    )
    usage = {} if (price := ready.training.price_per_gpu_hour) is None else {"cost_usd": price * seconds / 3600}
    counted = {"rows": len(ready.held.rows), "counts": {"trained": len(found)}, "usage": usage}
    home.finish(manifest.model_copy(update=counted))
    return home.finished()


def _others(run: Run, told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tables of earlier races of this run in which another model was trained, by the names of their files."""
    storage = run.race().storage
    names = [f"{TABLES}/{name}" for name in sorted(storage.at(TABLES).all_names())]
    tables = {name: json.loads(storage.read(name)) for name in names}
    return {name: table for name, table in tables.items() if table["model"] != told["model"]}


def _rounds(ready: Prepared, run: Run, found: dict[tuple[str, int], Raced], trains: Trains) -> float:
    """Train what is missing: three seeds, then twice as many as before, each time without the arms that are left behind."""
    guard, racing, first = _Guard(ready, found), list(ready.arms.ids), 0
    train = partial(trains, ready.training, ready.held.tokens, ready.config.points)
    while first < ready.config.seeds:
        last = min(max(statistics.FEWEST_TO_DROP, 2 * first), ready.config.seeds)
        wanted = [(arm, seed) for seed in range(first, last) for arm in racing if (arm, seed) not in found]
        while wanted:  # without anything to train no process is started, and no cluster is needed
            guard.check(len(wanted))
            # under a cap the first is trained alone: what it takes says how many more may begin
            some = wanted[:1] if guard.knows_nothing else wanted
            for raced in train(ready.config.at_once, guard.begun(ready.proxy(*pair) for pair in some)):
                keep(ready, run, raced)
                found[raced.arm, raced.seed] = raced
                guard.running -= 1
            wanted = [pair for pair in wanted if pair not in found]
        if ready.config.drop:
            main = {arm: _final(ready, found, arm)[ready.held.sets[0].name] for arm in racing}
            behind = statistics.left_behind(main, race_table.protected(ready.arms.policies))
            racing = [arm for arm in racing if arm not in behind]
        first = last
    return sum(raced.seconds for raced in found.values())


class _Guard:
    """Lets no training begin that could pass the dollars of a race, counting those that run."""

    def __init__(self, ready: Prepared, found: Mapping[tuple[str, int], Raced]) -> None:
        self._most, self._price, self._found = ready.config.max_cost_usd, ready.training.price_per_gpu_hour, found
        self.running = 0
        if self._most is not None and self._price is None:
            raise UsageError("race.max_cost_usd needs finetune.price_per_gpu_hour: without a price nothing can be counted")

    @property
    def knows_nothing(self) -> bool:
        """Whether there is a cap, and nothing by which to say what a training costs."""
        return self._most is not None and not self._found

    def begun(self, proxies: Iterable[Proxy]) -> Iterator[Proxy]:
        """Those that may begin, each when it does; all that run are taken to cost what the dearest so far has cost."""
        for proxy in proxies:
            if self._is_full():
                return
            self.running += 1
            yield proxy

    def check(self, left: int) -> None:
        """`BudgetReached` where none of those that are left may begin, though none runs."""
        if self._is_full():
            each = self._each()
            raise BudgetReached(
                f"race: {len(each)} trainings have cost ${money(sum(each))}, and {left} more would pass race.max_cost_usd = "
                f"{self._most:g}; what is trained is kept, and the same command goes on once it is raised"
            )

    def _is_full(self) -> bool:
        each = self._each()
        return self._most is not None and sum(each) + (self.running + 1) * max(each, default=0) > self._most

    def _each(self) -> list[float]:
        return [(self._price or 0) * raced.seconds / 3600 for raced in self._found.values()]


def _mine(found: Mapping[tuple[str, int], Raced], arm: str) -> list[Raced]:
    """The trainings of an arm from the first seed on, up to the first that is missing."""
    mine: list[Raced] = []
    while (arm, len(mine)) in found:
        mine.append(found[arm, len(mine)])
    return mine


def _final(ready: Prepared, found: Mapping[tuple[str, int], Raced], arm: str) -> dict[str, race_table.Floats]:
    """By set, (seeds, rows): the losses after the last update."""
    last = np.array([raced.losses[-1] for raced in _mine(found, arm)])
    ends = np.cumsum([held.rows for held in ready.held.sets])
    return {held.name: last[:, end - held.rows : end] for held, end in zip(ready.held.sets, ends, strict=True)}


def _result(ready: Prepared, arm: str, found: Mapping[tuple[str, int], Raced], run: Run) -> ArmResult:
    mine, main = _mine(found, arm), ready.held.sets[0].rows
    curves = np.array([raced.losses[:, :main].mean(axis=1) for raced in mine])
    tokens = np.array([raced.tokens for raced in mine], dtype=np.float64)
    price = ready.training.price_per_gpu_hour
    seconds = sum(raced.seconds for raced in mine)
    facts = {
        "dropped": len(mine) < ready.config.seeds,
        "tokens": round(float(tokens[:, -1].mean())),
        "label_tokens": round(float(np.mean([raced.label_tokens for raced in mine]))),
        "steps": mine[0].steps[-1],
        "epochs": round(float(np.mean([raced.epochs for raced in mine])), 3),
        "training_seconds": round(seconds, 1),
        "training_usd": None if price is None else round(price * seconds / 3600, 4),
        **_choosing(run, arm),
    }
    rows, removed = len(ready.arms.ids[arm][0]), ready.arms.removed[arm]
    return ArmResult(
        ready.arms.policies[arm], rows, removed, _final(ready, found, arm), curves.mean(axis=0), tokens.mean(axis=0), facts
    )


def _choosing(run: Run, arm: str) -> dict[str, Any]:
    """What it took to choose an arm: that of the ratings it goes by; nothing for one that goes by none."""
    subset = run.subset(arm).finished()
    ratings = [name.removeprefix("ratings/") for name in subset.inputs if name.startswith("ratings/")]
    if not ratings or subset.settings["arm"]["policy"] in ("random", "longest", "full"):
        return {"choosing_usd": 0.0, "choosing_seconds": 0.0, "ratings": None}
    made = run.ratings(ratings[0]).finished()
    usd = made.usage.get("cost_usd")
    return {
        "choosing_usd": None if usd is None else round(usd, 6),
        "choosing_seconds": round(made.seconds, 1),
        "ratings": ratings[0],
    }


def _told(ready: Prepared, found: Mapping[tuple[str, int], Raced]) -> dict[str, Any]:
    """What the table says besides what was measured."""
    control = race_table.controls(ready.arms.policies)["random"]
    main = ready.held.sets[0]
    gains = {}
    for arm in ready.arms.ids:
        both = [_final(ready, found, name)[main.name] for name in (arm, control)]
        if arm != control and min(map(len, both)) > 1:
            spread = statistics.components(*both)
            gains[arm] = round(
                statistics.smallest_gain(spread, min(map(len, both)), main.rows, len(ready.arms.ids) - 1) or 0, 6
            )
    return {
        "model": ready.training.model,
        "subsets": {name.removeprefix("subsets/"): key for name, key in ready.inputs.items() if name.startswith("subsets/")},
        "seeds": ready.config.seeds,
        "equal": "epochs" if ready.config.epochs is not None else "tokens and updates",
        "smallest_gain": gains,
        "device": next(iter(found.values())).device,
        "training_seconds": round(sum(raced.seconds for raced in found.values()), 1),
    }


def _curves(ready: Prepared, found: Mapping[tuple[str, int], Raced]) -> bytes:
    """(arms, seeds, sets, points) rows: the mean loss on a set after so many updates and tokens."""
    rows = []
    for (arm, seed), raced in sorted(found.items()):
        end = 0
        for held in ready.held.sets:
            losses, end = raced.losses[:, end : end + held.rows].mean(axis=1), end + held.rows
            for step, tokens, loss in zip(raced.steps, raced.tokens, losses.tolist(), strict=True):
                rows.append({"arm": arm, "seed": seed, "set": held.name, "step": step, "tokens": tokens, "loss": loss})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    return sink.getvalue()


def _written(run: Run, name: str, content: bytes) -> FileEntry:
    return FileEntry(name=name, rows=0, **run.race().storage.write(name, content)._asdict())


def _entry(run: Run, name: str) -> FileEntry:
    storage = run.race().storage
    return FileEntry(name=name, rows=0, bytes=len(storage.read(name)), sha256=storage.checksum(name))


def summary(run: Run, manifest: Manifest) -> dict[str, Any]:
    """The summary of a finished race, plain JSON values."""
    home = run.race()
    table = json.loads(home.storage.read(TABLE))
    return {
        "stage": manifest.stage,
        "location": home.storage.path(TABLE),
        "rows": manifest.rows,
        "answer": table["answer"],
        "race": table,
        "seconds": round(manifest.seconds, 2),
    }


def plan(config: Race, finetune: Finetune, run: Run, names: Sequence[str]) -> dict[str, Any]:
    """What a race would train, what it could show and what it would take, plain JSON values; trains and writes nothing."""
    ready = prepare(config, finetune, run, names)
    found = stored(ready, run)
    sizes, arms = ready.held.sets[0].rows, ready.arms
    spread, by = _spread(ready, found)
    usual = [raced.seconds for raced in found.values()]
    left = len(names) * config.seeds - len(found)
    seconds = left * float(np.mean(usual)) if usual else None
    price = ready.training.price_per_gpu_hour
    return {
        "stage": "race",
        "location": run.race().storage.root,
        "race_plan": {
            "model": ready.training.model,
            "seeds": config.seeds,
            "trainings": len(names) * config.seeds,
            "left": left,
            "arms": [
                {
                    "arm": arm,
                    "rows": len(arms.ids[arm][0]),
                    "removed": arms.removed[arm],
                    "tokens": ready.budget.tokens[arm],
                    "steps": ready.budget.steps[arm],
                }
                for arm in names
            ],
            "sets": [{"name": one.name, "rows": one.rows, "left_out": one.left_out} for one in ready.held.sets],
            "spread": spread._asdict(),
            "spread_by": by,
            "smallest_gains": [
                {"seeds": seeds, "rows": rows, "gain": statistics.smallest_gain(spread, seeds, rows, len(names) - 1)}
                for seeds, rows in ((config.seeds, sizes), (2 * config.seeds, sizes), (config.seeds, 2 * sizes))
            ],
            "seconds_left": seconds,
            "dollars_left": None if seconds is None or price is None else round(price * seconds / 3600, 4),
        },
    }


def _spread(ready: Prepared, found: Mapping[tuple[str, int], Raced]) -> tuple[Components, str]:
    """The spread of differences to random by what is trained already, the largest of all arms; else what is assumed."""
    control = race_table.controls(ready.arms.policies)["random"]
    name = ready.held.sets[0].name
    there = {arm: _final(ready, found, arm)[name] for arm in ready.arms.ids if len(_mine(found, arm)) > 1}
    pilots = [
        statistics.components(losses, there[control]) for arm, losses in there.items() if arm != control and control in there
    ]
    if pilots:
        return Components(*np.array(pilots).max(axis=0).tolist()), "by the spread of what is trained already"
    said = ", ".join(f"{value:g} {part}" for part, value in ASSUMED._asdict().items())
    return ASSUMED, f"if differences spread as assumed ({said}); a race of two seeds tells"
