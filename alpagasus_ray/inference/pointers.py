"""The cheaper judge of a cascade: its scores of all rows, which say where the dear one is asked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.config import Cascade
from alpagasus_ray.data.schema import EXAMPLES, conformed
from alpagasus_ray.distill import saved, student
from alpagasus_ray.distill.student import Student
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.raycluster.by_shard import map_shards
from alpagasus_ray.store.run import FileEntry, Manifest, Run, StageDir

Floats = NDArray[np.float64]
ANY = 1e9
"""Beyond all values of a linear model."""
FEATURED = pa.schema([EXAMPLES.field(name) for name in student.SEEN])


@dataclass(frozen=True)
class Pointer:
    """Ratings of the run, a distilled judge of the run, or a small model that is fitted as the cascade goes."""

    run: Run
    listed: Manifest
    """Of the examples."""
    inputs: dict[str, str]
    made: Callable[[], Floats] | None = None
    """Makes the scores of ratings or of a distilled judge."""
    refits: bool = True
    known: tuple[list[pa.Table], list[pa.Table]] = ((), ())  # type: ignore[assignment]
    """Examples and ratings that a distilled judge was fitted on."""
    in_process: bool = False
    bought: tuple[StageDir, Manifest] | None = None
    """Ratings that a judge was asked for a distilled one: where it is the same, it is not asked for them again."""

    @classmethod
    def of(cls, config: Cascade, run: Run, scale: Scale, *, in_process: bool = False) -> "Pointer":
        """The one that a recipe names. `UsageError` where the run has none of that name, or one whose scores cannot stand
        beside the dear judge's, which are on `scale`."""
        listed = run.examples().finished()
        refits = config.first is None or config.refit is not None
        if config.first is None:
            return cls(run, listed, {}, in_process=in_process)
        ratings = run.ratings(config.first).manifest()
        if ratings is not None:
            _check_scale(config.first, ratings.settings.get("rubric", {}).get("scale"), scale)
            _check_examples(config.first, ratings, listed)
            scores = partial(_of_ratings, run, listed, run.ratings(config.first), ratings)
            inputs = {run.ratings(config.first).name: ratings.content_hash()}
            return cls(run, listed, inputs, scores, refits, in_process=in_process)
        if run.judge(config.first).manifest() is None:
            raise UsageError(
                f"score.cascade.first: this run has neither ratings nor a distilled judge of the name {config.first!r}; make "
                "ratings by `alpagasus score RUN` with that score.name, or a judge by `alpagasus distill RUN` with that "
                "distill.name"
            )
        own = saved.of_run(run, config.first)
        _check_scale(config.first, own.student.scale.model_dump(), scale)
        scores = partial(expected_scores, own.student, run.examples(), listed, in_process=in_process)
        labels = run.judge(config.first, "labels")
        asked = labels.manifest()
        known = _labels(run, config.first)
        return cls(run, listed, own.inputs, scores, refits, known, in_process, (labels, asked) if asked else None)

    @cached_property
    def fixed(self) -> Floats | None:
        """Scores that are there, made when they are first looked at; None where there is only a small model to be fitted."""
        return self.made and self.made()

    def prepare(self) -> None:
        """Make the scores that are fixed, so that what is wrong with them is told before anything is asked."""
        _ = self.fixed

    def scores(
        self, examples: Sequence[pa.Table], ratings: Sequence[pa.Table], scale: Scale, *, for_order: bool = False
    ) -> Floats:
        """The score of each row, from ratings that the dear judge has given; fixed ones until there are enough to fit.
        `for_order` leaves out what they would be on the judge's scale, which takes five times as long."""
        pairs = [*self.known[0], *examples], [*self.known[1], *ratings]
        labels = sum(len(table) - table["score"].null_count for table in pairs[1])
        if self.fixed is not None and (not self.refits or labels < student.FEWEST_LABELS):
            return self.fixed
        featured = pa.concat_tables(conformed(table, FEATURED) for table in pairs[0])
        rated = pa.concat_tables(pairs[1])
        labelled = student.labels(featured, rated)
        if for_order:
            linear = student.fit_linear(labelled)
            fitted = Student(linear, 0.0, 1.0, Scale(min=-ANY, max=ANY, step=None))
        else:
            fitted, _ = student.fit(labelled, scale, student.ROUGH_TOLERANCE)
        return expected_scores(fitted, self.run.examples(), self.listed, in_process=self.in_process)


def _check_scale(name: str, own: Mapping[str, Any] | None, scale: Scale) -> None:
    """Refuse scores on another scale: they stand for rows that nobody is asked about, beside the dear judge's."""
    if own is None or (own["min"], own["max"]) != (scale.min, scale.max):
        there = "an unknown one" if own is None else str(Scale.model_validate(own))
        raise UsageError(
            f"score.cascade.first: the scores of {name!r} are on a scale of {there}, and the judge's on one of {scale}; rate "
            "by the same rubric under another score.name, or leave `first` out"
        )


def _check_examples(name: str, ratings: Manifest, listed: Manifest) -> None:
    if ratings.inputs.get("examples") != listed.content_hash():
        raise UsageError(
            f"score.cascade.first: {name!r} rates other examples than this run now holds (examples/ was made anew since); rate "
            "them again under another score.name, and name that"
        )


def expected_scores(fitted: Student, source: StageDir, listed: Manifest, *, in_process: bool = False) -> Floats:
    """A distilled judge's expected score of each row of a stage, in order."""
    every, start = np.empty(listed.rows), 0
    for part in map_shards(partial(_expected, fitted), source, listed, in_process=in_process):
        every[start : start + len(part)] = part
        start += len(part)
    return every


def _expected(fitted: Student, source: StageDir, entry: FileEntry) -> Floats:
    return fitted.score_table(source.table(entry.name, entry.sha256, ["instruction", "input", "output"]))[1]


def _of_ratings(run: Run, listed: Manifest, rated: StageDir, ratings: Manifest) -> Floats:
    """Expected score, or score, of each example. `StageFailed` where the ratings are of other examples."""
    every, start = np.empty(listed.rows), 0
    tables = zip(
        rated.tables(ratings, ["example_id", *student.RATED[1:]]), run.examples().tables(listed, ["example_id"]), strict=False
    )
    for own, examples in tables:
        if not own["example_id"].equals(examples["example_id"]):
            raise StageFailed(f"{rated.name}: its example ids are not those of examples/; rate them again under another name")
        target: Any = pc.coalesce(own["expected_score"], own["score"])
        every[start : start + len(own)] = pc.fill_null(target, np.nan).to_numpy()
        start += len(own)
    if start != listed.rows:
        raise StageFailed(f"{rated.name} has {start:,} rows, and there are {listed.rows:,} examples; rate them again")
    return every


def _labels(run: Run, name: str) -> tuple[list[pa.Table], list[pa.Table]]:
    """What the judge was asked for a distilled judge, where `distill.labels` did so."""
    rows, labels = run.judge(name, "rows"), run.judge(name, "labels")
    listed, ratings = rows.manifest(), labels.manifest()
    if listed is None or ratings is None:
        return [], []
    return list(rows.tables(listed, list(student.SEEN))), list(labels.tables(ratings, list(student.RATED)))
