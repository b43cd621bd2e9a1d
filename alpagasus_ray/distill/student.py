"""A distilled judge: a linear model of a judge's scores, fitted on some of its ratings, that scores all other rows for nothing.

Ridge regression on the features of `features.py`. Its weights are kept in whole steps far below what matters to a score and far
above what processors and linear algebra libraries differ by: equal ratings make equal files. Knows nothing of runs and stages.
"""

from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.distill import features
from alpagasus_ray.distill.features import Block
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.selection.draws import seeded_hashes

Floats = NDArray[np.float64]

PENALTY = 1.0
"""Of the ridge. Between 0.3 and 3 it moves the precision on Alpaca by less than .01."""
FOLDS = 5
FEWEST_LABELS = 50
SEEN = ("example_id", "instruction", "input", "output", "category")
"""Columns of examples that a student is fitted on."""
RATED = ("example_id", "score", "expected_score")
"""Columns of ratings that it is fitted on."""
STEP = 2.0**-12
"""Of the weights of words: a score is off by less than .0001 for it."""
FINE_STEP = 2.0**-20
"""Of the few other numbers."""
TOLERANCE, ROUGH_TOLERANCE = 1e-12, 1e-5
"""Of the solver: where the weights are kept, and where they serve only to say how good a student is."""


class Labels(NamedTuple):
    """Examples that a judge has scored, in an order that does not depend on the order of reading."""

    ids: Sequence[str]
    matrix: Any
    """scipy CSR (labels, 2 * `features.COLUMNS`) of the hashed words."""
    plain: Floats
    """(labels, len(`features.PLAIN`))"""
    scores: Floats
    length: Floats
    """Of the output, in words."""
    category: Sequence[str]

    def rows(self, chosen: NDArray[np.int64]) -> "Labels":
        """Some of the labels."""
        ids, category = ([column[row] for row in chosen.tolist()] for column in (self.ids, self.category))
        return Labels(ids, self.matrix[chosen], self.plain[chosen], self.scores[chosen], self.length[chosen], category)


class Linear(NamedTuple):
    """Weights of one fit."""

    words: Floats
    """(2 * `features.COLUMNS`,)"""
    plain: Floats
    constant: float

    def of_labels(self, labels: Labels) -> Floats:
        return np.asarray(labels.matrix @ self.words) + self._rest(labels.plain)

    def of_block(self, block: Block) -> Floats:
        # bincount adds in the order of the rows, whatever the processor
        by_words = np.bincount(block.rows, self.words[block.columns] * block.weights, minlength=len(block.plain))
        return by_words + self._rest(block.plain)

    def _rest(self, plain: Floats) -> Floats:
        total = np.full(len(plain), self.constant)
        for column, weight in enumerate(self.plain):
            total += plain[:, column] * weight
        return total


class Student(NamedTuple):
    """A judge distilled: the expected score is `offset + slope * linear`, within the scale."""

    linear: Linear
    offset: float
    slope: float
    scale: Scale

    def expected(self, block: Block) -> Floats:
        """The score that the judge can be expected to give, for each row of a block: between the scale's steps too."""
        return self.on_scale(self.linear.of_block(block))

    def on_scale(self, values: Floats) -> Floats:
        """Expected scores from values of the linear model."""
        return np.clip(self.offset + self.slope * values, self.scale.min, self.scale.max)

    def reading(self, text: str) -> dict[str, float]:
        """`score` and `expected_score` of a reply, which is an expected score as text."""
        expected = float(text)
        return {"score": float(on_steps(np.array([expected]), self.scale)[0]), "expected_score": expected}

    def score_table(self, examples: pa.Table) -> tuple[Floats, Floats]:
        """Score (the nearest on the scale) and expected score of each example; needs `instruction`, `input` and `output`."""
        parts = [self.expected(block) for block in features.blocks(examples)]
        expected = np.concatenate(parts) if parts else np.empty(0)
        return on_steps(expected, self.scale), expected


def on_steps(expected: Floats, scale: Scale) -> Floats:
    """The nearest scores that the scale has."""
    if scale.step is None:
        return expected
    most = np.floor((scale.max - scale.min) / scale.step + 1e-9)
    return scale.min + np.clip(np.floor((expected - scale.min) / scale.step + 0.5), 0, most) * scale.step


def labels(examples: pa.Table, ratings: pa.Table, seed: int = 0) -> Labels:
    """The rated ones among examples. Ratings may cover any part of them; what has no score is no label.

    The judge's expected score, where it has one, says more than the score it wrote, and takes its place.
    """
    scored = ratings.filter(pc.is_valid(ratings["score"]))
    target = scored["score"]
    if "expected_score" in scored.column_names:
        target = pc.coalesce(scored["expected_score"], target)
    by_id = dict(zip(scored["example_id"].to_pylist(), target.to_pylist(), strict=True))
    ids = np.array(examples["example_id"].to_pylist(), dtype=object)
    rated = np.flatnonzero([example_id in by_id for example_id in ids])
    if len(rated) < FEWEST_LABELS:
        raise UsageError(
            f"distill.ratings: only {len(rated)} of these ratings have a score and an example; a student needs "
            f"{FEWEST_LABELS}, and 1,000 to be of use. Set `distill.labels`, so that the judge is asked first"
        )
    order = rated[np.argsort(seeded_hashes(ids[rated].tolist(), "folds", seed), kind="stable")]
    taken = examples.take(order)
    scores = np.array([by_id[example_id] for example_id in ids[order]], dtype=np.float64)
    return of_table(taken, scores)


