"""Arms that other programs train: their data and configuration go out, and the checkpoints come back by their path."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from alpagasus_ray.config import Finetune, digest
from alpagasus_ray.data.schema import SUBSET, conformed
from alpagasus_ray.engines.identity import checkpoint_print
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import CHECKPOINT, Begun, FileEntry, Manifest, Run, StageDir
from alpagasus_ray.store.storage import Storage, Written
from alpagasus_ray.training import trainer_configs, trainer_rows
from alpagasus_ray.training.arms import settings_of, subsets_of
from alpagasus_ray.training.trainer_configs import CONFIG, ROWS

ADAPTER, MODEL_CONFIG, WEIGHTS = "adapter_config.json", "config.json", (".safetensors", ".bin")


def trained_elsewhere(config: Finetune, run: Run, arms: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take the checkpoints that are there, and write the other arms for the trainer that the recipe names; the summary, plain
    JSON values, and the arms that are left to be trained here, where it names none."""
    if unknown := sorted(config.checkpoints.keys() - set(arms)):
        raise UsageError(f"finetune.checkpoints has {unknown[0]!r}, which is no arm; there are {', '.join(arms)}")
    settings = settings_of(config)
    left = [arm for arm in arms if arm not in config.checkpoints]
    taken = {arm: adopt(config, run, arm, settings) for arm in arms if arm in config.checkpoints}
    report: dict[str, Any] = {
        "stage": "models",
        "location": run.storage.path("models"),
        "rows": sum(manifest.rows for manifest in taken.values()),
        "checkpoints": {arm: manifest.details[CHECKPOINT] for arm, manifest in taken.items()},
    }
    if config.trainer is None:
        return report, left
    subsets = subsets_of(config, run, left) if left else {}
    written = {arm: write(config, run, arm, subset, settings) for arm, subset in subsets.items()}
    trainers = [
        {"arm": arm, "location": run.trainer(config.trainer, arm).storage.root, **made.details} for arm, made in written.items()
    ]
    rows = report["rows"] + sum(subset.rows for subset in subsets.values())
    return report | {"location": run.storage.path("trainers" if written else "models"), "rows": rows, "trainers": trainers}, []


def write(config: Finetune, run: Run, arm: str, subset: Manifest, settings: Mapping[str, Any]) -> Manifest:
    """Make `trainers/<with>/<arm>/`; `settings` are those of the training. One that is made already is left as it is."""
    assert config.trainer is not None, "the caller has looked"
    home = run.trainer(config.trainer, arm)
    told = trainer_configs.files(config, subset.rows)
    known = {**settings, "written": digest([told.config, told.others])}  # with what is no setting of a model
    inputs = {f"subsets/{arm}": subset.content_hash()}
    done = home.made(known, inputs)
    if done is not None:
        return done
    started = time.monotonic()
    begun = Begun(settings=known, inputs=inputs)
    home.begin(begun)
    small = {
        CONFIG: yaml.safe_dump(told.config, sort_keys=False, allow_unicode=True),
        **{name: json.dumps(content, indent=2) for name, content in told.others.items()},
    }
    lines = _write_lines(home.storage, ROWS, trainer_rows.rows_of(config, _examples(run.subset(arm), subset)))
    files = [FileEntry(name=ROWS, rows=subset.rows, **lines._asdict())]
    for name, text in small.items():
        files.append(FileEntry(name=name, rows=0, **home.storage.write(name, text.encode())._asdict()))
    details = {
        "trainer": config.trainer,
        "examples": subset.rows,
        "command": told.command,
        "updates": told.updates,
        "differences": [*told.notes, *_of_conversations(config, _examples(run.subset(arm), subset))],
    }
    manifest = home.build(begun.after(time.monotonic() - started), files, details=details)
    home.finish(manifest)
    return manifest


def _examples(stage: StageDir, subset: Manifest) -> Iterator[Mapping[str, Any]]:
    """The rows of an arm, a table in memory at a time."""
    return (row for table in stage.tables(subset) for row in conformed(table, SUBSET).to_pylist())


def _of_conversations(config: Finetune, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What is told where several answers of a conversation may be learned, which axolotl alone can be told."""
    if config.trainer == "axolotl" and config.template == "chat":
        return
    if several := sum(any(row.get("learn") or ()) for row in rows):
        yield f"{several:,} conversations are learned by their last answer alone, not by all that may be learned"


def _write_lines(storage: Storage, name: str, rows: Iterable[Mapping[str, Any]]) -> Written:
    checksum, size = hashlib.sha256(), 0
    with storage.writing(name) as stream:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            stream.write(line)
            checksum.update(line)
            size += len(line)
    return Written(size, checksum.hexdigest())


def adopt(config: Finetune, run: Run, arm: str, settings: Mapping[str, Any]) -> Manifest:
    """Make `models/<arm>/manifest.json` for a checkpoint that was trained elsewhere: it stays where it is. Raises `UsageError`
    for a directory that holds no model, `SettingsChanged` where the arm has another model already."""
    place, subset = _check(config.checkpoints[arm], arm), run.subset(arm).finished()
    home = run.model(arm)
    known = {"trained": config.trainer or "elsewhere", **(settings if config.trainer else {})}
    inputs = {f"subsets/{arm}": subset.content_hash()} | _print(place)
    done = home.made(known, inputs)
    if done is not None:
        return done
    details: dict[str, Any] = {CHECKPOINT: place, "model": config.model, "examples": subset.rows, "reasons": {}}
    manifest = home.build(Begun(settings=known, inputs=inputs), [], details=details).model_copy(update={"rows": subset.rows})
    home.finish(manifest)
    return manifest


def _print(place: str) -> dict[str, str]:
    """By what a checkpoint is known: its files where they can be seen from here, else its place."""
    return checkpoint_print(CHECKPOINT, place) or {f"{CHECKPOINT} {place}": digest(place)}


def _check(place: str, arm: str) -> str:
    """The directory of a checkpoint, from wherever it is named; a `UsageError` tells of one that holds no model."""
    try:
        opened = Storage.open(place)
        names = opened.names()
    except OSError:
        names = []
    key = f"finetune.checkpoints.{arm} = {place!r}"
    if not names:
        raise UsageError(f"{key}: there is no such directory, or nothing in it; name the directory that the trainer wrote to")
    if MODEL_CONFIG in names and any(name.endswith(WEIGHTS) and not name.startswith("adapter") for name in names):
        return opened.root if opened.is_local else place
    if ADAPTER in names:
        raise UsageError(
            f"{key} holds an adapter without its model: merge the two (axolotl merge-lora, llamafactory-cli export, or "
            "merge_and_unload of peft) and name the merged model"
        )
    raise UsageError(f"{key} holds no model: there is no {MODEL_CONFIG} with weights ({', '.join(WEIGHTS)}) beside it")
