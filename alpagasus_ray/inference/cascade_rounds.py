"""Ratings by a cascade: round after round a judge is asked about the rows where a cheaper one points.

`rounds/` in the directory of the ratings holds each round's rows and the judge's ratings of them, and `rounds.json` says how
the rounds were drawn; both are written before a request of the round leaves, so that whoever goes on after a crash asks about
the same rows. Which rows a round has is `distill/cascade.py`'s to say, how all ratings are put together at the end
`cascade_end.py`'s.
"""

import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.config import Cascade, identity
from alpagasus_ray.distill import cascade, student
from alpagasus_ray.distill.cascade import Pool, Round, Settings, State
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import row_sets
from alpagasus_ray.inference.backlog import ROUNDS, round_part
from alpagasus_ray.inference.cascade_end import Ended, finish
from alpagasus_ray.inference.pointers import Pointer
from alpagasus_ray.inference.shared_replies import lend_finished
from alpagasus_ray.inference.stage import InferenceStage, StageTask, Target, begin
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.store.run import Manifest
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.terminal import say

ROUNDS_JSON, STATE_FILE = "rounds.json", "state.npz"
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass
class Course:
    """How far a cascade is."""

    rounds: list[Round]
    numbers: list[Indices]
    """Of each round, the rows that the judge is asked about in it."""
    state: State
    score: Floats
    """What the judge said of each row of the dataset; NaN where it was not asked, or gave no score."""
    asked: list[Target] = field(default_factory=list)
    done: list[Manifest] = field(default_factory=list)


