"""The one program that fills stage directories by asking an engine: a judge's examples, a model's test sets, a judge's pairs.

It begins or goes on, draws a trial, refuses what was made otherwise, drives the workers, and finishes. What is asked about a
row and what becomes of a reply is a `StageTask`'s business; how requests are sent that of `driver.py`.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from alpagasus_ray import extras
from alpagasus_ray.engines.model_names import is_same_model
from alpagasus_ray.errors import BudgetReached, UsageError
from alpagasus_ray.inference import addresses, failures
from alpagasus_ray.inference.bill import Bill, Part
from alpagasus_ray.inference.budget import ROUNDING, SPEND, at_most_spent
from alpagasus_ray.inference.counts import StopRule
from alpagasus_ray.inference.failures import FAILED
from alpagasus_ray.inference.shards import record, take_back
from alpagasus_ray.inference.spec import AskSpec, Job, RowTask, Task
from alpagasus_ray.inference.trial import drawn
from alpagasus_ray.raycluster.pool import ONE
from alpagasus_ray.store.reply import BOUGHT
from alpagasus_ray.store.run import STAGE, TRIAL, Begun, FileEntry, Manifest, StageDir, describe
from alpagasus_ray.store.storage import Written
from alpagasus_ray.terminal import say

Rows = list[dict[str, Any]]
Mode = Literal["fill", "rescore", "retry-failed"]
"""What a call does with a stage: fill it, read its stored replies again, or ask again for rows of some statuses."""


@dataclass(frozen=True)
class Target:
    """One directory to fill."""

    home: StageDir
    source: StageDir
    listed: Manifest
    """Of the source."""
    inputs: Mapping[str, str]
    """What the results are made from, by name: hashes of manifests and fingerprints of files."""
    asked_scale: Mapping[str, Any] = field(default_factory=dict)
    """Ratings: the scale that the judge is asked to rate on; they may be read on another later."""
    limit: int | None = None
    """A trial of so many rows: replies are kept, and no results."""

    @classmethod
    def of(cls, home: StageDir, source: StageDir, listed: Manifest, inputs: Mapping[str, str] | None = None) -> "Target":
        """Results made from the rows of `source`, and from these other `inputs`."""
        return cls(home, source, listed, {source.name: listed.content_hash(), **(inputs or {})})


class StageTask(RowTask, Protocol):
    """What a whole stage of rows is, besides what is done with each of them."""

    @property
    def settings(self) -> dict[str, Any]:
        """The identity of the results."""

    def manifest(self, target: Target, files: list[FileEntry], begun: Begun) -> Manifest:
        """The manifest of the finished shards; writes what else belongs to the stage."""

    def read_again(self, rows: Rows, source: Callable[[], Rows], /) -> Rows:
        """Rows with their stored replies read anew; `source` reads the rows that were asked about."""


class RemainingWork(NamedTuple):
    """What is left to do once no batch is under way."""

    job: Job
    tasks: Sequence[Task]
    """Those that can be finished now."""
    at_cap: bool = False
    """Whether others cannot, because the budget is used up."""


Ahead = Callable[[Bill, Sequence[Task], StopRule], RemainingWork]
"""Another way to get replies, before the workers ask for the rest: a provider's batch API. For one directory."""


