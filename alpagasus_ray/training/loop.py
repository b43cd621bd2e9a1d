"""What every worker of a training does: load, train update by update, save states, write the model.

Runs inside Ray Train, which has set up torch.distributed. Where all workers see that going on would be wrong they return, and
the first one's answer says why. What is raised is a lost worker to Ray Train, which starts all again; `failures.py` tells the
driver where that would be in vain.
"""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from alpagasus_ray.config import digest, identity
from alpagasus_ray.raycluster import worker_process
from alpagasus_ray.store.run import FileEntry
from alpagasus_ray.training import collate, devices, finished_model, measure, schedule, settings
from alpagasus_ray.training.checkpoints import CURVE, CheckpointInfo, newest
from alpagasus_ray.training.curve import Curve, Events, Gauges, WandB, Watcher
from alpagasus_ray.training.devices import Place
from alpagasus_ray.training.failures import Telling
from alpagasus_ray.training.measure import Best, Keeper, Measured
from alpagasus_ray.training.setup import Ready, prepare
from alpagasus_ray.training.spec import KINDS, Stopped, Trained, Training

LOOK_S = 5.0
"""Seconds between two looks for a notice that a node will be taken away: each is a call to another process."""
LOOKED_AT = 256
"""Examples that tell how all of them end."""
TELL_S = 0.5
"""Seconds between two words to the driver."""


def train(training: Training) -> Trained | Stopped | None:
    """The whole of a worker's work; the first worker's answer is the training's."""
    # by the time of day, for it is compared with the driver's, on another machine perhaps
    spent, arrived = Spent(), time.time()
    # Ray Train has started all workers again after one of them told why going on is in vain
    stopped: Stopped | None = training.status.stopped()
    if stopped is not None:
        return stopped
    with Telling(training.config, training.status):
        worker_process.take_part(training.tokens, training.version)
        place = devices.here(training.config)
        if place.rank == 0 and training.status.begin() == 1:  # what comes before a second start is lost, not start
            spent.seconds["start"] = arrived - training.called_at
        with spent.on("load"):
            ready = prepare(training, place)
        return Loop(training, place, ready, spent).run()


class Spent:
    """Seconds by kind of work, over all calls and restarts that led here."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(KINDS, 0.0)

    @contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Count the seconds inside the block as time of this kind (one of `spec.KINDS`)."""
        started = time.monotonic()
        yield
        self.seconds[kind] += time.monotonic() - started


