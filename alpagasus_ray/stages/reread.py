"""Read the stored replies of ratings again, with another scale or a newer parser; sends nothing."""

import time
from typing import Any

import orjson
import pyarrow as pa

from alpagasus_ray.datasets.lease import latest_parts
from alpagasus_ray.datasets.run import Begun, FileEntry, Manifest, StageDir, describe
from alpagasus_ray.datasets.schema import RATINGS
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging import rating
from alpagasus_ray.stages import asking
from alpagasus_ray.stages.ratings import ScoreWork, manifest_of


def reread(work: ScoreWork, stage: StageDir, settings: dict[str, Any], examples: Manifest, inputs: dict[str, str]) -> Manifest:
    """Read all stored replies again, in place: while it lasts there is no manifest, and `stage.json` says why."""
    done = stage.manifest()
    begun = stage.begun()
    if done is not None:
        begun = Begun(settings=done.settings, inputs=done.inputs, seconds=done.seconds, asked_scale=done.details["asked_scale"])
    elif begun is None or not begun.rescoring:
        raise UsageError(
            f"{stage.name}/ is not finished in this run, so there is nothing to read again; run jobs/score.py first"
        )
    # all but the scale has to be what it was
    same_scale = {**settings, "rubric": {**settings["rubric"], "scale": begun.settings["rubric"]["scale"]}}
    stage.same_or_refuse(begun, same_scale, inputs)
    started = time.monotonic()
    begun = begun.model_copy(update={"settings": settings, "rescoring": True})
    stage.begin(begun)
    stage.reopen()
    latest = latest_parts(stage.storage.names())
    files = [_read_again(work, stage, latest[entry.shard]) for entry in examples.parts()]
    manifest = manifest_of(stage, files, begun.model_copy(update={"seconds": begun.seconds + time.monotonic() - started}))
    asking.check_rows(manifest, examples)
    stage.finish(manifest)
    return manifest


def _read_again(work: ScoreWork, stage: StageDir, name: str) -> FileEntry:
    rows = stage.storage.read_table(name).to_pylist()
    for row in rows:
        if row["reply"] is not None:
            reading = rating.read(row["reply"], row["finish_reason"] or "stop", work.scale)
            logprobs = orjson.loads(row["logprobs"]) if row.get("logprobs") else None
            row.update(status=reading.status, score=reading.score, error=reading.error, **work.expected(logprobs))
    written = stage.storage.write_table(name, pa.Table.from_pylist(rows, schema=RATINGS))
    return describe(name, written, rows)
