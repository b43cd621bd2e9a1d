"""Train a model on every arm: tokens, training, manifest, and how the arms compare in examples, steps, minutes and dollars."""

import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from alpagasus_ray import extras
from alpagasus_ray.config import Finetune, digest
from alpagasus_ray.engines.identity import checkpoint_print
from alpagasus_ray.errors import SettingsChanged, StageFailed
from alpagasus_ray.reporting.training_data import comparison
from alpagasus_ray.store.run import STATE, Begun, Manifest, Run
from alpagasus_ray.training.arms import finished_models, former_settings, heldout_print, settings_of, subsets_of

if TYPE_CHECKING:
    from alpagasus_ray.training.spec import Trained, Training

log = logging.getLogger(__name__)
COMPARISON = "models/comparison.json"
TRAINING = ("torch", "deepspeed", "transformers", "peft")


def finetune(config: Finetune, run: Run, arms: Sequence[str]) -> list[Manifest]:
    """Make `models/<arm>/` for every one of these arms; those that are made already are left as they are."""
    subsets = subsets_of(config, run, arms)
    manifests = []
    for arm, subset in subsets.items():
        manifests.append(_Arm(config, run, arm, subset).train())
        _compare(run)
    return manifests


def _compare(run: Run) -> None:
    """Write how all models of the run that are finished compare."""
    found = comparison({arm: manifest.details for arm, manifest in finished_models(run).items()})
    run.storage.write(COMPARISON, json.dumps(found, indent=2).encode())


class _Arm:
    """One arm's way to a model."""

    def __init__(self, config: Finetune, run: Run, arm: str, subset: Manifest) -> None:
        self._config, self._run, self._arm, self._subset = config, run, arm, subset
        self._home = run.model(arm)
        self._settings = settings_of(config)
        self._inputs = (
            {f"subsets/{arm}": subset.content_hash()} | checkpoint_print("model", config.model) | heldout_print(config)
        )

    def train(self) -> Manifest:
        done = self._home.manifest()
        if done is not None:
            self._check_made(done)
            self._home.tidy()
            return done
        # imported here: to look at finished models no Ray is needed
        from alpagasus_ray.raycluster import connect, preflight
        from alpagasus_ray.training import driver, heldout, token_files
        from alpagasus_ray.training.settings import check_rates
        from alpagasus_ray.training.spec import Training
        from alpagasus_ray.training.status import TrainingStatus

        connect.address_given()
        extras.require("train", "finetune: training")
        held = heldout.read(self._config)
        told = held.told(self._run.subset(self._arm), self._subset) if held else {}
        begun = self._begin()
        connect.connect()
        crew = driver.worker_group(self._config)
        preflight.check(self._run.subset(self._arm), crew.each.labels)
        tokens = self._run.tokens(self._arm)
        listed = token_files.encode_arm(self._config, self._run.subset(self._arm), self._subset, tokens)
        called = time.time()
        key = digest([self._settings, self._inputs])
        training = Training(
            self._config, self._arm, self._home, tokens, listed, key, called, TrainingStatus(), held and held.tokens
        )
        check_rates(self._config, training.order.steps)
        try:
            trained = driver.fit(training, crew)
        finally:
            begun = begun.after(time.time() - called)
            self._home.begin(begun)
        return self._finish(begun, training, trained, told)

    def _check_made(self, done: Manifest) -> None:
        if "form" in done.settings:
            self._home.same_or_refuse(done, self._settings, self._inputs)
            return
        self._home.same_or_refuse(done, former_settings(self._config), self._inputs)
        log.warning(
            "%s was trained by an earlier version, with another warm-up and padding (docs/finetune.md, Earlier versions), and "
            "is left as it is; to compare it with arms that are trained now, delete %s and train it again",
            self._home.name,
            self._home.storage.root,
        )

    def _begin(self) -> Begun:
        """Begin, or go on from a state that an earlier call has left; where it left none, it binds nobody."""
        from alpagasus_ray.training import checkpoints

        begun = self._home.begun()
        mark = checkpoints.newest(self._home.storage.at(STATE)) if begun else None
        if begun is None or mark is None:
            same = begun is not None and (begun.settings, begun.inputs) == (self._settings, self._inputs)
            begun = Begun(settings=self._settings, inputs=self._inputs, seconds=begun.seconds if begun and same else 0.0)
            self._home.begin(begun)
            return begun
        if "form" not in begun.settings:
            raise SettingsChanged(
                f"{self._home.name} holds the state of a training that an earlier version began, with another warm-up and "
                f"padding, and trainings never mix: let that version finish it, or delete {self._home.storage.root} to train "
                "it anew"
            )
        self._home.same_or_refuse(begun, self._settings, self._inputs)
        # a driver that was killed could not say how long it had been at work
        return begun.model_copy(update={"seconds": max(begun.seconds, sum(mark.seconds.values()))})

    def _finish(self, begun: Begun, training: "Training", trained: "Trained", told: Mapping[str, int]) -> Manifest:
        curve = next(entry for entry in trained.files if entry.name == "curve.parquet")
        if curve.rows != training.order.steps:
            raise StageFailed(f"{self._home.name}: the curve has {curve.rows} steps of {training.order.steps} planned")
        rows = pq.read_table(io.BytesIO(self._home.storage.read(curve.name))).to_pylist()
        heldout = trained.facts["heldout"]
        details = {
            **_details(self._config, training, trained.facts, rows, begun.seconds),
            "heldout": {**heldout, **told} if heldout else None,
            "heldout_curve": trained.facts["heldout_curve"],
            "kept_step": trained.facts["kept_step"],
        }
        manifest = self._home.build(begun, trained.files, libraries=TRAINING, details=details)
        manifest = manifest.model_copy(update={"rows": self._subset.rows, "counts": training.tokens_manifest.counts})
        self._home.finish(manifest)
        return manifest


def _details(
    config: Finetune, training: "Training", facts: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """What a training was and what it took; times and dollars are of all calls, lost work included."""
    order, tokens = training.order, training.tokens_manifest
    working = sum(row["seconds"] for row in curve)
    total = sum(row["tokens"] for row in curve)
    mfus = [row["mfu"] * row["seconds"] for row in curve if row["mfu"] is not None]
    price, workers = config.price_per_gpu_hour, facts["workers"]
    last = curve[-max(1, len(curve) // 10) :]
    return {
        "reasons": tokens.details["reasons"],
        "model": config.model,
        "examples": order.examples,
        "examples_seen": order.seen,
        "steps": order.steps,
        "epochs": order.seen / order.examples,
        "tokens": total,
        "label_tokens": sum(row["label_tokens"] for row in curve),
        "padding_share": sum(row["padding"] for row in curve) / (total + sum(row["padding"] for row in curve)),
        "loss": {"first": curve[0]["loss"], "last_tenth": sum(row["loss"] for row in last) / len(last)},
        "tokens_per_s": total / working,
        "mfu": sum(mfus) / working if len(mfus) == len(curve) else None,
        "minutes": seconds / 60,
        "training_minutes": working / 60,
        "wall_s": {**facts["wall_s"], "lost": max(0.0, seconds - sum(facts["wall_s"].values()))},
        "dollars": None if price is None else price * workers * seconds / 3600,
        "price_per_gpu_hour": price,
        **{name: facts[name] for name in ("parameters", "workers", "device", "attention")},
    }
