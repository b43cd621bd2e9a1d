"""Let a judge compare models' answers, every pair in both orders; or take the games from reviews that exist."""

from typing import Any, Literal

from alpagasus_ray.config import Compare
from alpagasus_ray.datasets.run import Begun, FileEntry, Manifest, Run, StageDir
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging import pairs as rubrics
from alpagasus_ray.judging.verdict import JUDGED
from alpagasus_ray.stages import asking
from alpagasus_ray.stages.games import AGAIN, GOOD, PairWork, label_of, manifest_of, settings_of
from alpagasus_ray.stages.imported_games import import_games
from alpagasus_ray.stages.pairing import Bout, bouts, pair_up
from alpagasus_ray.stages.several import Several, Target
from alpagasus_ray.stages.verdicts import matches_of

Mode = Literal["compare", "retry-failed"]


def compare(config: Compare, run: Run, mode: Mode = "compare") -> dict[Bout, Manifest]:
    """Make `verdicts/<a>-vs-<b>/<test set>/` for every pair and test set; those that are made already are left as they are,
    but for games without a verdict under `retry-failed`."""
    config = config.model_copy(update={"judge": asking.with_template(config.judge)})
    work = PairWork(config.judge, rubrics.load(config.judge.rubric))
    if config.imported is not None:
        if mode == "retry-failed":
            raise UsageError("--retry-failed asks a judge again, and the games of `compare.import` come from files")
        return import_games(config, run, work)
    _check(config)
    found = list(bouts(config, run))
    listed = [pair_up(run, bout) for bout in found]
    home = run.verdicts(config.name)
    several = Several("compare", config, config.judge, work, settings_of(config.judge, work.rubric), home, GOOD)
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

    made = several.fill(targets, summing, AGAIN if mode == "retry-failed" else ())
    return dict(zip(found, made, strict=True))


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