def of_table(examples: pa.Table, scores: Floats) -> Labels:
    """Labels of a table of examples and their scores, in that order."""
    from scipy import sparse

    rows, columns, weights, plain = [], [], [], []
    for number, block in enumerate(features.blocks(examples)):
        rows.append(block.rows + number * features.BLOCK)
        columns.append(block.columns)
        weights.append(block.weights)
        plain.append(block.plain)
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    matrix = sparse.csr_matrix(entries, shape=(len(examples), 2 * features.COLUMNS))
    every_plain = np.concatenate(plain)
    length = every_plain[:, features.PLAIN.index("output words")] ** 2
    names = examples.column_names
    category = examples["category"].to_pylist() if "category" in names else [None] * len(examples)
    ids = examples["example_id"].to_pylist() if "example_id" in names else [str(row) for row in range(len(examples))]
    return Labels(ids, matrix, every_plain, scores, length, [name or "" for name in category])


def fit_linear(labels: Labels, tolerance: float = ROUGH_TOLERANCE) -> Linear:
    """Ridge regression of the scores on the features, all plain ones on one scale."""
    from scipy import sparse
    from sklearn.linear_model import Ridge

    seen = np.unique(labels.matrix.indices)  # a column that no label has would get a weight of zero
    mean, spread = labels.plain.mean(axis=0), labels.plain.std(axis=0)
    spread[spread < 1e-9] = 1.0
    scaled = (labels.plain - mean) / spread
    matrix = sparse.hstack([labels.matrix[:, seen], sparse.csr_matrix(scaled)]).tocsr()
    model = Ridge(alpha=PENALTY, solver="sparse_cg", tol=tolerance, max_iter=10_000).fit(matrix, labels.scores)
    weights = np.zeros(2 * features.COLUMNS)
    weights[seen] = model.coef_[: len(seen)]
    plain = model.coef_[len(seen) :] / spread
    return Linear(weights, plain, float(model.intercept_ - (plain * mean).sum()))


def out_of_fold(labels: Labels, size: int | None = None, tolerance: float = ROUGH_TOLERANCE) -> Floats:
    """For each label the value of a model fitted on other folds; where `size` is given, on their first `size` labels only."""
    folds = fold_of(len(labels.scores))
    values = np.empty(len(labels.scores))
    for fold in range(FOLDS):
        others = np.flatnonzero(folds != fold)[:size]
        rest = np.flatnonzero(folds == fold)
        values[rest] = fit_linear(labels.rows(others), tolerance).of_labels(labels.rows(rest))
    return values


def fold_of(count: int) -> NDArray[np.int64]:
    """The fold of each label: they lie in the order of a hash, so one after the other is as good as at random."""
    return np.arange(count) % FOLDS


def fit(labels: Labels, scale: Scale, tolerance: float = TOLERANCE) -> tuple[Student, Floats]:
    """A student fitted on all labels, and for each label what a student would expect that has not seen it."""
    values = out_of_fold(labels, tolerance=tolerance)
    offset, slope = _line(values, labels.scores)
    linear = fit_linear(labels, tolerance)
    kept = Linear(_stepped(linear.words, STEP), _stepped(linear.plain, FINE_STEP), float(_stepped(linear.constant, FINE_STEP)))
    student = Student(kept, float(_stepped(offset, FINE_STEP)), float(_stepped(slope, FINE_STEP)), scale)
    return student, student.on_scale(values)


def _line(values: Floats, scores: Floats) -> tuple[float, float]:
    """Least squares of the scores on the values: a ridge draws its values towards the mean."""
    centred = values - values.mean()
    power = float((centred * centred).sum())
    slope = float((centred * scores).sum()) / power if power > 0 else 0.0
    return float(scores.mean()) - slope * float(values.mean()), slope


def _stepped(values: Any, step: float) -> Any:
    return np.round(values / step) * step


def save(student: Student, path: str | IO[bytes]) -> None:
    """Write a student to a file, by its path or opened: arrays only, nothing that runs code when it is read."""
    steps = np.round(student.linear.words / STEP).astype(np.int32)
    used = np.flatnonzero(steps)
    scale = student.scale
    np.savez(
        path,
        version=np.array([features.VERSION], dtype=np.int32),
        columns=used.astype(np.uint32),
        steps=steps[used],
        plain=student.linear.plain,
        constants=np.array([student.linear.constant, student.offset, student.slope]),
        scale=np.array([scale.min, scale.max, np.nan if scale.step is None else scale.step]),
    )


def load(path: str | IO[bytes], name: str | None = None) -> Student:
    """Read what `save` has written; messages call it `name`. Raises `UsageError` for features of another version."""
    with np.load(path, allow_pickle=False) as file:
        version = int(file["version"][0])
        if version != features.VERSION:
            raise UsageError(
                f"{name or path}: the student was fitted on features {version}, and here are {features.VERSION}: distil again"
            )
        words = np.zeros(2 * features.COLUMNS)
        words[file["columns"]] = file["steps"] * STEP
        constant, offset, slope = map(float, file["constants"])
        low, high, step = map(float, file["scale"])
        linear = Linear(words, file["plain"], constant)
    return Student(linear, offset, slope, Scale(min=low, max=high, step=None if np.isnan(step) else step))
