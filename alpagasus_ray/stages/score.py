"""Rate every example with a judge; read stored replies again; ask again for what failed."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from alpagasus_ray.config import Judge, Score
from alpagasus_ray.errors import SettingsChanged, UsageError
from alpagasus_ray.inference.bill import Bill
from alpagasus_ray.inference.cascade_rounds import Rounds
from alpagasus_ray.inference.counts import StopRule
from alpagasus_ray.inference.pointers import Pointer
from alpagasus_ray.inference.reread import read_again
from alpagasus_ray.inference.shared_replies import SharedReplies, lend_from
from alpagasus_ray.inference.spec import Task
from alpagasus_ray.inference.stage import InferenceStage, Mode, RemainingWork, Target, came_to_nothing
from alpagasus_ray.inference.tasks.rating import check_model, prepare
from alpagasus_ray.judging import parse_rating
from alpagasus_ray.store.run import Manifest, Run


def score(
    config: Score,
    run: Run,
    mode: Mode = "fill",
    again: Sequence[str] = parse_rating.UNSCORED,
    *,
    in_process: bool = False,
    shared: SharedReplies | None = None,
) -> Manifest:
    """Make `ratings/<name>/` of the run, or return at once when it is made.

    `rescore` reads the stored replies again with the rubric's present scale and this version's parser, and sends nothing;
    `retry-failed` asks again for the rows with a status of `again`. With `config.limit` the manifest returned is that of a
    trial, which leaves no ratings, only replies in the ledger that a full run takes over. `in_process` starts no Ray;
    `shared` lends replies that were bought for the same requests elsewhere, keeps those of this call, and has rows that failed
    in an earlier call asked again.
    """
    check_model(config.judge, mode)
    _check_cascade(config, mode)
    stage, task, target = prepare(config, run, _asked_again(config.judge, mode, again, shared))
    if mode == "rescore":
        return read_again(task, target)
    stage = replace(stage, ahead=partial(_by_batches, task.judge), in_process=in_process)
    if config.cascade is not None:
        pointer = Pointer.of(config.cascade, run, task.scale, in_process=in_process)
        return Rounds(config.cascade, stage, task, target, pointer, task.scale).fill()
    _check_examples(stage, target)
    lend_from(stage, target, config.reuse)
    with shared.lent(stage, target) if shared else nullcontext():
        [manifest] = stage.fill([target])
    return manifest


def _check_examples(stage: InferenceStage, target: Target) -> None:
    """Ratings of examples that are no longer those of the run: they stay as they are, and their replies can be taken over."""
    home, source = target.home, target.source.name
    made = home.manifest() or (None if came_to_nothing(home) else home.begun())
    # what else has changed is refused with its name when the stage begins
    if not stage.spec.paid or made is None or made.settings != stage.task.settings:
        return
    if made.inputs.get(source) != target.inputs[source]:
        raise SettingsChanged(
            f"{home.name}/ rates other examples than this run now holds. Give the new ratings another name; what was paid for "
            f"the old ones is taken over: -s score.name=NAME -s 'score.reuse=[{home.storage.root}]'"
        )


def _asked_again(judge: Judge, mode: Mode, again: Sequence[str], shared: SharedReplies | None) -> Sequence[str]:
    """The statuses whose rows are asked again."""
    if mode == "retry-failed":
        return again
    # a longer reply is for rows whose reply was cut, and for no others
    return (parse_rating.FAILED,) if shared and judge.is_model and judge.retry_max_tokens is None else ()


def _check_cascade(config: Score, mode: Mode) -> None:
    if config.cascade is None:
        return
    if mode != "fill":
        raise UsageError(f"--{mode} is not for ratings of score.cascade: its rounds are drawn by what was answered")
    if config.reuse:
        raise UsageError("score.reuse is not for ratings of score.cascade: its rounds are drawn by what was answered")
    if config.limit is not None:
        raise UsageError(
            "score.limit tries the judge alone; leave score.cascade out, and give the trial a score.name of its own"
        )


def _by_batches(judge: Judge, bill: Bill, tasks: Sequence[Task], rule: StopRule) -> RemainingWork:
    """What a batch API has to do with the tasks: all of it in that mode; else what an earlier call has left there."""
    from alpagasus_ray.batch_api.journal import under_way

    [part] = bill.parts
    if not judge.is_remote or (judge.mode == "live" and not under_way(part.job.home.storage)):
        return RemainingWork(part.job, tasks)
    from alpagasus_ray.batch_api import batches

    return batches.collect(judge, part.job, tasks, bill.rows(tasks), bill.cap(), rule)
