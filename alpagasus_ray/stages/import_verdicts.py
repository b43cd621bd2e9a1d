"""Games from reviews that somebody has: their reviews are read as a judge's replies are, and nothing is asked."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from alpagasus_ray.config import Compare
from alpagasus_ray.data.readers import expand
from alpagasus_ray.data.schema import VERDICTS
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.evaluation.published_reviews import Reviews, read_reviews
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.stages.pair_task import PairWork, both_orders, manifest_of, rubric_identity
from alpagasus_ray.stages.pairs import ROWS_PER_SHARD, Bout, check_told_one_way, lay_out
from alpagasus_ray.store.run import Begun, Manifest, Run, describe, shard_name


def import_games(config: Compare, run: Run, work: PairWork) -> dict[Bout, Manifest]:
    """Games from files: their reviews are read as a judge's replies are."""
    assert config.imported is not None, "the caller has looked"
    files = expand(config.imported.files, "compare.import.files")
    found = read_reviews(config.imported.format, files, config.pairs)
    check_told_one_way(run, config.name, (Bout(one.a, one.b, one.test_set) for one in found))
    inputs = {file.name: file.fingerprint() for file in files}
    settings = {"import": config.imported.format, "rubric": rubric_identity(work.rubric)}
    write = partial(_import_one, config, run, work, Begun(settings=settings, inputs=inputs))
    return {Bout(one.a, one.b, one.test_set): write(one) for one in found}


def _import_one(config: Compare, run: Run, work: PairWork, begun: Begun, found: Reviews) -> Manifest:
    bout = Bout(found.a, found.b, found.test_set)
    stage = run.verdicts(config.name, bout.pair, bout.test_set)
    done = stage.manifest()
    if done is not None:
        stage.same_or_refuse(done, begun.settings, begun.inputs)
        return done
    games = [game for match in found.matches for game in both_orders(match.prompt, match.answer_a, match.answer_b)]
    reviews = [review for match in found.matches for review in (match.ab, match.ba)]
    lay_out(run, bout, Begun(settings={"pair": [bout.a, bout.b]}, inputs=begun.inputs), games)
    stage.begin(begun)
    files = []
    for number, start in enumerate(range(0, len(games), ROWS_PER_SHARD)):
        here = slice(start, start + ROWS_PER_SHARD)
        rows = [_imported(work, game, review) for game, review in zip(games[here], reviews[here], strict=True)]
        written = stage.storage.write_table(shard_name(number), pa.Table.from_pylist(rows, schema=VERDICTS))
        files.append(describe(shard_name(number), written, rows))
    label = f"imported ({begun.settings['import']})"
    manifest = manifest_of((bout.a, bout.b), label, stage, files, begun)
    stage.finish(manifest)
    return manifest


def _imported(work: PairWork, game: Mapping[str, Any], review: str) -> dict[str, Any]:
    return work.result(game, work.request(game), Outcome(Reply(review), None, 0, None))
