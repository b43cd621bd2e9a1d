"""Games from reviews that somebody has: their reviews are read as a judge's replies are, and nothing is asked."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from alpagasus_ray.config import Compare
from alpagasus_ray.data.readers import expand
from alpagasus_ray.data.schema import VERDICTS
from alpagasus_ray.evaluation.published_reviews import Reviews, read_reviews
from alpagasus_ray.inference.stage import Target
from alpagasus_ray.stages.pair_task import PairTask, both_orders
from alpagasus_ray.stages.pairs import ROWS_PER_SHARD, Bout, check_told_one_way, lay_out
from alpagasus_ray.store.reply import Outcome, Reply
from alpagasus_ray.store.run import Begun, Manifest, Run, describe, shard_name


def import_games(config: Compare, run: Run, task: PairTask) -> dict[Bout, Manifest]:
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
