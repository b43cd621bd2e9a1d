"""Make one rating of others that the run has (`score.combine`): nothing is asked, and nothing is paid.

The parts' scores stay beside the result, in columns `score_<part>`. What a part has no score for counts by the others; a row
that no part has a score for has none.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import Combine, Score, identity
from alpagasus_ray.data.schema import RATINGS
from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.combine import Combined, beside_held, combine
from alpagasus_ray.evaluation.estimates import Floats
from alpagasus_ray.evaluation.smooth_ratings import nearest, smooth
from alpagasus_ray.judging import parse_rating
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.reporting.judge_material import scores_of
from alpagasus_ray.selection import spread
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, describe

NO_PART = "no part has a score"
UNSCORED: dict[str, Any] = {"attempts": 0, "maybe_billed_twice": 0}


def combine_ratings(config: Score, run: Run) -> Manifest:
    """Make `ratings/<name>/` of other ratings, or return at once when it is made. Raises `UsageError` where a part is not
    there, rates other examples, or is on another scale."""
    how = config.combine
    assert how is not None, "the caller has looked"
    home, examples = run.ratings(config.name), run.examples().finished()
    parts = {name: _part(run, name, config.name) for name in (*how.ratings, *([how.held] if how.held else []))}
    inputs = {"examples": examples.content_hash(), **{f"ratings/{name}": one.content_hash() for name, one in parts.items()}}
    settings = _settings(how, [parts[name] for name in how.ratings])
    if (done := home.made(settings, inputs)) is not None:
        return done
    started = time.monotonic()
    begun = Begun(settings=settings, inputs=inputs)
    home.begin(begun)
    ids = _column(run, examples, "example_id")
    raw = {name: scores_of(run.ratings(name), one, ids) for name, one in parts.items()}
    own = {name: raw[name] for name in how.ratings}
    used = _smoothed(own, _texts(run, examples)) if how.correct == "smooth" else own
    made = _combined(used, how)
    files = [
        _shard(run, config.name, entry, place, (made, own))
        for entry, place in zip(examples.parts(), _places(examples), strict=True)
    ]
    details = {
        "histogram": _histogram(files),
        "judges": made.judges,
        "smoothed": _told_smoothing(run, examples, how, (_combined(own, how), made, raw)),
    }
    begun = begun.model_copy(update={"seconds": time.monotonic() - started})
    manifest = home.build(begun, files, parse_rating.STATUSES, details=details)
    home.finish(manifest)
    return manifest


def _part(run: Run, name: str, own: str) -> Manifest:
    if name == own:
        raise UsageError(f"score.combine names {name!r}, which is score.name itself; give the result a name of its own")
    manifest = run.ratings(name).manifest()
    if manifest is None:
        raise UsageError(f"score.combine: ratings/{name}/ is not finished in this run; make it first, with score.name={name}")
    examples = run.examples().finished().content_hash()
    if manifest.inputs.get("examples") != examples:
        raise UsageError(f"score.combine: ratings/{name}/ rates other examples than this run now holds; rate them again")
    return manifest


def _settings(how: Combine, parts: Sequence[Manifest]) -> dict[str, Any]:
    """What identifies the result besides the parts' own hashes, and the scale that it is on."""
    rubrics = [one.settings.get("rubric", {}) for one in parts]
    scales = {(scale.min, scale.max) for scale in (Scale.model_validate(one.get("scale") or {}) for one in rubrics)}
    if len(scales) > 1:
        told = ", ".join(f"{least:g} to {most:g}" for least, most in sorted(scales))
        raise UsageError(f"score.combine.ratings: the parts are on different scales ({told}); combine those of one scale")
    ((least, most),) = scales
    dimensions = {one.get("dimension") for one in rubrics}
    dimension = dimensions.pop() if len(dimensions) == 1 else None
    scale = {"min": least, "max": most, "step": None}  # a mean of several lies between the steps
    return {"combine": {"by": how.by, **identity(how)}, "rubric": {"dimension": dimension, "scale": scale}}


def _combined(ratings: Mapping[str, Floats], how: Combine) -> Combined:
    if len(ratings) > 1:
        return combine(ratings, how.by)
    ((name, scores),) = ratings.items()
    return Combined(scores, None, (name,), {})


def _smoothed(ratings: Mapping[str, Floats], texts: Sequence[str]) -> dict[str, Floats]:
    space = spread.fit(texts)
    neighbours, similarities = nearest(spread.vectors(space, texts).astype(np.float64))
    return {name: smooth(scores, neighbours, similarities).score for name, scores in ratings.items()}


def _told_smoothing(
    run: Run, examples: Manifest, how: Combine, made: tuple[Combined, Combined, Mapping[str, Floats]]
) -> dict[str, Any] | None:
    """How many rows were changed, and how far raw and smoothed scores agree with the judge that was held out."""
    if how.correct == "none":
        return None
    before, after, raw = made
    changed = int((before.score != after.score).sum() - np.isnan(before.score).sum())
    if how.held is None:
        return {"changed": changed, "held": None, "why_not": "no judge was held out (score.combine.held)"}
    words = np.array([len(text.split()) for text in _column(run, examples, "output")], dtype=np.float64)
    return {"changed": changed, "held": how.held, **beside_held(before.score, after.score, raw[how.held], words)}


def _shard(run: Run, name: str, entry: FileEntry, place: slice, made: tuple[Combined, Mapping[str, Floats]]) -> FileEntry:
    """The ratings of one shard of examples, written."""
    combined, parts = made
    examples = run.examples().table(entry.name, entry.sha256, ["example_id", "content_hash"])
    score = combined.score[place]
    known = [not np.isnan(value) for value in score]
    blank = pa.nulls(len(examples))
    columns = dict.fromkeys(RATINGS.names, blank) | {
        "example_id": examples["example_id"],
        "request_hash": examples["content_hash"],
        "status": pa.array([parse_rating.SCORED if one else parse_rating.FAILED for one in known]),
        "score": _nullable(score),
        "expected_score": blank if combined.expected is None else _nullable(combined.expected[place]),
        "error": pa.array([None if one else NO_PART for one in known], pa.string()),
        **{field: pa.array([value] * len(examples)) for field, value in UNSCORED.items()},
    }
    table = pa.table({field.name: columns[field.name].cast(field.type) for field in RATINGS}, schema=RATINGS)
    for part, values in parts.items():
        table = table.append_column(f"score_{part}", _nullable(values[place]))
    written = run.ratings(name).storage.write_table(entry.name, table)
    return describe(entry.name, written, table.to_pylist())


def _nullable(values: Floats) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)


def _histogram(files: Sequence[FileEntry]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for entry in files:
        for score, rows in entry.histogram.items():
            counted[score] = counted.get(score, 0) + rows
    return {key: counted[key] for key in sorted(counted, key=float)}


def _places(examples: Manifest) -> list[slice]:
    """Where the rows of each shard stand among all."""
    ends = np.cumsum([entry.rows for entry in examples.parts()]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _column(run: Run, examples: Manifest, name: str) -> list[str]:
    return [value for table in run.examples().tables(examples, [name]) for value in table[name].to_pylist()]


def _texts(run: Run, examples: Manifest) -> list[str]:
    fields = ["instruction", "input", "output"]
    return [
        text
        for table in run.examples().tables(examples, fields)
        for text in pc.binary_join_element_wise(*(table[field] for field in fields), "\n").to_pylist()
    ]
