"""Rate every example with a judge; read stored replies again; ask again for what failed."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alpagasus_ray.config import Score
from alpagasus_ray.engines.prices import tariff
from alpagasus_ray.errors import BudgetReached, StageFailed, UsageError
from alpagasus_ray.inference import addresses, asking, usefulness
from alpagasus_ray.inference.trial import drawn
from alpagasus_ray.judging import parse_rating, rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.stages.rating_task import Mode, ScoreWork, check_model, inputs_of, manifest_of, settings_of
from alpagasus_ray.stages.reread import Stored, ratings_again, read_again
from alpagasus_ray.store.run import TRIAL, Begun, Manifest, Run, StageDir, describe
from alpagasus_ray.store.storage import Written

if TYPE_CHECKING:
    from alpagasus_ray.batch_api.replay import Collected
    from alpagasus_ray.inference import shards
    from alpagasus_ray.inference.first_replies import Usable


def score(config: Score, run: Run, mode: Mode = "score", again: Sequence[str] = parse_rating.UNSCORED) -> Manifest:
    """Make `ratings/<name>/` of the run, or return at once when it is made.

    `rescore` reads the stored replies again with the rubric's present scale and this version's parser, and sends nothing;
    `retry-failed` asks again for the rows with a status of `again`. With `config.limit` the manifest returned is that of a
    trial, which leaves no ratings, only replies in the ledger that a full run takes over.
    """
    config = config.model_copy(update={"judge": asking.with_template(config.judge)})
    asked = rubric.load(config.judge.rubric)
    again = asking.asked_again(config.judge, again) if mode == "retry-failed" else ()
    work = ScoreWork(config.judge, asked, reply_form(config.judge, asked), asking.raised(config.judge, again))
    check_model(config.judge, mode)
    stage = run.ratings(config.name)
    examples = run.examples().finished("ingest")
    settings = settings_of(config, work.rubric)
    inputs = {"examples": examples.content_hash()} | inputs_of(config.judge)
    if mode == "rescore":
        kept = Stored(stage, "score", settings, inputs, examples, work.schema)
        return read_again(kept, ratings_again(work), manifest_of)
    done = stage.manifest()
    if done is not None:
        stage.same_or_refuse(done, settings, inputs)
        addresses.check(stage, done, config.judge)
        if not any(done.counts.get(status) for status in again):
            stage.tidy(done)
            return done
        _check_retry(config, done)
        asking.reopen(stage, done, again, done.details["asked_scale"])
    return _judge_all(config, _job(config, work, run, again), examples, settings, inputs)


def _check_retry(config: Score, done: Manifest) -> None:
    """The rows asked again must be asked what the others were."""
    if config.limit is not None:
        raise UsageError("--retry-failed asks for all such rows; take `score.limit` out of the recipe")
    asked = done.details["asked_scale"]
    if asked != done.settings["rubric"]["scale"]:
        raise UsageError(
            f"{done.stage} was asked on the scale {asked} and is read on another; go back to that by --rescore, then retry"
        )


def _judge_all(
    config: Score, job: "shards.Job", examples: Manifest, settings: dict[str, Any], inputs: dict[str, str]
) -> Manifest:
    # imported here: reading again and looking at a finished stage need no Ray
    from alpagasus_ray.inference import shards
    from alpagasus_ray.raycluster import connect

    connect.address_given()
    asking.check_engine(config.judge, job.work)
    stage = job.home
    asking.check_cap(config, config.judge, job.tariff)
    begun = addresses.record(stage, asking.begin(stage, settings, inputs, settings["rubric"]["scale"]), config.judge)
    if config.limit is not None:
        tasks = _trial_tasks(examples, config.limit)
        trial = replace(job, output=stage.storage.at(TRIAL))
        seconds = _drive(config, trial, tasks, examples)
        return _trial(trial, tasks, begun.model_copy(update={"seconds": seconds}))
    # rows that failed in an earlier call of an unfinished stage get another chance
    shards.take_back(job, {parse_rating.FAILED, *job.again})
    found = shards.recorded(stage)
    sums = {entry.shard: entry.sha256 for entry in examples.parts()}
    tasks = [shards.Task(name, sha256=sums[name]) for name in shards.missing(job, list(sums))]
    begun = begun.model_copy(update={"seconds": begun.seconds + _drive(config, job, tasks, examples)})
    stage.begin(begun)
    manifest = manifest_of(stage, shards.committed(stage, found), begun)
    asking.check_rows(manifest, examples)
    asking.tell_other_models(config.judge, manifest)
    _check_results(config, stage, manifest, job.usable)
    stage.finish(manifest)
    return manifest


def _check_results(config: Score, stage: StageDir, manifest: Manifest, usable: "Usable | None") -> None:
    failed = manifest.counts.get(parse_rating.FAILED, 0)
    if asking.too_many_failed(config, config.judge, manifest.rows, failed, {}) is not None:
        reasons = {**manifest.details["reasons"], **asking.sentences(stage, manifest)}
        reason = asking.too_many_failed(config, config.judge, manifest.rows, failed, reasons)
        with usefulness.advising(config.judge):
            raise StageFailed(f"{reason}. The same command asks again for those")
    usefulness.check(stage, manifest, usable)


def _job(config: Score, work: ScoreWork, run: Run, again: Sequence[str] = ()) -> "shards.Job":
    from alpagasus_ray.inference import shards

    home = run.ratings(config.name)
    return shards.Job(
        work,
        source=run.examples(),
        home=home,
        output=home.storage,
        terms=asking.terms(config, config.judge),
        tariff=tariff(work.allowed),
        max_attempts=config.judge.max_attempts,
        paid=config.judge.is_model,
        again=frozenset(again),
        usable=usefulness.usable(config, config.judge, {parse_rating.SCORED}),
        model=config.judge.model if config.judge.is_remote else None,
    )


def _drive(config: Score, job: "shards.Job", tasks: "Sequence[shards.Task]", examples: Manifest) -> float:
    """Do the tasks; the answer is the seconds they took, the start of Ray left out."""
    from alpagasus_ray.inference import driver
    from alpagasus_ray.progress import Progress
    from alpagasus_ray.raycluster import connect, preflight

    if not tasks:
        return 0.0
    hopeless = asking.hopeless(config, config.judge, examples.rows)
    addresses.tell("score", config.judge)
    # before a batch is paid for as well
    connect.connect()
    pool = connect.pool(config, config.judge)
    preflight.check(job.source, pool.labels)
    before = time.monotonic()
    with usefulness.advising(config.judge):
        job, tasks, at_cap = _by_batches(config, job, tasks, examples, hopeless)
    before = time.monotonic() - before
    bill = _bill(job, examples)
    cap = asking.cap(config, bill)
    job = replace(job, pool=pool, terms=job.terms._replace(workers=pool.most))
    started = time.monotonic()
    try:
        if tasks:
            with usefulness.advising(config.judge), Progress("score", _rows(tasks, examples)) as progress:
                driver.drive([job], tasks, cap, progress, hopeless)
    except BudgetReached:
        at_cap = True
    if at_cap:
        raise asking.at_the_cap(config, bill)
    return before + time.monotonic() - started


def _bill(job: "shards.Job", examples: Manifest) -> asking.Bill:
    return asking.Bill(job.home.name, job.home.storage, [asking.Part(job, examples)])


def _by_batches(
    config: Score, job: "shards.Job", tasks: "Sequence[shards.Task]", examples: Manifest, hopeless: asking.Verdict
) -> "Collected":
    """What a batch API has to do with the tasks: all of it in that mode; else what an earlier call has left there."""
    from alpagasus_ray.batch_api.journal import under_way
    from alpagasus_ray.batch_api.replay import Collected

    if not config.judge.is_remote or (config.judge.mode == "live" and not under_way(job.home.storage)):
        return Collected(job, tasks, at_cap=False)
    from alpagasus_ray.batch_api import batches

    return batches.collect(config.judge, job, tasks, _rows(tasks, examples), asking.cap(config, _bill(job, examples)), hopeless)


def _rows(tasks: "Sequence[shards.Task]", examples: Manifest) -> int:
    rows = {entry.name: entry.rows for entry in examples.parts()}
    return sum(rows[task.shard] if task.rows is None else len(task.rows) for task in tasks)


def _trial_tasks(examples: Manifest, limit: int) -> "list[shards.Task]":
    from alpagasus_ray.inference.shards import Task

    sums = {entry.name: entry.sha256 for entry in examples.parts()}
    return [Task(name, places, sha256=sums[name]) for name, places in drawn(examples, limit).items()]


def _trial(job: "shards.Job", tasks: "Sequence[shards.Task]", begun: Begun) -> Manifest:
    """The manifest of a trial; it is returned, not written: the ratings of the stage do not exist yet."""
    files = [describe(task.shard, Written(0, ""), job.output.read_table(task.shard).to_pylist()) for task in tasks]
    return manifest_of(StageDir(f"{job.home.name}/{TRIAL}", job.output), files, begun)