@dataclass(frozen=True)
class InferenceStage:
    """Directories that one engine fills in one go, by one pool of workers and under one cap."""

    label: str
    """What the progress line calls the work."""
    spec: AskSpec
    task: StageTask
    home: StageDir
    """Where their common bill is kept."""
    ahead: Ahead | None = None
    in_process: bool = False
    """Whether one worker in this process does the work, and no Ray is started: for inputs that are soon through."""
    besides_usd: float = 0.0
    """What the run has spent elsewhere under the same cap."""

    def fill(self, targets: Sequence[Target]) -> list[Manifest]:
        """Fill what is not filled yet; rows that have a status of `spec.again` are asked anew. One manifest for each target, in
        order. `SettingsChanged` refuses what was made otherwise, `StageFailed` and `BudgetReached` tell why it is not filled;
        the next call goes on from there."""
        made = [self._finished(target) for target in targets]
        left = [target for target, manifest in zip(targets, made, strict=True) if manifest is None]
        spent_usd = self.besides_usd + sum(manifest.usage.get("cost_usd", 0.0) for manifest in made if manifest)
        # all that is left in one go: engines start once, and the cap holds for all of them together
        now = iter(self._ask(left, spent_usd) if left else ())
        return [manifest or next(now) for manifest in made]

    def job(self, target: Target) -> Job:
        """What the workers are to know of one directory."""
        return Job(self.task, self.spec, target.source, target.home, output=target.home.storage)

    def bill(self, targets: Sequence[Target], finished_usd: float = 0.0) -> Bill:
        """What the directories cost together."""
        return Bill(self.home, [Part(self.job(target), target.listed) for target in targets], finished_usd)

    # begin, or go on

    def _finished(self, target: Target) -> Manifest | None:
        """The manifest of what needs no work; a finished directory with rows to ask again is reopened."""
        done = target.home.made(self.task.settings, target.inputs)
        if done is None:
            return None
        addresses.check(target.home, done, self.spec.engine)
        if not any(done.counts.get(status) for status in self.spec.again):
            target.home.tidy(done)
            return done
        self._check_retry(target, done)
        reopen(target.home, done, self.spec.again)
        return None

    def _check_retry(self, target: Target, done: Manifest) -> None:
        """The rows asked again must be asked what the others were."""
        if target.limit is not None:
            raise UsageError(f"--retry-failed asks for all such rows; take `{self.spec.section}.limit` out of the recipe")
        scale = done.details.get("asked_scale")
        if target.asked_scale and scale != target.asked_scale:
            raise UsageError(
                f"{done.stage} was asked on the scale {scale} and is read on another; go back to that by --rescore, then retry"
            )

    def _begin(self, target: Target) -> Begun:
        begun = begin(target.home, self.task.settings, target.inputs, target.asked_scale)
        return addresses.record(target.home, begun, self.spec.engine)

    def _check_engine(self) -> None:
        """Tell of a missing key or a wrong file before any worker starts; a model in the job is looked at where it will run."""
        engine = self.spec.engine
        if engine.is_remote:
            from alpagasus_ray.engines.openai_api import read_key

            for endpoint in engine.at_each_endpoint():
                read_key(endpoint)
        elif not engine.is_model:
            self.task.open_engines()
        elif not os.environ.get("RAY_ADDRESS"):  # then it runs with what is installed here
            extras.require("vllm", f"{engine.where}: a model in the job")

    # ask

    def _ask(self, targets: Sequence[Target], spent_usd: float) -> list[Manifest]:
        if not self.in_process:
            # imported here: to look at what is finished, and to work in this process, no Ray is needed
            from alpagasus_ray.raycluster import connect

            connect.address_given()
        self._check_engine()
        self.spec.check_cap()
        begun = [self._begin(target) for target in targets]
        if targets[0].limit is not None:
            return [self._trial(target, earlier) for target, earlier in zip(targets, begun, strict=True)]
        bill = self.bill(targets, spent_usd)
        for part in bill.parts:
            # rows that failed in an earlier call of an unfinished stage get another chance
            take_back(part.job, {FAILED, *self.spec.again})
        # the records that were there before: one of a driver that has lost the run may still turn up while this one works
        records = [part.job.backlog.records() for part in bill.parts]
        clock = _Clock()
        try:
            self._drive(bill, _open_tasks(bill.parts), clock)
        finally:  # also of a call that was stopped: what the stage took is what all its calls took
            begun = [earlier.after(clock.seconds * share) for earlier, share in zip(begun, _shares(targets), strict=True)]
            with suppress(OSError):  # whatever stopped the call is told, and not that its seconds are lost
                for target, now in zip(targets, begun, strict=True):
                    target.home.begin(now)
        return [self._finish(*each) for each in zip(targets, begun, records, strict=True)]

    def _drive(self, bill: Bill, tasks: Sequence[Task], clock: "_Clock") -> None:
        """Do the tasks; the clock is started when Ray is there."""
        from alpagasus_ray.progress import Progress

        if not tasks:
            return
        drive, spec = self._workers(bill.parts[0].job.source)
        bill = bill._replace(parts=[part._replace(job=replace(part.job, spec=spec)) for part in bill.parts])
        rule = failures.stop_rule(spec, sum(part.source.rows for part in bill.parts))
        clock.start()
        at_cap = False
        if self.ahead is not None:
            with failures.advising(spec.engine):
                job, tasks, at_cap = self.ahead(bill, tasks, rule)
            # what is left is done with the batch's outcomes at hand, and at a batch's price
            bill = bill._replace(parts=[bill.parts[0]._replace(job=job)])
        cap = bill.cap()
        try:
            if tasks:
                where = addresses.shown(spec.engine)
                with failures.advising(spec.engine), Progress(self.label, bill.rows(tasks), where=where) as progress:
                    drive([part.job for part in bill.parts], tasks, cap, progress, rule)
        except BudgetReached:
            at_cap = True
        if at_cap:
            raise bill.at_the_cap()

    def _workers(self, source: StageDir) -> tuple[Callable[..., None], AskSpec]:
        """What drives the workers, and the spec with their number; tells the user where requests go."""
        if self.in_process:
            from alpagasus_ray.inference import local_driver

            return local_driver.drive, self.spec.on(ONE)
        from alpagasus_ray.inference import driver
        from alpagasus_ray.raycluster import connect, preflight

        addresses.tell(self.label, self.spec.engine)
        # before a batch is paid for as well
        connect.connect()
        spec = self.spec.on(connect.pool(self.spec.processes))
        preflight.check(source, spec.pool.labels)
        return driver.drive, spec

    # finish

    def _finish(self, target: Target, begun: Begun, records: Collection[str]) -> Manifest:
        manifest = self.task.manifest(target, self.job(target).backlog.done(records), begun)
        # before the manifest is written: a stage that lost or doubled a row must not exist
        failures.check_rows(manifest, target.listed)
        self._tell_other_models(manifest)
        failures.check_results(self.spec, target.home, manifest)
        target.home.finish(manifest)
        return manifest

    def _trial(self, target: Target, begun: Begun) -> Manifest:
        """The manifest of a trial; it is returned, not written: the results of the stage do not exist yet."""
        assert target.limit is not None, "the caller has looked"
        sums = {entry.name: entry.sha256 for entry in target.listed.parts()}
        tasks = [Task(name, rows, sha256=sums[name]) for name, rows in drawn(target.listed, target.limit).items()]
        job = replace(self.job(target), output=target.home.storage.at(TRIAL))
        self._drive(Bill(self.home, [Part(job, target.listed)], self.besides_usd), tasks, clock := _Clock())
        files = [describe(task.shard, Written(0, ""), job.output.read_table(task.shard).to_pylist()) for task in tasks]
        trial = replace(target, home=StageDir(f"{target.home.name}/{TRIAL}", job.output))
        return self.task.manifest(trial, files, begun.model_copy(update={"seconds": clock.seconds}))

    def _tell_other_models(self, manifest: Manifest) -> None:
        """Tell on the terminal where another model than the one asked for has answered."""
        wanted = self.spec.model
        for name, rows in manifest.details.get("models", {}).items():
            if wanted is not None and not is_same_model(wanted, name):
                say(
                    f"{manifest.stage}: {rows:,} of {manifest.rows:,} rows were answered by {name}, where {wanted} was "
                    f"asked for ({self.spec.engine.where}.model)"
                )


