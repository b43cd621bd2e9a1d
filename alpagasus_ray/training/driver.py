"""The driver of a training: how many workers of what kind, Ray Train, and progress on the terminal while it runs."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from alpagasus_ray.config import DEBUG, Finetune
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.interrupts import off_main_thread
from alpagasus_ray.progress import clock
from alpagasus_ray.raycluster import placement
from alpagasus_ray.raycluster.pool import Pool
from alpagasus_ray.training.spec import Stopped, Trained, Training
from alpagasus_ray.training.status import TrainingStatus

RAY_TRAIN = "ray-train"
"""Ray Train's own notes on a run, beside the states."""
SHOW_S = 1.0
WAIT_S = 6 * 3600
"""Seconds that workers wait for each other: one alone converts a state for another number of workers, or writes a model, which
takes long where it is large. Lost ones are found by Ray, not by this limit."""
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
KNOBS = "finetune.workers, finetune.cpus, finetune.gpu and finetune.labels"


class WorkerGroup(NamedTuple):
    """The workers of a training: how many, and what each takes of a node."""

    least: int
    most: int
    each: Pool

    @property
    def on_gpu(self) -> bool:
        """Whether each of them has a GPU."""
        return self.each.gpus > 0


def worker_group(config: Finetune) -> WorkerGroup:
    """The workers on this cluster. `UsageError` or `StageFailed` tell of those that it can never hold."""
    on_gpu = config.gpu
    if on_gpu is None:
        on_gpu = placement.may_hold(Pool(gpus=1, labels=placement.labels_of(config.labels, placement.TRAIN)))
    labels = placement.labels_of(config.labels, placement.TRAIN if on_gpu else placement.CPU)
    usual = max(1, int(placement.total(labels)["GPU"])) if on_gpu else 1
    number = config.workers or usual
    least, most = (number, number) if isinstance(number, int) else number
    found = WorkerGroup(least, most, Pool(cpus=config.cpus, gpus=int(on_gpu), labels=labels))
    if config.offload != "none" and not found.on_gpu:
        raise UsageError(
            f"finetune.offload = {config.offload} moves states from a GPU to the host's memory, and the workers have no GPU; "
            "set it to none"
        )
    placement.check(found.each, KNOBS, found.least)
    return found


def fit(training: Training, found: WorkerGroup) -> Trained:
    """Train, whatever workers and nodes are lost on the way, up to `max_failures`. `UsageError` or `StageFailed` tell what
    ended it; what was saved stays."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = _trainer(training, found)
    with _shown(training.arm, training.status):
        try:
            # off the main thread, where Ray Train cannot set its handler of Ctrl-C: that ends the process with code 0
            returned: Trained | Stopped | None = off_main_thread(trainer.fit).return_value
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted while {training.arm} was trained; what is saved is kept, and the same command goes on from its "
                "last state"
            ) from None
        except TrainingFailedError as error:
            returned = training.status.stopped()
            if returned is None:
                raise StageFailed(_lost(training, error)) from None
    if isinstance(returned, Stopped):
        raise (UsageError if returned.is_usage else StageFailed)(returned.reason)
    assert returned is not None, "the first worker says what it did"
    return returned


def _trainer(training: Training, found: WorkerGroup) -> Any:
    # paths of the recipe are those of the driver, and of the working directory that `ray job submit` sends
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    number: Any = found.least if found.least == found.most else (found.least, found.most)
    each: dict[str, float] = {"CPU": found.each.cpus, **({"GPU": 1} if found.on_gpu else {})}
    return TorchTrainer(
        _work,  # type: ignore[arg-type]
        train_loop_config={"training": training},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=number,
            use_gpu=found.on_gpu,
            resources_per_worker=each,
            label_selector=dict(found.each.labels) or None,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=training.key,
            storage_path=training.states.path(RAY_TRAIN),
            storage_filesystem=training.states.fs,
            failure_config=FailureConfig(max_failures=training.config.max_failures),
            worker_runtime_env=_environment(found),
            logging_config=LoggingConfig(log_level="DEBUG" if os.environ.get(DEBUG) else "ERROR"),
        ),
        torch_config=TorchConfig(backend="nccl" if found.on_gpu else "gloo", timeout_s=WAIT_S),
    )


def _environment(found: WorkerGroup) -> dict[str, Any]:
    """What the processes of workers are started with: packs differ in size from update to update, and segments that can grow
    keep the GPU's memory from falling into pieces. What the user has said of it counts."""
    if not found.on_gpu or any(name in os.environ for name in ALLOCATOR):
        return {}
    return {"env_vars": dict.fromkeys(ALLOCATOR[:1], "expandable_segments:True")}


def _work(told: dict[str, Any]) -> Trained | Stopped | None:
    """Runs in the worker."""
    from alpagasus_ray.training.loop import train

    return train(told["training"])


def _lost(training: Training, error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    last = lines[-1].strip()[:400] if lines else type(error).__name__
    return (
        f"training {training.arm}: workers were lost more than {training.config.max_failures} times (finetune.max_failures), "
        f"the last time by: {last}. The same command goes on from the last state"
    )


@contextmanager
def _shown(arm: str, status: TrainingStatus) -> Iterator[None]:
    """Progress on the terminal while the block runs."""
    from alpagasus_ray.progress import Progress

    ended = threading.Event()

    def show(progress: "Progress") -> None:
        while not ended.wait(SHOW_S):
            news = status.last()
            if news:
                progress.tell(_line(arm, news))

    with Progress(f"finetune {arm}", 0) as progress:
        # the driver's own thread waits inside Ray Train
        watcher = threading.Thread(target=show, args=(progress,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _line(arm: str, news: Mapping[str, Any]) -> str:
    if "note" in news:
        return f"finetune {arm}: {news['note']}"
    left = (news["steps"] - news["step"]) * news["seconds"]
    mfu = f", MFU {news['mfu']:.0%}" if news["mfu"] is not None else ""
    return (
        f"finetune {arm}: step {news['step']:,} of {news['steps']:,}, loss {news['loss']:.4f}, "
        f"{news['tokens_per_s']:,.0f} tokens/s{mfu}, {clock(left)} left"
    )
