"""Let a judge compare models' answers, every pair in both orders; or take the games from reviews that exist."""

from collections.abc import Sequence
from typing import Any, Literal

from alpagasus_ray.config import Compare
from alpagasus_ray.engines.identity import with_template
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.reread import read_again
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.stage import InferenceStage, Target
from alpagasus_ray.judging import pair_rubric as rubrics
from alpagasus_ray.judging.parse_verdict import JUDGED
from alpagasus_ray.reporting.verdicts import matches_of
from alpagasus_ray.stages.import_verdicts import import_games
from alpagasus_ray.stages.pair_task import AGAIN, GOOD, PairTask
from alpagasus_ray.stages.pairs import Bout, bouts, check_told_one_way, pair_up
from alpagasus_ray.store.run import Manifest, Run

Mode = Literal["compare", "rescore", "retry-failed"]


def compare(config: Compare, run: Run, mode: Mode = "compare", again: Sequence[str] = AGAIN) -> dict[Bout, Manifest]:
    """Make `verdicts/<a>-vs-<b>/<test set>/` for every pair and test set; those that are made already are left as they are, but
    under `retry-failed` for the games with a status of `again`. `rescore` reads their stored reviews again and sends
    nothing."""
    if config.imported is not None:
        if mode == "retry-failed":
            raise UsageError("--retry-failed asks a judge again, and the games of `compare.import` come from files")
        if mode == "rescore":
            raise UsageError("--rescore reads what a judge replied, and the games of `compare.import` come from files")
        return import_games(config, run, _task(config))
    _check(config)
    spec = AskSpec.of(config, with_template(config.judge), good=GOOD, again=again if mode == "retry-failed" else ())
    task = _task(config, spec.longest)
    inputs = task.inputs
    chosen = list(bouts(config, run))
    check_told_one_way(run, config.name, chosen)
    targets = [
        Target.of(run.verdicts(config.name, bout.pair, bout.test_set), run.pairs(*bout), pair_up(run, bout), inputs)
        for bout in chosen
    ]
    if mode == "rescore":
        made = [read_again(task, target, "compare") for target in targets]
    else:
        made = InferenceStage("compare", spec, task, run.verdicts(config.name)).fill(targets)
    return dict(zip(chosen, made, strict=True))


def _task(config: Compare, longest: int | None = None) -> PairTask:
    judge = with_template(config.judge)
    if config.imported is not None:  # games of others were played as they were
        return PairTask(judge, rubrics.load(judge.rubric), plays_empty=True, imported=config.imported.format)
    return PairTask(judge, rubrics.load(judge.rubric), config.empty_answers == "play", longest)


def outcomes(config: Compare, run: Run, bout: Bout) -> dict[str, Any]:
    """What the games of one pair on one test set say, by the recipe's rule."""
    from alpagasus_ray.evaluation.statistics import summarize

    stage = run.verdicts(config.name, bout.pair, bout.test_set)
    manifest = stage.finished("compare")
    summary = summarize(matches_of(stage, manifest), config.rule)
    return {
        **bout._asdict(),
        "judge": manifest.details["judge"],
        "games": manifest.rows,
        "judged_games": manifest.counts.get(JUDGED, 0),
        **summary,
    }


def _check(config: Compare) -> None:
    if not config.pairs:
        raise UsageError(
            "`compare.pairs` is empty; give the models to compare by their names under answers/, e.g. --set "
            "'compare.pairs=[[selected, full]]'"
        )
    if config.judge.is_model and config.judge.model is None:
        raise UsageError(
            "`compare.judge.model` is not set: name the model that judges, e.g. --set compare.judge.model=gpt-4o (or --set "
            "compare.judge.kind=rules for the offline baseline)"
        )
