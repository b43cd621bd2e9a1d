"""What a run holds that says something of its judges: scores by example id, lengths of answers, people's votes and marks.

Of very long ratings an even sample is read: figures of a card rest on at most `MOST_ROWS` rows, and say on how many.
"""

import io
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from alpagasus_ray.data import readers
from alpagasus_ray.data.schema import RATINGS, conformed
from alpagasus_ray.errors import InputError, StageFailed, reason_of
from alpagasus_ray.evaluation.estimates import Floats
from alpagasus_ray.evaluation.judge_sections import Asked
from alpagasus_ray.judging.gold_marks import DRAWN, NEAR, RANDOM, GoldMark, gold_marks
from alpagasus_ray.judging.parse_rating import NOT_ASKED
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.reporting.selection_data import judge_of
from alpagasus_ray.store.run import Manifest, Run, StageDir

MOST_ROWS = 200_000
VOTES = "votes.parquet"
LONG_WORD = 20.0
"""Characters between blanks, in the mean, from which on a text is taken to be written without them."""
COLUMNS = ["example_id", "status", "score", "outside", "error", "cost_usd", "latency_s", "model", "fingerprint"]


class Ratings(NamedTuple):
    """One judge's ratings, a row for each example that is looked at, in the order of the examples."""

    name: str
    manifest: Manifest
    ids: list[str]
    scores: Floats
    """NaN without a rating."""
    outside: Floats | None
    asked: list[Asked]
    """Of the rows that the judge was asked about."""
    answered_by: tuple[str, str]
    """The most frequent model and fingerprint, empty where servers did not say."""

    @property
    def judge(self) -> Mapping[str, Any]:
        return judge_of(self.manifest)

    @property
    def label(self) -> str:
        """What the judge is called where verdicts name one: its model, or its kind."""
        return str(self.judge.get("model") or self.judge.get("kind") or "unknown")

    @property
    def of_row(self) -> dict[str, float]:
        """Scores by example id, of the rows that have one."""
        return {row: float(score) for row, score in zip(self.ids, self.scores, strict=True) if not np.isnan(score)}


def scores_of(stage: StageDir, manifest: Manifest, ids: Sequence[str]) -> Floats:
    """The scores of these examples, in order, NaN where a row has none. Raises `StageFailed` where other ids are rated."""
    table = pa.concat_tables(stage.tables(manifest, ["example_id", "score"]))
    place = {example_id: row for row, example_id in enumerate(table["example_id"].to_pylist())}
    if len(place) != len(ids) or place.keys() != set(ids):
        raise StageFailed(f"{manifest.stage}: its example ids are not those of examples/")
    order = np.fromiter((place[example_id] for example_id in ids), dtype=np.int64, count=len(ids))
    return np.asarray(_floats(table["score"])[order])


def ratings(run: Run, name: str, manifest: Manifest, keep: Collection[str] = ()) -> Ratings:
    """The ratings of a judge; where only a sample is read, also the rows in `keep`."""
    table = pa.concat_tables(_sampled(run.ratings(name), manifest, keep))
    outside = _floats(table["outside"])
    told = zip(*(table[column].to_pylist() for column in ("status", "error", "cost_usd", "latency_s")), strict=True)
    asked = [
        Asked(status, reason_of(error) if error else "", cost, latency)
        for status, error, cost, latency in told
        if status != NOT_ASKED  # by a cascade: no failure
    ]
    return Ratings(
        name,
        manifest,
        table["example_id"].to_pylist(),
        _floats(table["score"]),
        None if np.isnan(outside).all() else outside,
        asked,
        answered_by(table),
    )


def answered_by(table: pa.Table) -> tuple[str, str]:
    """The most frequent model and fingerprint of a table of ratings."""
    known = table.filter(pc.is_valid(table["score"])).group_by(["model", "fingerprint"]).aggregate([([], "count_all")])
    if not known.num_rows:
        return "", ""
    most = known.sort_by([("count_all", "descending")]).slice(0, 1).to_pylist()[0]
    return most["model"] or "", most["fingerprint"] or ""