class Loop:
    """The updates of one worker."""

    def __init__(self, training: Training, place: Place, ready: Ready, spent: Spent) -> None:
        self._training, self._config, self._place, self._ready, self._spent = (
            training,
            ready.config or training.config,
            place,
            ready,
            spent,
        )
        if ready.mark is not None:
            # times of earlier calls go on, so that the manifest tells what the model took and not what its last call did
            for kind, seconds in ready.mark.seconds.items():
                spent.seconds[kind] += seconds
        self._start = ready.mark.step if ready.mark else 0
        self._peak = devices.peak_flops(self._config, place.device)
        self._curve = Curve(ready.earlier, self.watchers() if place.rank == 0 else [])
        self._saved_at = self._looked_at = time.monotonic()
        self._told_at = 0.0
        self._due = False
        self._leaving: set[str] = set()
        self._heldout = dict(ready.mark.heldout) if ready.mark else {}
        self._last: Measured | None = None
        self._keeper = Keeper(training.states)
        if ready.mark is None and place.rank == 0:
            self._keeper.clear()
        self._best = self._keeper.best() if ready.mark is not None else None

    def watchers(self) -> list[Watcher]:
        """Who sees the curve grow."""
        config, training = self._config, self._training
        watchers: list[Watcher] = [Gauges(training.arm, self._ready.order.steps)]
        if config.tensorboard:
            watchers.append(Events(training.home.storage, self._start))
        if config.wandb is not None:
            key = digest([training.key, training.home.storage.root])
            watchers.append(WandB(config.wandb, key, training.arm, identity(config)))
        return watchers

    def run(self) -> Trained | Stopped | None:
        """Train to the end. The first worker returns what it has made, others None; `Stopped` where the loss is no number."""
        steps = self._ready.order.steps
        wrong = self._measure(0)
        if wrong is not None:
            return Stopped(self._diverged(-1, wrong), is_usage=False)
        for step in range(self._start, steps):
            with self._spent.on("train"):
                wrong = self._update(step)
            wrong = wrong or self._measure(step + 1)
            if wrong is not None:
                return Stopped(self._diverged(step, wrong), is_usage=False)
            if self._due and step + 1 < steps:
                with self._spent.on("save"):
                    self._save(step + 1)
        return self._finish()

    def _update(self, step: int) -> str | None:
        """One update; the answer is why the training cannot go on, if it cannot."""
        started = time.monotonic()
        engine, config, order = self._ready.engine, self._config, self._ready.order
        batch = order.batch(step)
        rate = settings.learning_rate(config, step, order.steps)
        for group in engine.optimizer.param_groups:
            # set here for every update, so that it depends on the step alone; DeepSpeed's scheduler would have a state of its
            # own
            group["lr"] = rate
        # what dropout leaves out is the same on every way to this update
        torch.manual_seed(hash((config.seed, step, self._place.rank)) % 2**63)
        # of the whole update on all workers, counted by each: divided by it, the loss is the same however the update is cut up
        labels = collate.label_tokens(self._ready.tokens, batch)
        loss, padding = self._agree(step, *self._gradients(batch, labels))
        # before the step: weights that were never spoiled can still be trained with another rate
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        engine.step()
        norm = engine.get_global_grad_norm()
        norm = None if norm is None else float(norm)
        if norm is not None and not math.isfinite(norm):
            return f"the norm of the gradients is {norm}"
        numbers = {"step": step + 1, "loss": loss, "learning_rate": rate, "grad_norm": norm, "label_tokens": labels}
        self._record(batch, numbers | {"epoch": order.epoch(step), "padding": padding}, time.monotonic() - started)
        return None

    def _gradients(self, batch: collate.Integers, labels: int) -> tuple[torch.Tensor, int]:
        """Forward and backward over this worker's part of a batch; the answer is its part of the loss, and its padding."""
        tokens, config, place = self._ready.tokens, self._config, self._place
        parts = measure.parts_of(config, batch, tokens.lengths, place)
        # in 64 bits, so that curves of one and of eight workers agree to many digits
        loss = torch.zeros((), dtype=torch.float64, device=place.device)
        loaded, engine = self._ready.loaded, self._ready.engine
        for micro_batch in measure.built(config, loaded, tokens, parts):
            loss_sum = collate.loss_sum(engine, micro_batch.to(place.device), slices=loaded.slices, by=loaded.head)
            part = loss_sum * (1 / labels)
            engine.backward(part * place.workers)  # DeepSpeed takes the mean over the workers
            loss += part.detach()
        if config.packing:
            return loss, 0
        held = sum(int(tokens.lengths[part].sum()) for part in parts)
        return loss, schedule.occupied(parts, tokens.lengths, measure.width(config)) - held

    def _agree(self, step: int, loss: torch.Tensor, padding: int) -> tuple[float, int]:
        """Sums over all workers, and with them what the first decides for all: whether to save after this update."""
        first = self._place.rank == 0
        looks = first and time.monotonic() - self._looked_at > LOOK_S
        others = torch.tensor([padding, first and self._is_time(step), looks], dtype=torch.float64, device=loss.device)
        sums = torch.cat([loss[None], others])
        # one exchange for the loss, the padding and two decisions: each would cost as much as all, and workers that decide by
        # their own clocks would part
        dist.all_reduce(sums)
        total, all_padding, due, look = sums.tolist()
        self._due = bool(due) or (bool(look) and self._is_leaving())
        return total, int(all_padding)

    def _is_time(self, step: int) -> bool:
        when = self._config.checkpoint
        by_steps = when.every_steps is not None and (step + 1) % when.every_steps == 0
        return by_steps or (when.every_minutes is not None and time.monotonic() - self._saved_at > when.every_minutes * 60)

    def _is_leaving(self) -> bool:
        """Whether Ray has new notice that a node of this training will be taken away; all workers ask together."""
        from ray import train as ray_train

        self._looked_at = time.monotonic()
        notice = ray_train.get_preemption_info()
        news = set(notice.preempted_node_ids) - self._leaving if notice else set()
        self._leaving |= news
        # a notice is answered by one state, not by one after every update until the node goes
        return bool(news)

    def _record(self, batch: collate.Integers, numbers: Mapping[str, Any], seconds: float) -> None:
        if self._place.rank:
            return
        lengths = self._ready.tokens.lengths[batch]
        total = int(lengths.sum())
        # of the model's own tokens; padding is no work, and would make a slow form look busy
        flops = self._ready.flops
        work = flops and flops.of(total, numbers["label_tokens"], int((lengths**2).sum()))
        mfu = None if self._peak is None or work is None else work / (seconds * self._peak * self._place.workers)
        more = {"examples": len(batch), "tokens": total, "seconds": seconds, "tokens_per_s": total / seconds, "mfu": mfu}
        self._curve.add({**numbers, **more})
        if time.monotonic() - self._told_at > TELL_S:
            self._told_at = time.monotonic()
            self._training.status.tell({**numbers, **more, "steps": self._ready.order.steps})

    def _save(self, step: int) -> None:
        from ray import train as ray_train

        mark = CheckpointInfo(step=step, workers=self._place.workers, seconds=self._spent.seconds, heldout=self._heldout)
        self._curve.flush()
        self._ready.states.save(self._ready.engine, mark, self._curve.parquet())
        self._saved_at = time.monotonic()
        self._curve.saved()
        rows = self._curve.rows()
        ray_train.report({"step": step, "loss": rows[-1]["loss"] if rows else None})

    def _diverged(self, step: int, wrong: str) -> str:
        kept = newest(self._training.states)
        good = f"the state after step {kept.step} is kept" if kept else "no state had been saved"
        return (
            f"training {self._training.arm}: {wrong} at step {step + 1} of {self._ready.order.steps}, so nothing more was "
            f"learned from there; {good}. A lower finetune.learning_rate, a longer finetune.warmup or a smaller "
            f"finetune.max_grad_norm may help, in a run of its own"
        )

    def _measure(self, done: int) -> str | None:
        """Measure what is held out, where it is time to after `done` updates; the answer is why the training cannot go on, if
        it cannot."""
        steps, every = self._ready.order.steps, self._config.heldout_every
        is_time = done in (0, steps) or (every is not None and done % every == 0)
        if self._training.heldout is None or not is_time or done < self._start or (done in self._heldout and done < steps):
            return None
        with self._spent.on("measure"):
            ready = self._ready
            found = measure.measured(self._config, self._place, ready.loaded, ready.engine, self._training.heldout)
        if not math.isfinite(found.loss):
            return f"the loss over what is held out is {found.loss}"
        self._last, self._heldout[done] = found, found.loss
        self._curve.measured(done, found.loss)
        # weights without any update are not what was asked for, even where they are the best
        if done and self._config.keep == "best":
            with self._spent.on("save"):
                self._keep_if_best(Best(step=done, loss=found.loss))
        return None

    def _keep_if_best(self, now: Best) -> None:
        """Keep the weights if none before were as good; all workers know the same, and take part."""
        if self._best is not None and self._best.loss <= now.loss:
            return
        self._best = now
        weights = finished_model.weights_of(self._ready.engine, self._config)
        if weights is not None and self._place.rank == 0:
            self._keeper.keep(now, weights)
        dist.barrier()

    def _finish(self) -> Trained | None:
        """Write the model and the curve; every worker takes part in gathering the weights."""
        with self._spent.on("save"):
            best = self._best
            is_last = best is None or best.step == self._ready.order.steps
            weights = finished_model.weights_of(self._ready.engine, self._config) if is_last else None
            files: list[FileEntry] = []
            if self._place.rank == 0:
                if not is_last:
                    assert best is not None
                    weights = self._keeper.weights(best)
                assert weights is not None
                files = self._write(weights)
        self._curve.close()
        dist.barrier()
        return Trained(files, self._facts(best)) if self._place.rank == 0 else None

    def _write(self, weights: dict[str, torch.Tensor]) -> list[FileEntry]:
        home = self._training.home.storage
        parquet = self._curve.parquet()
        files = [FileEntry(name=CURVE, rows=len(self._curve.rows()), **home.write(CURVE, parquet)._asdict())]
        with tempfile.TemporaryDirectory(prefix="alpagasus-model-") as folder:
            finished_model.write(self._config, self._ready.loaded, weights, self._ends(), folder)
            # the curve first and the model's files after; the manifest, written by the driver, makes them count
            files += [
                FileEntry(name=name, rows=0, **home.put(name, os.path.join(folder, name))._asdict())
                for name in sorted(os.path.relpath(path, folder) for path in _files(folder))
            ]
        return files

    def _ends(self) -> set[int]:
        """The control tokens that examples end with."""
        tokens, tokenizer = self._ready.tokens, self._ready.loaded.tokenizer
        controls = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        return controls & {int(tokens.ids(index)[-1]) for index in range(min(LOOKED_AT, len(tokens)))}

    def _facts(self, best: Best | None) -> dict[str, Any]:
        """What the manifest tells beside what the curve does."""
        heldout = self._last and {**self._last._asdict(), **({"loss": best.loss} if best else {})}
        return {
            "heldout": heldout,
            "heldout_curve": [{"step": step, "loss": loss} for step, loss in sorted(self._heldout.items())],
            "kept_step": best.step if best else self._ready.order.steps,
            "parameters": self._ready.parameters,
            "workers": self._place.workers,
            "device": devices.name_of(self._place.device),
            "attention": self._ready.loaded.kind,
            "wall_s": self._spent.seconds,
        }


def _files(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.join(parent, name) for name in names)
