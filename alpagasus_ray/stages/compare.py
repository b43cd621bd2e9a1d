"""Let a judge compare models' answers, every pair in both orders; or take the games from reviews that exist."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from alpagasus_ray.config import Compare
from alpagasus_ray.data.readers import expand
from alpagasus_ray.data.schema import VERDICTS
from alpagasus_ray.engines.identity import with_template
from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.published_reviews import Reviews, read_reviews
from alpagasus_ray.inference.reread import read_again
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.stage import InferenceStage, Mode, Target
from alpagasus_ray.inference.tasks.pair import AGAIN, GOOD, PairTask
from alpagasus_ray.judging import pair_rubric as rubrics
from alpagasus_ray.judging.pairs import ROWS_PER_SHARD, Bout, both_orders, bouts, check_told_one_way, lay_out, pair_up
from alpagasus_ray.judging.parse_verdict import JUDGED
from alpagasus_ray.reporting.verdicts import matches_of
from alpagasus_ray.store.reply import Outcome, Reply
from alpagasus_ray.store.run import Begun, Manifest, Run, describe, shard_name


def compare(config: Compare, run: Run, mode: Mode = "fill", again: Sequence[str] = AGAIN) -> dict[Bout, Manifest]:
    """Make `verdicts/<a>-vs-<b>/<test set>/` for every pair and test set; those that are made already are left as they are, but
    under `retry-failed` for the games with a status of `again`. `rescore` reads their stored reviews again and sends
    nothing."""
    if config.imported is not None:
        if mode == "retry-failed":
            raise UsageError("--retry-failed asks a judge again, and the games of `compare.import` come from files")
        if mode == "rescore":
            raise UsageError("--rescore reads what a judge replied, and the games of `compare.import` come from files")
        return _import_games(config, run, _task(config))
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
        made = [read_again(task, target) for target in targets]
    else:
        made = InferenceStage("compare", spec, task, run.verdicts(config.name)).fill(targets)
    return dict(zip(chosen, made, strict=True))


def _task(config: Compare, longest: int | None = None) -> PairTask:
    judge = with_template(config.judge)
    if config.imported is not None:  # games of others were played as they were
        return PairTask(judge, rubrics.load(judge.rubric), plays_empty=True, imported=config.imported.format)
    return PairTask(judge, rubrics.load(judge.rubric), config.empty_answers == "play", longest)


def _import_games(config: Compare, run: Run, task: PairTask) -> dict[Bout, Manifest]:
    """Games from files: their reviews are read as a judge's replies are."""
    assert config.imported is not None, "the caller has looked"
    files = expand(config.imported.files, "compare.import.files")
    reviews = read_reviews(config.imported.format, files, config.pairs)
    check_told_one_way(run, config.name, (Bout(one.a, one.b, one.test_set) for one in reviews))
    begun = Begun(settings=task.settings, inputs={file.name: file.fingerprint() for file in files})
    write = partial(_import_one, config, run, task, begun)
    return {Bout(one.a, one.b, one.test_set): write(one) for one in reviews}


def _import_one(config: Compare, run: Run, task: PairTask, begun: Begun, reviews: Reviews) -> Manifest:
    bout = Bout(reviews.a, reviews.b, reviews.test_set)
    stage = run.verdicts(config.name, bout.pair, bout.test_set)
    done = stage.made(begun.settings, begun.inputs)
    if done is not None:
        return done
    games = [game for match in reviews.matches for game in both_orders(match.prompt, match.answer_a, match.answer_b)]
    texts = [review for match in reviews.matches for review in (match.ab, match.ba)]
    pairs = lay_out(run, bout, Begun(settings={"pair": [bout.a, bout.b]}, inputs=begun.inputs), games)
    stage.begin(begun)
    files = []
    for number, start in enumerate(range(0, len(games), ROWS_PER_SHARD)):
        shard = slice(start, start + ROWS_PER_SHARD)
        rows = [_imported(task, game, text) for game, text in zip(games[shard], texts[shard], strict=True)]
        written = stage.storage.write_table(shard_name(number), pa.Table.from_pylist(rows, schema=VERDICTS))
        files.append(describe(shard_name(number), written, rows))
    manifest = task.manifest(Target(stage, run.pairs(*bout), pairs, begun.inputs), files, begun)
    stage.finish(manifest)
    return manifest


def _imported(task: PairTask, game: Mapping[str, Any], review: str) -> dict[str, Any]:
    return task.result(game, task.request(game), Outcome(Reply(review), None, 0, None))


def outcomes(config: Compare, run: Run, bout: Bout) -> dict[str, Any]:
    """What the games of one pair on one test set say, by the recipe's rule."""
    from alpagasus_ray.evaluation.statistics import summarize

    stage = run.verdicts(config.name, bout.pair, bout.test_set)
    manifest = stage.finished()
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
