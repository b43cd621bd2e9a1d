"""How far a run is, what it has cost and what failed: from its directory alone, also while a driver is at work on it.

`status` gives plain JSON values: `location`; `driver` (who works on the run, or null); `stages`, and for each `stage`, `state`
(`finished`, `unfinished`), `rows`, `of` (rows there will be), `counts`, `reasons`, `replies` (received, in shards that are not
done yet), `rounds` of an unfinished cascade (whose `of` are the rows that it asks about), `steps` and `of_steps` of a training,
`seconds` and `dollars`; `dollars` and `seconds` of all; and with `verify` `files`, `damaged`, `ok`. What nobody knows is null,
never 0. Knows what stages leave behind; nothing of Ray.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from alpagasus_ray.config import Cascade
from alpagasus_ray.inference.backlog import READERS, held
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import MANIFEST, STAGE, STATE, Begun, Manifest, Run, StageDir
from alpagasus_ray.store.stage_kinds import in_order, is_stage, kind_of
from alpagasus_ray.training.checkpoints import newest
from alpagasus_ray.training.schedule import Order


def status(run: Run, *, verify: bool = False) -> dict[str, Any]:
    """The summary of a run as it is now. With `verify` all files of finished stages are read: `damaged` has a line for each
    that is missing or differs from its checksum, and `ok` says whether there is none."""
    names = run.storage.all_names()
    found = sorted({name.rpartition("/")[0] for name in names if name.endswith((f"/{MANIFEST}", f"/{STAGE}"))})
    stages = sorted((name for name in found if is_stage(name)), key=in_order)
    with ThreadPoolExecutor(READERS) as pool:
        told = list(pool.map(lambda name: _stage(run, name, names), stages))
    return {
        "status": True,
        "location": run.storage.root,
        "driver": lock.holder(run),
        "stages": told,
        "dollars": _sum(entry["dollars"] for entry in told),
        "seconds": round(sum(entry["seconds"] for entry in told), 2),
        **(_verified(run, names) if verify else {}),
    }


def _verified(run: Run, names: set[str]) -> dict[str, Any]:
    """Every finished stage's files compared with their checksums, those of kinds that `status` does not show among them."""
    finished = sorted(name.rpartition("/")[0] for name in names if name.endswith(f"/{MANIFEST}"))
    stages = [StageDir(name, run.storage.at(*name.split("/"))) for name in finished]
    listed = [(stage, manifest) for stage in stages if (manifest := stage.manifest()) is not None]
    with ThreadPoolExecutor(READERS) as pool:
        damaged = [line for found in pool.map(lambda one: list(one[0].damaged(one[1])), listed) for line in found]
    files = sum(len(manifest.files) for _, manifest in listed)
    return {"files": files, "damaged": damaged, "ok": not damaged}


def _stage(run: Run, name: str, names: set[str]) -> dict[str, Any]:
    stage = StageDir(name, run.storage.at(*name.split("/")))
    manifest = stage.manifest()
    if manifest is not None:
        return _finished(manifest)
    begun = stage.begun()
    if begun is None:  # finished in this moment
        return _finished(stage.finished())
    if kind_of(name).trains:
        return _training(run, stage, begun)
    asked = kind_of(name).asked_in
    if asked:
        inside = StageDir(f"{name}/{asked}", stage.storage.at(asked))
        return _unfinished(run, inside, inside.begun() or begun, names) | {"stage": name}
    return _unfinished(run, stage, begun, names)


def _finished(manifest: Manifest) -> dict[str, Any]:
    trained = kind_of(manifest.stage).trains
    steps = manifest.details.get("steps") if trained else None
    return {
        "stage": manifest.stage,
        "state": "finished",
        "rows": manifest.rows,
        "of": manifest.rows,
        "counts": manifest.counts,
        "reasons": manifest.details.get("reasons", {}),
        "replies": 0,
        "steps": steps,
        "of_steps": steps,
        "seconds": round(manifest.seconds, 2),
        "dollars": manifest.details.get("dollars") if trained else manifest.usage.get("cost_usd"),
    }


def _unfinished(run: Run, stage: StageDir, begun: Begun, names: set[str]) -> dict[str, Any]:
    """A stage of rows: what is committed, and the replies that wait for their shard to be done."""
    # no tariff is at hand here: what is told is what the replies say they cost
    found, rows, cascade = held(stage, names), _rows_of(run, begun.inputs), begun.settings.get("cascade")
    return {
        "stage": stage.name,
        "state": "unfinished",
        "rows": sum(found.counts.values()),
        "of": rows if cascade is None or rows is None else round(Cascade.model_validate(cascade).share * rows),
        "counts": dict(found.counts),
        "reasons": dict(found.reasons.most_common()),
        "replies": found.replies,
        **({} if cascade is None else {"rounds": found.rounds}),
        "steps": None,
        "of_steps": None,
        "seconds": round(begun.seconds, 2),
        "dollars": _sum([found.usd, begun.discarded.get("cost_usd")]),
    }


def _rows_of(run: Run, inputs: Mapping[str, str]) -> int | None:
    """Rows of the stage that is asked about."""
    for name in inputs:
        if kind_of(name).is_asked_about:
            manifest = StageDir(name, run.storage.at(*name.split("/"))).manifest()
            return manifest.rows if manifest else None
    return None


def _training(run: Run, stage: StageDir, begun: Begun) -> dict[str, Any]:
    """A training: how far its newest state is, which is where it would go on."""
    arm = stage.name.partition("/")[2]
    mark = newest(stage.storage.at(STATE))
    tokens = run.tokens(arm).manifest()
    order = None if tokens is None else _order(begun.settings, tokens)
    subset = run.subset(arm).manifest()
    return {
        "stage": stage.name,
        "state": "unfinished",
        "rows": 0,
        "of": subset.rows if subset else None,
        "counts": tokens.counts if tokens else {},
        "reasons": {},
        "replies": 0,
        "steps": mark.step if mark else 0,
        "of_steps": order.steps if order else None,
        "seconds": round(max(begun.seconds, sum(mark.seconds.values()) if mark else 0.0), 2),
        "dollars": None,
    }


def _order(settings: Mapping[str, Any], tokens: Manifest) -> Order:
    examples = sum(entry.rows for entry in tokens.parts())
    length = {key: settings.get(key) for key in ("epochs", "steps")}
    return Order.of(examples, settings["global_batch"], settings["seed"], **length)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 6) if known else None
