"""Several stage directories that one engine fills in one go and under one cap: the test sets of a model, the pairs of a judge.

Knows how such a stage goes on where an earlier call was; nothing of what is asked or of what becomes of a reply.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from alpagasus_ray.config import Asking, EngineConfig
from alpagasus_ray.engines.longer import with_longer
from alpagasus_ray.engines.prices import tariff
from alpagasus_ray.errors import BudgetReached, StageFailed
from alpagasus_ray.inference import addresses, asking, usefulness
from alpagasus_ray.inference.first_replies import Usable
from alpagasus_ray.inference.shards import Job, Task, Work, committed, missing, recorded, take_back
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir

FAILED = "failed"


class Target(NamedTuple):
    """One directory to fill."""

    home: StageDir
    source: StageDir
    listed: Manifest
    """Of the source."""
    inputs: Mapping[str, str]


Summing = Callable[[StageDir, list[FileEntry], Begun], Manifest]
"""From the committed shards of a directory to its manifest, with what else its making writes."""


@dataclass(frozen=True)
class Several:
    """What the directories have in common."""

    label: str
    """What the progress line calls the work."""
    config: Asking
    asked: EngineConfig
    work: Work
    settings: Mapping[str, Any]
    home: StageDir
    """Where their common bill is kept."""
    raised: int | None = None
    """Longest reply of what is asked again because its reply was cut."""
    good: frozenset[str] = frozenset()
    """Statuses of results that are of use."""

    def fill(self, targets: Sequence[Target], summing: Summing, again: Sequence[str] = ()) -> list[Manifest]:
        """Fill what is not filled yet; rows that have a status of `again` are asked anew. One manifest for each, in order."""
        done = [self._finished(target, again) for target in targets]
        left = [target for target, manifest in zip(targets, done, strict=True) if manifest is None]
        spent = sum(manifest.usage.get("cost_usd", 0.0) for manifest in done if manifest)
        found = {target.home.name: recorded(target.home) for target in left}
        if left:
            self._ask(left, spent, again)
        return [
            manifest or self._finish(target, found[target.home.name], summing)
            for target, manifest in zip(targets, done, strict=True)
        ]

    def _finished(self, target: Target, again: Sequence[str]) -> Manifest | None:
        done = target.home.manifest()
        if done is None:
            return None
        target.home.same_or_refuse(done, self.settings, target.inputs)
        addresses.check(target.home, done, self.asked)
        if not any(done.counts.get(status) for status in again):
            target.home.tidy(done)
            return done
        asking.reopen(target.home, done, again)
        return None

    def _ask(self, targets: Sequence[Target], spent: float, again: Sequence[str]) -> None:
        # imported here: to look at what is finished no Ray is needed
        from alpagasus_ray.raycluster import connect

        connect.address_given()
        asking.check_engine(self.asked, self.work)
        parts = [asking.Part(self._job(target, again), target.listed) for target in targets]
        asking.check_cap(self.config, self.asked, parts[0].job.tariff)
        begun = [
            addresses.record(target.home, asking.begin(target.home, self.settings, target.inputs), self.asked)
            for target in targets
        ]
        tasks: list[Task] = []
        for number, part in enumerate(parts):
            take_back(part.job, {FAILED, *again})
            sums = {entry.name: entry.sha256 for entry in part.source.parts()}
            tasks += [Task(name, None, number, sums[name]) for name in missing(part.job, part.shards())]
        if not tasks:
            return
        seconds, rows = self._drive(parts, tasks, spent), sum(part.source.rows for part in parts)
        for part, earlier in zip(parts, begun, strict=True):
            share = seconds * part.source.rows / rows
            part.job.home.begin(earlier.model_copy(update={"seconds": earlier.seconds + share}))

    def _drive(self, parts: Sequence[asking.Part], tasks: Sequence[Task], spent: float) -> float:
        """Do the tasks; the answer is the seconds they took, the start of Ray left out."""
        from alpagasus_ray.inference import driver
        from alpagasus_ray.progress import Progress
        from alpagasus_ray.raycluster import connect, preflight

        bill = asking.Bill(self.home.name, self.home.storage, parts, spent)
        cap = asking.cap(self.config, bill)
        connect.connect()
        pool = connect.pool(self.config, self.asked)
        preflight.check(parts[0].job.source, pool.labels)
        jobs = [replace(part.job, pool=pool, limits=part.job.limits._replace(workers=pool.most)) for part in parts]
        rows = [{entry.name: entry.rows for entry in part.source.parts()} for part in parts]
        hopeless = asking.hopeless(self.config, self.asked, sum(part.source.rows for part in parts))
        addresses.tell(self.label, self.asked)
        started = time.monotonic()
        try:
            with (
                usefulness.advising(self.asked),
                Progress(self.label, sum(rows[task.job][task.shard] for task in tasks)) as progress,
            ):
                driver.drive(jobs, tasks, cap, progress, hopeless)
        except BudgetReached:
            raise asking.at_the_cap(self.config, bill) from None
        return time.monotonic() - started

    def _job(self, target: Target, again: Sequence[str]) -> Job:
        return Job(
            self.work,
            source=target.source,
            home=target.home,
            output=target.home.storage,
            limits=asking.request_limits(self.config, self.asked),
            tariff=tariff(with_longer(self.asked, self.raised)),
            max_attempts=self.asked.max_attempts,
            paid=self.asked.is_model,
            model=self.asked.model if self.asked.is_remote else None,
            again=frozenset(again),
            usable=self._usable(),
        )

    def _usable(self) -> Usable | None:
        return usefulness.usable(self.config, self.asked, self.good) if self.good else None

    def _finish(self, target: Target, found: Collection[str], summing: Summing) -> Manifest:
        begun = target.home.begun()
        assert begun is not None, "it was begun in this call"
        manifest = summing(target.home, committed(target.home, found), begun)
        asking.check_rows(manifest, target.listed)
        asking.tell_other_models(self.asked, manifest)
        failed = manifest.counts.get(FAILED, 0)
        if asking.too_many_failed(self.config, self.asked, manifest.rows, failed, {}, {}) is not None:
            reasons, texts = manifest.details["reasons"], asking.sentences(target.home, manifest)
            reason = asking.too_many_failed(self.config, self.asked, manifest.rows, failed, reasons, texts)
            with usefulness.advising(self.asked):
                raise StageFailed(f"{target.home.name}: {reason}. The same command asks again for those")
        usefulness.check(target.home, manifest, self._usable())
        target.home.finish(manifest)
        return manifest