@dataclass(frozen=True)
class Rounds:
    """A cascade in its directory."""

    config: Cascade
    stage: InferenceStage
    task: StageTask
    target: Target
    """All examples, and the directory of the ratings."""
    pointer: Pointer
    scale: Scale

    @property
    def cut(self) -> float:
        """The score from which on the judge keeps a row."""
        return self.scale.min + 0.9 * (self.scale.max - self.scale.min) if self.config.cut is None else self.config.cut

    def fill(self) -> Manifest:
        """Make the ratings, or go on, or return at once. Raises what asking raises."""
        home, settings = self.target.home, self.task.settings | {"cascade": identity(self.config)}
        inputs = {**self.target.inputs, **self.pointer.inputs}
        made = home.made(settings, inputs)
        if made is not None:
            home.storage.at(ROUNDS).delete_tree()
            return made
        rows = self._pool()
        first = cascade.opening(rows, self._how_much)
        labels = sum(turn.rows for turn in first if turn.kind == "labels")
        if self.config.first is None and labels < student.FEWEST_LABELS:
            raise UsageError(
                f"score.cascade: the first model would be fitted on {labels} rows, and needs {student.FEWEST_LABELS}; "
                "raise `labels` and `refit`, name a `first` judge, or rate all rows"
            )
        self.pointer.prepare()
        begun = begin(home, settings, inputs, self.target.asked_scale)
        course = self._stored(rows)
        for turn in first[len(course.rounds) :]:  # what is drawn at random; a call may have stopped between two of them
            self._add(rows, course, turn, np.empty(0))
        while True:
            self._ask(course)
            scores = self._scores(course, for_order=True)
            following = self._following(rows, course, scores, len(first))
            if following is None:
                break
            self._add(rows, course, following, scores)
        scores = self._scores(course)
        ended = Ended(course.state, course.numbers, course.done, [one.home for one in course.asked], scores, course.score)
        manifest = finish(self.task, self.target, begun, ended, self.cut)
        home.storage.at(ROUNDS).delete_tree()
        return manifest

    @property
    def _how_much(self) -> Settings:
        own = self.config
        refit = own.refit or (1.0 if own.first else 0.1)
        return Settings(own.share, refit, own.audit, 0 if own.first else own.labels, own.seed)

    def _pool(self) -> Pool:
        source, listed, seed = self.target.source, self.target.listed, self.config.seed
        return Pool(*(row_sets.hashes_of(source, listed, purpose, seed) for purpose in ("cascade", "cascade ties")))

    # rounds

    def _stored(self, rows: Pool) -> Course:
        """As far as earlier calls have come."""
        storage, state, numbers = self.target.home.storage, cascade.beginning(rows), []
        rounds = cascade.from_json(storage.read(ROUNDS_JSON).decode()) if storage.exists(ROUNDS_JSON) else []
        for number in range(len(rounds)):
            before, state = state, _unpacked(_of_round(storage, number).read(STATE_FILE), len(rows.draws))
            numbers.append(np.flatnonzero(state.asked & ~before.asked))
        return Course(rounds, numbers, state, np.full(len(rows.draws), np.nan))

    def _add(self, rows: Pool, course: Course, turn: Round, scores: Floats) -> None:
        """Write a round down: first its rows, then that it is one."""
        storage, before = self.target.home.storage, course.state
        course.state = cascade.advance(rows, before, turn, scores)
        _of_round(storage, len(course.rounds)).write(STATE_FILE, _packed(course.state))
        course.rounds.append(turn)
        course.numbers.append(np.flatnonzero(course.state.asked & ~before.asked))
        storage.write(ROUNDS_JSON, cascade.to_json(course.rounds).encode())

    def _ask(self, course: Course) -> None:
        """Ask the judge about the rounds that were not asked about, one at a time: a batch API takes no two directories."""
        for number in range(len(course.asked), len(course.rounds)):
            rows, turn = course.numbers[number], course.rounds[number]
            course.asked.append(self._target(number, rows))
            if self.pointer.bought:
                lend_finished(self.stage, course.asked[number], *self.pointer.bought)
            say(f"cascade, round {number + 1}: {len(rows):,} rows ({turn.kind})")
            course.done = self.stage.fill(course.asked)
            ratings, manifest = course.asked[number].home, course.done[number]
            columns = [table["score"] for table in ratings.tables(manifest, ["score"])]
            course.score[rows] = np.concatenate([pc.fill_null(column, np.nan).to_numpy() for column in columns])

    def _target(self, number: int, numbers: Indices) -> Target:
        """What the judge is asked in a round."""
        home = self.target.home
        rows, ratings = (round_part(home, f"{number:02d}", part) for part in ("rows", "ratings"))
        chosen = np.zeros(self.target.listed.rows, dtype=bool)
        chosen[numbers] = True
        settings = {"cascade": identity(self.config), "round": number}
        listed = row_sets.write(self.target.source, self.target.listed, rows, chosen, settings)
        others = {name: value for name, value in self.target.inputs.items() if name != self.target.source.name}
        return replace(Target.of(ratings, rows, listed, others), asked_scale=self.target.asked_scale)

    def _following(self, rows: Pool, course: Course, scores: Floats, drawn: int) -> Round | None:
        if self.config.band is None:
            return cascade.best_round(rows, course.state, scores, self._how_much)
        # which share is kept is known from the rows that were drawn at random and have a score
        drawn_scores = course.score[np.concatenate(course.numbers[:drawn])]
        drawn_scores = drawn_scores[~np.isnan(drawn_scores)]
        kept = float((drawn_scores >= self.cut).mean()) if len(drawn_scores) else 0.0
        return cascade.band_round(rows, course.state, scores, kept, self._how_much)

    def _scores(self, course: Course, *, for_order: bool = False) -> Floats:
        """The cheaper judge's scores of all rows: where it is fitted here, on all that was asked but the audit."""
        pairs = zip(course.asked, course.done, course.rounds, strict=True)
        learnt = [(target, manifest) for target, manifest, turn in pairs if turn.kind != "audit"]
        return self.pointer.scores(
            [table for target, _ in learnt for table in target.source.tables(target.listed, list(student.SEEN))],
            [table for target, manifest in learnt for table in target.home.tables(manifest, list(student.RATED))],
            self.scale,
            for_order=for_order,
        )


def _of_round(storage: Storage, number: int) -> Storage:
    return storage.at(ROUNDS, f"{number:02d}")


def _packed(state: State) -> bytes:
    file = io.BytesIO()
    packed: dict[str, Any] = {name: np.packbits(flags) for name, flags in state._asdict().items()}
    np.savez_compressed(file, **packed)
    return file.getvalue()


def _unpacked(content: bytes, rows: int) -> State:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return State(*(np.unpackbits(file[name], count=rows).astype(bool) for name in State._fields))