class _Clock:
    """The seconds of work of a call, however it ends."""

    def __init__(self) -> None:
        self._started: float | None = None

    def start(self) -> None:
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return 0.0 if self._started is None else time.monotonic() - self._started


def _open_tasks(parts: Sequence[Part]) -> list[Task]:
    """The shards of all directories that are not committed."""
    tasks: list[Task] = []
    for number, part in enumerate(parts):
        sums = {entry.name: entry.sha256 for entry in part.source.parts()}
        tasks += [Task(name, None, number, sums[name]) for name in part.job.backlog.open(part.shards())]
    return tasks


def _shares(targets: Sequence[Target]) -> list[float]:
    """The share of each directory in the rows of all, by which their common time is told apart."""
    rows = sum(target.listed.rows for target in targets)
    return [target.listed.rows / rows if rows else 0.0 for target in targets]


def begin(
    stage: StageDir, settings: Mapping[str, Any], inputs: Mapping[str, str], asked_scale: Mapping[str, Any] | None = None
) -> Begun:
    """Begin a stage, or go on with what an earlier call has begun; results of other settings are refused. A call that came to
    nothing, by a misspelt model for instance, binds nobody."""
    begun = stage.begun()
    if begun is None or came_to_nothing(stage):
        begun = Begun(settings=dict(settings), inputs=dict(inputs), asked_scale=dict(asked_scale or {}))
        stage.begin(begun)
        return begun
    stage.same_or_refuse(begun, settings, inputs)
    if begun.rescoring:
        raise UsageError(f"a --rescore of {stage.name} was interrupted; run it to its end with --rescore first")
    return begun


def came_to_nothing(stage: StageDir) -> bool:
    """Whether an unfinished call has left no reply, no row, and no dollar that may have been spent."""
    return stage.storage.all_names() <= {STAGE, SPEND} and at_most_spent(stage.storage) < ROUNDING


def reopen(stage: StageDir, done: Manifest, again: Collection[str]) -> None:
    """Make a finished stage unfinished, so that its rows with a status of `again` are asked anew; at every moment the manifest
    or all commit records are there. What their replies have cost stays part of the bill."""
    for entry in done.parts():
        # first the records, then the note, then the manifest goes: whatever is killed in between, one of the two lists each
        # shard
        record(stage, entry)
    stage.begin(Begun.of(done).model_copy(update={"discarded": dict(_discarded(stage, done, again))}))
    stage.reopen()


def _discarded(stage: StageDir, done: Manifest, again: Collection[str]) -> Counter[str]:
    """The usage of the replies that are given up, with that of earlier ones."""
    usage = Counter(done.details.get("discarded", {}))
    for entry in done.parts():
        if any(entry.counts.get(status) for status in again):
            rows = stage.table(entry.name, entry.sha256).to_pylist()
            for row in rows:
                if row["status"] in again and (row["reply"] is not None or row.get("raw") is not None):
                    # the new reply comes on top: both were paid for
                    usage.update({name: row[name] for name in BOUGHT if row[name] is not None})
    return usage