def _sampled(stage: StageDir, manifest: Manifest, keep: Collection[str]) -> Iterator[pa.Table]:
    """All rows; of more than `MOST_ROWS` every n-th, and those that are to be kept."""
    step, start, kept = -(-manifest.rows // MOST_ROWS) or 1, 0, pa.array(sorted(keep), pa.string())
    for table in stage.tables(manifest):
        known = conformed(table, RATINGS).select(COLUMNS)
        if step > 1:
            drawn = pa.array(np.arange(start, start + len(table)) % step == 0)
            known = known.filter(pc.or_(drawn, pc.is_in(known["example_id"], kept)))
        yield known
        start += len(table)


class Lengths(NamedTuple):
    """How long the answer of each example is."""

    of_row: Mapping[str, float]
    unit: str
    """`words`; `characters` where texts have no blanks between words."""

    def of(self, ids: Sequence[str]) -> Floats:
        return np.array([self.of_row.get(row, np.nan) for row in ids], dtype=np.float64)


def lengths(run: Run, wanted: Collection[str]) -> Lengths:
    """The lengths of the answers of some examples."""
    stage, ids, rows = run.examples(), [], pa.array(sorted(wanted), pa.string())
    words, characters = [], []
    for whole in stage.tables(stage.finished(), ["example_id", "output"]):
        table = whole.filter(pc.is_in(whole["example_id"], rows))
        ids += table["example_id"].to_pylist()
        texts = pc.utf8_trim_whitespace(table["output"])
        words.append(pc.list_value_length(pc.utf8_split_whitespace(texts)).to_numpy())
        characters.append(pc.utf8_length(texts).to_numpy())
    by_words, by_characters = np.concatenate(words), np.concatenate(characters)
    is_spaced = by_characters.sum() < LONG_WORD * max(by_words.sum(), 1)
    chosen = by_words if is_spaced else by_characters
    return Lengths(dict(zip(ids, chosen.astype(float).tolist(), strict=True)), "words" if is_spaced else "characters")


def length_of(text: str, unit: str) -> float:
    """The length of one text, as `lengths` measures it."""
    return float(len(text.split()) if unit == "words" else len(text.strip()))


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(), dtype=np.float64)


def people_stages(run: Run) -> dict[str, Manifest]:
    """The human studies of a run that have votes, by name."""
    names = {name.split("/")[1] for name in run.storage.all_names() if name.startswith("people/") and name.endswith(VOTES)}
    made = {name: run.people(name).manifest() for name in sorted(names)}
    return {name: one for name, one in made.items() if one and any(entry.name == VOTES for entry in one.files)}


def votes(run: Run, name: str) -> list[dict[str, Any]]:
    """The rows of a study's votes."""
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(run.people(name).storage.read(VOTES))).to_pylist()
    return rows


def scale_of(manifest: Manifest) -> Scale:
    """The scale that ratings are on; their own, where they are none of this version's."""
    return Scale.model_validate(manifest.settings.get("rubric", {}).get("scale") or {})


ByPerson = Mapping[str, Mapping[str, float]]
"""Scores by person, then by example id."""


class RatedByPeople(NamedTuple):
    """People's ratings of examples that stand beside a judge's."""

    at_random: ByPerson
    """Of examples drawn at random from all rated ones: what is measured on these holds for all."""
    near: ByPerson
    """Of examples that were chosen for being near the cut."""
    other_scale: int
    """Ratings that are left out, because they are on another scale than the judge's."""


def rated_by_people(run: Run, scale: Scale) -> RatedByPeople:
    """People's ratings of examples, beside a judge that rates on this scale."""
    drawn: dict[str, defaultdict[str, dict[str, float]]] = {how: defaultdict(dict) for how in DRAWN}
    other_scale = 0
    for name, manifest in people_stages(run).items():
        rows = votes(run, name) if manifest.settings.get("form") == "rate" else []
        if manifest.details.get("scale", [0.0, 5.0]) != [scale.min, scale.max]:
            other_scale += len(rows)
            continue
        for row in rows:
            # studies of earlier versions do not say how an example was drawn
            drawn[row.get("drawn", NEAR)][row["voter"]][row["example_id"]] = float(row["score"])
    return RatedByPeople(drawn[RANDOM], drawn[NEAR], other_scale)


