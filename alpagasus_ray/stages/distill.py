"""Fit a small model of a judge on its ratings, and say how far it can be trusted; ask the judge for the ratings first if told.

It writes `judges/<name>/`: `model.npz`, `fit.json` and a manifest. With `labels` the drawn rows and the judge's ratings of them
stay beside these, in `rows/` and `labels/`.
"""

import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import Distill, Score, identity
from alpagasus_ray.data.schema import EXAMPLES, conformed
from alpagasus_ray.distill import student
from alpagasus_ray.distill.fit_report import fit_report, in_words
from alpagasus_ray.distill.saved import FIT, MODEL
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import row_sets
from alpagasus_ray.inference.stage import Target
from alpagasus_ray.inference.tasks.rating import check_model, prepare
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.selection.draws import seeded_hashes
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir

MOST_LABELS = 50_000
"""Ratings that a student is fitted on: more bring little, and a fit holds all their words in memory."""
FEATURED = pa.schema([EXAMPLES.field(name) for name in student.SEEN])


def distill(config: Distill, scored: Score, run: Run, *, in_process: bool = False) -> Manifest:
    """Make `judges/<name>/` of the run, or return at once when it is made. `scored` says whom `labels` asks, how fast and for
    how much. `UsageError` where there are too few ratings to learn from; what asking raises is that of `score`."""
    home, examples = run.judge(config.name), run.examples().finished()
    if config.labels is None:
        source, rated = run.examples(), run.ratings(config.ratings)
        listed, ratings = examples, rated.finished()
        if ratings.inputs.get("examples") != examples.content_hash():
            raise UsageError(
                f"distill.ratings: {rated.name}/ rates other examples than this run now holds (examples/ was made anew since); "
                "rate them again under another score.name"
            )
    else:
        source, listed, rated, ratings = _labelled(config, scored, run, in_process=in_process)
    settings = {"distill": identity(config)}
    inputs = {source.name: listed.content_hash(), rated.name: ratings.content_hash()}
    made = home.made(settings, inputs)
    return made or _fit(config, home, Begun(settings=settings, inputs=inputs), _pairs(source, listed, rated, ratings), ratings)


def _labelled(config: Distill, scored: Score, run: Run, *, in_process: bool) -> tuple[StageDir, Manifest, StageDir, Manifest]:
    """Draw rows from the whole dataset, and ask the judge about them."""
    assert config.labels is not None, "the caller has looked"
    check_model(scored.judge)
    if scored.judge.kind == "distilled":
        raise UsageError("distill.labels asks the judge of `score.judge`, which is a distilled one itself; name another")
    stage, _, target = prepare(scored.model_copy(update={"limit": None}), run)
    hashes = row_sets.hashes_of(target.source, target.listed, "labels", config.seed)
    rows, labels = run.judge(config.name, "rows"), run.judge(config.name, "labels")
    settings = {"labels": config.labels, "seed": config.seed}
    listed = row_sets.write(target.source, target.listed, rows, row_sets.drawn(hashes, config.labels), settings)
    inputs = {name: print_ for name, print_ in target.inputs.items() if name != target.source.name}
    asked = replace(Target.of(labels, rows, listed, inputs), asked_scale=target.asked_scale)
    [manifest] = replace(stage, label="distill", home=labels, in_process=in_process).fill([asked])
    return rows, listed, labels, manifest


def _pairs(source: StageDir, listed: Manifest, rated: StageDir, ratings: Manifest) -> tuple[pa.Table, pa.Table]:
    """The rated examples, and their ratings: at most `MOST_LABELS`, drawn from all of them."""
    parts = [table.filter(pc.is_valid(table["score"])) for table in rated.tables(ratings, list(student.RATED))]
    scores = pa.concat_tables(parts) if parts else pa.table({name: [] for name in student.RATED})
    if len(scores) > MOST_LABELS:
        order = seeded_hashes(scores["example_id"].to_pylist(), "most labels", 0)
        scores = scores.take(np.sort(np.argsort(order, kind="stable")[:MOST_LABELS]))
    return pa.concat_tables(_rated(source, listed, scores["example_id"])), scores


def _rated(source: StageDir, listed: Manifest, ids: pa.ChunkedArray) -> Iterator[pa.Table]:
    yield FEATURED.empty_table()
    wanted = ids.combine_chunks()
    for table in source.tables(listed, list(student.SEEN)):
        rows = conformed(table, FEATURED)
        yield rows.filter(pc.is_in(rows["example_id"], value_set=wanted))


def _fit(config: Distill, home: StageDir, begun: Begun, pairs: tuple[pa.Table, pa.Table], ratings: Manifest) -> Manifest:
    started = time.monotonic()
    scale = Scale.model_validate(ratings.settings["rubric"]["scale"])
    labels = student.labels(*pairs)
    home.begin(begun)
    fitted, expected = student.fit(labels, scale)
    cut = scale.min + 0.9 * (scale.max - scale.min) if config.cut is None else config.cut
    report = fit_report(labels, expected, cut)
    arrays = io.BytesIO()
    student.save(fitted, arrays)
    content = {MODEL: arrays.getvalue(), FIT: json.dumps(report, indent=2, ensure_ascii=False).encode()}
    files = [FileEntry(name=name, rows=0, **home.storage.write(name, data)._asdict()) for name, data in content.items()]
    begun = begun.model_copy(update={"seconds": time.monotonic() - started})
    manifest = home.build(begun, files, details={"fit": report, "judge": ratings.settings.get("judge")})
    manifest = manifest.model_copy(update={"rows": len(labels.scores), "counts": {"labels": len(labels.scores)}})
    home.finish(manifest)
    return manifest


def summary(home: StageDir, manifest: Manifest) -> dict[str, Any]:
    """What the job prints at its end."""
    return {
        "stage": manifest.stage,
        "location": home.storage.root,
        "rows": manifest.rows,
        "counts": manifest.counts,
        "seconds": round(manifest.seconds, 2),
        "files": {"model": home.storage.path(MODEL), "fit": home.storage.path(FIT)},
        "fit": manifest.details["fit"],
        "notes": in_words(manifest.details["fit"]),
    }
