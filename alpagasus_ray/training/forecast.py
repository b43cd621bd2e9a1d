"""How long a training may take: by a model of the same run, by what a GPU can do, or by a trial on this machine's CPU.

Whatever it says is a prediction, and says where it comes from. torch is loaded when the first source does not know.
"""

import copy
import functools
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from alpagasus_ray.config import Finetune
from alpagasus_ray.training.schedule import Integers

if TYPE_CHECKING:
    from alpagasus_ray.training.collate import Examples
    from alpagasus_ray.training.model import Census, Loaded
    from alpagasus_ray.training.shapes import Flops

ASSUMED_MFU = {"H100": 0.35, "H200": 0.35}
USUAL_MFU = 0.45
"""Utilisation with a margin: llm-foundry publishes 64% on A100 and 46% on H100 for full trainings of 7B models."""
LARGEST_TRIED = 1_000_000_000
"""Parameters of the largest model that is tried on the CPU."""
TRIED, TRIAL_S = 3, 10.0
"""Micro-batches of a trial after the first, which is slower; none begins after so many seconds."""
ALIKE = ("model", "revision", "precision", "zero_stage", "lora", "max_length")
"""What two trainings have in common whose tokens take the same time."""

Made = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Settings and details of finished models, by arm."""


class Volume(NamedTuple):
    """What is computed in a training."""

    tokens: int
    labels: int
    """Label tokens."""
    squares: int
    """Sum of the squared lengths of the examples."""
    micro_batches: float
    """Of one worker."""
    padding: float
    """Share of padding in what is computed."""


class Prediction(NamedTuple):
    """How long a training takes, and who says so."""

    minutes: float | None
    """None where nobody knows."""
    by: str


class Forecast:
    """Predicts the trainings of one recipe."""

    def __init__(self, config: Finetune, settings: Mapping[str, Any], made: Made, tokenizer: Any) -> None:
        self._config, self._tokenizer = config, tokenizer
        self._measured = _measured(config, settings, made)
        self.workers, self.workers_by = _workers(config, self._measured)

    def minutes(self, volume: Volume, examples: "Examples", parts: Sequence[Integers]) -> Prediction:
        """The best prediction there is; `parts` are micro-batches of `examples` that may be tried."""
        if self._measured is not None:
            arm, took = self._measured
            start = took["wall_s"]["start"] + took["wall_s"]["load"]
            by = f"{took['tokens_per_s']:,.0f} tokens/s and {start:,.0f} s to start and load, as models/{arm} took in this run"
            return Prediction((volume.tokens / took["tokens_per_s"] + start) / 60, by)
        return self._by_peak(volume) or self._by_trial(volume, examples, parts)

    def dollars(self, predicted: Prediction) -> float | None:
        """US dollars of a training of that length; None where its minutes or the price of a GPU are not known."""
        price = self._config.price_per_gpu_hour
        return None if price is None or predicted.minutes is None else price * self.workers * predicted.minutes / 60

    def _by_peak(self, volume: Volume) -> Prediction | None:
        import torch

        from alpagasus_ray.training import devices

        gpu = devices.seen_gpu(self._config)
        peak = devices.peak_flops(self._config, torch.device("cuda" if gpu else "cpu"))
        if peak is None:
            return None
        share = next((mfu for name, mfu in ASSUMED_MFU.items() if name in (gpu or "")), USUAL_MFU)
        told = "finetune.peak_tflops" if self._config.peak_tflops is not None else gpu
        if self.costs is None:
            return Prediction(None, "what this model computes cannot be counted from its configuration")
        # padding is computed too, and is no part of an MFU
        work = self.costs.of(volume.tokens, volume.labels, volume.squares) / (1 - volume.padding)
        by = f"{peak / 1e12:,g} TFLOPS a worker ({told}) with an assumed MFU of {share:.0%}; start and loading not counted"
        return Prediction(work / (peak * self.workers * share) / 60, by)

    def _by_trial(self, volume: Volume, examples: "Examples", parts: Sequence[Integers]) -> Prediction:
        why_not = self._why_no_trial()
        if why_not is not None:
            return Prediction(None, f"{why_not}; finetune.peak_tflops tells what a GPU can do")
        seconds = _tried(self._config, self._loaded, examples, parts)
        by = (
            f"a trial on this machine's CPU, {seconds:,.2g} s a micro-batch forward and backward; start, loading and optimizer "
            "not counted"
        )
        return Prediction(volume.micro_batches * seconds / 60, by)

    def _why_no_trial(self) -> str | None:
        import psutil

        from alpagasus_ray.training import devices

        gpu, parameters = devices.seen_gpu(self._config), self.census.parameters if self.census else None
        if gpu is not None:
            return f"the peak of the {gpu} is not known"
        if self._config.gpu:
            return "the workers need a GPU, and none is seen here"
        if parameters is None:
            return "this model cannot be built without its weights"
        if parameters >= LARGEST_TRIED:
            return f"{parameters:,} parameters are too many to be tried on a CPU"
        wide = 2 if self._config.precision == "bf16" else 4
        if 2 * wide * parameters > psutil.virtual_memory().available:
            return f"this machine's memory has no room for {parameters:,} parameters and their gradients"
        return None

    @functools.cached_property
    def _shape(self) -> Any:
        from alpagasus_ray.training import model

        return model.shape(self._config)

    @functools.cached_property
    def census(self) -> "Census | None":
        """What is known of the model; a `UsageError` tells of one that cannot be trained as the recipe says."""
        from alpagasus_ray.training import model

        return model.census(self._config, self._shape)

    @property
    def costs(self) -> "Flops | None":
        """What it computes, where that can be counted."""
        from alpagasus_ray.training import shapes

        return shapes.flops(self._shape, *self.census[:3]) if self.census else None

    @functools.cached_property
    def _loaded(self) -> "Loaded":
        from transformers.utils import logging

        from alpagasus_ray.training import model

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        # a tokenizer may be given a padding token, which would change how the next arm is encoded
        return model.load(self._config, self._shape, copy.deepcopy(self._tokenizer), on_gpu=False)


def _measured(config: Finetune, settings: Mapping[str, Any], made: Made) -> tuple[str, Mapping[str, Any]] | None:
    """The finished training of most tokens that differs from this one only in what it was trained on, and how long."""
    alike = [
        (arm, took)
        for arm, (theirs, took) in made.items()
        if all(theirs.get(key) == settings[key] for key in ALIKE)
        and config.workers in (None, took["workers"])
        and config.gpu in (None, took["device"] != "CPU")
        # packed trainings have no padding at all, by which the manifests of earlier ones are told apart
        and config.packing == (not took["padding_share"])
    ]
    return max(alike, key=lambda found: float(found[1]["tokens"]), default=None)


def _workers(config: Finetune, measured: tuple[str, Mapping[str, Any]] | None) -> tuple[int, str]:
    """How many workers the prediction is for, and who says so."""
    if isinstance(config.workers, int):
        return config.workers, "finetune.workers"
    if config.workers is not None:
        return config.workers[1], "the upper number of finetune.workers"
    if measured is not None:
        return measured[1]["workers"], f"as models/{measured[0]} had; finetune.workers is not given"
    return 1, "assumed, as finetune.workers is not given"


def _tried(config: Finetune, loaded: "Loaded", examples: "Examples", parts: Sequence[Integers]) -> float:
    """Seconds that a micro-batch takes forward and backward on this CPU."""
    import torch

    from alpagasus_ray.training import collate

    torch.set_num_threads(config.cpus)
    loaded.model.train()
    pad = None if config.packing else loaded.tokenizer.pad_token_id
    some = collate.built(examples, parts[:TRIED], pad, config.max_length if config.pad_to_max else None)
    seconds: list[float] = []
    # the first one warms up: memory is taken and threads are started; it is left out of the mean
    for micro_batch in [some[0], *some]:
        if sum(seconds) < TRIAL_S:
            started = time.monotonic()
            loss = collate.loss_sum(loaded.model, micro_batch, slices=loaded.slices, by=loaded.head)
            loss.backward()  # type: ignore[no-untyped-call]
            seconds.append(time.monotonic() - started)
    return statistics.fmean(seconds[1:] or seconds)
