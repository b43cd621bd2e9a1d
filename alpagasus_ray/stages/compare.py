"""Let a judge compare models' answers, every pair in both orders; or take the games from reviews that exist."""

from collections.abc import Sequence
from typing import Any, Literal

from alpagasus_ray.config import Compare
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import asking
from alpagasus_ray.inference.stage import Several, Summing, Target
from alpagasus_ray.judging import pair_rubric as rubrics
from alpagasus_ray.judging.parse_verdict import JUDGED
from alpagasus_ray.reporting.verdicts import matches_of
from alpagasus_ray.stages.import_verdicts import import_games
from alpagasus_ray.stages.pair_task import AGAIN, GOOD, PairWork, label_of, manifest_of, settings_of
from alpagasus_ray.stages.pairs import Bout, bouts, check_told_one_way, pair_up
from alpagasus_ray.stages.reread import Stored, games_again, read_again
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir

Mode = Literal["compare", "rescore", "retry-failed"]


def compare(config: Compare, run: Run, mode: Mode = "compare", again: Sequence[str] = AGAIN) -> dict[Bout, Manifest]:
    """Make `verdicts/<a>-vs-<b>/<test set>/` for every pair and test set; those that are made already are left as they are, but
    under `retry-failed` for the games with a status of `again`. `rescore` reads their stored reviews again and sends
    nothing."""
    config = config.model_copy(update={"judge": asking.with_template(config.judge)})
    # games of others were played as they were
    plays_empty = config.empty_answers == "play" or config.imported is not None
    again = asking.asked_again(config.judge, again) if mode == "retry-failed" else ()
    raised = asking.raised(config.judge, again)
    work = PairWork(config.judge, rubrics.load(config.judge.rubric), plays_empty, raised)
    if config.imported is not None:
        if mode == "retry-failed":
            raise UsageError("--retry-failed asks a judge again, and the games of `compare.import` come from files")
        if mode == "rescore":
            raise UsageError("--rescore reads what a judge replied, and the games of `compare.import` come from files")
        return import_games(config, run, work)
    _check(config)
    found = list(bouts(config, run))
    check_told_one_way(run, config.name, found)
    listed = [pair_up(run, bout) for bout in found]
    home = run.verdicts(config.name)
    several = Several("compare", config, config.judge, work, _settings(work), home, raised, GOOD)
    inputs = asking.weights_print(config.judge)
    targets = [
        Target(
            run.verdicts(config.name, bout.pair, bout.test_set),
            run.pairs(*bout),
            manifest,
            {run.pairs(*bout).name: manifest.content_hash()} | inputs,
        )
        for bout, manifest in zip(found, listed, strict=True)
    ]
    names = {target.home.name: (bout.a, bout.b) for bout, target in zip(found, targets, strict=True)}

    def summing(stage: StageDir, files: list[FileEntry], begun: Begun) -> Manifest:
        return manifest_of(names[stage.name], label_of(config.judge), stage, files, begun)

    if mode == "rescore":
        made = [_read_again(work, target, summing) for target in targets]
    else:
        made = several.fill(targets, summing, again)
    return dict(zip(found, made, strict=True))


def _read_again(work: PairWork, target: Target, summing: Summing) -> Manifest:
    kept = Stored(target.home, "compare", _settings(work), target.inputs, target.listed, work.schema)
    return read_again(kept, games_again(work, target.source, target.listed), summing)


def outcomes(config: Compare, run: Run, bout: Bout) -> dict[str, Any]:
    """What the games of one pair on one test set say, by the recipe's rule."""
    from alpagasus_ray.evaluation.statistics import summarize

    stage = run.verdicts(config.name, bout.pair, bout.test_set)
    manifest = stage.finished("compare")
    found = summarize(matches_of(stage, manifest), config.rule)
    return {
        **bout._asdict(),
        "judge": manifest.details["judge"],
        "games": manifest.rows,
        "judged_games": manifest.counts.get(JUDGED, 0),
        **found,
    }


def _settings(work: PairWork) -> dict[str, Any]:
    return settings_of(work.judge, work.rubric, plays_empty=work.plays_empty)


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
