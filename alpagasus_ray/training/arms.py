"""Which arms there are to train, which models are finished, and what decides the model that comes out of an arm.

Knows settings and manifests; nothing of torch or Ray, so that looking at finished models needs neither.
"""

from collections.abc import Sequence
from typing import Any

from alpagasus_ray.config import Finetune, identity
from alpagasus_ray.config.finetune import LEARNING_RATE
from alpagasus_ray.data import readers
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import CHECKPOINT, MANIFEST, Manifest, Run

FORM = 2
"""How a training is done where no knob says it. 2: the warm-up begins above 0, adapters learn at 2e-4 unless told, norms,
biases and embeddings do not decay, padding takes a token that is there. Before it there was no `form`."""


def subsets_of(config: Finetune, run: Run, arms: Sequence[str]) -> dict[str, Manifest]:
    """What there is to train, and on what. A `UsageError` tells what of it is missing."""
    if config.model is None:
        raise UsageError(
            "`finetune.model` is not given; name a Hugging Face id or a directory, e.g. --set finetune.model=Qwen/Qwen3-8B-Base"
        )
    subsets = {arm: run.subset(arm).finished() for arm in arms}
    for arm, subset in subsets.items():
        if not subset.rows:
            raise UsageError(f"subsets/{arm} is empty: there is nothing to train on; look at its threshold in `pick.arms`")
    return subsets


def finished_models(run: Run) -> dict[str, Manifest]:
    """All models that were trained in the run, by arm."""
    places = sorted(name for name in run.storage.at("models").all_names() if name.count("/") == 1 and name.endswith(MANIFEST))
    made = {arm: run.model(arm).finished() for arm in (place.split("/")[0] for place in places)}
    return {arm: manifest for arm, manifest in made.items() if CHECKPOINT not in manifest.details}


def settings_of(config: Finetune) -> dict[str, Any]:
    """What decides the model that comes out of an arm."""
    plain = identity(config)
    plain.pop("arms", None)  # each arm's model is its own
    if config.epochs is None and config.steps is None:
        # written down, so that another default some day does not make finished models other ones
        plain["epochs"] = 3.0
    if config.keep == "best":  # then the moments of measuring decide which weights are kept
        plain["heldout_every"] = config.heldout_every
    return plain | {"learning_rate": config.rate, "form": FORM}


def former_settings(config: Finetune) -> dict[str, Any]:
    """The same as versions wrote it that had no `form`, by which their finished models are known again."""
    plain = settings_of(config)
    del plain["form"]
    return plain | {"learning_rate": config.learning_rate or LEARNING_RATE}


def heldout_print(config: Finetune) -> dict[str, str]:
    """What tells held-out files that were changed; empty where nothing is held out."""
    if config.heldout is None:
        return {}
    return {f"heldout {file.name}": file.fingerprint() for file in readers.expand(config.heldout, "finetune.heldout")}