class Marks(NamedTuple):
    """Marks that are taken to be right, by example id; where several people marked one, their median."""

    given: dict[str, float]
    """Those that may be held against the judge's scores."""
    wrong: dict[str, float]
    """Those of examples that were marked because their rating is wrong: agreement on these says nothing of the others."""
    near: int
    """Marks of examples that were chosen for being near the cut, which are left out for the same reason."""
    other_scale: int
    """Marks that are left out because they are on another scale than the judge's."""


def marks_given(paths: Sequence[str], scales: Mapping[str, Scale]) -> dict[str, Marks]:
    """The marks of these files beside each of the ratings, by their names. `InputError` tells of a record that is no mark
    (`judging/gold_marks.py`)."""
    files = readers.expand(paths, "card.gold") if paths else ()
    without_steps = [scale.model_copy(update={"step": None}) for scale in scales.values()]  # the judge's steps bind nobody else
    marks = [mark for file in files for mark in gold_marks(_records(file), file.path, without_steps)]
    return {name: _marks_on(marks, scale) for name, scale in scales.items()}


def _marks_on(marks: Sequence[GoldMark], scale: Scale) -> Marks:
    own = [mark for mark in marks if mark.out_of == scale.max]
    scores: tuple[defaultdict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for mark in own:
        if not mark.near:
            scores[mark.chosen][mark.example_id].append(mark.score)
    given, wrong = ({row: float(np.median(of)) for row, of in some.items()} for some in scores)
    return Marks(given, wrong, sum(mark.near for mark in own), len(marks) - len(own))


def mark_notes(paths: Sequence[str], stage: StageDir, manifest: Manifest) -> Iterator[str]:
    """What ratings are beside the marks of `card.gold`, a line for each kind of mark; the judge's card has all of it."""
    if not paths:
        return
    scale = scale_of(manifest)
    marks = marks_given(paths, {stage.name: scale})[stage.name]
    yield from (f"card.gold: {note}" for note in left_out(RatedByPeople({}, {}, 0), marks, scale)["gold"])
    table = pa.concat_tables(stage.tables(manifest, ["example_id", "score"]))
    found = table.filter(pc.is_in(table["example_id"], pa.array([*marks.given, *marks.wrong], pa.string())))
    scores = {row["example_id"]: row["score"] for row in found.to_pylist() if row["score"] is not None}
    for of_kind, what in ((marks.given, "given marks"), (marks.wrong, "ratings marked as wrong")):
        apart = [scores[row] - mark for row, mark in of_kind.items() if row in scores]
        if apart:
            off = f"{sum(apart) / len(apart):+.2f} points from them in the mean"
            yield f"card.gold: of {len(apart):,} {what} {apart.count(0):,} are what the judge says; it is {off}"
        if unrated := len(of_kind) - len(apart):
            yield f"card.gold: {unrated:,} {what} are of examples without a rating: left out"


def left_out(people: RatedByPeople, marks: Marks, scale: Scale) -> dict[str, list[str]]:
    """What people and marks say that does not stand beside a judge's scores on this scale, by section of its card."""
    other = f"on another scale than these ratings, which go from {scale.min:g} to {scale.max:g}: left out"
    near = sum(len(ratings) for ratings in people.near.values())
    chosen = "of examples near the cut, which were chosen for that and say nothing of the others"
    return {
        "gold": [
            *([f"{marks.other_scale:,} marks are {other}"] if marks.other_scale else []),
            *([f"{marks.near:,} marks are {chosen}: left out"] if marks.near else []),
        ],
        "raters": [
            *([f"{people.other_scale:,} ratings by people are {other}"] if people.other_scale else []),
            *([f"{near:,} ratings by people are {chosen}: the verdict does not rest on them"] if near else []),
        ],
    }


def _records(file: readers.SourceFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for record in readers.records(file):
        place = record.place
        if record.data is None:
            raise InputError(file.path, place, record.problem)
        yield place, record.data
